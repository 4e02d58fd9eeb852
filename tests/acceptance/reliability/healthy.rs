//! A client beside those that mean harm: how long it waits for its answers, before and meanwhile.

use std::time::{Duration, Instant};

use super::{Row, Scale};
use crate::support::wire::Connection;

/// Between nothing else running and a machine full of senders, a healthy client may notice this much.
const HEALTHY: Duration = Duration::from_millis(50);

/// Notes both, and the promise about them.
pub(super) fn healthy_enough(
    row: &mut Row,
    scale: Scale,
    mut before: Vec<Duration>,
    mut during: Vec<Duration>,
) {
    row.times("healthy before", &mut before);
    let p99 = row.times("healthy meanwhile", &mut during);
    row.promise(p99 <= scale.bound(HEALTHY), "a healthy client's p99 stays within 50 ms");
}

/// How long a healthy client waits for its answers.
pub(super) fn latencies(connection: &mut Connection, count: usize) -> Vec<Duration> {
    let one = |_| {
        let begun = Instant::now();
        assert_eq!(connection.get("/hello").status(), 200);
        begun.elapsed()
    };
    (0..count).map(one).collect()
}
