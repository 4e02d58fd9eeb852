//! The lifeline: a pipe by which a worker dies with the gateway, though its parent is the zygote.
#![allow(unsafe_code, reason = "F_SETOWN and F_SETSIG have no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

/// Asks the kernel to kill this process with `SIGKILL` when the last writer of the pipe `lifeline`
/// closes it. Nothing is ever written to the pipe, so its closing is the only event it can have.
///
/// Unlike `PR_SET_PDEATHSIG`, this follows the gateway and not the parent, which is the zygote. It
/// works in an endless loop, in C code and with every signal blocked.
///
/// # Errors
/// `BrokenPipe` where the writer is closed already.
pub fn arm(lifeline: &OwnedFd) -> io::Result<()> {
    /// `F_SETSIG` of `<linux/fcntl.h>`, which the libc crate lacks on some targets.
    const F_SETSIG: libc::c_int = 10;
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    for (command, argument) in [(libc::F_SETOWN, pid), (F_SETSIG, libc::SIGKILL)] {
        // SAFETY: both commands take an int and touch only the description behind a descriptor that
        // `lifeline` keeps open.
        if unsafe { libc::fcntl(lifeline.as_raw_fd(), command, argument) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    let flags = rustix::fs::fcntl_getfl(lifeline)?;
    // O_ASYNC, which arms the signal, is not among rustix's named flags.
    let armed = flags | OFlags::from_bits_retain(libc::O_ASYNC.cast_unsigned());
    rustix::fs::fcntl_setfl(lifeline.as_fd(), armed)?;
    // The writer may have closed before the signal was armed; then the pipe already reads as ended.
    let mut polled = [PollFd::new(lifeline, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default()))?;
    if polled[0].revents().contains(PollFlags::HUP) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}
