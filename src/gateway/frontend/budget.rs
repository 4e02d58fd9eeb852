//! The budget of descriptors: how many connections and spooled files there may be at a time, so that the pool
//! never lacks one. Std only; told the limit.

use crate::proto::pool::max_exiting;

/// Descriptors of one worker: its link, its pidfd, its standard output and error, its lifeline.
const OF_A_WORKER: usize = 5;

/// Descriptors of one zygote: its link, its standard output and error, its pidfd, and another one by which its end is awaited.
const OF_A_ZYGOTE: usize = 5;

/// Generations of workers during a reload, beside workers that are about to exit.
const GENERATIONS: usize = 2;

/// Descriptors for things that come and go: executing a zygote (twelve for a moment), forking a worker (eight), log files, the
/// control socket and its clients, looking into `/proc`, making a socket file anew.
const SPARE: usize = 40;

/// Pipes of processes that have ended, held by processes that these have started.
pub(crate) const OUTLIVING: usize = 16;

/// The part of the free descriptors that is for connections, in quarters. The rest is for bodies over 64 KiB and slow clients'
/// responses, a file each until the request is over; most connections wait for their next request and have none.
const QUARTERS_FOR_CONNECTIONS: usize = 3;

/// The divisor of that rest which gives the second descriptors of clients that have shut their writing side: only with one is
/// a hang-up of such a client seen. Few clients shut their side, and no proxy does.
const PART_FOR_HANG_UPS: usize = 4;

/// The most connections and files that there may be at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) connections: usize,
    /// Bodies and responses in files.
    pub(crate) spooled: usize,
    /// Connections of clients that have shut their writing side.
    pub(crate) half_closed: usize,
}

impl Budget {
    /// Shares out `limit` descriptors, of which `open` are in use for good. `None` where not one
    /// connection would be left.
    pub(crate) fn new(limit: usize, open: usize, workers: u32, max_connections: usize) -> Option<Self> {
        let pool =
            GENERATIONS * (workers as usize * OF_A_WORKER + OF_A_ZYGOTE) + max_exiting(workers) * OF_A_WORKER;
        let free = limit.saturating_sub(open + SPARE + OUTLIVING + pool);
        let connections = max_connections.min(free / 4 * QUARTERS_FOR_CONNECTIONS);
        let half_closed = (free - connections) / PART_FOR_HANG_UPS;
        let spooled = free - connections - half_closed;
        (connections > 0).then_some(Self { connections, spooled, half_closed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_high_limit_leaves_room_for_every_connection_and_a_body_of_each() {
        let budget = Budget::new(524_288, 20, 64, 4096).unwrap();
        assert_eq!(budget.connections, 4096);
        assert!(budget.spooled > 4096);
    }

    #[test]
    fn connections_bodies_and_two_generations_fit_the_limit_together() {
        for limit in 0..2000 {
            let Some(Budget { connections, spooled, half_closed }) = Budget::new(limit, 20, 8, 4096) else {
                continue;
            };
            assert!(connections >= 1 && spooled >= 1);
            assert!(
                20 + SPARE
                    + OUTLIVING
                    + 2 * 8 * OF_A_WORKER
                    + 2 * OF_A_ZYGOTE
                    + connections
                    + spooled
                    + half_closed
                    <= limit
            );
        }
        assert_eq!(Budget::new(100, 20, 8, 4096), None);
        assert_eq!(Budget::new(1000, 20, 8, 10).map(|budget| budget.connections), Some(10));
    }
}
