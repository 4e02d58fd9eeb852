//! The budget of descriptors: limits on connections and spooled files, so that the pool never lacks a descriptor. Does no I/O:
//! the limit is an argument.

use crate::proto::pool::max_exiting;

/// Descriptors of one worker: its link, its pidfd, its standard output and error, its lifeline.
const OF_A_WORKER: usize = 5;

/// Descriptors of one zygote: its link, its standard output and error, its pidfd, and another for the wait for its end.
const OF_A_ZYGOTE: usize = 5;

/// Generations of workers during a reload, beside draining workers.
const GENERATIONS: usize = 2;

/// Spare descriptors for short-lived uses: executing a zygote (twelve for a moment), forking a worker (eight), log files, the
/// control socket and its clients, reading `/proc`, making a socket file anew.
const SPARE: usize = 40;

/// Pipes of ended processes that their descendants still hold open.
pub(crate) const LINGERING_PIPES: usize = 16;

/// Share of the free descriptors for connections, in quarters. The rest is for bodies over 64 KiB and for responses to slow
/// clients, a file each until the request is over; most connections are idle and have no file.
const QUARTERS_FOR_CONNECTIONS: usize = 3;

/// Divisor of that rest for the second descriptors of clients that have shut their writing side, without which their hang-up is
/// not seen. Few clients shut their side, and no proxy does.
const PART_FOR_HANG_UPS: usize = 4;

/// The limits of connections and files at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) connections: usize,
    /// Most bodies and responses in files.
    pub(crate) spooled: usize,
    /// Most connections of clients that have shut their writing side and are watched for a hang-up.
    pub(crate) half_closed: usize,
}

impl Budget {
    /// Divides `limit` descriptors, of which `open` are in permanent use. `None` if no connection would be left.
    pub(crate) fn new(limit: usize, open: usize, workers: u32, max_connections: usize) -> Option<Self> {
        let pool =
            GENERATIONS * (workers as usize * OF_A_WORKER + OF_A_ZYGOTE) + max_exiting(workers) * OF_A_WORKER;
        let free = limit.saturating_sub(open + SPARE + LINGERING_PIPES + pool);
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
                    + LINGERING_PIPES
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
