//! The latencies of a healthy client before and during an attack.

use std::time::{Duration, Instant};

use super::{Row, Scale};
use crate::support::wire::Connection;

/// The bound on a healthy client's p99 during an attack.
const HEALTHY: Duration = Duration::from_millis(50);

/// Adds both latencies and the promise about them to the row.
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

/// The latencies of `count` requests of a healthy client.
pub(super) fn latencies(connection: &mut Connection, count: usize) -> Vec<Duration> {
    let one = |_| {
        let begun = Instant::now();
        assert_eq!(connection.get("/hello").status(), 200);
        begun.elapsed()
    };
    (0..count).map(one).collect()
}
