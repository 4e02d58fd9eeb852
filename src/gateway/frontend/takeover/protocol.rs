//! The protocol of a take-over: two state machines, for the old gateway and the new one. Does no I/O.
//!
//! ```text
//! new → old   take-over                   on the control socket; refused while another process is taking over
//! old → new   {"ok":true,"sockets":[…]}   with the sockets themselves
//! new → old   ready […]                   the new gateway can serve; the names of the addresses that it takes
//! old → new   {"ok":true}                 the old gateway still serves, and waits
//! new → old   taken                       the new gateway accepts once this is written; the old one stops as on TERM
//! ```
//!
//! Exactly one of the two serves at every step. Until it has read `taken`, the old gateway serves. If `taken` does not arrive in
//! time, the old gateway shuts its receiving side and then reads the rest, so the write of the new gateway has either been read or
//! fails. A new gateway exits if its `ready` is not answered or its `taken` cannot be written.

use std::time::Duration;

use serde_json::{Value, json};

/// Longest wait of either gateway for a line of the other, which only needs to read its state.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Longest load of the new gateway's application, beyond any `--start-timeout`. Bounds the time for which a suspended new gateway
/// blocks other take-overs.
const LOADING: Duration = Duration::from_secs(60 * 60);

/// An event on the connection to the other gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerEvent<'a> {
    /// A whole line, without its end.
    Line(&'a [u8]),
    /// No whole line within the state's time.
    TimedOut,
    /// The end of the connection, an error of it, or a line without end.
    Lost,
}

/// The reason for which a take-over is refused now; `None` if it is allowed. `taker` is a process that is taking over already.
pub(super) fn refusal(
    taker: Option<i32>,
    stopping: bool,
    has_served: bool,
    sockets: usize,
    most_sockets: usize,
) -> Option<String> {
    if let Some(pid) = taker {
        return Some(format!("process {pid} is taking over already"));
    }
    let why = [
        (stopping, "the server is stopping"),
        (!has_served, "the server has not started yet"),
        (sockets > most_sockets, "too many sockets"),
    ];
    why.into_iter().find(|(applies, _)| *applies).map(|(_, why)| why.to_owned())
}

/// The state of the old gateway, after its sockets are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OldState {
    /// The new gateway starts; its `ready` is awaited.
    Offered,
    /// The new gateway is ready; its `taken` is awaited.
    Agreed { claimed: Vec<String> },
    /// `taken` has not arrived in time. The receiving side is shut, and earlier bytes are read.
    Shut { claimed: Vec<String> },
}

/// The next step of the old gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OldStep {
    /// Send [`AGREED`], then go on from this state.
    Agree(OldState),
    /// Shut the connection for reading, then go on from this state.
    ShutReading(OldState),
    /// Send this refusal, and serve on.
    Refuse(&'static str),
    /// Leave the claimed addresses to the new gateway, and stop.
    StepDown { claimed: Vec<String> },
    /// Serve on: the new gateway was ready and has not taken over.
    ServeOn,
    /// Serve on: the new gateway was gone before it was ready.
    Gone,
    /// Serve on: the new gateway does not speak this protocol.
    Malformed,
}

/// The answer of the old gateway to `ready`.
pub(super) const AGREED: &str = "{\"ok\":true}";

/// The last line of the new gateway.
pub(super) const TAKEN: &str = "taken";

impl OldState {
    /// The longest wait for the next line; `None` if the connection is sure to end.
    pub(super) fn patience(&self) -> Option<Duration> {
        match self {
            Self::Offered => Some(LOADING),
            Self::Agreed { .. } => Some(PATIENCE),
            Self::Shut { .. } => None,
        }
    }

    /// Takes an event. `stopping`: whether the old gateway has begun to stop for another reason.
    pub(super) fn next(self, peer_event: PeerEvent<'_>, stopping: bool) -> OldStep {
        match (self, peer_event) {
            (Self::Offered, PeerEvent::Line(line)) => match claims(line) {
                None => OldStep::Malformed,
                Some(_) if stopping => OldStep::Refuse("the server is stopping"),
                Some(claimed) => OldStep::Agree(Self::Agreed { claimed }),
            },
            (Self::Offered, PeerEvent::TimedOut | PeerEvent::Lost) => OldStep::Gone,
            (Self::Agreed { claimed }, PeerEvent::TimedOut) => OldStep::ShutReading(Self::Shut { claimed }),
            (Self::Agreed { claimed } | Self::Shut { claimed }, PeerEvent::Line(line))
                if line == TAKEN.as_bytes() =>
            {
                OldStep::StepDown { claimed }
            }
            (Self::Agreed { .. } | Self::Shut { .. }, _) => OldStep::ServeOn,
        }
    }
}

/// The state of the new gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NewState {
    /// `take-over` is sent; the sockets are awaited.
    Asked,
    /// `ready` is sent; the old gateway's agreement is awaited.
    Ready,
}

/// The next step of the new gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NewStep {
    /// Start with these sockets, then send [`ready`].
    Start { sockets: Vec<String> },
    /// Send [`TAKEN`], then serve.
    Take,
    /// End: the old gateway refuses.
    Refused(String),
    /// End: the old gateway does not speak this protocol.
    Malformed(String),
    /// End: the old gateway is silent or gone.
    Gone,
}

impl NewState {
    /// Takes an event. Every state has [`PATIENCE`].
    pub(super) fn next(self, peer_event: PeerEvent<'_>) -> NewStep {
        let PeerEvent::Line(line) = peer_event else { return NewStep::Gone };
        match (self, answer(line)) {
            (_, Err(AnswerError::Refusal(error))) => NewStep::Refused(error),
            (_, Err(AnswerError::Malformed(error))) => NewStep::Malformed(error),
            (Self::Asked, Ok(answer)) => NewStep::Start { sockets: strings(&answer["sockets"]) },
            (Self::Ready, Ok(_)) => NewStep::Take,
        }
    }
}

/// An answer of a control socket other than success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AnswerError {
    Refusal(String),
    Malformed(String),
}

/// Reads an answer of a control socket.
pub(super) fn answer(line: &[u8]) -> Result<Value, AnswerError> {
    let answer: Value =
        serde_json::from_slice(line).map_err(|error| AnswerError::Malformed(error.to_string()))?;
    match answer["error"].as_str() {
        Some(error) => Err(AnswerError::Refusal(error.to_owned())),
        None => Ok(answer),
    }
}

/// The `ready` line of the new gateway, with the names of its addresses.
pub(super) fn ready(claimed: &[String]) -> String {
    format!("ready {}", json!(claimed))
}

/// The names in a `ready` line; `None` for every other line.
fn claims(line: &[u8]) -> Option<Vec<String>> {
    Some(strings(&serde_json::from_slice(line.strip_prefix(b"ready ")?).ok()?))
}

/// The strings of an array.
pub(super) fn strings(array: &Value) -> Vec<String> {
    array.as_array().into_iter().flatten().map(|name| name.as_str().unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn a() -> Vec<String> {
        vec!["unix:/a".to_owned()]
    }

    /// Every line at every step of the old gateway, and the other's end at every step.
    #[test]
    fn the_old_gateway_steps_down_for_taken_and_for_nothing_else() {
        let agreed = || OldState::Agreed { claimed: a() };
        let shut = || OldState::Shut { claimed: a() };
        let down = || OldStep::StepDown { claimed: a() };
        let (ready, on) = (ready(&a()), || OldStep::ServeOn);
        for (peer_event, offered, when_agreed, when_shut) in [
            (PeerEvent::Line(ready.as_bytes()), OldStep::Agree(agreed()), on(), on()),
            (PeerEvent::Line(b"taken"), OldStep::Malformed, down(), down()),
            (PeerEvent::Line(b"take-over"), OldStep::Malformed, on(), on()),
            (PeerEvent::Line(b"ready"), OldStep::Malformed, on(), on()),
            (PeerEvent::Line(b"ready ["), OldStep::Malformed, on(), on()),
            (PeerEvent::Line(b"taken "), OldStep::Malformed, on(), on()),
            (PeerEvent::Line(b""), OldStep::Malformed, on(), on()),
            (PeerEvent::Line(b"\xff"), OldStep::Malformed, on(), on()),
            (PeerEvent::TimedOut, OldStep::Gone, OldStep::ShutReading(shut()), on()),
            (PeerEvent::Lost, OldStep::Gone, on(), on()),
        ] {
            assert_eq!(OldState::Offered.next(peer_event, false), offered, "{peer_event:?}");
            for stopping in [false, true] {
                assert_eq!(agreed().next(peer_event, stopping), when_agreed, "{peer_event:?}");
                assert_eq!(shut().next(peer_event, stopping), when_shut, "{peer_event:?}");
            }
        }
        let stopping = OldState::Offered.next(PeerEvent::Line(ready.as_bytes()), true);
        assert_eq!(stopping, OldStep::Refuse("the server is stopping"));
        assert_eq!(OldState::Offered.next(PeerEvent::Line(b"taken"), true), OldStep::Malformed);
        // Every wait is bounded, except for the end of a connection that is shut.
        assert_eq!(OldState::Offered.patience(), Some(LOADING));
        assert_eq!((agreed().patience(), shut().patience()), (Some(PATIENCE), None));
    }

    #[test]
    fn the_new_gateway_takes_only_what_the_old_one_agrees_to() {
        let sockets = br#"{"ok":true,"sockets":["unix:/a"]}"#;
        let refused = || NewStep::Refused("no".to_owned());
        let start = |sockets| NewStep::Start { sockets };
        for (peer_event, asked, when_ready) in [
            (PeerEvent::Line(sockets), start(a()), NewStep::Take),
            (PeerEvent::Line(AGREED.as_bytes()), start(Vec::new()), NewStep::Take),
            (PeerEvent::Line(br#"{"ok":false,"error":"no"}"#), refused(), refused()),
            (PeerEvent::TimedOut, NewStep::Gone, NewStep::Gone),
            (PeerEvent::Lost, NewStep::Gone, NewStep::Gone),
        ] {
            assert_eq!(NewState::Asked.next(peer_event), asked, "{peer_event:?}");
            assert_eq!(NewState::Ready.next(peer_event), when_ready, "{peer_event:?}");
        }
        for line in [&b""[..], b"taken", b"{", b"\x01\x09"] {
            for state in [NewState::Asked, NewState::Ready] {
                assert!(matches!(state.next(PeerEvent::Line(line)), NewStep::Malformed(_)), "{line:?}");
            }
        }
    }

    #[test]
    fn one_new_gateway_at_a_time_takes_over_from_a_server_that_serves() {
        let refusal =
            |taker, stopping, has_served, sockets| super::refusal(taker, stopping, has_served, sockets, 2);
        assert_eq!(refusal(None, false, true, 2), None);
        for (taker, stopping, has_served, sockets, why) in [
            (Some(7), true, false, 3, "process 7 is taking over already"),
            (None, true, false, 3, "the server is stopping"),
            (None, false, false, 3, "the server has not started yet"),
            (None, false, true, 3, "too many sockets"),
        ] {
            assert_eq!(refusal(taker, stopping, has_served, sockets).as_deref(), Some(why));
        }
    }

    /// Both sides and the lines between them.
    #[derive(Clone, Debug)]
    struct World {
        /// `None` once its outcome is known.
        old: Option<OldState>,
        has_stepped_down: bool,
        is_shut: bool,
        to_old: Vec<String>,
        /// `None` once its outcome is known.
        new: Option<NewState>,
        serves: bool,
        /// Whether the new gateway's end of the connection is closed.
        is_closed: bool,
        to_new: Vec<String>,
    }

    /// The ways in which the world may go on.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Event {
        OldReads,
        OldTimesOut,
        NewReads,
        NewTimesOut,
        NewIsKilled,
    }

    impl World {
        fn begin() -> Self {
            Self {
                old: Some(OldState::Offered),
                has_stepped_down: false,
                is_shut: false,
                to_old: vec![ready(&a())],
                new: Some(NewState::Ready),
                serves: false,
                is_closed: false,
                to_new: Vec::new(),
            }
        }

        /// The world after an event; `None` where it cannot happen.
        fn after(&self, event: Event) -> Option<Self> {
            let mut world = self.clone();
            match event {
                Event::OldReads | Event::OldTimesOut => {
                    let old = world.old.take()?;
                    let line = if event == Event::OldReads && !world.to_old.is_empty() {
                        Some(world.to_old.remove(0))
                    } else {
                        None
                    };
                    let peer_event = match &line {
                        Some(line) => PeerEvent::Line(line.as_bytes()),
                        None if event == Event::OldTimesOut => old.patience().map(|_| PeerEvent::TimedOut)?,
                        None if world.is_closed || world.is_shut => PeerEvent::Lost,
                        None => return None,
                    };
                    match old.next(peer_event, false) {
                        OldStep::Agree(next) => {
                            world.to_new.push(AGREED.to_owned());
                            world.old = Some(next);
                        }
                        OldStep::ShutReading(next) => {
                            world.is_shut = true;
                            world.old = Some(next);
                        }
                        OldStep::StepDown { .. } => world.has_stepped_down = true,
                        _ => {}
                    }
                }
                Event::NewReads | Event::NewTimesOut => {
                    let new = world.new.take()?;
                    let line = if event == Event::NewReads && !world.to_new.is_empty() {
                        Some(world.to_new.remove(0))
                    } else {
                        None
                    };
                    let peer_event = match &line {
                        Some(line) => PeerEvent::Line(line.as_bytes()),
                        None if event == Event::NewTimesOut => PeerEvent::TimedOut,
                        // The old gateway closes the connection when its outcome is known.
                        None if world.old.is_none() => PeerEvent::Lost,
                        None => return None,
                    };
                    match new.next(peer_event) {
                        // A write fails where the other side is shut for reading, or closed.
                        NewStep::Take if world.old.is_some() && !world.is_shut => {
                            world.to_old.push(TAKEN.to_owned());
                            world.serves = true;
                        }
                        _ => world.is_closed = true,
                    }
                }
                Event::NewIsKilled => {
                    if world.is_closed {
                        return None;
                    }
                    (world.new, world.is_closed) = (None, true);
                }
            }
            Some(world)
        }
    }

    /// Every order of reads, time-outs and a kill: the old gateway steps down exactly where the new one serves.
    #[test]
    fn exactly_one_of_the_two_serves_whatever_happens() {
        use Event::{NewIsKilled, NewReads, NewTimesOut, OldReads, OldTimesOut};
        let (mut open, mut outcomes, mut ends) = (vec![(World::begin(), Vec::new())], BTreeSet::new(), 0);
        while let Some((world, history)) = open.pop() {
            assert!(history.len() < 20, "it ends: {history:?}");
            let mut went_on = false;
            for event in [OldReads, OldTimesOut, NewReads, NewTimesOut, NewIsKilled] {
                if let Some(next) = world.after(event) {
                    went_on |= event != NewIsKilled;
                    open.push((next, [history.as_slice(), &[event]].concat()));
                }
            }
            if !went_on && world.old.is_none() {
                ends += 1;
                assert_eq!(world.serves, world.has_stepped_down, "{history:?}");
                outcomes.insert(world.serves);
            }
        }
        assert!(ends > 10 && outcomes.len() == 2, "{ends} ends, {outcomes:?}");
    }
}
