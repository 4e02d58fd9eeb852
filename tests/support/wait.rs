//! Waiting for conditions. A wait polls its condition and never sleeps for luck; its bound only says when to give up.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

/// Bound of a wait. Far beyond the time that any condition here takes, even on a busy machine.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(5);

/// Time after which a lost event is caused anew.
const RETRY: Duration = Duration::from_millis(300);

/// Time without a change after which a value counts as still. A loaded machine may exceed it: a test must hold either way.
const STILL: Duration = Duration::from_millis(300);

/// A pause of a client or a fault that is slow on purpose: part of the input, never a wait for an outcome.
pub(crate) fn pace(pause: Duration) {
    thread::sleep(pause);
}

/// Waits for a condition and causes its event anew in between, for events of which one may be lost (a rate-limited log line) or
/// miss its moment.
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

/// Waits until a value has stayed the same for [`STILL`]: no event tells that the other side waits for room.
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

/// Panics as soon as `event` gives a value within `span`.
///
/// A span cannot show that the event never comes, and takes its time in every run. `tests/acceptance/waiting.rs` lists the
/// tests that cannot do without, and why.
#[track_caller]
pub(crate) fn nothing_happens_for<T: Debug>(span: Duration, what: &str, event: impl FnMut() -> Option<T>) {
    if let Some(value) = wait_within(span, event) {
        panic!("it happened: {what}: {value:?}");
    }
}

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
        thread::sleep(POLL);
    }
}
