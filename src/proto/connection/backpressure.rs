//! Detects a slow client: a client that keeps the send buffer full for too long.

use std::time::{Duration, Instant};

use crate::proto::rate::MinRate;

/// The span over which a rate below [`SLOW_RATE`] makes a client slow, so that its response goes to a file. Longer than the pauses
/// of a proxy on a busy machine, so that these cause no writes to the disk.
const SLOW_READER: Duration = Duration::from_millis(250);

/// [`SLOW_READER`] while other requests wait for a worker. With the longer span, clients that read nothing would block each worker
/// in turn for a quarter of a second.
const SLOW_READER_WHILE_OTHERS_WAIT: Duration = Duration::from_millis(20);

/// The least rate of a client that is not slow, in bytes a second. At the rate of a gigabit network a response occupies its worker
/// for a moment, at the rate of a mobile phone for minutes. A proxy that buffers the response reads at ten times this rate.
const SLOW_RATE: u64 = 16 << 20;

/// The rate of a client, measured since the send buffer was full.
#[derive(Debug)]
pub(super) struct Backpressure {
    pub(super) rate: MinRate,
    /// Time of the next check of the rate.
    pub(super) next_check: Instant,
}

impl Backpressure {
    pub(super) fn new(now: Instant) -> Self {
        Self { rate: MinRate::new(now), next_check: now + SLOW_READER_WHILE_OTHERS_WAIT }
    }

    /// Checks whether the client is slow, and sets the time of the next check.
    pub(super) fn check(&mut self, others_wait: bool, now: Instant) -> bool {
        self.next_check = now + SLOW_READER_WHILE_OTHERS_WAIT;
        // A copy, because the measurement over the longer span goes on.
        let mut rate = self.rate;
        let in_the_way = others_wait && rate.is_slower_than(SLOW_RATE, SLOW_READER_WHILE_OTHERS_WAIT, now);
        if now < self.rate.deadline(SLOW_READER) {
            return in_the_way;
        }
        let slow = self.rate.is_slower_than(SLOW_RATE, SLOW_READER, now);
        self.rate = MinRate::new(now);
        slow || in_the_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds until a client that takes `bytes` in each is found slow; `None` after a second.
    fn found_slow(bytes: usize, others_wait: bool) -> Option<u32> {
        let start = Instant::now();
        let mut backpressure = Backpressure::new(start);
        (1..1000).find(|milliseconds| {
            let now = start + Duration::from_millis(1) * *milliseconds;
            if bytes > 0 {
                backpressure.rate.moved(bytes, now);
            }
            now >= backpressure.next_check && backpressure.check(others_wait, now)
        })
    }

    #[test]
    fn a_span_is_over_at_its_end() {
        for (span, others_wait) in [(SLOW_READER, false), (SLOW_READER_WHILE_OTHERS_WAIT, true)] {
            let start = Instant::now();
            assert!(!Backpressure::new(start).check(others_wait, start + span - Duration::from_nanos(1)));
            assert!(Backpressure::new(start).check(others_wait, start + span));
        }
    }

    #[test]
    fn a_client_that_takes_little_is_slow_and_sooner_where_others_wait() {
        for bytes in [0, 1, 10_000] {
            assert_eq!(found_slow(bytes, true), Some(20), "{bytes} bytes");
            assert_eq!(found_slow(bytes, false), Some(260), "{bytes} bytes");
        }
        for others_wait in [false, true] {
            assert_eq!(found_slow(20_000, others_wait), None);
        }
    }
}
