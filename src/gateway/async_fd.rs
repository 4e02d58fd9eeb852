//! Lets tokio watch a descriptor that it has no type for.
#![allow(unsafe_code, reason = "tokio asks its caller to vouch for the descriptor")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches an owned descriptor for reading.
pub(crate) fn watch<T: AsRawFd + Into<OwnedFd>>(owned: T) -> io::Result<AsyncFd<T>> {
    watch_for(owned, Interest::READABLE)
}

/// Watches an owned descriptor for something else.
pub(crate) fn watch_for<T: AsRawFd + Into<OwnedFd>>(owned: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: the descriptor must stay open, and the same, as long as the AsyncFd has it. `T` owns it
    // (it converts into an OwnedFd), the AsyncFd owns `T`, and `as_raw_fd` of the two types used here, `Link` and
    // `OwnedFd`, always gives that one descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(owned, interest) }?)
}
