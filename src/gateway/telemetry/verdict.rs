//! The verdict on the server: one word and a reason, decided from its books. Std only; told the time.
//!
//! Every view takes it from here: the status as JSON, text and page, the metrics, and the answers of `--health-path`. A
//! reason names no file, no error text and no client, since anybody may read the health.

use std::fmt;
use std::time::{Duration, Instant};

/// How much longer than its limits the watchdog of running requests may take before the pool counts as stuck: it kills at the
/// limit, and the end of a process takes a moment to arrive.
const MOMENT: Duration = Duration::from_secs(1);

/// The state of the server, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Requests are answered.
    Ok,
    /// The application is being loaded for the first time.
    Starting,
    /// Requests are answered, and something is wrong that an operator should look at.
    Degraded,
    /// No request is answered.
    Down,
    /// A stop has been asked for.
    Stopping,
}

impl Verdict {
    /// All verdicts. Each stands at its own place.
    pub(crate) const ALL: [Self; 5] = [Self::Ok, Self::Starting, Self::Degraded, Self::Down, Self::Stopping];

    /// The word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Starting => "starting",
            Self::Degraded => "degraded",
            Self::Down => "down",
            Self::Stopping => "stopping",
        }
    }

    /// Whether requests should be sent to the address at which this was asked. After a take-over they reach the other server
    /// there, and a proxy that heard "no" from this one would send them nowhere.
    pub(crate) fn is_ready(self, reason: Reason) -> bool {
        matches!(self, Self::Ok | Self::Degraded) || reason == Reason::TakenOver
    }
}

/// The reason of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The number of workers that are ready for requests or run one.
    Ready(u32),
    /// There is no worker, and the first request gets one.
    ScaledToZero,
    /// The first load is under way.
    Loading,
    /// The code that answers requests, or should, does not load.
    NotLoaded,
    /// Worker after worker ends before it has answered anything, and none is ready.
    NotStarted,
    /// Worker after worker ends before it has answered anything, while others are ready.
    Dying,
    /// Requests wait, and no worker has finished or become free for longer than a request may take.
    Stuck,
    /// The newest code or configuration does not load.
    ReloadFailed,
    /// The code that answers does not load a second time, so that no worker can be forked.
    NotReplaced,
    /// Workers are on their way, and none is ready.
    NoneReady,
    /// Requests have waited for half of what they may, or the queue is full.
    Overloaded,
    /// More requests come than are answered, and the oldest are refused.
    Shedding,
    /// A stop has been asked for, and everything is served until its delay is over.
    StopAnnounced,
    /// A stop has begun.
    Stopping,
    /// Another server accepts at the same addresses, and this one finishes what it has.
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
    /// Everything is still served.
    Announced,
    /// Nobody is let in any more.
    Begun,
    /// Another server lets everybody in.
    TakenOver,
}

/// The state of stop, loading and forking, which the books of pool and queue do not have.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Course {
    /// A stop is announced, and everything is still served.
    pub(crate) stop_announced: bool,
    /// Another server has taken over.
    pub(crate) taken_over: bool,
    /// The newest load, of the code or of the settings, has failed.
    pub(crate) load_failed: bool,
    /// The zygote of the generation that answers does not load.
    pub(crate) cannot_fork: bool,
    /// See [`Facts::wanting_since`].
    pub(crate) wanting_since: Option<Instant>,
}

impl Course {
    /// How far a stop is, where `begun` says whether connections are no longer accepted.
    pub(crate) fn stop(self, begun: bool) -> Stop {
        match (begun, self.stop_announced) {
            _ if self.taken_over => Stop::TakenOver,
            (true, _) => Stop::Begun,
            (false, true) => Stop::Announced,
            (false, false) => Stop::No,
        }
    }
}

/// The facts that the verdict is decided from; the figures are of the generation that answers.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) stop: Stop,
    /// A generation has answered since the start.
    pub(crate) has_served: bool,
    /// The newest load, of the code or of the settings, has failed.
    pub(crate) load_failed: bool,
    /// Requests are answered with why the newest code does not load, whatever loaded before (`nibiru dev`).
    pub(crate) shows_failed_load: bool,
    /// The zygote of the generation that answers does not load.
    pub(crate) cannot_fork: bool,
    /// Workers end again and again before they have answered anything.
    pub(crate) failing: bool,
    /// Workers without a request, and with one.
    pub(crate) idle: u32,
    pub(crate) busy: u32,
    /// Workers kept also when there is nothing to do.
    pub(crate) min: u32,
    /// The moment since which requests have waited, whether or not they were given up meanwhile; `None` where the last request that
    /// waited got its worker.
    pub(crate) wanting_since: Option<Instant>,
    /// The moment at which a worker last became free, ended in the middle of a request, or gave a piece of an answer.
    pub(crate) moved: Instant,
    /// The moment at which the oldest request that waits came.
    pub(crate) oldest: Option<Instant>,
    /// Whether as many requests wait as may.
    pub(crate) queue_full: bool,
    /// Whether the oldest requests are refused, so that none waits for long.
    pub(crate) shedding: bool,
    /// The longest that a request may wait.
    pub(crate) queue_timeout: Duration,
    /// The longest that a request can hold its worker, until the worker is killed; `None` without a limit.
    pub(crate) request_limit: Option<Duration>,
    /// The longest that a worker may take to be ready; `None` without a limit.
    pub(crate) start_limit: Option<Duration>,
}

/// The verdict on a server with these facts.
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
    // Between two workers, with `--max-requests 1` at every request, there may be none for a moment.
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
    /// Whether requests wait, and no worker has moved for longer than a request may take. A pool with an idle worker is not stuck,
    /// nor one whose workers stream, nor, where requests have no limit, one with a busy worker.
    fn is_stuck(&self, now: Instant) -> bool {
        let limit = if self.busy > 0 { self.request_limit } else { self.request_limit.or(self.start_limit) };
        self.idle == 0
            && self.wanting_since.is_some()
            && limit.is_some_and(|limit| self.has_stood_still(now, limit + MOMENT))
    }

    /// Whether nothing has moved for so long, since requests began to wait if any do.
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

    /// Two idle workers, and nothing to do.
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

    /// Both workers busy since the start, and a request that has waited since then.
    fn waiting(start: Instant) -> Facts {
        Facts { idle: 0, busy: 2, wanting_since: Some(start), ..idle(start) }
    }

    #[test]
    fn the_table() {
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
            // It must get a request, or nobody would ever learn that it works.
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
    fn requests_are_sent_where_they_are_answered() {
        let ready = Verdict::ALL.map(|verdict| (verdict.name(), verdict.is_ready(Reason::Stopping)));
        let expected =
            [("ok", true), ("starting", false), ("degraded", true), ("down", false), ("stopping", false)];
        assert_eq!(ready, expected);
        assert!(Verdict::Stopping.is_ready(Reason::TakenOver));
    }

    #[test]
    fn a_stop_is_as_far_as_it_has_come() {
        let course = |stop_announced, taken_over| Course { stop_announced, taken_over, ..Course::default() };
        for (begun, stop_announced, taken_over, stop) in [
            (false, false, false, Stop::No),
            (false, true, false, Stop::Announced),
            (true, true, false, Stop::Begun),
            (true, false, false, Stop::Begun),
            (true, true, true, Stop::TakenOver),
            (false, false, true, Stop::TakenOver),
        ] {
            assert_eq!(course(stop_announced, taken_over).stop(begun), stop);
        }
    }
}
