//! Returns freed memory to the system after clients have used much of it and left.
//!
//! Freed memory stays with the process where a block in use lies behind it, such as a connection accepted during a flood. So
//! the allocator is asked to trim: in a thread, and only when the use has fallen by half and stays low. Separately mapped
//! blocks (`M_MMAP_THRESHOLD`) would return at once, but most of the clients' blocks are smaller than 64 KiB, and with a
//! threshold of 32 KiB bodies of 40,000 to 60,000 bytes cost the gateway twice the CPU time: fresh pages for each.
//!
//! Only the gateway trims, because it outlives every flood. A worker's memory is Lua's, and `--max-memory` replaces a worker
//! that keeps too much.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tracing::debug;

use crate::gateway::Gateway;
use crate::os::memory;
use crate::proto::memory::HIGH_USE;

/// Interval between two checks. Trimming locks the allocator, some 5 ms for each 100 MiB, so it must be rare.
const INTERVAL: Duration = Duration::from_secs(5);

/// Checks the use of memory periodically while the gateway runs.
pub(crate) async fn keep(gateway: Rc<Gateway>) {
    let much = Arc::new(Notify::new());
    let tell = Arc::clone(&much);
    gateway.memory.on_high_use(move || tell.notify_one());
    let mut fall = FallDetector::default();
    loop {
        // A server that holds little memory need not wake up.
        if gateway.memory.used_and_peak().1 < HIGH_USE {
            much.notified().await;
        }
        tokio::time::sleep(INTERVAL).await;
        let (used, peak) = gateway.memory.used_and_peak();
        if fall.is_over(used, peak) {
            gateway.memory.reset_peak();
            debug!(used, highest = peak, "freed memory is given back to the system");
            // A failure costs nothing but the memory.
            let _ = spawn_blocking(memory::give_back).await;
        }
    }
}

/// Detects a lasting fall of the use: low at two checks in a row.
#[derive(Debug, Default)]
struct FallDetector {
    low: bool,
}

impl FallDetector {
    /// Whether the use has fallen and stays low. Takes the use now, and the peak since the last trim, in bytes.
    fn is_over(&mut self, used: u64, peak: u64) -> bool {
        let low = peak.saturating_sub(used) >= HIGH_USE && used <= peak / 2;
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
        let mut fall = FallDetector::default();
        assert!(!fall.is_over(100 * MIB, 100 * MIB) && !fall.is_over(51 * MIB, 100 * MIB));
        assert!(!fall.is_over(10 * MIB, 100 * MIB));
        // The use rises in between.
        assert!(!fall.is_over(90 * MIB, 100 * MIB) && !fall.is_over(10 * MIB, 100 * MIB));
        assert!(fall.is_over(10 * MIB, 100 * MIB));
        // The peak use starts anew after a trim.
        assert!(!fall.is_over(10 * MIB, 10 * MIB));
    }

    #[test]
    fn a_small_fall_is_ignored() {
        let mut fall = FallDetector::default();
        assert!((0..9).all(|_| !fall.is_over(0, HIGH_USE - 1)));
        assert!(!fall.is_over(0, HIGH_USE) && fall.is_over(0, HIGH_USE));
    }
}
