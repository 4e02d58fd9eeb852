//! The limit of open files (`ulimit -n`). The gateway raises its own, and the application gets the limit from before.
//!
//! The usual soft limit is 1024 for the sake of select(2), which breaks at higher descriptors. LuaSocket uses select; the gateway
//! does not, and needs a descriptor for every connection.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of this process to its hard one. Gives the soft limit as it was; `None` is unlimited.
pub fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Every process may raise its soft limit to the hard one. Where the call fails, the limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    current
}

/// Sets the soft limit of this process, as [`raise`] gave it.
///
/// # Errors
/// `EPERM` or `EINVAL` where the value is above the hard limit.
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
