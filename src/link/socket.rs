//! The sockets between the processes: `SOCK_SEQPACKET` pairs that carry packets and descriptors.
//!
//! A packet arrives whole or not at all, so a killed process never leaves half a message. A process that the application
//! forked holds its parent's end, too; it uses that for nothing, and ends where it would.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::message::MAX_PACKET;
use crate::os::fork;

/// The most descriptors that one packet carries: those of `Spawn`.
const MAX_DESCRIPTORS: usize = 4;

/// One end of a pair.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
}

/// What [`Link::receive`] found.
#[derive(Debug)]
pub enum Received {
    /// A packet of this many bytes, at the front of the buffer.
    Packet(usize),
    /// The other end is closed and everything it sent has been received.
    Closed,
}

impl Link {
    /// A connected pair, both ends blocking and close-on-exec.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for end in [&one, &other] {
            // The kernel keeps twice what it is asked for, so a packet fits also where its default is small.
            rustix::net::sockopt::set_socket_send_buffer_size(end, MAX_PACKET)?;
        }
        Ok((Self::from(one), Self::from(other)))
    }

    /// Makes this end non-blocking, for an event loop; the other end is not touched.
    pub fn set_nonblocking(&self) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.socket, true)?)
    }

    /// Sends one packet, whole, with `descriptors` (at most four).
    ///
    /// # Errors
    /// `WouldBlock` on a non-blocking end whose peer does not read; `BrokenPipe` where the peer is closed.
    pub fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        debug_assert!(packet.len() <= MAX_PACKET && descriptors.len() <= MAX_DESCRIPTORS);
        fork::end_if_forked();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let vector = [IoSlice::new(packet)];
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.socket, &vector, &mut control, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }

    /// Receives one packet into `buffer` ([`MAX_PACKET`] bytes) and its descriptors, close-on-exec.
    ///
    /// # Errors
    /// `WouldBlock` on a non-blocking end with nothing to read; `ConnectionReset` where the peer closed
    /// its end with packets in it that it had not read (once: the next call goes on as usual);
    /// `InvalidData` where a packet is longer than the buffer.
    pub fn receive(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<Received> {
        self.receive_with(buffer, descriptors, RecvFlags::empty())
    }

    /// [`Self::receive`], but `WouldBlock` on a blocking end too where there is nothing to read.
    pub fn try_receive(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<Received> {
        self.receive_with(buffer, descriptors, RecvFlags::DONTWAIT)
    }

    /// [`Self::receive`] from a peer that has no descriptors to send. Those that come all the same are closed by the
    /// kernel; they take no number here.
    ///
    /// # Errors
    /// As [`Self::receive`], and `Unsupported` where descriptors came.
    pub fn receive_plain(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut control = RecvAncillaryBuffer::default();
        let (received, flags) = self.receive_message(buffer, &mut control, RecvFlags::empty())?;
        if flags.contains(ReturnFlags::CTRUNC) {
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

    fn receive_with(
        &self,
        buffer: &mut [u8],
        descriptors: &mut Vec<OwnedFd>,
        flags: RecvFlags,
    ) -> io::Result<Received> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let (received, _) = self.receive_message(buffer, &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        Ok(received)
    }

    fn receive_message(
        &self,
        buffer: &mut [u8],
        control: &mut RecvAncillaryBuffer<'_>,
        flags: RecvFlags,
    ) -> io::Result<(Received, ReturnFlags)> {
        fork::end_if_forked();
        let message = rustix::io::retry_on_intr(|| {
            let mut vector = [IoSliceMut::new(buffer)];
            rustix::net::recvmsg(&self.socket, &mut vector, control, flags | RecvFlags::CMSG_CLOEXEC)
        })?;
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "packet too long"));
        }
        // No packet is empty, so an empty one is the end.
        let received = if message.bytes == 0 { Received::Closed } else { Received::Packet(message.bytes) };
        Ok((received, message.flags))
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
