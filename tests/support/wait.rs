//! Waiting for conditions. A wait polls its condition and never sleeps for luck; its bound only says when to give up.

use std::time::{Duration, Instant};

/// When a wait gives up. Far beyond what anything here takes, even on a busy machine.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(5);

/// Polls until `condition` gives a value; panics with `what` when it never does.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(GIVE_UP, condition).unwrap_or_else(|| panic!("gave up waiting: {what}"))
}

/// Polls until `condition` gives a value, or `bound` has passed.
pub(crate) fn wait_within<T>(bound: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}
