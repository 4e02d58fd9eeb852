//! The dumpable attribute of a process (`PR_SET_DUMPABLE`): whether other processes of its user can trace it, read its memory and
//! take its descriptors. Whether a crash leaves a core goes with it. ssh-agent does the same.
//!
//! Gateway and zygote close themselves when they start, unless `--dumpable` is on: they hold every client's connection and every
//! worker's link, and the application's code, which runs under the same user, should come to neither. A process that executes a
//! program is dumpable again, and a forked process is as its parent; so a zygote closes itself after each execution, and a worker
//! opens itself.

use std::io;

use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

/// The log line for a failure of [`close`]; its cause follows.
pub const NOT_CLOSED: &str =
    "processes of this user can look into this one, since the kernel does not close it (PR_SET_DUMPABLE)";

/// The log line for a failure of [`open_worker`]; its cause follows.
pub const NOT_OPENED: &str =
    "nobody can look into this worker, since the kernel does not open it (PR_SET_DUMPABLE)";

/// Closes this process.
///
/// # Errors
/// Where the kernel refuses (a seccomp filter) and the process is open.
pub fn close() -> io::Result<()> {
    make(DumpableBehavior::NotDumpable)
}

/// Opens a worker, so that the application's C modules can be debugged. A worker has nothing to hide from the other workers, which
/// run the same application under the same user.
///
/// # Errors
/// Where the kernel refuses and the process is closed.
pub fn open_worker() -> io::Result<()> {
    make(DumpableBehavior::Dumpable)
}

fn make(wanted: DumpableBehavior) -> io::Result<()> {
    set_dumpable_behavior(wanted).or_else(|error| match dumpable_behavior() {
        Ok(now) if now == wanted => Ok(()),
        _ => Err(error.into()),
    })
}
