//! A client's stream, Unix or TCP, with the few operations that a connection needs.

use std::io;

use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};

/// An accepted connection.
#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Unix(stream) => stream.ready(interest).await,
            Self::Tcp(stream) => stream.ready(interest).await,
        }
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_read(buffer),
            Self::Tcp(stream) => stream.try_read(buffer),
        }
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Tcp(stream) => stream.try_write(bytes),
        }
    }

    /// Tells the peer that nothing more comes, and goes on reading.
    pub(super) fn shut_down_write(&self) {
        // The peer may have closed already; then there is nobody to tell.
        let _ = match self {
            Self::Unix(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
            Self::Tcp(stream) => rustix::net::shutdown(stream, rustix::net::Shutdown::Write),
        };
    }
}
