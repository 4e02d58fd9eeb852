//! Descriptors: those that this process was started with, and those that its children must not have.
#![allow(
    unsafe_code,
    reason = "a descriptor that is known by its number has no owner, and close_range has no safe wrapper"
)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::DupFlags;

/// Takes over a descriptor that this process was started with, by moving it to a new number. What
/// stays under the old number is `/dev/null`, so that no later file takes that place by accident; it
/// is close-on-exec except as one of the standard three.
///
/// # Errors
/// `EBADF` where the descriptor is not open.
pub fn take(number: u32) -> io::Result<OwnedFd> {
    let raw = i32::try_from(number).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the borrow ends with this statement, and fcntl itself checks that the descriptor is open.
    let moved = rustix::io::fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(raw) }, 3)?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // SAFETY: the number is open, as fcntl just found, and belongs to nobody else in this process: it
    // came with the process and is taken once. `ManuallyDrop` keeps it open as what dup2 makes of it.
    let mut old = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(raw) });
    let flags = if number < 3 { DupFlags::empty() } else { DupFlags::CLOEXEC };
    rustix::io::dup3(&null, &mut old, flags)?;
    Ok(moved)
}

/// Marks every descriptor from 3 on close-on-exec, so that nothing this process was started with (a
/// listening socket of systemd's, a terminal multiplexer's pipe) reaches the zygote and the workers.
pub fn keep_from_children() {
    // SAFETY: the call changes a flag of descriptors and neither opens nor closes one. A kernel before
    // 5.11 refuses it, and the descriptors stay as they were.
    unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
}

/// How many files this process has open now.
pub fn open_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}
