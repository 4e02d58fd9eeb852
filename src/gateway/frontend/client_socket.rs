//! The socket of a client's connection, Unix or TCP, with the few operations that the connection needs.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};

use crate::gateway::async_fd;

/// The socket of an accepted connection.
#[derive(Debug)]
pub(crate) enum ClientSocket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl ClientSocket {
    /// Ready when the socket can be read, where `reading`, or written, where `writing`. Registers one task for each.
    pub(crate) fn poll_ready(
        &self,
        reading: bool,
        writing: bool,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Ready>> {
        let mut ready = Ready::EMPTY;
        if reading && let Poll::Ready(read) = self.poll_read_ready(context) {
            read?;
            ready |= Ready::READABLE;
        }
        if writing && let Poll::Ready(written) = self.poll_write_ready(context) {
            written?;
            ready |= Ready::WRITABLE;
        }
        if ready.is_empty() { Poll::Pending } else { Poll::Ready(Ok(ready)) }
    }

    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(stream) => stream.poll_read_ready(context),
            Self::Tcp(stream) => stream.poll_read_ready(context),
        }
    }

    fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(stream) => stream.poll_write_ready(context),
            Self::Tcp(stream) => stream.poll_write_ready(context),
        }
    }

    /// Reads the available bytes. A read that does not fill the buffer has emptied the socket, and ends the readiness: that
    /// saves the read that would only find nothing, one system call in five.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => {
                read_and_clear(stream, buffer, |read| stream.try_io(Interest::READABLE, read))
            }
            Self::Tcp(stream) => {
                read_and_clear(stream, buffer, |read| stream.try_io(Interest::READABLE, read))
            }
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Tcp(stream) => stream.try_write(bytes),
        }
    }

    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_write_vectored(slices),
            Self::Tcp(stream) => stream.try_write_vectored(slices),
        }
    }

    /// Whether the socket takes bytes, by the kernel rather than by tokio's readiness. If not, readiness ends: it begins again when
    /// the peer has read.
    pub(crate) fn takes_bytes(&self) -> bool {
        let ask = |socket: BorrowedFd<'_>| {
            let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
            match rustix::event::poll(&mut polled, Some(&Timespec::default())) {
                Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
                // An error shows in the write that follows.
                _ => Ok(()),
            }
        };
        let asked = match self {
            Self::Unix(stream) => stream.try_io(Interest::WRITABLE, || ask(stream.as_fd())),
            Self::Tcp(stream) => stream.try_io(Interest::WRITABLE, || ask(stream.as_fd())),
        };
        asked.is_ok()
    }

    /// Opens a second descriptor of the socket, for a thread.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        let socket = match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        };
        Ok(rustix::io::fcntl_dupfd_cloexec(socket, 3)?)
    }

    /// Whether unread bytes have arrived, by the kernel rather than by tokio's readiness.
    pub(crate) fn has_unread(&self) -> bool {
        let unread = match self {
            Self::Unix(stream) => rustix::io::ioctl_fionread(stream),
            Self::Tcp(stream) => rustix::io::ioctl_fionread(stream),
        };
        unread.is_ok_and(|bytes| bytes > 0)
    }

    /// Whether the peer has shut only its writing side, and can still read. Always false over TCP, where that looks like a
    /// close. On a Unix socket `poll` tells the two apart: a peer that has closed has hung up.
    pub(crate) fn is_half_closed(&self) -> bool {
        let Self::Unix(stream) = self else { return false };
        let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
        let found = rustix::event::poll(&mut polled, Some(&Timespec::default()));
        let gone = PollFlags::HUP | PollFlags::ERR;
        found.is_ok() && polled[0].revents() & (gone | PollFlags::RDHUP) == PollFlags::RDHUP
    }

    /// Opens a second descriptor of the socket, for the hang-up of a peer that has shut its writing side. Its readiness is
    /// separate, so that the wait for the hang-up does not consume that of a write.
    pub(crate) fn watch_for_hang_up(&self) -> io::Result<AsyncFd<OwnedFd>> {
        async_fd::watch_for(self.duplicate()?, Interest::WRITABLE)
    }

    /// Name of the peer for the log: an address, or a process of this machine.
    pub(crate) fn peer(&self) -> String {
        let unknown = || "unknown".to_owned();
        match self {
            Self::Tcp(stream) => stream.peer_addr().map_or_else(|_| unknown(), |peer| peer.to_string()),
            Self::Unix(stream) => stream.peer_cred().map_or_else(
                |_| unknown(),
                |peer| match peer.pid() {
                    // 0: a process in another process namespace.
                    Some(pid) if pid > 0 => format!("pid {pid}, user {}", peer.uid()),
                    _ => format!("user {}", peer.uid()),
                },
            ),
        }
    }

    /// The user of the peer when it connected; `None` over TCP.
    pub(crate) fn peer_user(&self) -> Option<u32> {
        match self {
            Self::Unix(stream) => stream.peer_cred().ok().map(|peer| peer.uid()),
            Self::Tcp(_) => None,
        }
    }

    /// Makes further writes of the peer fail; bytes already written can still be read. Has no effect over TCP, because the
    /// peer's kernel is not told.
    pub(crate) fn take_no_more(&self) {
        if let Self::Unix(stream) = self {
            // The error is ignored: a peer that has closed writes nothing either.
            let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Read);
        }
    }

    /// Shuts both sides, also for a thread that still has a descriptor.
    pub(crate) fn shut_down(&self) {
        // The error is ignored: the peer may have closed already.
        let _ = match self {
            Self::Unix(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Both),
            Self::Tcp(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Both),
        };
    }

    /// Shuts the writing side, and continues to read.
    pub(crate) fn shut_down_write(&self) {
        // The error is ignored: the peer may have closed already.
        let _ = match self {
            Self::Unix(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
            Self::Tcp(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
        };
    }
}

/// Calls a read through `try_io` that reports `WouldBlock` for a short read, so that readiness ends, and returns the bytes all
/// the same.
fn read_and_clear(
    socket: impl AsFd,
    buffer: &mut [u8],
    try_io: impl FnOnce(&mut dyn FnMut() -> io::Result<()>) -> io::Result<()>,
) -> io::Result<usize> {
    let mut length = None;
    let outcome = try_io(&mut || {
        let (read, _) = rustix::net::recv(&socket, &mut *buffer, RecvFlags::empty())?;
        length = Some(read);
        // At the end of the stream the socket stays ready: tokio keeps that apart from the cleared readiness.
        if read > 0 && read < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match length {
        Some(length) => Ok(length),
        None => Err(outcome.err().unwrap_or_else(|| io::ErrorKind::WouldBlock.into())),
    }
}
