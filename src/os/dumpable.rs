//! Who may look into a process: whether others of its user can trace it, read its memory, take its descriptors
//! (`PR_SET_DUMPABLE`), as ssh-agent has it. Whether a crash leaves a core goes with it.
//!
//! Gateway and zygote close themselves when they start: they hold every client's connection and every worker's link, and the
//! application's code, which runs under the same user, should come to neither. The kernel has a process that executes a program
//! dumpable again, and one that is forked as its parent is; so a zygote does this after each execution, and a worker undoes it.

use std::io;

use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};

use crate::config::Switch;

/// What the log says where [`set`] fails, with the cause behind it.
pub const NOT_CLOSED: &str =
    "processes of this user can look into this one, since the kernel does not close it (PR_SET_DUMPABLE)";

/// What the log says where [`open_worker`] fails.
pub const NOT_OPENED: &str =
    "nobody can look into this worker, since the kernel does not open it (PR_SET_DUMPABLE)";

/// Closes this process, unless the operator wants to look into it.
///
/// # Errors
/// Where the kernel refuses (a seccomp filter) and the process is open.
pub fn set(dumpable: Switch) -> io::Result<()> {
    match dumpable {
        Switch::Off => make(DumpableBehavior::NotDumpable),
        Switch::On => Ok(()),
    }
}

/// Opens a worker. It is the application's, whose C modules somebody may have to debug, and has nothing that it could hide from
/// the application of another worker that runs under its user.
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
