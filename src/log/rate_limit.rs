//! A rate limiter for log lines. Reads no clock: the time is an argument.

use std::time::{Duration, Instant};

/// Lines in a burst. Covers the lines of one accident.
const BURST: u32 = 5;

/// Interval between lines after the burst.
const INTERVAL: Duration = Duration::from_secs(1);

/// A rate limiter for alike log lines.
#[derive(Debug)]
pub struct LogRateLimiter {
    /// Lines left in the burst.
    allowance: u32,
    /// Time at which `allowance` last grew.
    refilled: Instant,
    /// Lines left out since the last written one.
    left_out: u64,
}

impl LogRateLimiter {
    /// A limiter with a full burst.
    pub fn new(now: Instant) -> Self {
        Self { allowance: BURST, refilled: now, left_out: 0 }
    }

    /// `Some` if a line may be written now. The inner value is the number of lines left out before, `None` for zero.
    pub fn allow(&mut self, now: Instant) -> Option<Option<u64>> {
        let passed = (now - self.refilled).as_nanos() / INTERVAL.as_nanos();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        if passed > 0 {
            self.allowance = self.allowance.saturating_add(passed).min(BURST);
            self.refilled = now - (now - self.refilled).saturating_sub(INTERVAL * passed);
        }
        if self.allowance == 0 {
            self.left_out += 1;
            return None;
        }
        self.allowance -= 1;
        Some(Some(std::mem::take(&mut self.left_out)).filter(|left_out| *left_out > 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_logged_whole_and_a_flood_once_a_second() {
        let start = Instant::now();
        let mut limiter = LogRateLimiter::new(start);
        assert!((0..BURST).all(|_| limiter.allow(start) == Some(None)));
        let mut written = 0;
        for millis in 1..=10_000 {
            if let Some(left_out) = limiter.allow(start + Duration::from_millis(millis)) {
                assert_eq!(left_out, Some(999));
                written += 1;
            }
        }
        assert_eq!(written, 10);
        let quiet = start + Duration::from_secs(60);
        assert!((0..BURST).all(|_| limiter.allow(quiet) == Some(None)));
        assert_eq!(limiter.allow(quiet), None);
    }
}
