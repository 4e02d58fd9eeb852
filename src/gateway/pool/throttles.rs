//! The throttles of the lines about workers and their requests, by what the lines are about. Std only; told the time.

use std::cell::RefCell;
use std::time::Instant;

use crate::log::rate_limit::LogRateLimiter;

/// What lines are about that have a throttle together. Each kind has its own, so that a flood of one hides no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// Workers and zygotes that end, do not start, or cannot be given what they need.
    Workers,
    /// Workers that break the rules.
    Misbehaviour,
    /// Requests that take long (`--slow-log`).
    SlowRequests,
    /// Requests that have reached their deadline, and workers that are killed for it.
    Deadlines,
}

/// The throttles of all kinds.
#[derive(Debug)]
pub(crate) struct Throttles([RefCell<LogRateLimiter>; 4]);

impl Throttles {
    pub(crate) fn new(now: Instant) -> Self {
        Self(std::array::from_fn(|_| RefCell::new(LogRateLimiter::new(now))))
    }

    /// Writes a line unless there were too many of its kind lately; says whether it did. `write` is given how many were left
    /// out before this one, where any were.
    pub(crate) fn say(&self, about: About, now: Instant, write: impl FnOnce(Option<u64>)) -> bool {
        // Not borrowed while `write` runs.
        let allowed = self.0[about as usize].borrow_mut().allow(now);
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
        let throttles = Throttles::new(start);
        let kinds = [About::Workers, About::Misbehaviour, About::SlowRequests, About::Deadlines];
        for kind in kinds {
            let mut written = 0;
            for _ in 0..1000 {
                throttles.say(kind, start, |left_out| {
                    assert_eq!(left_out, None);
                    written += 1;
                });
            }
            assert!((1..10).contains(&written), "{kind:?}");
        }
        for kind in kinds {
            let mut said = None;
            assert!(throttles.say(kind, start + Duration::from_secs(1), |left_out| said = left_out));
            assert!(said.is_some_and(|said| said > 990), "{kind:?}");
        }
    }
}
