//! The limit of open files (`ulimit -n`): the gateway raises its own, and gives the application the one it was
//! started with.
//!
//! Servers start with a soft limit of 1024 for the sake of `select`, which breaks at higher numbers; LuaSocket
//! still uses it. The gateway does not, and needs a descriptor for every connection.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of this process to its hard one. Gives the soft limit as it was; `None` is unlimited.
pub fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Raising it to the hard limit is allowed to everyone. Where it fails, the limit is as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    current
}

/// Sets the soft limit of this process, as [`raise`] gave it.
///
/// # Errors
/// Where it is above the hard limit.
pub fn set(soft: Option<u64>) -> io::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: soft, maximum })?)
}

/// The soft limit as it is now.
pub fn limit() -> usize {
    getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
