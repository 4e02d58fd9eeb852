//! Exponential backoff, for forks, launches and replacements. Reads no clock.

use std::time::{Duration, Instant};

/// Doublings beyond this one change no delay: each has a bound below.
const MAX_DOUBLINGS: u32 = 16;

/// The count of failures in a row, and the time of the next attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// The first delay. It doubles with each further failure.
    first: Duration,
    longest: Duration,
    /// Number of failures in a row without a delay.
    free: u32,
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// A backoff without failures, which delays from the first failure on.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, free: 0, failures: 0, until: None }
    }

    /// Exempts the first `free` failures from a delay.
    pub(crate) const fn after(self, free: u32) -> Self {
        Self { free, ..self }
    }

    /// Records a failure. Returns the delay of the next attempt.
    pub(crate) fn failed(&mut self, now: Instant) -> Duration {
        let delay = self.failures.checked_sub(self.free).map_or(Duration::ZERO, |doublings| {
            (self.first * 2u32.pow(doublings.min(MAX_DOUBLINGS))).min(self.longest)
        });
        self.failures = self.failures.saturating_add(1);
        self.until = (!delay.is_zero()).then(|| now + delay);
        delay
    }

    /// Resets the count, after a success, or when earlier failures no longer matter.
    pub(crate) fn reset(&mut self) {
        (self.failures, self.until) = (0, None);
    }

    /// Lifts the current delay. The count of failures stays, and with it the delay after the next failure.
    pub(crate) fn lift(&mut self) {
        self.until = None;
    }

    /// The number of failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// The time of the next attempt; `None` without a delay.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        for (free, expected) in [(0, [1, 2, 4, 8, 10, 10]), (1, [0, 1, 2, 4, 8, 10])] {
            let mut backoff = Backoff::new(second, 10 * second).after(free);
            for _ in 0..2 {
                let delays = expected.map(|_| backoff.failed(now).as_secs());
                assert_eq!((delays, backoff.failures()), (expected, 6), "{free} for nothing");
                assert_eq!(backoff.until(), Some(now + 10 * second));
                backoff.lift();
                assert_eq!((backoff.until(), backoff.failures()), (None, 6));
                backoff.reset();
                assert_eq!((backoff.until(), backoff.failures()), (None, 0));
            }
        }
        let mut backoff = Backoff::new(second, 10 * second);
        for _ in 0..100 {
            backoff.failed(now);
        }
        assert_eq!(backoff.failed(now), 10 * second, "no overflow");
    }
}
