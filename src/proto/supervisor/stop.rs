//! The order of a stop: no client is let in, accepted requests are finished, then workers have a moment for their stop hooks. Std
//! only; time is an argument.
//!
//! ```text
//! stage      Requested                      RequestedSoon    ConnectionsGone   deadline
//! Serving    Announce -> Announced,         Begin            -                 -
//!            or Begin -> Finishing
//! Announced  BreakOff -> Draining           Begin            -                 Begin -> Finishing
//! Finishing  BreakOff -> Draining           -                Drain             EndGrace -> Draining
//! Draining   BreakOff -> Draining           -                -                 Kill, and done
//! ```

use std::time::{Duration, Instant};

use crate::proto::pool::EXIT_TIME;

/// An event of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopEvent {
    /// A stop is requested. The first time accepted requests are finished, after `--drain-delay`; the second time they are
    /// broken off.
    Requested,
    /// A stop without announcement is requested: another server has taken over, or no client is connected. It never breaks requests
    /// off.
    RequestedSoon,
    /// The last connection has closed.
    ConnectionsGone,
}

/// The action that a stop asks of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopAction {
    /// The health path announces the stop; everything is served as before.
    Announce(Duration),
    /// No client is let in any more.
    Begin,
    /// No request is left: the workers are told to exit.
    Drain,
    /// The grace is over: the workers are killed.
    EndGrace,
    /// A second stop is requested: the workers are killed.
    BreakOff,
    /// The workers that still run their stop hooks are killed.
    Kill,
}

/// The settings and circumstances of a stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopTimes {
    /// `--drain-delay`: the time between the announcement and the begin.
    pub(crate) drain_delay: Option<Duration>,
    /// `--grace`: the time for the requests that were accepted.
    pub(crate) grace: Duration,
}

/// The state of a stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop(Stage);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Requests are served as before, until then; only the health path announces the stop.
    Announced(Instant),
    /// Accepted requests are finished, until then.
    Finishing(Instant),
    /// Workers run their stop hooks, until then.
    Draining(Instant),
}

impl Stop {
    /// No stop is requested.
    pub(crate) const fn new() -> Self {
        Self(Stage::Serving)
    }

    /// Whether no stop is requested.
    pub(crate) fn is_idle(&self) -> bool {
        self.0 == Stage::Serving
    }

    /// Whether requests are taken, and workers forked and replaced for them.
    pub(crate) fn is_serving(&self) -> bool {
        matches!(self.0, Stage::Serving | Stage::Announced(_))
    }

    /// Whether no worker is forked any more.
    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.0, Stage::Draining(_))
    }

    /// The time of the next action.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match self.0 {
            Stage::Serving => None,
            Stage::Announced(until) | Stage::Finishing(until) | Stage::Draining(until) => Some(until),
        }
    }

    /// Whether the stop is complete. `empty`: no worker is left.
    pub(crate) fn is_complete(&self, empty: bool, settled: Instant) -> bool {
        matches!(self.0, Stage::Draining(until) if empty || until <= settled)
    }

    /// The action for an event. `has_served`: a generation has served; otherwise the stop is not announced, and begins at once.
    pub(crate) fn handle_event(
        &mut self,
        event: StopEvent,
        times: &StopTimes,
        has_served: bool,
        now: Instant,
    ) -> Option<StopAction> {
        let (action, stage) = match (event, self.0) {
            (StopEvent::Requested, Stage::Serving) => match times.drain_delay.filter(|_| has_served) {
                Some(delay) => (StopAction::Announce(delay), Stage::Announced(now + delay)),
                None => (StopAction::Begin, Stage::Finishing(now + times.grace)),
            },
            (StopEvent::Requested, _) => (StopAction::BreakOff, Stage::Draining(now)),
            (StopEvent::RequestedSoon, Stage::Serving | Stage::Announced(_)) => {
                (StopAction::Begin, Stage::Finishing(now + times.grace))
            }
            (StopEvent::ConnectionsGone, Stage::Finishing(_)) => {
                (StopAction::Drain, Stage::Draining(now + EXIT_TIME))
            }
            (StopEvent::RequestedSoon | StopEvent::ConnectionsGone, _) => return None,
        };
        self.0 = stage;
        Some(action)
    }

    /// The action that was due by `settled`, taken at `now`. One at a time; the last is repeated until the stop is complete.
    pub(crate) fn handle_timeout(
        &mut self,
        settled: Instant,
        now: Instant,
        times: &StopTimes,
    ) -> Option<StopAction> {
        self.next_deadline().filter(|deadline| *deadline <= settled)?;
        let (action, stage) = match self.0 {
            Stage::Serving => return None,
            Stage::Announced(_) => (StopAction::Begin, Stage::Finishing(now + times.grace)),
            Stage::Finishing(_) => (StopAction::EndGrace, Stage::Draining(now + EXIT_TIME)),
            Stage::Draining(until) => (StopAction::Kill, Stage::Draining(until)),
        };
        self.0 = stage;
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(3);
    const GRACE: Duration = Duration::from_secs(30);

    /// Every event in every stage. Stages have their deadline one second from now.
    #[test]
    fn transitions() {
        use StopAction::{Announce, Begin, BreakOff, Drain};
        use StopEvent::{ConnectionsGone, Requested, RequestedSoon};
        let (now, soon) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let (announced, finishing) = (Stage::Announced(soon), Stage::Finishing(soon));
        let draining = Stage::Draining(soon);
        let begun = Some((Begin, Stage::Finishing(now + GRACE)));
        let broken_off = Some((BreakOff, Stage::Draining(now)));
        let table = [
            (Stage::Serving, Requested, true, Some((Announce(DELAY), Stage::Announced(now + DELAY)))),
            (Stage::Serving, Requested, false, begun),
            (Stage::Serving, RequestedSoon, true, begun),
            (Stage::Serving, ConnectionsGone, true, None),
            (announced, Requested, true, broken_off),
            (announced, RequestedSoon, true, begun),
            (announced, ConnectionsGone, true, None),
            (finishing, Requested, true, broken_off),
            (finishing, RequestedSoon, true, None),
            (finishing, ConnectionsGone, true, Some((Drain, Stage::Draining(now + EXIT_TIME)))),
            (draining, Requested, true, broken_off),
            (draining, RequestedSoon, true, None),
            (draining, ConnectionsGone, true, None),
        ];
        let times = StopTimes { drain_delay: Some(DELAY), grace: GRACE };
        for (before, event, has_served, expected) in table {
            let mut stop = Stop(before);
            let action = stop.handle_event(event, &times, has_served, now);
            assert_eq!(action, expected.map(|(action, _)| action), "{event:?} while {before:?}");
            let after = expected.map_or(before, |(_, stage)| stage);
            assert_eq!(stop.0, after, "{event:?} while {before:?}");
        }
        let mut stop = Stop::new();
        let without = StopTimes { drain_delay: None, grace: GRACE };
        assert_eq!(stop.handle_event(Requested, &without, true, now), Some(Begin), "no delay is set");
    }

    #[test]
    fn deadlines() {
        let (now, times) = (Instant::now(), StopTimes { drain_delay: None, grace: GRACE });
        let table = [
            (Stage::Announced(now), StopAction::Begin, Stage::Finishing(now + GRACE)),
            (Stage::Finishing(now), StopAction::EndGrace, Stage::Draining(now + EXIT_TIME)),
            (Stage::Draining(now), StopAction::Kill, Stage::Draining(now)),
        ];
        for (before, action, after) in table {
            let mut stop = Stop(before);
            assert_eq!(stop.handle_timeout(now - Duration::from_nanos(1), now, &times), None, "{before:?}");
            assert_eq!(stop.handle_timeout(now, now, &times), Some(action), "{before:?}");
            assert_eq!(stop.0, after);
        }
        assert_eq!(Stop::new().handle_timeout(now + GRACE, now, &times), None);
    }

    #[test]
    fn a_stop_is_complete_when_no_worker_is_left_or_their_time_is_over() {
        let now = Instant::now();
        let soon = now + Duration::from_secs(1);
        for (stage, empty, complete) in [
            (Stage::Serving, true, false),
            (Stage::Announced(now), true, false),
            (Stage::Finishing(now), true, false),
            (Stage::Draining(soon), false, false),
            (Stage::Draining(soon), true, true),
            (Stage::Draining(now), false, true),
        ] {
            assert_eq!(Stop(stage).is_complete(empty, now), complete, "{stage:?}, empty: {empty}");
        }
    }

    #[test]
    fn stages_say_what_goes_on_in_them() {
        let now = Instant::now();
        for (stage, expected) in [
            (Stage::Serving, (true, true, false)),
            (Stage::Announced(now), (false, true, false)),
            (Stage::Finishing(now), (false, false, false)),
            (Stage::Draining(now), (false, false, true)),
        ] {
            let stop = Stop(stage);
            assert_eq!((stop.is_idle(), stop.is_serving(), stop.is_draining()), expected, "{stage:?}");
        }
    }
}
