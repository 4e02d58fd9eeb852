//! Listening sockets without a file of this process: TCP sockets and inherited sockets.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;

use tokio::net::TcpSocket;

use crate::config::Peers;
use crate::os::descriptors;

/// The backlog of a listening socket. The kernel limits it to `net.core.somaxconn` (4096 by default).
pub(crate) const BACKLOG: i32 = 4096;

/// Creates a TCP socket that listens at `address`.
pub(crate) fn bind_tcp(address: &str, peers: &Peers) -> io::Result<OwnedFd> {
    Ok(bound_tcp(address, peers)?.listen(BACKLOG.unsigned_abs())?.into_std()?.into())
}

/// Whether [`bind_tcp`] would succeed. Never listens.
pub(crate) fn try_tcp(address: &str, peers: &Peers) -> io::Result<()> {
    bound_tcp(address, peers).map(drop)
}

fn bound_tcp(address: &str, peers: &Peers) -> io::Result<TcpSocket> {
    let address =
        address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    allow_listening(address, peers)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Refuses an address that other machines reach if the settings name no peers. Literal addresses were checked with the settings,
/// names are checked here.
pub(crate) fn allow_listening(address: SocketAddr, peers: &Peers) -> io::Result<()> {
    peers.allow_listening(address).map_err(|cause| io::Error::other(format!("{address}: {cause}")))
}

/// The inherited listening socket with this descriptor number.
pub(crate) fn inherited(number: u32) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{number}");
    let target = std::fs::read_link(&path)
        .map_err(|_| io::Error::other(format!("descriptor {number} is not open")))?;
    if !target.to_string_lossy().starts_with("socket:") {
        return Err(io::Error::other(format!("descriptor {number} is not a socket")));
    }
    take(number)
}

/// The sockets of a systemd socket unit.
pub(crate) fn passed_by_systemd() -> io::Result<Vec<OwnedFd>> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        if let Some(socket) = passed.take_raw_fd(index)? {
            sockets.push(take(u32::try_from(socket).map_err(io::Error::other)?)?);
        }
    }
    if sockets.is_empty() {
        return Err(io::Error::other("systemd passed no socket (LISTEN_FDS is not set for this process)"));
    }
    Ok(sockets)
}

fn take(number: u32) -> io::Result<OwnedFd> {
    let socket = descriptors::take_inherited(number)?;
    match rustix::net::sockopt::socket_acceptconn(&socket) {
        Ok(true) => {}
        Ok(false) => return Err(io::Error::other(format!("descriptor {number} is not a listening socket"))),
        Err(_) => return Err(io::Error::other(format!("descriptor {number} is not a socket"))),
    }
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}
