//! Decides how often the log says that connections cannot be accepted, and that there are as many as there may be. Std only; told
//! the time.

use std::time::{Duration, Instant};

use crate::log::rate_limit::LogRateLimiter;

/// Interval between two lines about the limit of connections: a busy server can reach it a thousand times a second.
const FULL_INTERVAL: Duration = Duration::from_secs(60);

/// Failures to accept. Descriptors may be gone and there again many times a second.
#[derive(Debug)]
pub(crate) struct Shortage {
    limiter: LogRateLimiter,
    /// Whether the log has a line about the failures.
    said: bool,
}

impl Shortage {
    pub(crate) fn new(now: Instant) -> Self {
        Self { limiter: LogRateLimiter::new(now), said: false }
    }

    /// Takes a failure. Gives whether to log it, and how many failures were left out before.
    pub(crate) fn lasts(&mut self, now: Instant) -> Option<Option<u64>> {
        let allowed = self.limiter.allow(now);
        self.said |= allowed.is_some();
        allowed
    }

    /// Takes a success. Gives whether to log it: once after failures that were logged.
    pub(crate) fn is_over(&mut self) -> bool {
        std::mem::take(&mut self.said)
    }
}

/// Reaching the limit of connections.
#[derive(Debug, Default)]
pub(crate) struct Fullness {
    said: Option<Instant>,
}

impl Fullness {
    /// Takes that the limit is reached. Gives whether to log it.
    pub(crate) fn reached(&mut self, now: Instant) -> bool {
        let is_due = self.said.is_none_or(|said| now.saturating_duration_since(said) >= FULL_INTERVAL);
        if is_due {
            self.said = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_shortage_is_said_once_and_only_where_its_begin_was() {
        let now = Instant::now();
        let mut shortage = Shortage::new(now);
        assert!(!shortage.is_over());
        assert_eq!(shortage.lasts(now), Some(None));
        assert!(shortage.is_over() && !shortage.is_over());
        // A flood: the first lines at once, then one a second.
        let said = (0..1000).filter(|_| shortage.lasts(now).is_some()).count();
        assert!((1..10).contains(&said), "{said}");
        assert!(shortage.is_over());
        assert_eq!(shortage.lasts(now), None);
        assert!(!shortage.is_over(), "a failure that was left out has no end to tell");
        assert_eq!(shortage.lasts(now + Duration::from_secs(1)), Some(Some(1000 - said as u64 + 1)));
    }

    #[test]
    fn the_limit_is_said_once_a_minute() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut fullness = Fullness::default();
        let said: Vec<u64> = (0..200).filter(|seconds| fullness.reached(at(*seconds))).collect();
        assert_eq!(said, [0, 60, 120, 180]);
    }
}
