//! Rate limits of two log lines: failed accepts, and the limit of connections. Reads no clock.

use std::time::{Duration, Instant};

use crate::log::rate_limit::LogRateLimiter;

/// Interval between two lines about the limit of connections: a busy server can reach it a thousand times a second.
const FULL_INTERVAL: Duration = Duration::from_secs(60);

/// The rate limit of lines about failed accepts. Descriptors may run out and be free again many times a second.
#[derive(Debug)]
pub(crate) struct AcceptErrorLog {
    limiter: LogRateLimiter,
    /// Whether a failure was logged since the last success.
    logged: bool,
}

impl AcceptErrorLog {
    pub(crate) fn new(now: Instant) -> Self {
        Self { limiter: LogRateLimiter::new(now), logged: false }
    }

    /// Records a failure. `Some` if it is to be logged, with the number of failures left out before, `None` for zero.
    pub(crate) fn failed(&mut self, now: Instant) -> Option<Option<u64>> {
        let allowed = self.limiter.allow(now);
        self.logged |= allowed.is_some();
        allowed
    }

    /// Records a success. Returns whether to log it: once after a logged failure.
    pub(crate) fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.logged)
    }
}

/// The rate limit of lines about the limit of connections.
#[derive(Debug, Default)]
pub(crate) struct ConnectionLimitLog {
    logged_at: Option<Instant>,
}

impl ConnectionLimitLog {
    /// Records that the limit is reached. Returns whether to log it.
    pub(crate) fn reached(&mut self, now: Instant) -> bool {
        let is_due = self.logged_at.is_none_or(|at| now.saturating_duration_since(at) >= FULL_INTERVAL);
        if is_due {
            self.logged_at = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_is_logged_once_and_only_after_a_logged_failure() {
        let now = Instant::now();
        let mut accepts = AcceptErrorLog::new(now);
        assert!(!accepts.succeeded());
        assert_eq!(accepts.failed(now), Some(None));
        assert!(accepts.succeeded() && !accepts.succeeded());
        // A flood: the first lines at once, then one a second.
        let logged = (0..1000).filter(|_| accepts.failed(now).is_some()).count();
        assert!((1..10).contains(&logged), "{logged}");
        assert!(accepts.succeeded());
        assert_eq!(accepts.failed(now), None);
        assert!(!accepts.succeeded(), "a failure that was left out has no end to tell");
        assert_eq!(accepts.failed(now + Duration::from_secs(1)), Some(Some(1000 - logged as u64 + 1)));
    }

    #[test]
    fn the_limit_is_logged_once_a_minute() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut limit = ConnectionLimitLog::default();
        let logged: Vec<u64> = (0..200).filter(|seconds| limit.reached(at(*seconds))).collect();
        assert_eq!(logged, [0, 60, 120, 180]);
    }
}
