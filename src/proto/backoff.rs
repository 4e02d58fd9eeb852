//! Tries that are put off ever longer while they fail: forks, launches, replacements. Std only; told the time.

use std::time::{Duration, Instant};

/// Doublings beyond this one change no delay: each has a bound below.
const MAX_DOUBLINGS: u32 = 16;

/// How often something has failed in a row, and when it may be tried again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// The first delay; it doubles with each further failure.
    first: Duration,
    longest: Duration,
    /// Failures in a row that put nothing off.
    free: u32,
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Nothing has failed yet, and the first failure counts.
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, free: 0, failures: 0, until: None }
    }

    /// The first `free` failures put nothing off.
    pub(crate) const fn after(self, free: u32) -> Self {
        Self { free, ..self }
    }

    /// It has failed once more. Gives how long the next try waits.
    pub(crate) fn failed(&mut self, now: Instant) -> Duration {
        let delay = self.failures.checked_sub(self.free).map_or(Duration::ZERO, |doublings| {
            (self.first * 2u32.pow(doublings.min(MAX_DOUBLINGS))).min(self.longest)
        });
        self.failures = self.failures.saturating_add(1);
        self.until = (!delay.is_zero()).then(|| now + delay);
        delay
    }

    /// It has succeeded, or what failed before says nothing about the next try.
    pub(crate) fn reset(&mut self) {
        (self.failures, self.until) = (0, None);
    }

    /// The next try need not wait; where it fails, the one after it waits as long as it would have anyway.
    pub(crate) fn lift(&mut self) {
        self.until = None;
    }

    /// Failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next try may be made, where it is put off.
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
