//! Reaps children that the gateway has not started. Where it is process 1, as in most containers, the kernel gives it the
//! children of every process that ends before them; anywhere it has those of a script that started them and then executed
//! nibiru (`helper & exec nibiru serve`). Each stays a zombie until its parent has asked how it ended.
//!
//! Leaves the gateway's own children, the zygotes, to the task that waits for them.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use crate::os::process;

/// When to look again where one of our own children has ended and is not reaped yet. The kernel shows one ended child at
/// a time, so others may stand behind it; its task reaps it as soon as it runs.
const AGAIN: Duration = Duration::from_millis(100);

thread_local! {
    /// Children that have a task of their own which waits for them.
    static OWN: RefCell<BTreeSet<i32>> = const { RefCell::new(BTreeSet::new()) };
}

/// That a child of the gateway is waited for. Hold it until its status is known.
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

/// Reaps every orphan, for as long as the gateway lives.
pub(crate) async fn reap() {
    let mut ended = match signal(SignalKind::child()) {
        Ok(ended) => ended,
        Err(error) => {
            return warn!(cause = %crate::log::cause(&error), "children that nibiru has not started are not reaped");
        }
    };
    loop {
        // Those that ended before this was heard of, too.
        if reap_all() {
            let _ = tokio::time::timeout(AGAIN, ended.recv()).await;
        } else {
            ended.recv().await;
        }
    }
}

/// Reaps until no child has ended, or the next is one of our own; then this is true.
fn reap_all() -> bool {
    while let Some(child) = process::ended_child() {
        if OWN.with_borrow(|own| own.contains(&child.as_raw_nonzero().get())) {
            return true;
        }
        // It has ended and nobody else waits for it, so this neither waits nor fails.
        if waitpid(Some(child), WaitOptions::NOHANG).is_err() {
            return true;
        }
    }
    false
}
