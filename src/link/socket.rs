//! The sockets between the processes: `SOCK_SEQPACKET` pairs that carry packets and descriptors.
//!
//! A packet arrives whole or not at all, so a killed process never leaves half a message. A process that the application
//! forked holds its parent's end, too; it ends where it would use that end.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::message::MAX_PACKET;
use crate::os::{descriptors, fork};

/// Descriptors in one packet, at most: those of `Spawn`.
pub const MAX_DESCRIPTORS: usize = 5;

/// The packet that has no message, and only wakes a process that sleeps ([`super::lane`]).
const WAKE_UP: [u8; 1] = [0];

/// One end of a pair.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
}

/// The result of [`Link::receive`].
#[derive(Debug)]
pub enum Received {
    /// A packet of this many bytes, at the front of the buffer.
    Packet(usize),
    /// A wake-up: the lane has news, or had.
    WakeUp,
    /// The other end is closed, and all its packets have been received.
    Closed,
}

impl Link {
    /// A connected pair, both ends blocking and close-on-exec.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for end in [&one, &other] {
            // The kernel doubles the size, so a packet fits also where the kernel's default is small.
            rustix::net::sockopt::set_socket_send_buffer_size(end, MAX_PACKET)?;
        }
        Ok((Self::from(one), Self::from(other)))
    }

    /// Makes this end non-blocking, for an event loop; the other end is not touched.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.socket, true)?)
    }

    /// Wakes the process at the other end.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn wake(&self) -> io::Result<()> {
        self.send(&WAKE_UP, &[])
    }

    /// Sends one packet, whole, with the descriptors `passed` (at most [`MAX_DESCRIPTORS`]).
    ///
    /// # Errors
    /// `WouldBlock` on a non-blocking end whose peer does not read; `BrokenPipe` where the peer is closed.
    pub fn send(&self, packet: &[u8], passed: &[BorrowedFd<'_>]) -> io::Result<()> {
        debug_assert!(packet.len() <= MAX_PACKET && passed.len() <= MAX_DESCRIPTORS);
        fork::end_if_forked();
        descriptors::send(&self.socket, packet, passed).map(drop)
    }

    /// Receives one packet into `buffer` ([`MAX_PACKET`] bytes) and its descriptors, close-on-exec.
    ///
    /// # Errors
    /// `WouldBlock` on a non-blocking end with nothing to read; `ConnectionReset` where the peer closed
    /// its end with packets in it that it had not read (once: the next call goes on as usual);
    /// `InvalidData` where a packet is longer than the buffer.
    pub fn receive(&self, buffer: &mut [u8], passed: &mut Vec<OwnedFd>) -> io::Result<Received> {
        self.receive_message(buffer, passed, MAX_DESCRIPTORS, RecvFlags::empty())
            .map(|(received, _)| received)
    }

    /// [`Self::receive`], but gives `WouldBlock` on a blocking end too where there is nothing to read.
    pub fn try_receive(&self, buffer: &mut [u8], passed: &mut Vec<OwnedFd>) -> io::Result<Received> {
        self.receive_message(buffer, passed, MAX_DESCRIPTORS, RecvFlags::DONTWAIT)
            .map(|(received, _)| received)
    }

    /// [`Self::receive`] from a peer that may send one descriptor with a packet, into `passed`, which is empty.
    ///
    /// # Errors
    /// As [`Self::receive`], and `Unsupported` where more came.
    pub fn receive_one(&self, buffer: &mut [u8], passed: &mut Vec<OwnedFd>) -> io::Result<Received> {
        let (received, refused) = self.receive_message(buffer, passed, 1, RecvFlags::empty())?;
        if refused {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "descriptors that nobody takes"));
        }
        Ok(received)
    }

    /// Waits until there is something to receive or `time` has passed. A signal ends it early.
    pub fn wait(&self, time: Duration) -> io::Result<()> {
        let mut ends = [PollFd::new(&self.socket, PollFlags::IN)];
        match rustix::event::poll(&mut ends, Timespec::try_from(time).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A packet, and whether the kernel refused descriptors that came with it.
    fn receive_message(
        &self,
        buffer: &mut [u8],
        passed: &mut Vec<OwnedFd>,
        most: usize,
        flags: RecvFlags,
    ) -> io::Result<(Received, bool)> {
        fork::end_if_forked();
        let message = descriptors::receive(&self.socket, buffer, passed, most, flags)?;
        if message.truncated {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "packet too long"));
        }
        let received = match message.length {
            // No packet is empty, so an empty one is the end.
            0 => Received::Closed,
            1 if buffer[0] == WAKE_UP[0] => Received::WakeUp,
            length => Received::Packet(length),
        };
        Ok((received, message.refused))
    }
}

impl From<OwnedFd> for Link {
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.socket
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_the_largest_packet_and_descriptors() {
        let (one, other) = Link::pair().unwrap();
        let (pipe, _keep) = rustix::pipe::pipe().unwrap();
        let packet = vec![7; MAX_PACKET];
        one.send(&packet, &[pipe.as_fd()]).unwrap();
        let (mut buffer, mut descriptors) = (vec![0; MAX_PACKET], Vec::new());
        assert!(matches!(other.receive(&mut buffer, &mut descriptors), Ok(Received::Packet(MAX_PACKET))));
        assert_eq!(buffer, packet);
        assert_eq!(descriptors.len(), 1);
        assert!(rustix::io::fcntl_getfd(&descriptors[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        drop(one);
        assert!(matches!(other.receive(&mut buffer, &mut descriptors), Ok(Received::Closed)));
    }

    /// The gateway's proof that a request never reached Lua rests on this behaviour of the kernel.
    #[test]
    fn a_peer_that_closes_with_unread_packets_shows_as_a_reset() {
        let (mut buffer, mut descriptors) = ([0; 8], Vec::new());
        let (one, other) = Link::pair().unwrap();
        one.send(b"answer", &[]).unwrap();
        other.send(b"unread", &[]).unwrap();
        drop(one);
        let error = other.receive(&mut buffer, &mut descriptors).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(matches!(other.receive(&mut buffer, &mut descriptors), Ok(Received::Packet(6))));
        assert!(matches!(other.receive(&mut buffer, &mut descriptors), Ok(Received::Closed)));

        let (one, other) = Link::pair().unwrap();
        other.send(b"read", &[]).unwrap();
        one.receive(&mut buffer, &mut descriptors).unwrap();
        drop(one);
        assert!(matches!(other.receive(&mut buffer, &mut descriptors), Ok(Received::Closed)));
    }
}
