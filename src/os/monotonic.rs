//! The monotonic clock as a number, which processes can tell each other.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The time now, in nanoseconds of `CLOCK_MONOTONIC`, which is the same in all processes (clock_gettime(2)).
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let nanos = now.tv_sec * 1_000_000_000 + now.tv_nsec;
    // The clock starts at 0, and has room for centuries.
    u64::try_from(nanos).unwrap_or(0)
}

/// One moment on both clocks, to translate others.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    nanos: u64,
    instant: Instant,
}

impl Moment {
    /// The moment now.
    pub fn now() -> Self {
        Self { nanos: now(), instant: Instant::now() }
    }

    /// The instant of a number of [`now`]; `None` beyond what an instant can be.
    pub fn instant_of(self, nanos: u64) -> Option<Instant> {
        if nanos >= self.nanos {
            self.instant.checked_add(Duration::from_nanos(nanos - self.nanos))
        } else {
            self.instant.checked_sub(Duration::from_nanos(self.nanos - nanos))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_instant_at_which_it_was_read() {
        let moment = Moment::now();
        let (before, nanos, after) = (Instant::now(), now(), Instant::now());
        let instant = moment.instant_of(nanos).unwrap();
        // The moment's two readings are not one.
        let apart = Duration::from_secs(1);
        assert!(before < instant + apart && instant < after + apart);
        let earlier = moment.instant_of(nanos - 1_000_000_000).unwrap();
        assert_eq!(instant - earlier, apart);
        moment.instant_of(u64::MAX);
        moment.instant_of(0);
    }
}
