//! Starts of workers, and replacements, that fail in a row: when the next may be tried, and whether that is an accident. Std only;
//! time is an argument.

use std::time::{Duration, Instant};

use crate::proto::backoff::Backoff;

/// The delay after the second worker in a row that failed to start; it doubles with each further one.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest delay between two attempts: short enough that a mended application is back soon.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// The number of failures in a row from which workers are forked one at a time and the code may be loaded afresh: one
/// failure is an accident, and two may be.
const FAILING: u32 = 3;

/// The wait of the successor of a worker that reached a limit before it could have answered anything, as its successor will:
/// settings that no worker can keep must not fork without end. It doubles with each further one in a row.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest such wait. The worker goes on meanwhile, so nothing is urgent.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Starts in a row that ended before the worker had answered a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Starts {
    backoff: Backoff,
    /// The generation of the last failure.
    failed_generation: u32,
}

impl Starts {
    pub(super) fn new() -> Self {
        // One failure is an accident.
        Self { backoff: Backoff::new(FIRST_BACKOFF, MAX_BACKOFF).after(1), failed_generation: 0 }
    }

    /// Records a start that has failed.
    pub(super) fn record_failure(&mut self, generation: u32, now: Instant) {
        self.failed_generation = generation;
        self.backoff.failed(now);
    }

    /// Forgets the failures: a worker has answered a request, or a new generation has nothing to do with them.
    pub(super) fn reset(&mut self) {
        self.backoff.reset();
    }

    /// Lets the next start be tried at once; where it fails, the one after it waits as long as it would have anyway.
    pub(super) fn lift_delay(&mut self) {
        self.backoff.lift();
    }

    /// The time before which no start is tried.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.backoff.until()
    }

    /// Whether one worker is to be started at a time.
    pub(super) fn are_single(&self) -> bool {
        self.backoff.failures() >= FAILING
    }

    /// Whether the starts of this generation fail again and again.
    pub(super) fn are_failing(&self, generation: u32) -> bool {
        self.are_single() && self.failed_generation == generation
    }
}

/// A worker that is to be replaced, since it has reached its age or memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replacement {
    pub(crate) worker: u32,
    /// The wait of its successor, where it reached the limit before it could have answered anything.
    pub(crate) pause: Option<Duration>,
}

/// Replacements in a row of workers that could not have answered anything before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replacements(Backoff);

impl Replacements {
    pub(super) fn new() -> Self {
        Self(Backoff::new(FIRST_PAUSE, MAX_PAUSE))
    }

    /// Forgets those before: a worker has answered within its limits, or the limits are others.
    pub(super) fn reset(&mut self) {
        self.0.reset();
    }

    /// The time before which no successor is forked.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.0.until()
    }

    /// Has a worker replaced. `at_birth`: it could not have answered anything before it reached the limit.
    pub(super) fn begin(&mut self, worker: u32, at_birth: bool, now: Instant) -> Replacement {
        Replacement { worker, pause: at_birth.then(|| self.0.failed(now)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_failure_in_a_row_is_no_accident_and_the_second_delays_the_next() {
        let (mut starts, now) = (Starts::new(), Instant::now());
        let delays = [None, Some(FIRST_BACKOFF), Some(FIRST_BACKOFF * 2), Some(FIRST_BACKOFF * 4)];
        for (failures, delay) in (1_u32..).zip(delays) {
            starts.record_failure(2, now);
            assert_eq!(starts.retry_at(), delay.map(|delay| now + delay), "after {failures}");
            assert_eq!(starts.are_single(), failures >= 3);
            assert_eq!((starts.are_failing(2), starts.are_failing(1)), (failures >= 3, false));
        }
        starts.lift_delay();
        assert_eq!((starts.retry_at(), starts.are_failing(2)), (None, true));
        starts.record_failure(3, now);
        assert_eq!(starts.retry_at(), Some(now + FIRST_BACKOFF * 8), "as long as it would have been anyway");
        assert_eq!((starts.are_failing(3), starts.are_failing(2)), (true, false), "of the last failure's");
        starts.reset();
        assert_eq!((starts.retry_at(), starts.are_single()), (None, false));
    }
}
