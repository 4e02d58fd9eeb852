//! The listening sockets: binds them, accepts connections, removes what it made.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net as std_unix;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, info, warn};

use super::Gateway;
use super::connection::Connection;
use super::stream::Stream;
use crate::config::{Config, Listen, SocketMode, SocketOwner};
use crate::fastcgi;

/// Connections that the kernel holds until they are accepted; it takes `net.core.somaxconn` (4096 by
/// default) where that is less.
const BACKLOG: i32 = 4096;

/// How long to wait when no descriptor is left for a connection, before the next try.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    /// As the user named it.
    address: Listen,
    /// The file to remove at the end, where we made it.
    file: Option<SocketFile>,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A Unix socket's file, known by its inode so that a successor's is never removed.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|data| (data.dev(), data.ino()) == self.inode) {
            // Gone already is as good.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens every socket that the configuration names.
pub(super) fn open_all(config: &Config) -> Result<Vec<Listener>, (Listen, io::Error)> {
    let mut listeners = Vec::new();
    for address in &config.listen {
        let opened = match address {
            Listen::Unix(path) => bind_unix(path, config.socket_mode, config.socket_owner.as_ref()).and_then(
                |(socket, file)| Ok(vec![(Socket::Unix(UnixListener::from_std(socket)?), Some(file))]),
            ),
            Listen::Tcp(address) => open_tcp(address).map(|socket| vec![(socket, None)]),
            Listen::Fd(number) => inherited(*number).map(|socket| vec![(socket, None)]),
            Listen::Systemd => passed_by_systemd(),
        };
        for (socket, file) in opened.map_err(|error| (address.clone(), error))? {
            listeners.push(Listener { socket, address: address.clone(), file });
        }
    }
    Ok(listeners)
}

/// Makes a non-blocking listening socket at `path`.
pub(super) fn bind_unix(
    path: &Path,
    SocketMode(mode): SocketMode,
    owner: Option<&SocketOwner>,
) -> io::Result<(std_unix::UnixListener, SocketFile)> {
    remove_stale(path)?;
    let address = SocketAddrUnix::new(path)
        .map_err(|_| io::Error::other("the path is too long for a Unix socket (at most 107 bytes)"))?;
    let socket: OwnedFd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::bind(&socket, &address)?;
    let data = std::fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), inode: (data.dev(), data.ino()) };
    // Before `listen`, so that nobody connects under other permissions.
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    if let Some(owner) = owner {
        chown(path, owner.user, owner.group)?;
    }
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((std_unix::UnixListener::from(socket), file))
}

/// Removes the socket of a server that is gone; refuses everything else that is at `path`.
fn remove_stale(path: &Path) -> io::Result<()> {
    let data = match std::fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !data.file_type().is_socket() {
        return Err(io::Error::other("the path exists and is not a socket"));
    }
    match std_unix::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another server is listening there")),
    }
}

fn open_tcp(address: &str) -> io::Result<Socket> {
    let address =
        address.to_socket_addrs()?.next().ok_or_else(|| io::Error::other("the name has no address"))?;
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(Socket::Tcp(socket.listen(BACKLOG.unsigned_abs())?))
}

/// A listening socket that this process was started with, under the number it has.
fn inherited(number: u32) -> io::Result<Socket> {
    let path = format!("/proc/self/fd/{number}");
    let target = std::fs::read_link(&path)
        .map_err(|_| io::Error::other(format!("descriptor {number} is not open")))?;
    if !target.to_string_lossy().starts_with("socket:") {
        return Err(io::Error::other(format!("descriptor {number} is not a socket")));
    }
    from_descriptor(crate::sys::take_descriptor(number)?)
}

fn from_descriptor(socket: OwnedFd) -> io::Result<Socket> {
    if !rustix::net::sockopt::socket_acceptconn(&socket)? {
        return Err(io::Error::other("not a listening socket"));
    }
    rustix::io::ioctl_fionbio(&socket, true)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    if rustix::net::sockopt::socket_domain(&socket)? == AddressFamily::UNIX {
        Ok(Socket::Unix(UnixListener::from_std(std_unix::UnixListener::from(socket))?))
    } else {
        Ok(Socket::Tcp(TcpListener::from_std(std::net::TcpListener::from(socket))?))
    }
}

fn passed_by_systemd() -> io::Result<Vec<(Socket, Option<SocketFile>)>> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        if let Some(socket) = passed.take_raw_fd(index)? {
            let number = u32::try_from(socket).map_err(io::Error::other)?;
            sockets.push((from_descriptor(crate::sys::take_descriptor(number)?)?, None));
        }
    }
    if sockets.is_empty() {
        return Err(io::Error::other("systemd passed no socket (LISTEN_FDS is not set for this process)"));
    }
    Ok(sockets)
}

impl Listener {
    /// The address in the form that the user would write.
    pub(super) fn address(&self) -> String {
        match (&self.socket, &self.address) {
            (Socket::Tcp(socket), Listen::Tcp(_)) => socket
                .local_addr()
                .map_or_else(|_| self.address.to_string(), |address| format!("tcp:{address}")),
            _ => self.address.to_string(),
        }
    }

    /// Accepts until the gateway stops; each connection becomes a task of its own.
    pub(super) async fn accept(mut self, gateway: Rc<Gateway>, slots: Arc<Semaphore>, allowed: Rc<[IpAddr]>) {
        let mut stopping = gateway.stopping();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => break,
                accepted = self.accept_one(&slots) => accepted,
            };
            match accepted {
                Ok((stream, slot)) => serve(&gateway, stream, slot, &allowed),
                Err(error) if is_exhausted(&error) => {
                    warn!(cause = %crate::log::cause(&error), "cannot accept; pausing");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
                // The client was gone before it was accepted.
                Err(error) => debug!(cause = %crate::log::cause(&error), "cannot accept"),
            }
        }
        // Nobody finds the way in any more; whoever has is served.
        self.file = None;
        if let Socket::Unix(socket) = &self.socket {
            // The kernel refuses whoever comes from now on, and keeps whoever waits: nobody falls between
            // the last accept and the close. A TCP socket would drop them instead.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
        }
        while let Some(slot) = Arc::clone(&slots).try_acquire_owned().ok()
            && let Ok(stream) = self.accept_waiting()
        {
            serve(&gateway, stream, slot, &allowed);
        }
    }

    /// Accepts a connection that waits in the kernel, whether or not tokio has been told of it.
    fn accept_waiting(&self) -> io::Result<Stream> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match &self.socket {
            Socket::Unix(socket) => {
                let stream = std_unix::UnixStream::from(rustix::net::accept_with(socket, flags)?);
                Ok(Stream::Unix(UnixStream::from_std(stream)?))
            }
            Socket::Tcp(socket) => {
                let stream = std::net::TcpStream::from(rustix::net::accept_with(socket, flags)?);
                Ok(Stream::Tcp(TcpStream::from_std(stream)?))
            }
        }
    }

    async fn accept_one(&self, slots: &Arc<Semaphore>) -> io::Result<(Stream, OwnedSemaphorePermit)> {
        // A free slot first: a connection beyond --max-connections stays in the kernel's backlog.
        let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
        let stream = match &self.socket {
            Socket::Unix(socket) => Stream::Unix(socket.accept().await?.0),
            Socket::Tcp(socket) => {
                let (stream, _) = socket.accept().await?;
                // Answers are written whole; waiting for more to send only delays them.
                stream.set_nodelay(true)?;
                Stream::Tcp(stream)
            }
        };
        Ok((stream, slot))
    }
}

/// Gives a connection a task. `slot` is one of the connections there may be.
fn serve(gateway: &Rc<Gateway>, stream: Stream, slot: OwnedSemaphorePermit, allowed: &[IpAddr]) {
    if !is_allowed(&stream, allowed) {
        return warn!("connection refused: the peer is not in FCGI_WEB_SERVER_ADDRS");
    }
    let connection = Connection::new(stream, limits(&gateway.config()));
    let gateway = Rc::clone(gateway);
    // Counted before the task first runs, so that a stop in between waits for it.
    gateway.connection_opened();
    tokio::task::spawn_local(async move {
        connection.serve(Rc::clone(&gateway)).await;
        drop(slot);
        gateway.connection_closed();
    });
}

/// Accepts on every listener until the gateway stops.
pub(super) fn accept_all(listeners: Vec<Listener>, gateway: &Rc<Gateway>) {
    let slots = Arc::new(Semaphore::new(gateway.config().max_connections));
    let allowed = allowed_addresses();
    for listener in listeners {
        info!(
            address = listener.address(),
            app = gateway.config().app,
            workers = %gateway.config().workers,
            "listening"
        );
        gateway.accepting_begins();
        let (gateway, slots, allowed) = (Rc::clone(gateway), Arc::clone(&slots), Rc::clone(&allowed));
        tokio::task::spawn_local(async move {
            listener.accept(Rc::clone(&gateway), slots, allowed).await;
            gateway.accepting_ends();
        });
    }
}

/// FastCGI 1.0 §3.2: `FCGI_WEB_SERVER_ADDRS` lists the addresses that may connect over TCP.
fn allowed_addresses() -> Rc<[IpAddr]> {
    let value = std::env::var("FCGI_WEB_SERVER_ADDRS").unwrap_or_default();
    value.split(',').filter_map(|address| address.trim().parse().ok()).collect()
}

fn is_allowed(stream: &Stream, allowed: &[IpAddr]) -> bool {
    match stream {
        Stream::Unix(_) => true,
        Stream::Tcp(_) if allowed.is_empty() => true,
        Stream::Tcp(stream) => {
            stream.peer_addr().is_ok_and(|peer| allowed.contains(&peer.ip().to_canonical()))
        }
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM].map(Some).contains(&error.raw_os_error())
}

fn limits(config: &Config) -> fastcgi::Limits {
    fastcgi::Limits {
        max_params: config.max_params,
        server_connections: config.max_connections,
        server_requests: config.queue + config.workers.max as usize,
        ..fastcgi::Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_socket_of_a_server_that_is_gone_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        remove_stale(&path).unwrap();

        let listener = std_unix::UnixListener::bind(&path).unwrap();
        assert_eq!(remove_stale(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(path.exists());
        remove_stale(&path).unwrap();
        assert!(!path.exists());

        std::fs::write(&path, "precious").unwrap();
        assert!(remove_stale(&path).unwrap_err().to_string().contains("not a socket"));
        assert!(path.exists());
    }
}
