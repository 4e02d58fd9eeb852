//! The schedule of one worker's memory measurements. Std only; time is an argument.

use std::time::{Duration, Instant};

/// The shortest time between two measurements of a worker's memory. The sum over its pages costs the kernel some 50 µs, and more
/// for a large one.
pub(crate) const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// The next step of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Send the request now. It is recorded as sent.
    Now,
    /// Ask again at this time.
    At(Instant),
    /// The last measurement holds: the worker has run nothing since.
    Never,
}

/// The measurements of one worker: each follows a request that ran, at most once in [`MEASURE_INTERVAL`], and while the worker is
/// idle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measurements {
    last: Option<Instant>,
    /// Whether the worker has started, or run a request, since the last one.
    is_due: bool,
}

impl Measurements {
    /// A worker that was never measured.
    pub(crate) const fn new() -> Self {
        Self { last: None, is_due: true }
    }

    /// Records that the worker's memory may have changed.
    pub(crate) fn mark_due(&mut self) {
        self.is_due = true;
    }

    /// The next step. A busy worker is measured when it is ready.
    pub(crate) fn poll(&mut self, now: Instant, is_idle: bool) -> Measure {
        if !self.is_due {
            return Measure::Never;
        }
        let due_at = self.last.map_or(now, |last| last + MEASURE_INTERVAL);
        if due_at > now {
            return Measure::At(due_at);
        } else if !is_idle {
            return Measure::At(now + MEASURE_INTERVAL);
        }
        (self.last, self.is_due) = (Some(now), false);
        Measure::Now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_measured_after_it_ran_something_while_idle_and_once_in_an_interval() {
        let (mut measurements, now) = (Measurements::new(), Instant::now());
        let half = MEASURE_INTERVAL / 2;
        assert_eq!(measurements.poll(now, false), Measure::At(now + MEASURE_INTERVAL), "it starts");
        assert_eq!(measurements.poll(now, true), Measure::Now);
        assert_eq!(measurements.poll(now + 2 * half, true), Measure::Never, "it has run nothing");
        measurements.mark_due();
        assert_eq!(measurements.poll(now + half, true), Measure::At(now + 2 * half), "too early");
        assert_eq!(measurements.poll(now + half, false), Measure::At(now + 2 * half));
        assert_eq!(measurements.poll(now + 2 * half, false), Measure::At(now + 4 * half), "busy");
        assert_eq!(measurements.poll(now + 3 * half, true), Measure::Now);
        measurements.mark_due();
        assert_eq!(
            measurements.poll(now + 4 * half, true),
            Measure::At(now + 5 * half),
            "since the last one"
        );
    }
}
