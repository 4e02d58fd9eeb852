//! File descriptors: inherited from the parent, kept from children, and passed in messages (`SCM_RIGHTS`, unix(7)).
//!
//! A descriptor that came with the process is known by its number and belongs to no Rust value. [`take_standard_input`] and
//! [`take_inherited`] make it one after they have checked that nothing else can own it.
#![allow(
    unsafe_code,
    reason = "a descriptor that is known by its number has no owner, and close_range has no safe wrapper"
)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use rustix::io::{DupFlags, FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// The first number that is not a standard stream's.
const FIRST: i32 = 3;

/// The most descriptors that one message carries; Linux allows 253 (`SCM_MAX_FD`). Each takes four bytes of the stack.
pub const MOST: usize = 64;

/// Takes standard input over. Number 0 becomes `/dev/null`.
///
/// # Errors
/// `EBADF` where it is closed; those of opening `/dev/null`.
pub fn take_standard_input() -> io::Result<OwnedFd> {
    // SAFETY: Rust's runtime opens the three standard numbers before `main` where they are closed, so that no value ever comes
    // to own one of them. `std::io::stdin` reads number 0 without owning it.
    unsafe { take(0) }
}

/// Takes over a descriptor that this process was started with. The number becomes `/dev/null`. An inherited descriptor is told by
/// its flag: execve(2) keeps only descriptors without close-on-exec, and this process opens all of its own with the flag.
///
/// # Errors
/// `EBADF` where the descriptor is not open, was opened by this process, or has been taken; those of opening `/dev/null`.
pub fn take_inherited(number: u32) -> io::Result<OwnedFd> {
    let raw = i32::try_from(number).map_err(|_| io::Error::from(rustix::io::Errno::BADF))?;
    // SAFETY: the borrow ends with this statement, and fcntl itself checks that the descriptor is open.
    let flags = fcntl_getfd(unsafe { BorrowedFd::borrow_raw(raw) })?;
    if raw >= FIRST && flags.contains(FdFlags::CLOEXEC) {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: the number is open. No value owns it: it is a standard stream's (see `take_standard_input`), or it lacks
    // close-on-exec, which std, tokio and rustix set on all that they open; and `take` sets it for the next call.
    unsafe { take(raw) }
}

/// Moves a descriptor to a new number. The old number becomes `/dev/null`, so that no later file takes that place by accident; it
/// is close-on-exec except as one of the standard three.
///
/// # Safety
/// No value owns the descriptor or borrows it: such a value would find `/dev/null` in its place.
unsafe fn take(raw: i32) -> io::Result<OwnedFd> {
    // SAFETY: the borrow ends with this statement, and fcntl itself checks that the descriptor is open.
    let moved = fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(raw) }, FIRST)?;
    // SAFETY: fcntl found the number open, and the caller says that no value owns it.
    unsafe { put_null(raw) }?;
    Ok(moved)
}

/// Makes a number `/dev/null`, close-on-exec except as one of the standard three.
///
/// # Safety
/// The number is open, and no value that is used afterwards owns or borrows it.
unsafe fn put_null(raw: i32) -> io::Result<()> {
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // SAFETY: the caller says that the number is open and that no other value is used which owns it. `ManuallyDrop` keeps
    // the number open, which is the null device after dup3.
    let mut old = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(raw) });
    let flags = if raw < FIRST { DupFlags::empty() } else { DupFlags::CLOEXEC };
    Ok(rustix::io::dup3(&null, &mut old, flags)?)
}

/// Keeps a descriptor, owned or not, from the program that this process executes next: a standard stream is `/dev/null` there, and
/// any other number is closed.
///
/// # Errors
/// `EBADF` where the descriptor is not open; those of opening `/dev/null`.
pub fn keep_from_program(raw: i32) -> io::Result<()> {
    if raw < FIRST {
        // SAFETY: fcntl checks that the number is open. No value owns a standard stream: see `take_standard_input`.
        return unsafe {
            fcntl_getfd(BorrowedFd::borrow_raw(raw)).map_err(Into::into).and_then(|_| put_null(raw))
        };
    }
    // SAFETY: the borrow ends with this statement, fcntl itself checks that the descriptor is open, and the flag changes nothing
    // for its owner.
    Ok(fcntl_setfd(unsafe { BorrowedFd::borrow_raw(raw) }, FdFlags::CLOEXEC)?)
}

/// Marks every descriptor from 3 on close-on-exec, so that nothing this process was started with (a
/// listening socket of systemd's, a terminal multiplexer's pipe) reaches the zygote and the workers. After this
/// [`take_inherited`] takes none.
pub fn keep_from_children() {
    // SAFETY: the call changes a flag of descriptors and neither opens nor closes one. A kernel before
    // 5.11 refuses it, and the descriptors stay as they were.
    unsafe { libc::close_range(FIRST.cast_unsigned(), u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
}

/// C's `FILE`.
pub type Stream = libc::FILE;

/// A further descriptor of the file behind a stream.
///
/// # Errors
/// Those of fileno(3) and fcntl(2).
///
/// # Safety
/// The stream is open, and no other thread closes it.
pub unsafe fn of_stream(stream: NonNull<Stream>) -> io::Result<OwnedFd> {
    // SAFETY: as the caller has promised.
    let number = unsafe { libc::fileno(stream.as_ptr()) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor of an open stream is open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(fcntl_dupfd_cloexec(descriptor, 3)?)
}

/// The number of descriptors that this process has open.
pub fn open_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

/// Sends one message with at most [`MOST`] descriptors over a Unix socket. Gives the number of bytes that the kernel took; a
/// packet socket takes all or none.
///
/// # Errors
/// Those of sendmsg(2), `EINTR` aside. No signal is raised where the peer has closed.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if descriptors.len() > MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        // Cannot fail: there is room for so many.
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let socket = socket.as_fd();
    let vector = [IoSlice::new(bytes)];
    Ok(rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(socket, &vector, &mut control, SendFlags::NOSIGNAL)
    })?)
}

/// A message that [`receive`] found.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The number of bytes at the front of the buffer; 0 at the end of the stream.
    pub length: usize,
    /// Whether the packet was longer than the buffer.
    pub truncated: bool,
    /// Whether more descriptors came than the call takes. The excess is closed; where the call takes none, the kernel closes all,
    /// and none ever has a number in this process.
    pub refused: bool,
}

/// Receives one message over a Unix socket, and at most `most` descriptors with it ([`MOST`] at the outside), all close-on-exec.
///
/// # Errors
/// Those of recvmsg(2), `EINTR` aside.
pub fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
    most: usize,
    flags: RecvFlags,
) -> io::Result<Message> {
    debug_assert!(most <= MOST);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let length = if most == 0 { 0 } else { rustix::cmsg_space!(ScmRights(most)) };
    let mut control = RecvAncillaryBuffer::new(&mut space[..length]);
    let socket = socket.as_fd();
    let message = rustix::io::retry_on_intr(|| {
        let mut vector = [IoSliceMut::new(buffer)];
        rustix::net::recvmsg(socket, &mut vector, &mut control, flags | RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut refused = message.flags.contains(ReturnFlags::CTRUNC);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            // The kernel may fill the padding of the aligned buffer with more than `most`.
            for (index, descriptor) in received.enumerate() {
                if index < most { descriptors.push(descriptor) } else { refused = true }
            }
        }
    }
    Ok(Message { length: message.bytes, truncated: message.flags.contains(ReturnFlags::TRUNC), refused })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_that_this_process_opened_is_not_taken_from_its_owner() {
        let ours = UnixStream::pair().unwrap().0;
        let error = take_inherited(ours.as_raw_fd().cast_unsigned()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        assert!(ours.peer_addr().is_ok());
    }

    #[test]
    fn a_descriptor_that_came_with_the_process_is_taken_once() {
        let socket = UnixStream::pair().unwrap().0;
        // Without close-on-exec, as an inherited descriptor is.
        fcntl_setfd(&socket, FdFlags::empty()).unwrap();
        let number = std::os::fd::IntoRawFd::into_raw_fd(socket).cast_unsigned();
        let taken = take_inherited(number).unwrap();
        assert!(UnixStream::from(taken).peer_addr().is_ok());
        assert_eq!(
            std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap().to_str(),
            Some("/dev/null")
        );
        assert_eq!(take_inherited(number).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn no_more_descriptors_come_than_are_taken() {
        let (pipe, _keep) = rustix::pipe::pipe().unwrap();
        for (sent, most, refused) in
            [(0, 0, false), (1, 0, true), (4, 4, false), (5, 4, true), (MOST, MOST, false)]
        {
            let (one, other) = UnixStream::pair().unwrap();
            assert_eq!(send(&one, b"text", &vec![pipe.as_fd(); sent]).unwrap(), 4);
            let (mut buffer, mut descriptors) = ([0; 8], Vec::new());
            let message = receive(&other, &mut buffer, &mut descriptors, most, RecvFlags::empty()).unwrap();
            assert_eq!(
                (&buffer[..message.length], message.refused),
                (&b"text"[..], refused),
                "{sent} of {most}"
            );
            assert!(
                descriptors.len() <= most && (refused || descriptors.len() == sent),
                "{}",
                descriptors.len()
            );
            for descriptor in descriptors {
                assert!(fcntl_getfd(&descriptor).unwrap().contains(FdFlags::CLOEXEC));
            }
        }
        let (one, _other) = UnixStream::pair().unwrap();
        assert!(send(&one, b"text", &[pipe.as_fd(); MOST + 1]).is_err());
    }
}
