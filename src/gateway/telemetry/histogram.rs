//! Histograms of durations with fixed buckets, filled by the metrics and read by the status. Reads no clock.

use std::time::Duration;

/// Upper bounds of the buckets; longer durations count in one more. From half a millisecond, below which a user supervisor_events
/// nothing, to half a minute, beyond which every proxy has given up; 1, 2.5, 5 per decade, so that a percentile is off by no
/// more than that.
pub(crate) const BOUNDS: [Duration; 15] = [
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(2_500),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// Durations by bucket, and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Histogram {
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// Counts a duration.
    pub(crate) fn observe(&mut self, took: Duration) {
        let bucket = BOUNDS.iter().position(|bound| took <= *bound).unwrap_or(BOUNDS.len());
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// Adds the counts of another histogram.
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// The number of durations that were counted.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The sum of the durations.
    pub(crate) fn sum(&self) -> Duration {
        self.sum
    }

    /// Durations in each bucket; the last bucket is beyond every bound.
    pub(crate) fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The quantile of this share (0 to 1), interpolated evenly within its bucket; `None` for an empty histogram. Durations
    /// beyond the last bound count as that bound.
    #[expect(clippy::cast_precision_loss, reason = "a share of counts needs no more than 53 bits")]
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = share * total as f64;
        let (mut below, mut from) = (0, Duration::ZERO);
        for (bound, count) in BOUNDS.iter().zip(&self.counts) {
            if *count > 0 && (below + count) as f64 >= rank {
                let within = (rank - below as f64) / *count as f64;
                return Some(from + (*bound - from).mul_f64(within.clamp(0.0, 1.0)));
            }
            below += count;
            from = *bound;
        }
        Some(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::default();
        times.into_iter().for_each(|micros| histogram.observe(Duration::from_micros(micros)));
        histogram
    }

    #[test]
    fn a_bound_belongs_to_its_bucket_and_longer_durations_count_too() {
        let histogram = of([0, 500, 501, 30_000_000, 30_000_001]);
        assert_eq!(histogram.counts()[..2], [2, 1]);
        assert_eq!(histogram.counts()[14..], [1, 1]);
        assert_eq!((histogram.count(), histogram.sum()), (5, Duration::from_micros(60_001_002)));
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn quantiles_lie_in_the_bucket_that_holds_them() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        let histogram = of((0..98).map(|_| 700).chain([200_000, 400_000]));
        let within = |share, low, high| {
            let millis = histogram.quantile(share).unwrap().as_secs_f64() * 1e3;
            assert!((low..=high).contains(&millis), "{share}: {millis}");
        };
        within(0.5, 0.5, 1.0);
        within(0.99, 100.0, 250.0);
        within(1.0, 250.0, 500.0);
        assert_eq!(of([60_000_000]).quantile(0.5), Some(Duration::from_secs(30)));
    }

    #[test]
    fn the_counts_of_two_histograms_can_be_added() {
        let mut sum = of([1, 2_000]);
        sum.add(&of([3, 4_000_000]));
        assert_eq!(sum, of([3, 1, 4_000_000, 2_000]));
    }
}
