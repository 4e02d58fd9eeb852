//! The least rate at which a client must send or read. Reads no clock.

use std::time::{Duration, Instant};

/// The least average rate of a client, in bytes a second, as in Apache's mod_reqtimeout. A mobile phone in the worst reception sends
/// ten times as fast. A client that sends a byte now and then only occupies its connection.
pub(crate) const MIN_RATE: u64 = 500;

/// A measurement of the rate over spans of a time limit. In each span the client must reach [`MIN_RATE`], and move at least one
/// byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MinRate {
    /// Start of the span.
    since: Instant,
    /// Bytes moved in the span.
    bytes: u64,
    /// Time of the last byte.
    last: Instant,
}

impl MinRate {
    /// A measurement with a span that begins now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, last: now }
    }

    /// Counts moved bytes.
    pub(crate) fn moved(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes as u64;
        self.last = now;
    }

    /// End of the span, and time of the next call of [`Self::is_too_slow`].
    pub(crate) fn deadline(&self, limit: Duration) -> Instant {
        self.since + limit
    }

    /// Whether the span is over with too few bytes. After a span with enough bytes the next one begins at the last byte, so that a
    /// client that falls silent has the whole limit from then on.
    pub(crate) fn is_too_slow(&mut self, limit: Duration, now: Instant) -> bool {
        self.is_slower_than(MIN_RATE, limit, now)
    }

    /// [`Self::is_too_slow`] with another rate than [`MIN_RATE`], in bytes a second.
    pub(crate) fn is_slower_than(&mut self, rate: u64, limit: Duration, now: Instant) -> bool {
        // Rounded in favour of the client: part of a second requires less than a second's bytes.
        let least = u128::from(rate) * limit.as_millis() / 1000;
        while now >= self.deadline(limit) {
            let silent = self.last == self.since;
            if silent || u128::from(self.bytes) < least {
                return true;
            }
            *self = Self::new(self.last);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn who_moves_nothing_has_the_limit_from_the_last_byte() {
        let start = Instant::now();
        let mut rate = MinRate::new(start);
        assert!(!rate.is_too_slow(LIMIT, start + seconds(9)));
        assert!(rate.is_too_slow(LIMIT, start + seconds(10)));

        let mut rate = MinRate::new(start);
        rate.moved(1 << 20, start + seconds(4));
        assert!(!rate.is_too_slow(LIMIT, start + seconds(10)));
        assert_eq!(rate.deadline(LIMIT), start + seconds(14));
        assert!(rate.is_too_slow(LIMIT, start + seconds(14)));
    }

    #[test]
    fn who_trickles_is_too_slow_and_who_keeps_the_rate_is_not() {
        let start = Instant::now();
        for (bytes, slow) in [(1, true), (499, true), (501, false)] {
            let mut rate = MinRate::new(start);
            let cut = (1..=100).any(|second| {
                rate.moved(bytes, start + seconds(second));
                rate.is_too_slow(LIMIT, start + seconds(second))
            });
            assert_eq!(cut, slow, "{bytes} bytes a second");
        }
    }

    #[test]
    fn a_look_long_after_finds_every_span_that_has_passed() {
        let start = Instant::now();
        let mut rate = MinRate::new(start);
        rate.moved(1 << 20, start + seconds(1));
        assert!(rate.is_too_slow(LIMIT, start + seconds(3600)));
    }
}
