//! The verdict on the server: one word and a reason, decided from the state of pool and queue. Reads no clock.
//!
//! All views share it: the status as JSON, text and page, the metrics, and the answers of `--health-path`. A reason names no
//! file, no error text and no client, because anybody may read the health.

use std::fmt;
use std::time::{Duration, Instant};

/// Grace beyond the limit of a request before the pool counts as stuck: the watchdog kills at the limit, and the end of a
/// process arrives a moment later.
const MOMENT: Duration = Duration::from_secs(1);

/// The state of the server, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Requests are answered.
    Ok,
    /// The application loads for the first time.
    Starting,
    /// Requests are answered, but an operator should look at a fault.
    Degraded,
    /// No request is answered.
    Down,
    /// A stop has been requested.
    Stopping,
}

impl Verdict {
    /// All verdicts. Each is at the index of its discriminant.
    pub(crate) const ALL: [Self; 5] = [Self::Ok, Self::Starting, Self::Degraded, Self::Down, Self::Stopping];

    /// Name of the verdict in JSON, text and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Starting => "starting",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Stopping => "stopping",
        }
    }

    /// Whether a proxy should send requests to this address. Still true after a take-over: requests reach the new server there,
    /// and a proxy that heard "no" from the old one would send it none.
    pub(crate) fn is_ready(self, reason: Reason) -> bool {
        matches!(self, Self::Ok | Self::Degraded) || reason == Reason::TakenOver
    }
}

/// The reason of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Number of workers that are idle or busy.
    Ready(u32),
    /// There is no worker; the first request starts one.
    ScaledToZero,
    /// The first load is in progress.
    Loading,
    /// The code that serves, or should, does not load.
    NotLoaded,
    /// Workers end before their first answer, one after the other, and none is ready.
    NotStarted,
    /// Workers end before their first answer, one after the other, while others are ready.
    Dying,
    /// Requests wait, and no worker has finished or become free for longer than a request may take.
    Stuck,
    /// The newest code or configuration does not load.
    ReloadFailed,
    /// The serving code does not load a second time, so that no worker can be forked.
    NotReplaced,
    /// Workers are starting, and none is ready.
    NoneReady,
    /// Requests have waited for half of the queue timeout, or the queue is full.
    Overloaded,
    /// More requests arrive than are answered, and the oldest are refused.
    Shedding,
    /// A stop has been requested, and all requests are served until its delay is over.
    StopAnnounced,
    /// A stop has begun.
    Stopping,
    /// Another server accepts at the same addresses, and this one finishes its requests.
    TakenOver,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready(1) => return f.write_str("1 worker is ready"),
            Self::Ready(workers) => return write!(f, "{workers} workers are ready"),
            Self::ScaledToZero => "no request has needed a worker lately",
            Self::Loading => "the application is being loaded",
            Self::NotLoaded => "the application does not load",
            Self::NotStarted => "workers end before they have answered anything, and none is ready",
            Self::Dying => "workers end before they have answered anything",
            Self::Stuck => {
                "requests wait, and no worker has become free within --request-timeout and --kill-after"
            }
            Self::ReloadFailed => "the last reload failed; the code before it answers",
            Self::NotReplaced => "the application does not load any more; workers that end are not replaced",
            Self::NoneReady => "no worker is ready yet",
            Self::Overloaded => "requests wait for long (--queue, --queue-timeout)",
            Self::Shedding => {
                "more requests come than can be answered; those that wait longest are refused (--queue-order)"
            }
            Self::StopAnnounced => "a stop is announced; requests are still served (--drain-delay)",
            Self::Stopping => "a stop has begun",
            Self::TakenOver => "another server has taken over",
        })
    }
}

/// The progress of a stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stop {
    #[default]
    No,
    /// The stop is announced, and all requests are still served.
    Announced,
    /// No connection is accepted any more.
    Begun,
    /// Another server accepts the connections.
    TakenOver,
}

/// The state of stop, load and fork, for facts that pool and queue do not have.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ServerState {
    /// Whether a stop is announced, with all requests still served.
    pub(crate) stop_announced: bool,
    /// Whether another server has taken over.
    pub(crate) taken_over: bool,
    /// Whether the newest load, of the code or of the settings, has failed.
    pub(crate) load_failed: bool,
    /// Whether the zygote of the serving generation does not load.
    pub(crate) cannot_fork: bool,
    /// See [`Facts::wanting_since`].
    pub(crate) wanting_since: Option<Instant>,
}

impl ServerState {
    /// The progress of a stop. `begun`: connections are no longer accepted.
    pub(crate) fn stop(self, begun: bool) -> Stop {
        match (begun, self.stop_announced) {
            _ if self.taken_over => Stop::TakenOver,
            (true, _) => Stop::Begun,
            (false, true) => Stop::Announced,
            (false, false) => Stop::No,
        }
    }
}

/// The facts that the verdict is decided from. Numbers are those of the serving generation.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) stop: Stop,
    /// Whether a generation has served since the start.
    pub(crate) has_served: bool,
    /// Whether the newest load, of the code or of the settings, has failed.
    pub(crate) load_failed: bool,
    /// Whether requests are answered with the failure of the newest load, even if an older generation loaded (`nibiru dev`).
    pub(crate) shows_failed_load: bool,
    /// Whether the zygote of the serving generation does not load.
    pub(crate) cannot_fork: bool,
    /// Whether workers end before their first answer, one after the other.
    pub(crate) failing: bool,
    /// Number of workers without a request, and with one.
    pub(crate) idle: u32,
    pub(crate) busy: u32,
    /// Least number of workers, kept when there is nothing to do.
    pub(crate) min: u32,
    /// Time since which requests have waited, including requests given up meanwhile; `None` if the last waiting request got a
    /// worker.
    pub(crate) wanting_since: Option<Instant>,
    /// Time at which a worker last became free, ended in the middle of a request, or sent a part of a response.
    pub(crate) moved: Instant,
    /// Arrival of the oldest waiting request.
    pub(crate) oldest: Option<Instant>,
    /// Whether the queue is at its capacity.
    pub(crate) queue_full: bool,
    /// Whether the oldest requests are refused, so that none waits for long.
    pub(crate) shedding: bool,
    /// Longest wait of a request in the queue.
    pub(crate) queue_timeout: Duration,
    /// Longest time for which a request can hold its worker, until the worker is killed; `None` without a limit.
    pub(crate) request_limit: Option<Duration>,
    /// Longest time in which a worker becomes ready; `None` without a limit.
    pub(crate) start_limit: Option<Duration>,
}

/// The verdict that follows from these facts.
pub(crate) fn verdict(facts: &Facts, now: Instant) -> (Verdict, Reason) {
    let ready = facts.idle + facts.busy;
    match facts.stop {
        Stop::Begun => return (Verdict::Stopping, Reason::Stopping),
        Stop::TakenOver => return (Verdict::Stopping, Reason::TakenOver),
        Stop::Announced => return (Verdict::Stopping, Reason::StopAnnounced),
        Stop::No => {}
    }
    if facts.shows_failed_load && facts.load_failed {
        return (Verdict::Down, Reason::NotLoaded);
    }
    if !facts.has_served {
        return (Verdict::Starting, Reason::Loading);
    }
    if ready == 0 && (facts.cannot_fork || (facts.failing && facts.load_failed)) {
        return (Verdict::Down, Reason::NotLoaded);
    }
    if ready == 0 && facts.failing {
        return (Verdict::Down, Reason::NotStarted);
    }
    if facts.is_stuck(now) {
        return (Verdict::Down, Reason::Stuck);
    }
    let wants_workers = ready == 0 && (facts.min > 0 || facts.wanting_since.is_some());
    let degraded = [
        (facts.cannot_fork, Reason::NotReplaced),
        (facts.failing, Reason::Dying),
        (facts.load_failed, Reason::ReloadFailed),
        (wants_workers && facts.has_stood_still(now, MOMENT), Reason::NoneReady),
        (facts.shedding, Reason::Shedding),
        (facts.is_overloaded(now), Reason::Overloaded),
    ];
    if let Some((_, reason)) = degraded.into_iter().find(|(applies, _)| *applies) {
        return (Verdict::Degraded, reason);
    }
    // Between two workers, as after every request with `--max-requests 1`, there may be none for a moment.
    (
        Verdict::Ok,
        match ready {
            0 if wants_workers => Reason::NoneReady,
            0 => Reason::ScaledToZero,
            _ => Reason::Ready(ready),
        },
    )
}

impl Facts {
    /// Whether requests wait, and no worker has moved for longer than a request may take. A pool is not stuck with an idle
    /// worker, with workers that stream, or, if requests have no limit, with a busy worker.
    fn is_stuck(&self, now: Instant) -> bool {
        let limit = if self.busy > 0 { self.request_limit } else { self.request_limit.or(self.start_limit) };
        self.idle == 0
            && self.wanting_since.is_some()
            && limit.is_some_and(|limit| self.has_stood_still(now, limit + MOMENT))
    }

    /// Whether no worker has moved for `long`. The time counts from the first waiting request, if that came later.
    fn has_stood_still(&self, now: Instant, long: Duration) -> bool {
        let since = self.wanting_since.map_or(self.moved, |since| since.max(self.moved));
        now.saturating_duration_since(since) > long
    }

    fn is_overloaded(&self, now: Instant) -> bool {
        self.queue_full
            || self.oldest.is_some_and(|came| now.saturating_duration_since(came) * 2 >= self.queue_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Two idle workers, and no requests.
    fn idle(start: Instant) -> Facts {
        Facts {
            stop: Stop::No,
            has_served: true,
            load_failed: false,
            shows_failed_load: false,
            cannot_fork: false,
            failing: false,
            idle: 2,
            busy: 0,
            min: 2,
            wanting_since: None,
            moved: start,
            oldest: None,
            queue_full: false,
            shedding: false,
            queue_timeout: s(10),
            request_limit: Some(s(32)),
            start_limit: Some(s(60)),
        }
    }

    /// Two workers that have been busy since the start, with a request that has waited since then.
    fn waiting(start: Instant) -> Facts {
        Facts { idle: 0, busy: 2, wanting_since: Some(start), ..idle(start) }
    }

    #[test]
    fn every_verdict_follows_from_its_facts() {
        use Verdict::{Degraded, Down, Ok, Starting, Stopping};
        let start = Instant::now();
        let (idle, waiting) = (|| idle(start), || waiting(start));
        let none = || Facts { idle: 0, ..idle() };
        let hour = s(3600);
        let cases: &[(&str, Facts, Duration, Verdict, Reason)] = &[
            ("an idle pool", idle(), hour, Ok, Reason::Ready(2)),
            (
                "a busy pool that nobody waits for",
                Facts { idle: 0, busy: 2, ..idle() },
                hour,
                Ok,
                Reason::Ready(2),
            ),
            ("scaled to zero", Facts { min: 0, ..none() }, hour, Ok, Reason::ScaledToZero),
            ("the first load", Facts { has_served: false, ..none() }, hour, Starting, Reason::Loading),
            (
                "the first load of dev failed",
                Facts { has_served: false, load_failed: true, shows_failed_load: true, ..none() },
                s(0),
                Down,
                Reason::NotLoaded,
            ),
            (
                "a later load of dev failed",
                Facts { load_failed: true, shows_failed_load: true, ..idle() },
                s(0),
                Down,
                Reason::NotLoaded,
            ),
            ("a reload failed", Facts { load_failed: true, ..idle() }, s(0), Degraded, Reason::ReloadFailed),
            (
                "the zygote is gone for good",
                Facts { cannot_fork: true, ..idle() },
                s(0),
                Degraded,
                Reason::NotReplaced,
            ),
            ("and so are the workers", Facts { cannot_fork: true, ..none() }, s(0), Down, Reason::NotLoaded),
            (
                "and there were none",
                Facts { cannot_fork: true, min: 0, ..none() },
                s(0),
                Down,
                Reason::NotLoaded,
            ),
            ("between two workers", none(), s(1), Ok, Reason::NoneReady),
            ("all were killed at once", none(), s(2), Degraded, Reason::NoneReady),
            (
                "the first worker from zero, after a long pause",
                Facts { min: 0, wanting_since: Some(start + s(1000)), ..none() },
                s(1001),
                Ok,
                Reason::NoneReady,
            ),
            (
                "and it does not come",
                Facts { min: 0, wanting_since: Some(start + s(1000)), ..none() },
                s(1002),
                Degraded,
                Reason::NoneReady,
            ),
            ("start hooks fail", Facts { failing: true, ..none() }, s(0), Down, Reason::NotStarted),
            (
                "mended code does not load",
                Facts { failing: true, load_failed: true, ..none() },
                s(0),
                Down,
                Reason::NotLoaded,
            ),
            // Ready, because without a request it would never show that it works.
            (
                "one has started after many",
                Facts { failing: true, idle: 1, ..idle() },
                s(0),
                Degraded,
                Reason::Dying,
            ),
            ("a request waits", waiting(), s(1), Ok, Reason::Ready(2)),
            (
                "for half of its time",
                Facts { oldest: Some(start), ..waiting() },
                s(5),
                Degraded,
                Reason::Overloaded,
            ),
            (
                "not quite half",
                Facts { oldest: Some(start), ..waiting() },
                Duration::from_millis(4999),
                Ok,
                Reason::Ready(2),
            ),
            (
                "the queue is full",
                Facts { queue_full: true, ..waiting() },
                s(0),
                Degraded,
                Reason::Overloaded,
            ),
            (
                "the oldest are refused before they wait for long",
                Facts { shedding: true, oldest: Some(start), ..waiting() },
                Duration::from_millis(100),
                Degraded,
                Reason::Shedding,
            ),
            ("at the limit of a request", waiting(), s(33), Ok, Reason::Ready(2)),
            ("beyond it", waiting(), s(34), Down, Reason::Stuck),
            ("one streams", Facts { moved: start + s(30), ..waiting() }, s(40), Ok, Reason::Ready(2)),
            (
                "the last stream has gone silent",
                Facts { moved: start + s(30), ..waiting() },
                s(64),
                Down,
                Reason::Stuck,
            ),
            (
                "it began to wait late",
                Facts { wanting_since: Some(start + s(100)), ..waiting() },
                s(110),
                Ok,
                Reason::Ready(2),
            ),
            (
                "requests have no limit",
                Facts { request_limit: None, ..waiting() },
                hour,
                Ok,
                Reason::Ready(2),
            ),
            (
                "nor starts, and there is no worker",
                Facts { request_limit: None, start_limit: None, busy: 0, ..waiting() },
                hour,
                Degraded,
                Reason::NoneReady,
            ),
            (
                "nobody starts in time",
                Facts { request_limit: None, busy: 0, ..waiting() },
                s(62),
                Down,
                Reason::Stuck,
            ),
            ("no fork comes", Facts { busy: 0, ..waiting() }, s(34), Down, Reason::Stuck),
            (
                "a stop in the delay",
                Facts { stop: Stop::Announced, ..idle() },
                s(0),
                Stopping,
                Reason::StopAnnounced,
            ),
            (
                "a stop while down",
                Facts { stop: Stop::Begun, failing: true, ..none() },
                s(0),
                Stopping,
                Reason::Stopping,
            ),
            (
                "another server has taken over",
                Facts { stop: Stop::TakenOver, ..none() },
                s(0),
                Stopping,
                Reason::TakenOver,
            ),
            (
                "a stop while starting",
                Facts { stop: Stop::Begun, has_served: false, ..none() },
                s(0),
                Stopping,
                Reason::Stopping,
            ),
        ];
        for (case, facts, after, expected, reason) in cases {
            assert_eq!(verdict(facts, start + *after), (*expected, *reason), "{case}");
        }
    }

    #[test]
    fn readiness_follows_from_verdict_and_reason() {
        let ready = Verdict::ALL.map(|verdict| (verdict.name(), verdict.is_ready(Reason::Stopping)));
        let expected =
            [("ok", true), ("starting", false), ("degraded", true), ("down", false), ("stopping", false)];
        assert_eq!(ready, expected);
        assert!(Verdict::Stopping.is_ready(Reason::TakenOver));
    }

    #[test]
    fn the_progress_of_a_stop_follows_from_the_course() {
        let state =
            |stop_announced, taken_over| ServerState { stop_announced, taken_over, ..ServerState::default() };
        for (begun, stop_announced, taken_over, stop) in [
            (false, false, false, Stop::No),
            (false, true, false, Stop::Announced),
            (true, true, false, Stop::Begun),
            (true, false, false, Stop::Begun),
            (true, true, true, Stop::TakenOver),
            (false, false, true, Stop::TakenOver),
        ] {
            assert_eq!(state(stop_announced, taken_over).stop(begun), stop);
        }
    }
}
