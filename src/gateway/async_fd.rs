//! Readiness of descriptors that tokio has no type for: links to other processes, listening sockets, pidfds.
#![allow(unsafe_code, reason = "tokio asks its caller to vouch for the descriptor")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::link::Link;

/// A type whose descriptor this file vouches for: it owns one descriptor, returns that one from every call of `as_raw_fd`, and
/// closes it only on drop.
pub(crate) trait Watchable: AsRawFd + sealed::Sealed {}

impl Watchable for Link {}
impl Watchable for OwnedFd {}

mod sealed {
    /// Prevents implementations in other files.
    pub(crate) trait Sealed {}

    impl Sealed for crate::link::Link {}
    impl Sealed for std::os::fd::OwnedFd {}
}

/// Watches a descriptor for reading.
pub(crate) fn watch<T: Watchable>(owned: T) -> io::Result<AsyncFd<T>> {
    watch_for(owned, Interest::READABLE)
}

/// Watches a descriptor for `interest`.
pub(crate) fn watch_for<T: Watchable>(owned: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor must stay open, and the same, for as long as the AsyncFd lives. `Watchable` guarantees that for
    // `T`, is implemented in this file only, and the AsyncFd owns `owned`.
    Ok(unsafe { AsyncFd::register_with_interest(owned, interest) }?)
}
