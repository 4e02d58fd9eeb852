//! TCP ports, listening Unix sockets and connections of a test.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};

use super::wait::wait_for;

/// A connection with a small receive window, as over a slow network. With loopback's own window the kernel would take
/// whole responses.
pub(crate) fn across_a_network(port: u16) -> TcpStream {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for("the server listens", || {
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
        rustix::net::connect(&socket, &address).ok()?;
        Some(TcpStream::from(socket))
    })
}

/// Closes a listening socket, so that connections to its path are refused from now on. A plain close is not enough: another test may
/// have forked a child at this moment, which has the descriptor until it executes its program.
pub(crate) fn close(listener: UnixListener) {
    rustix::net::shutdown(&listener, Shutdown::Both).unwrap();
    drop(listener);
}

/// Makes the socket file of a server that has been killed: no process listens on it.
pub(crate) fn make_stale_socket(path: &Path) {
    close(UnixListener::bind(path).unwrap());
}

/// A free loopback port below the range of ephemeral ports. A process gets each port only once, as long as it asks for
/// fewer than `COUNT`.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    // Concurrent test processes begin at different ports.
    let offset = u16::try_from(std::process::id() * 61 % u32::from(COUNT)).unwrap();
    loop {
        let port = FIRST + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
