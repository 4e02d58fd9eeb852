//! Who may look into a process: whether others of its user can trace it, read its memory, take its descriptors
//! (`PR_SET_DUMPABLE`), as ssh-agent has it. Whether a crash leaves a core goes with it.
//!
//! Gateway and zygote close themselves when they start: they hold every client's connection and every worker's link, and the
//! application's code, which runs under the same user, should come to neither. The kernel has a process that executes a program
//! dumpable again, and one that is forked as its parent is; so a zygote does this after each execution, and a worker undoes it.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::config::Switch;

/// Closes this process, unless the operator wants to look into it.
pub fn set(dumpable: Switch) {
    if dumpable == Switch::Off {
        // Of all that can be asked for, the kernel refuses values that it does not know, and this is none.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Opens a worker. It is the application's, whose C modules somebody may have to debug, and has nothing that it could hide from
/// the application of another worker that runs under its user.
pub fn open_worker() {
    let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
}
