//! Rate limits of the log lines about workers and their requests, one for each kind of line. Reads no clock.

use std::cell::RefCell;
use std::time::Instant;

use crate::log::rate_limit::LogRateLimiter;

/// The kind of a log line. Each kind has a limit of its own, so that a flood of one hides no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogKind {
    /// Workers and zygotes that exit, do not start, or lack a resource.
    Processes,
    /// Workers that break the rules of their protocol.
    ProtocolViolations,
    /// Requests that take long (`--slow-log`).
    SlowRequests,
    /// Requests that have reached their deadline, and workers that are killed for it.
    Deadlines,
}

/// The rate limits of all kinds.
#[derive(Debug)]
pub(crate) struct WorkerLogLimits([RefCell<LogRateLimiter>; 4]);

impl WorkerLogLimits {
    pub(crate) fn new(now: Instant) -> Self {
        Self(std::array::from_fn(|_| RefCell::new(LogRateLimiter::new(now))))
    }

    /// Calls `write` if the limit of the kind allows a line. Returns whether it did. `write` gets the number of lines left out
    /// before this one, `None` for zero.
    pub(crate) fn log(&self, kind: LogKind, now: Instant, write: impl FnOnce(Option<u64>)) -> bool {
        // Not borrowed while `write` runs.
        let allowed = self.0[kind as usize].borrow_mut().allow(now);
        let Some(left_out) = allowed else { return false };
        write(left_out);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_of_one_kind_hides_no_other() {
        let start = Instant::now();
        let limits = WorkerLogLimits::new(start);
        let kinds =
            [LogKind::Processes, LogKind::ProtocolViolations, LogKind::SlowRequests, LogKind::Deadlines];
        for kind in kinds {
            let mut written = 0;
            for _ in 0..1000 {
                limits.log(kind, start, |left_out| {
                    assert_eq!(left_out, None);
                    written += 1;
                });
            }
            assert!((1..10).contains(&written), "{kind:?}");
        }
        for kind in kinds {
            let mut said = None;
            assert!(limits.log(kind, start + Duration::from_secs(1), |left_out| said = left_out));
            assert!(said.is_some_and(|said| said > 990), "{kind:?}");
        }
    }
}
