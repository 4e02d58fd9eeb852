//! Failed starts of workers, and early replacements, in a row: the time of the next attempt. Std only; time is an argument.

use std::time::{Duration, Instant};

use crate::proto::backoff::Backoff;

/// The delay after the second worker in a row that failed to start; it doubles with each further one.
pub(super) const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest delay between two attempts: short enough that a repaired application is back soon.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// The number of failures in a row from which workers are forked one at a time and the code may be loaded again. One or two
/// failures may be accidents.
const FAILING: u32 = 3;

/// The delay of a successor if the worker reached a limit before it had served a request: settings that no worker can keep must not
/// cause endless forks. The delay doubles with each further one in a row.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest such delay. The worker continues meanwhile, so its replacement is not urgent.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The row of starts that ended before the worker's first answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Starts {
    backoff: Backoff,
    /// The generation of the last failure.
    failed_generation: u32,
}

impl Starts {
    pub(super) fn new() -> Self {
        // The first failure may be an accident, and delays nothing.
        Self { backoff: Backoff::new(FIRST_BACKOFF, MAX_BACKOFF).after(1), failed_generation: 0 }
    }

    /// Records a start that has failed.
    pub(super) fn record_failure(&mut self, generation: u32, now: Instant) {
        self.failed_generation = generation;
        self.backoff.failed(now);
    }

    /// Forgets the failures, after a worker's answer or a new generation.
    pub(super) fn reset(&mut self) {
        self.backoff.reset();
    }

    /// Lifts the current delay. If the next start fails, the delay after it is as long as without this call.
    pub(super) fn lift_delay(&mut self) {
        self.backoff.lift();
    }

    /// The time of the next attempt, if it is delayed.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.backoff.until()
    }

    /// Whether workers are started one at a time.
    pub(super) fn are_single(&self) -> bool {
        self.backoff.failures() >= FAILING
    }

    /// Whether the starts of this generation are failing: at least [`FAILING`] in a row.
    pub(super) fn are_failing(&self, generation: u32) -> bool {
        self.are_single() && self.failed_generation == generation
    }
}

/// A worker that is to be replaced, because it has reached its age or memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replacement {
    pub(crate) worker: u32,
    /// The delay of its successor, if the worker reached the limit before it had served a request.
    pub(crate) pause: Option<Duration>,
}

/// The row of replacements of workers that reached a limit before they had served a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replacements(Backoff);

impl Replacements {
    pub(super) fn new() -> Self {
        Self(Backoff::new(FIRST_PAUSE, MAX_PAUSE))
    }

    /// Forgets the row, after an answer within the limits or a change of the limits.
    pub(super) fn reset(&mut self) {
        self.0.reset();
    }

    /// The time of the next fork of a successor, if it is delayed.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.0.until()
    }

    /// Begins the replacement of a worker. `at_birth`: the worker reached the limit before it had served a request.
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
