//! The median service time of the last requests. Reads no clock.

use std::time::Duration;

/// Number of service times kept: enough to ignore one slow report, few enough to follow a change of load.
const KEPT: usize = 64;

/// Requests between two computations of the median, which takes less than a microsecond.
const RENEWAL: usize = 8;

/// The service times of the last requests.
#[derive(Debug)]
pub(crate) struct Recent {
    /// Ring of times in nanoseconds, which compare faster than a [`Duration`]; the oldest is replaced first. Unused entries are
    /// zero.
    times: [u64; KEPT],
    count: usize,
    median: Duration,
}

impl Default for Recent {
    fn default() -> Self {
        Self { times: [0; KEPT], count: 0, median: Duration::ZERO }
    }
}

impl Recent {
    /// Counts the service time of a request.
    pub(crate) fn observe(&mut self, service: Duration) {
        self.times[self.count % KEPT] = u64::try_from(service.as_nanos()).unwrap_or(u64::MAX);
        self.count += 1;
        if self.count <= RENEWAL || self.count.is_multiple_of(RENEWAL) {
            let mut times = self.times;
            let known = &mut times[..self.count.min(KEPT)];
            let middle = known.len() / 2;
            self.median = Duration::from_nanos(*known.select_nth_unstable(middle).1);
        }
    }

    /// The median of the last service times; zero before the first.
    pub(crate) fn median(&self) -> Duration {
        self.median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_slow_request_now_and_then_does_not_move_the_median_and_another_load_does() {
        let mut recent = Recent::default();
        assert_eq!(recent.median(), Duration::ZERO);
        recent.observe(30 * MS);
        assert_eq!(recent.median(), 30 * MS);
        for number in 0..200 {
            recent.observe(if number % 10 == 0 { 9000 * MS } else { 20 * MS });
        }
        assert_eq!(recent.median(), 20 * MS);
        (0..KEPT).for_each(|_| recent.observe(500 * MS));
        assert_eq!(recent.median(), 500 * MS);
    }
}
