//! Gives freed memory back to the system, after clients have taken much of it and left.
//!
//! Freed memory stays with the process where anything that is still in use lies behind it, such as one connection that was
//! accepted during a flood. So the allocator is asked to trim: in a thread, and only when the use has fallen by half and stays low. Blocks that
//! are mapped by themselves (`M_MMAP_THRESHOLD`) would go back at once, but most of what clients hold is smaller than 64 KiB, and with
//! a threshold of 32 KiB bodies of 40,000 to 60,000 bytes cost the gateway twice the CPU time: fresh pages for each.
//!
//! The gateway alone does so: it outlives every flood. A worker's memory is Lua's, and `--max-memory` replaces a worker that keeps too much.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tracing::debug;

use crate::gateway::Gateway;
use crate::os::memory;
use crate::proto::memory::MUCH;

/// Interval between two looks. The allocator is locked while it gives back, some 5 ms for each 100 MiB, so that is not to be done often.
const LOOK: Duration = Duration::from_secs(5);

/// Looks at the use again and again, for as long as the gateway runs.
pub(crate) async fn keep(gateway: Rc<Gateway>) {
    let much = Arc::new(Notify::new());
    let tell = Arc::clone(&much);
    gateway.memory.when_much(move || tell.notify_one());
    let mut fall = Fall::default();
    loop {
        // A server that holds little has nothing to wake up for.
        if gateway.memory.used_and_highest().1 < MUCH {
            much.notified().await;
        }
        tokio::time::sleep(LOOK).await;
        let (used, highest) = gateway.memory.used_and_highest();
        if fall.is_over(used, highest) {
            gateway.memory.forget_highest();
            debug!(used, highest, "freed memory is given back to the system");
            // Nothing depends on it.
            let _ = spawn_blocking(memory::give_back).await;
        }
    }
}

/// The fall of the use, seen at two looks in a row.
#[derive(Debug, Default)]
struct Fall {
    low: bool,
}

impl Fall {
    /// Takes the use now, and the highest since memory was last given back. Says whether it has fallen and stays low.
    fn is_over(&mut self, used: u64, highest: u64) -> bool {
        let low = highest.saturating_sub(used) >= MUCH && used <= highest / 2;
        let over = low && self.low;
        self.low = low && !over;
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_fall_is_over_at_the_second_look_that_finds_the_use_low() {
        let mut fall = Fall::default();
        assert!(!fall.is_over(100 * MIB, 100 * MIB) && !fall.is_over(51 * MIB, 100 * MIB));
        assert!(!fall.is_over(10 * MIB, 100 * MIB));
        // It went up meanwhile.
        assert!(!fall.is_over(90 * MIB, 100 * MIB) && !fall.is_over(10 * MIB, 100 * MIB));
        assert!(fall.is_over(10 * MIB, 100 * MIB));
        // The highest begins anew then.
        assert!(!fall.is_over(10 * MIB, 10 * MIB));
    }

    #[test]
    fn little_is_left_where_it_is() {
        let mut fall = Fall::default();
        assert!((0..9).all(|_| !fall.is_over(0, MUCH - 1)));
        assert!(!fall.is_over(0, MUCH) && fall.is_over(0, MUCH));
    }
}
