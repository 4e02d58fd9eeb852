//! The runtime of the gateway: tokio on one thread, whose tasks need not be `Send`.

use std::io;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

use crate::gateway::spool;

/// A runtime that runs its tasks on the calling thread.
///
/// Not a `LocalSet` in a runtime: waking one of its tasks wakes the set, which costs a write to the runtime's event descriptor and a
/// read of it in each turn of the loop.
pub(super) fn new() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(spool::THREADS)
        .thread_name("spool")
        .build_local(LocalOptions::default())
}
