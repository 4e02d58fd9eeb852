//! The socket of a client's connection, Unix or TCP, with the few operations that the connection needs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};

use crate::gateway::async_fd;

/// An accepted connection.
#[derive(Debug)]
pub(crate) enum ClientSocket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl ClientSocket {
    pub(crate) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Unix(stream) => stream.ready(interest).await,
            Self::Tcp(stream) => stream.ready(interest).await,
        }
    }

    /// Reads what is there. A read that does not fill the buffer has emptied the socket, so it also ends
    /// the readiness: the read that would only find that out is saved, one system call in five.
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

    /// Whether something has arrived that is not read yet, whatever tokio knows of it so far.
    pub(crate) fn has_unread(&self) -> bool {
        let unread = match self {
            Self::Unix(stream) => rustix::io::ioctl_fionread(stream),
            Self::Tcp(stream) => rustix::io::ioctl_fionread(stream),
        };
        unread.is_ok_and(|bytes| bytes > 0)
    }

    /// Whether the peer has only shut its writing side, and can still read. Over TCP that looks like a close, so there it is
    /// never said. `poll` tells the two apart on a Unix socket: a peer that has closed has hung up.
    pub(crate) fn is_half_closed(&self) -> bool {
        let Self::Unix(stream) = self else { return false };
        let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
        let found = rustix::event::poll(&mut polled, Some(&Timespec::default()));
        let gone = PollFlags::HUP | PollFlags::ERR;
        found.is_ok() && polled[0].revents() & (gone | PollFlags::RDHUP) == PollFlags::RDHUP
    }

    /// A second descriptor of the socket, to see a peer hang up that has shut its writing side. Its readiness is its own, so
    /// that waiting for the end does not take that of a write away.
    pub(crate) fn watch_for_hang_up(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let socket = match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        };
        async_fd::watch_for(rustix::io::fcntl_dupfd_cloexec(socket, 3)?, Interest::WRITABLE)
    }

    /// Who is at the other end, for the log: an address, or a process of this machine.
    pub(crate) fn peer(&self) -> String {
        let unknown = || "unknown".to_owned();
        match self {
            Self::Tcp(stream) => stream.peer_addr().map_or_else(|_| unknown(), |peer| peer.to_string()),
            Self::Unix(stream) => stream.peer_cred().map_or_else(
                |_| unknown(),
                |peer| match peer.pid() {
                    // 0: of another process namespace.
                    Some(pid) if pid > 0 => format!("pid {pid}, user {}", peer.uid()),
                    _ => format!("user {}", peer.uid()),
                },
            ),
        }
    }

    /// Makes what the peer writes from now on fail; what it has written can still be read. Over TCP the peer's
    /// kernel is not told, so there it changes nothing.
    pub(crate) fn take_no_more(&self) {
        if let Self::Unix(stream) = self {
            // A peer that has closed already writes nothing more either.
            let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Read);
        }
    }

    /// Tells the peer that nothing more comes, and goes on reading.
    pub(crate) fn shut_down_write(&self) {
        // The peer may have closed already; then there is nobody to tell.
        let _ = match self {
            Self::Unix(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
            Self::Tcp(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
        };
    }
}

/// Lets `try_io` call a read that claims `WouldBlock` when it falls short, and gives what it read all the same.
fn read_and_clear(
    socket: impl AsFd,
    buffer: &mut [u8],
    try_io: impl FnOnce(&mut dyn FnMut() -> io::Result<()>) -> io::Result<()>,
) -> io::Result<usize> {
    let mut length = None;
    let outcome = try_io(&mut || {
        let (read, _) = rustix::net::recv(&socket, &mut *buffer, RecvFlags::empty())?;
        length = Some(read);
        // The end of the stream stays ready: tokio keeps a closed side apart from what is cleared.
        if read > 0 && read < buffer.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match length {
        Some(length) => Ok(length),
        None => Err(outcome.err().unwrap_or_else(|| io::ErrorKind::WouldBlock.into())),
    }
}
