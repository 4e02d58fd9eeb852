//! Reaps children that the gateway has not started, which would stay zombies.
//!
//! As process 1, in most containers, the gateway inherits the children of every process that ends before them. Elsewhere it inherits
//! the children of a script that executes nibiru (`helper & exec nibiru serve`). Its own children, the zygotes, are reaped by the
//! tasks that wait for them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use crate::os::process;

/// Interval of checks while an ended child of the gateway's own is not reaped yet. The kernel shows one ended child at a time, so
/// orphans may be behind it.
const AGAIN: Duration = Duration::from_millis(100);

thread_local! {
    /// Children with a task that waits for them.
    static OWN: RefCell<BTreeSet<i32>> = const { RefCell::new(BTreeSet::new()) };
}

/// Marks a child as awaited by a task of its own, until its drop.
#[derive(Debug)]
pub(crate) struct AwaitedChild(i32);

impl AwaitedChild {
    pub(crate) fn new(child: Pid) -> Self {
        let pid = child.as_raw_nonzero().get();
        OWN.with_borrow_mut(|own| own.insert(pid));
        Self(pid)
    }
}

impl Drop for AwaitedChild {
    fn drop(&mut self) {
        OWN.with_borrow_mut(|own| own.remove(&self.0));
    }
}

/// Reaps every orphan while the gateway runs.
pub(crate) async fn reap() {
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => {
            return warn!(cause = %crate::log::cause(&error), "children that nibiru has not started are not reaped");
        }
    };
    loop {
        // Before the first signal, too: children may have ended earlier.
        if reap_all() {
            let _ = tokio::time::timeout(AGAIN, ended.recv()).await;
        } else {
            ended.recv().await;
        }
    }
}

/// Reaps ended orphans. Returns whether it stopped at an awaited child.
fn reap_all() -> bool {
    while let Some(child) = process::ended_child() {
        if OWN.with_borrow(|own| own.contains(&child.as_raw_nonzero().get())) {
            return true;
        }
        // The child has ended, and no task waits for it, so this neither blocks nor fails.
        if waitpid(Some(child), WaitOptions::NOHANG).is_err() {
            return true;
        }
    }
    false
}
