//! Keeps what happens again and again from filling the log. Std only; told the time.

use std::time::{Duration, Instant};

/// Lines that may follow each other at once: what one accident has to say is said whole.
const BURST: u32 = 5;

/// After that, one line in so long.
const INTERVAL: Duration = Duration::from_secs(1);

/// Decides which of many alike lines are written.
#[derive(Debug)]
pub struct Throttle {
    /// Lines that may still follow at once.
    allowance: u32,
    /// When `allowance` last grew.
    refilled: Instant,
    /// Lines that were left out since the last that was written.
    left_out: u64,
}

impl Throttle {
    /// One that has let nothing pass yet.
    pub fn new(now: Instant) -> Self {
        Self { allowance: BURST, refilled: now, left_out: 0 }
    }

    /// Whether a line may be written now; if so, how many were left out before it, where any were.
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
    fn one_accident_is_told_whole_and_a_flood_once_a_second() {
        let start = Instant::now();
        let mut throttle = Throttle::new(start);
        assert!((0..BURST).all(|_| throttle.allow(start) == Some(None)));
        let mut written = 0;
        for millis in 1..=10_000 {
            if let Some(left_out) = throttle.allow(start + Duration::from_millis(millis)) {
                assert_eq!(left_out, Some(999));
                written += 1;
            }
        }
        assert_eq!(written, 10);
        let quiet = start + Duration::from_secs(60);
        assert!((0..BURST).all(|_| throttle.allow(quiet) == Some(None)));
        assert_eq!(throttle.allow(quiet), None);
    }
}
