//! A listening socket, with its address, its file and its backlog.
//!
//! `opening` creates it, `acceptor` accepts from it. A removed socket file is recreated, with another socket.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tracing::{error, info, warn};

use crate::config::{Config, Listen, SocketOwner};
use crate::gateway::async_fd;
use crate::gateway::frontend::client_socket::ClientSocket;
use crate::gateway::frontend::socket_file::{self, RemakeResult, Report, SocketFile, SocketWatch, Step};
use crate::gateway::frontend::sockets;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    /// The socket. Replaced when its file is recreated.
    socket: RefCell<Rc<AsyncFd<OwnedFd>>>,
    family: AddressFamily,
    /// The address in the settings.
    address: Listen,
    /// The file to remove at the end; `None` unless this server created it.
    file: RefCell<Option<SocketFile>>,
    watch: RefCell<SocketWatch>,
    /// Whether another process shares the socket, and may accept from it later.
    kept: Cell<bool>,
}

impl Listener {
    pub(super) fn new(address: &Listen, socket: OwnedFd, file: Option<SocketFile>) -> io::Result<Self> {
        Ok(Self {
            family: rustix::net::sockopt::socket_domain(&socket)?,
            socket: RefCell::new(Rc::new(async_fd::watch(socket)?)),
            address: address.clone(),
            file: RefCell::new(file),
            watch: RefCell::default(),
            kept: Cell::new(*address == Listen::Systemd),
        })
    }

    /// The address in the form of `--listen`; for an inherited socket, the address that it is bound to.
    pub(crate) fn address(&self) -> String {
        match (&self.address, self.local_address()) {
            (Listen::Unix(_), _) | (_, None) => self.address.to_string(),
            (Listen::Tcp(_), Some(local)) => local,
            (Listen::Fd(_) | Listen::Systemd, Some(local)) => format!("{local} ({})", self.address),
        }
    }

    /// The mode and owner of a Unix socket's file, for the log: `, mode 0660, owner nibiru:www-data`. Empty where there is no file.
    pub(super) fn permissions(&self) -> String {
        let local = self.local_address();
        let path = match &self.address {
            Listen::Unix(path) => Some(path.as_path()),
            _ => local.as_deref().and_then(|local| local.strip_prefix("unix:")).map(Path::new),
        };
        let Some(Ok(file)) = path.map(std::fs::symlink_metadata) else { return String::new() };
        let owner = SocketOwner { user: Some(file.uid()), group: Some(file.gid()) };
        format!(", mode {:04o}, owner {owner}", file.mode() & 0o7777)
    }

    /// The address that the socket is bound to.
    pub(super) fn local_address(&self) -> Option<String> {
        let local = rustix::net::getsockname(self.socket().get_ref()).ok()?;
        if self.family == AddressFamily::UNIX {
            let local = SocketAddrUnix::try_from(local).ok()?;
            return Some(format!("unix:{}", String::from_utf8_lossy(local.path_bytes()?)));
        }
        Some(format!("tcp:{}", SocketAddr::try_from(local).ok()?))
    }

    /// Refuses a TCP socket that other machines reach if the settings name no peers, even an inherited one: its clients could claim
    /// anything. Refuses a socket that is neither Unix nor TCP, because its peers have no address to check.
    pub(super) fn may_be_listened_on(&self, config: &Config) -> io::Result<()> {
        if self.family == AddressFamily::UNIX {
            return Ok(());
        }
        let local = SocketAddr::try_from(rustix::net::getsockname(self.socket().get_ref())?)
            .map_err(|_| io::Error::other("neither a Unix nor a TCP socket"))?;
        sockets::allow_listening(local, &config.allow_from)
    }

    /// The address in the settings.
    pub(crate) fn configured(&self) -> &Listen {
        &self.address
    }

    /// A duplicate of the socket, for a process that takes over.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(self.socket().get_ref(), 3)?)
    }

    /// Leaves the file and the backlog to another process that has the socket now.
    pub(crate) fn release_file(&self) {
        self.kept.set(true);
        if let Some(file) = &mut *self.file.borrow_mut() {
            file.release();
        }
    }

    /// Takes the file over from the previous process.
    pub(crate) fn keep_file(&self) {
        if let Some(file) = &mut *self.file.borrow_mut() {
            file.keep();
        }
    }

    /// The socket. Replaced when its file is recreated.
    pub(super) fn socket(&self) -> Rc<AsyncFd<OwnedFd>> {
        Rc::clone(&self.socket.borrow())
    }

    /// Accepts a connection from the backlog, by the kernel rather than by tokio's readiness.
    pub(super) fn accept_waiting(&self, socket: &OwnedFd) -> io::Result<ClientSocket> {
        let accepted = rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        if self.family == AddressFamily::UNIX {
            return Ok(ClientSocket::Unix(UnixStream::from_std(accepted.into())?));
        }
        let stream = TcpStream::from_std(accepted.into())?;
        // Responses are written whole, so a wait for more bytes would only delay them.
        stream.set_nodelay(true)?;
        Ok(ClientSocket::Tcp(stream))
    }

    /// Whether the listener created its file, and watches it.
    pub(super) fn has_file(&self) -> bool {
        self.file.borrow().is_some()
    }

    /// Removes the file, if it is still ours.
    pub(super) fn remove_file(&self) {
        *self.file.borrow_mut() = None;
    }

    /// Whether another process shares the socket, and may accept from it later.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.get()
    }

    /// Refuses new clients and keeps the backlog, so that no client is lost between the last accept and the close. Not for a TCP
    /// socket, whose backlog the kernel would drop, and not for an inherited one, which another process may share.
    pub(super) fn shut(&self, socket: &AsyncFd<OwnedFd>) {
        if self.family == AddressFamily::UNIX && !self.address.is_inherited() {
            let _ = rustix::net::shutdown(socket.get_ref(), rustix::net::Shutdown::Read);
        }
    }

    /// Checks the socket file, and recreates a removed one. Returns the replaced socket, if any.
    pub(super) fn check_file(&self) -> Option<Rc<AsyncFd<OwnedFd>>> {
        let mut file = self.file.borrow_mut();
        let known = file.as_mut()?;
        let path = known.path().display().to_string();
        let mut watch = self.watch.borrow_mut();
        match watch.checked(known.path_state()) {
            Step::Wait => {}
            Step::Say(report) => log(&report, &path),
            Step::Remake => {
                let remade = socket_file::bind_again(known)
                    .and_then(|(socket, file)| Ok((async_fd::watch(socket)?, file)));
                let remaking = match &remade {
                    Ok(_) => RemakeResult::Done,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => RemakeResult::InUse,
                    Err(error) => RemakeResult::Failed(crate::log::cause(error)),
                };
                if let Some(report) = watch.remade(remaking) {
                    log(&report, &path);
                }
                if let Ok((socket, made)) = remade {
                    *file = Some(made);
                    return Some(self.socket.replace(Rc::new(socket)));
                }
            }
        }
        None
    }
}

/// Writes a report about the socket file at `path` to the log.
fn log(report: &Report, path: &str) {
    match report {
        Report::Back => info!(path, "the socket file is in its place again"),
        Report::Remade => warn!(path, "the socket file was removed; it is made anew"),
        Report::NotRemade(cause) => error!(
            path,
            cause, "the socket file was removed, and cannot be made anew yet; no new client can connect"
        ),
        Report::Unknown(cause) => {
            error!(path, cause, "nobody can tell whether the socket file is still there");
        }
        Report::Replaced => error!(
            path,
            "the socket file was replaced by something else; no new client reaches this server until that is removed"
        ),
    }
}
