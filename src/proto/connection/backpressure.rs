//! The judgement of a client that makes no room for its response: merely held up, or slow.

use std::time::{Duration, Instant};

use crate::proto::rate::MinRate;

/// The span in which a client that takes less than [`SLOW_RATE`] of a response that waits is slow: from then on the response goes
/// to a file. A proxy that is merely held up for a moment, as any process is on a busy machine, never makes the disk write.
const SLOW_READER: Duration = Duration::from_millis(250);

/// [`SLOW_READER`] while other requests wait for a worker. Clients that read nothing would else hold up all workers in turn, each for
/// a quarter of a second.
const SLOW_READER_WHILE_OTHERS_WAIT: Duration = Duration::from_millis(20);

/// Bytes a second. A gigabit network's rate takes a worker along for a moment; a mobile phone's would hold it for minutes. A
/// proxy that buffers the response takes ten times as much.
const SLOW_RATE: u64 = 16 << 20;

/// How fast a client makes room since a response had none.
#[derive(Debug)]
pub(super) struct Backpressure {
    pub(super) rate: MinRate,
    /// When to look at the rate.
    pub(super) look: Instant,
}

impl Backpressure {
    pub(super) fn new(now: Instant) -> Self {
        Self { rate: MinRate::new(now), look: now + SLOW_READER_WHILE_OTHERS_WAIT }
    }

    /// Judges whether the client is slow, and sets the time of the next look.
    pub(super) fn judge(&mut self, others_wait: bool, now: Instant) -> bool {
        self.look = now + SLOW_READER_WHILE_OTHERS_WAIT;
        // A copy, since the longer span goes on.
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

    /// After how many milliseconds a client that takes so many bytes in each is found slow, within a second.
    fn found_slow(bytes: usize, others_wait: bool) -> Option<u32> {
        let start = Instant::now();
        let mut backpressure = Backpressure::new(start);
        (1..1000).find(|milliseconds| {
            let now = start + Duration::from_millis(1) * *milliseconds;
            if bytes > 0 {
                backpressure.rate.moved(bytes, now);
            }
            now >= backpressure.look && backpressure.judge(others_wait, now)
        })
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
