//! Whether processes are scheduled in batches: while several requests run at a time. Std only, no I/O.
//!
//! In batches, a process that is woken waits until the running one sleeps. So the gateway takes the answers of several requests at once,
//! and a worker runs several requests before it is interrupted. A single request at a time gains nothing by it, and waits behind other
//! programs for longer.

/// Requests in the workers' lanes, on average, above which scheduling in batches begins.
const ON: f32 = 2.0;

/// Below which it ends.
const OFF: f32 = 1.5;

/// The weight of one observation in the average.
const WEIGHT: f32 = 1.0 / 16.0;

/// The decision.
#[derive(Debug)]
pub(crate) struct Batching {
    mean: f32,
    on: bool,
}

impl Batching {
    pub(crate) fn new() -> Self {
        Self { mean: 0.0, on: false }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Takes the number of requests in the lanes when the event loop is about to sleep. Returns the decision if it has changed.
    pub(crate) fn observe(&mut self, requests: usize) -> Option<bool> {
        // Beyond, the exact number does not matter.
        let requests = f32::from(u8::try_from(requests).unwrap_or(u8::MAX));
        self.mean += (requests - self.mean) * WEIGHT;
        let on = if self.on { self.mean >= OFF } else { self.mean > ON };
        (std::mem::replace(&mut self.on, on) != on).then_some(on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lasting_load_changes_the_scheduling() {
        let mut batching = Batching::new();
        assert!((0..1000).all(|_| batching.observe(2).is_none()), "two at a time are no load");
        assert_eq!(batching.observe(8), Some(true));
        assert!(batching.is_on());
        assert_eq!((0..3).filter_map(|_| batching.observe(2)).count(), 0, "not at the first pause");
        let ends = (0..100).position(|_| batching.observe(0) == Some(false)).unwrap();
        assert!((1..16).contains(&ends) && !batching.is_on(), "{ends}");
        assert!((0..1000).all(|_| batching.observe(0).is_none()));
    }
}
