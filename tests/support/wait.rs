//! Waits for conditions. A wait polls its condition and never sleeps for a fixed time; its bound only ends a failed
//! test.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// The bound of a wait: far longer than any condition takes, even on a busy machine.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(5);

/// The time after which a lost event is caused again.
const RETRY: Duration = Duration::from_millis(300);

/// The time without a change after which a value counts as still. A busy machine may exceed it, so a test must hold
/// either way.
const STILL: Duration = Duration::from_millis(300);

/// Sets the rate of a client or a fault: a part of the input, never a wait for an outcome.
pub(crate) fn pace(pause: Duration) {
    thread::sleep(pause);
}

/// Waits for a condition and repeats its cause in between, for an event that may be lost, such as a log line with a
/// rate limit.
#[track_caller]
pub(crate) fn wait_causing<T>(
    what: &str,
    mut cause: impl FnMut(),
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    wait_for(what, || {
        wait_within(RETRY, &mut condition).or_else(|| {
            cause();
            None
        })
    })
}

/// Waits until a value has not changed for [`STILL`], for conditions without an event, such as full buffers.
#[track_caller]
pub(crate) fn wait_until_still<T: PartialEq>(what: &str, mut look: impl FnMut() -> T) {
    let mut last = look();
    wait_for(what, || match wait_within(STILL, || Some(look()).filter(|now| *now != last)) {
        Some(now) => {
            last = now;
            None
        }
        None => Some(()),
    });
}

/// Panics if `event` gives a value within `span`.
///
/// A span cannot show that the event never comes, and it costs its time in every run. `tests/acceptance/waiting.rs`
/// lists the tests that need one, with the reason.
#[track_caller]
pub(crate) fn nothing_happens_for<T: Debug>(span: Duration, what: &str, event: impl FnMut() -> Option<T>) {
    if let Some(value) = wait_within(span, event) {
        panic!("unexpected event: {what}: {value:?}");
    }
}

/// Polls until `condition` gives a value. Panics with `what` after [`GIVE_UP`].
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
        thread::sleep(POLL);
    }
}
