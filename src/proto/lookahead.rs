//! How many requests wait in a worker's lane behind the one that it runs. Std only; time is an argument.
//!
//! A worker that finds its next request in its lane need not wait for the gateway. But a request that waits there waits for this worker,
//! and not for the first that is idle. So only requests that are answered in no time wait, for no time: they are taken back from a
//! worker that takes longer.

use std::time::Duration;

/// The longest service time, as the median of recent ones, at which requests wait in lanes.
const SHORT: Duration = Duration::from_micros(250);

/// The longest that the requests in one lane are to take together, by the median.
const LANE_TIME: Duration = Duration::from_micros(500);

/// The time that the request before may have run when one is put behind it. Later, those behind it are taken back.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1);

/// The requests that a lane of at most `most` may hold, the running one included, where requests take `median`. 1 stands for none that
/// wait, as before any service time is known.
pub(crate) fn lane_limit(median: Duration, most: usize) -> usize {
    if median.is_zero() || median > SHORT {
        return 1;
    }
    let fit = LANE_TIME.as_nanos() / median.as_nanos().max(1);
    usize::try_from(fit).unwrap_or(most).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_requests_wait_in_lanes_and_long_ones_do_not() {
        let limit = |micros| lane_limit(Duration::from_micros(micros), 16);
        assert_eq!((limit(1), limit(10), limit(50), limit(250)), (16, 16, 10, 2));
        assert_eq!((limit(251), limit(1_000_000)), (1, 1));
        assert_eq!(limit(0), 1, "nothing is known");
    }
}
