//! Whether processes are scheduled in batches: while several requests run at a time. Std only, no I/O.
//!
//! In batches, a process that is woken waits until the running one sleeps. So the gateway takes the answers of several requests at once,
//! and a worker runs several requests before it is interrupted. A single request at a time gains nothing by it, and waits behind other
//! programs for longer. Beside programs that keep the processors busy, batches are given up for a while.

use std::time::{Duration, Instant};

use crate::proto::backoff::Backoff;

/// Requests in the workers' lanes, on average, above which scheduling in batches begins.
const ON: f32 = 2.0;

/// Below which it ends.
const OFF: f32 = 1.5;

/// The weight of one observation in the average.
const WEIGHT: f32 = 1.0 / 16.0;

/// The mean time between the sending and the receipt of a packet above which other programs are taken to use the processors. A process
/// that is scheduled in batches waits for their time slices, of some milliseconds each. The server's own processes run for less.
const LATE: Duration = Duration::from_millis(2);

/// Added to it for each request in the queue: with many clients, the proxy and the gateway take turns of that length.
const LATE_EACH: Duration = Duration::from_micros(30);

/// The pause of batches after they were given up for other programs, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The decision.
#[derive(Debug)]
pub(crate) struct Batching {
    mean: f32,
    on: bool,
    /// The mean time that packets take to the gateway, in seconds, since batches began.
    delay: f32,
    pauses: Backoff,
}

impl Batching {
    pub(crate) fn new() -> Self {
        Self { mean: 0.0, on: false, delay: 0.0, pauses: Backoff::new(PAUSE, LONGEST_PAUSE) }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Takes the time between the sending and the receipt of a packet.
    pub(crate) fn observe_delay(&mut self, delay: Duration) {
        self.delay += (delay.as_secs_f32() - self.delay) * WEIGHT;
    }

    /// Takes the numbers of requests in the lanes and in the queue when the event loop is about to sleep. Returns the decision if it has
    /// changed.
    pub(crate) fn observe(&mut self, requests: usize, queued: usize, now: Instant) -> Option<bool> {
        // Beyond, the exact number does not matter.
        let requests = f32::from(u8::try_from(requests).unwrap_or(u8::MAX));
        self.mean += (requests - self.mean) * WEIGHT;
        let late = LATE + LATE_EACH * u32::try_from(queued).unwrap_or(u32::MAX);
        let is_loaded = if self.on { self.mean >= OFF } else { self.mean > ON };
        if self.on && self.delay > late.as_secs_f32() {
            self.pauses.failed(now);
        } else if self.on && !is_loaded {
            // They have lasted for as long as the load.
            self.pauses.reset();
        }
        let on = is_loaded && self.pauses.until().is_none_or(|end| end <= now);
        if on && !self.on {
            self.delay = 0.0;
        }
        (std::mem::replace(&mut self.on, on) != on).then_some(on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lasting_load_changes_the_scheduling() {
        let (mut batching, now) = (Batching::new(), Instant::now());
        assert!((0..1000).all(|_| batching.observe(2, 0, now).is_none()), "two at a time are no load");
        assert_eq!(batching.observe(8, 0, now), Some(true));
        assert!(batching.is_on());
        assert_eq!((0..3).filter_map(|_| batching.observe(2, 0, now)).count(), 0, "not at the first pause");
        let ends = (0..100).position(|_| batching.observe(0, 0, now) == Some(false)).unwrap();
        assert!((1..16).contains(&ends) && !batching.is_on(), "{ends}");
        assert!((0..1000).all(|_| batching.observe(0, 0, now).is_none()));
    }

    #[test]
    fn late_packets_end_batches_for_a_while_and_for_longer_each_time() {
        let (mut batching, mut now) = (Batching::new(), Instant::now());
        for pause in [PAUSE, 2 * PAUSE] {
            assert_eq!(batching.observe(200, 0, now), Some(true));
            (0..1000).for_each(|_| batching.observe_delay(LATE / 2));
            assert_eq!(batching.observe(8, 0, now), None, "its own processes");
            (0..64).for_each(|_| batching.observe_delay(2 * LATE));
            assert_eq!(batching.observe(8, 100, now), None, "with many clients");
            assert_eq!(batching.observe(8, 0, now), Some(false));
            assert_eq!(batching.observe(200, 0, now + pause - Duration::from_millis(1)), None);
            now += pause;
        }
        // Batches that the load alone has ended forget the failures.
        assert_eq!(batching.observe(200, 0, now), Some(true));
        while batching.is_on() {
            batching.observe(0, 0, now);
        }
        assert_eq!(batching.observe(200, 0, now), Some(true));
        (0..64).for_each(|_| batching.observe_delay(2 * LATE));
        assert_eq!(batching.observe(200, 0, now), Some(false));
        assert_eq!(batching.observe(200, 0, now + PAUSE), Some(true));
    }
}
