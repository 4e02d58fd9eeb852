//! The listening sockets: accepts connections, as many as there is room for, until the gateway stops.
//!
//! `sockets` and `socket_file` open them. Looks after the socket files too: one that is removed is made anew.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::MissedTickBehavior;
use tracing::{debug, error, info, warn};

use crate::config::{Config, Listen, SocketOwner};
use crate::gateway::Gateway;
use crate::gateway::async_fd;
use crate::gateway::frontend::admission::{Door, Shortage};
use crate::gateway::frontend::client_socket::ClientSocket;
use crate::gateway::frontend::socket_file::{Found, Permissions, SocketFile};
use crate::gateway::frontend::sockets;
use crate::gateway::frontend::takeover::Taken;

/// How long to wait where accepting fails (mostly since no descriptor is left), before the next try.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// How often to look whether a socket file is still there: one `lstat`.
const FILE_LOOK: Duration = Duration::from_secs(2);

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Another one once its file was removed and made anew.
    socket: RefCell<Rc<AsyncFd<OwnedFd>>>,
    family: AddressFamily,
    /// As the user named it.
    address: Listen,
    /// The file to remove at the end, where we made it.
    file: RefCell<Option<SocketFile>>,
    /// What was last said about the file.
    trouble: RefCell<Option<Trouble>>,
    /// Whether somebody else has this socket too, and accepts from it when we no longer do.
    kept: Cell<bool>,
}

/// What can be wrong with a socket file. Said once, until it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    Other(Found),
    NotAgain(String),
}

/// Opens every socket that the configuration names, but for those that were taken over.
pub(crate) async fn open_all(
    config: &Config,
    mut taken: Option<&mut Taken>,
) -> Result<Vec<Rc<Listener>>, (Listen, io::Error)> {
    let mut listeners = Vec::new();
    for address in &config.listen {
        let claimed = taken.as_mut().map(|taken| taken.claim(address)).unwrap_or_default();
        let opened = open(config, address, claimed).await.and_then(|opened| {
            opened.iter().try_for_each(|listener| listener.may_be_listened_on(config))?;
            Ok(opened)
        });
        let opened = opened.map_err(|error| (address.clone(), in_use_by_us(error, address, &listeners)))?;
        listeners.extend(opened.into_iter().map(Rc::new));
    }
    Ok(listeners)
}

/// Opens the sockets of one address. `claimed` were taken over.
async fn open(config: &Config, address: &Listen, claimed: Vec<OwnedFd>) -> io::Result<Vec<Listener>> {
    let made = |socket, file| Listener::new(address, socket, file);
    let known = |path: &Path| SocketFile::known(path, &Permissions::of(config));
    match address {
        Listen::Unix(path) if !claimed.is_empty() => {
            claimed.into_iter().map(|socket| made(socket, Some(known(path)))).collect()
        }
        _ if !claimed.is_empty() => claimed.into_iter().map(|socket| made(socket, None)).collect(),
        Listen::Unix(path) => {
            let (socket, file) = SocketFile::bind(path, &Permissions::of(config)).await?;
            Ok(vec![made(socket, Some(file))?])
        }
        Listen::Tcp(name) => Ok(vec![made(sockets::bind_tcp(name, &config.allow_from)?, None)?]),
        Listen::Fd(number) => Ok(vec![made(sockets::inherited(*number)?, None)?]),
        Listen::Systemd => {
            sockets::passed_by_systemd()?.into_iter().map(|socket| made(socket, None)).collect()
        }
    }
}

/// Where a TCP port is in use because of an address before: names, and 0.0.0.0, lead to others.
fn in_use_by_us(error: io::Error, address: &Listen, before: &[Rc<Listener>]) -> io::Error {
    let Listen::Tcp(name) = address else { return error };
    let port = name.rsplit_once(':').map(|(_, port)| format!(":{port}"));
    let same_port = |listener: &&Rc<Listener>| {
        listener
            .local_address()
            .zip(port.as_ref())
            .is_some_and(|(local, port)| local.ends_with(port.as_str()))
    };
    match before.iter().find(same_port).filter(|_| error.kind() == io::ErrorKind::AddrInUse) {
        Some(other) => io::Error::new(error.kind(), format!("{} of this same server has it", other.address)),
        None => error,
    }
}

impl Listener {
    fn new(address: &Listen, socket: OwnedFd, file: Option<SocketFile>) -> io::Result<Self> {
        Ok(Self {
            family: rustix::net::sockopt::socket_domain(&socket)?,
            socket: RefCell::new(Rc::new(async_fd::watch(socket)?)),
            address: address.clone(),
            file: RefCell::new(file),
            trouble: RefCell::new(None),
            kept: Cell::new(*address == Listen::Systemd),
        })
    }

    /// The address in the form that the user would write; of an inherited socket, where it leads.
    pub(crate) fn address(&self) -> String {
        match (&self.address, self.local_address()) {
            (Listen::Unix(_), _) | (_, None) => self.address.to_string(),
            (Listen::Tcp(_), Some(local)) => local,
            (Listen::Fd(_) | Listen::Systemd, Some(local)) => format!("{local} ({})", self.address),
        }
    }

    /// Of a Unix socket, who may connect: `, mode 0660, owner nibiru:www-data`. Nothing where there is no file.
    fn permissions(&self) -> String {
        let local = self.local_address();
        let path = match &self.address {
            Listen::Unix(path) => Some(path.as_path()),
            _ => local.as_deref().and_then(|local| local.strip_prefix("unix:")).map(Path::new),
        };
        let Some(Ok(file)) = path.map(std::fs::symlink_metadata) else { return String::new() };
        let owner = SocketOwner { user: Some(file.uid()), group: Some(file.gid()) };
        format!(", mode {:04o}, owner {owner}", file.mode() & 0o7777)
    }

    fn local_address(&self) -> Option<String> {
        let local = rustix::net::getsockname(self.socket().get_ref()).ok()?;
        if self.family == AddressFamily::UNIX {
            let local = SocketAddrUnix::try_from(local).ok()?;
            return Some(format!("unix:{}", String::from_utf8_lossy(local.path_bytes()?)));
        }
        Some(format!("tcp:{}", SocketAddr::try_from(local).ok()?))
    }

    /// Refuses a TCP socket that other machines reach where the settings name no peers, also where the socket is inherited:
    /// its clients can claim the same. Refuses a socket that is neither Unix nor TCP, since its peers have no address to check.
    fn may_be_listened_on(&self, config: &Config) -> io::Result<()> {
        if self.family == AddressFamily::UNIX {
            return Ok(());
        }
        let local = SocketAddr::try_from(rustix::net::getsockname(self.socket().get_ref())?)
            .map_err(|_| io::Error::other("neither a Unix nor a TCP socket"))?;
        sockets::allow_listening(local, &config.allow_from)
    }

    /// As the operator configured it.
    pub(crate) fn configured(&self) -> &Listen {
        &self.address
    }

    /// The socket itself, for whoever hands it on.
    pub(crate) fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(self.socket().get_ref(), 3)?)
    }

    /// Another process has this socket now: a stop leaves the file, and whoever waits to be accepted, to it.
    pub(crate) fn release_file(&self) {
        self.kept.set(true);
        if let Some(file) = &mut *self.file.borrow_mut() {
            file.release();
        }
    }

    /// The process that had this socket before lets it go.
    pub(crate) fn keep_file(&self) {
        if let Some(file) = &mut *self.file.borrow_mut() {
            file.keep();
        }
    }

    fn socket(&self) -> Rc<AsyncFd<OwnedFd>> {
        Rc::clone(&self.socket.borrow())
    }

    /// Accepts until the gateway stops; each connection becomes a task of its own.
    async fn accept(self: Rc<Self>, gateway: Rc<Gateway>, door: Rc<Door>) {
        let mut stopping = gateway.stopping();
        let mut look = tokio::time::interval(FILE_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let has_file = self.file.borrow().is_some();
        let mut shortage = Shortage::new(Instant::now());
        loop {
            let socket = self.socket();
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => break,
                _ = look.tick(), if has_file => {
                    if let Some(old) = self.look_after_file() {
                        self.empty(old, &gateway, &door).await;
                    }
                    continue;
                }
                accepted = self.accept_one(&socket, &door) => accepted,
            };
            match accepted {
                Ok((stream, slot)) => {
                    shortage.is_over();
                    door.let_in(&gateway, stream, slot);
                }
                // The client was gone before it was accepted.
                Err(error) if is_of_client(&error) => {
                    debug!(cause = %crate::log::cause(&error), "cannot accept");
                }
                // No descriptor is left, or the socket itself is of no use: both last.
                Err(error) => {
                    shortage.lasts(&error, Instant::now());
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
            // Others have their turn, however many clients come.
            tokio::task::consume_budget().await;
        }
        // Nobody finds the way in any more; whoever has is served.
        *self.file.borrow_mut() = None;
        if !self.kept.get() {
            self.empty(self.socket(), &gateway, &door).await;
        }
        // The last of the socket: a connect is refused from now on, where nobody else has it.
        gateway.listeners.borrow_mut().retain(|listener| !Rc::ptr_eq(listener, &self));
        gateway.accepting_ended();
    }

    async fn accept_one(
        &self,
        socket: &AsyncFd<OwnedFd>,
        door: &Door,
    ) -> io::Result<(ClientSocket, OwnedSemaphorePermit)> {
        loop {
            let mut ready = socket.readable().await?;
            // A connection beyond the limit stays in the kernel's backlog.
            let slot = door.slot().await?;
            let shut = ready.ready().is_read_closed();
            match ready.try_io(|socket| self.accept_waiting(socket.get_ref())) {
                Ok(stream) => return Ok((stream?, slot)),
                // Ready it stays, and nobody will ever come.
                Err(_would_block) if shut => {
                    return Err(io::Error::other("somebody else has shut the socket down"));
                }
                // Another process that has the socket was faster.
                Err(_would_block) => {}
            }
        }
    }

    /// Accepts a connection that waits in the kernel, whether or not tokio has been told of it.
    fn accept_waiting(&self, socket: &OwnedFd) -> io::Result<ClientSocket> {
        let accepted = rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        if self.family == AddressFamily::UNIX {
            return Ok(ClientSocket::Unix(UnixStream::from_std(accepted.into())?));
        }
        let stream = TcpStream::from_std(accepted.into())?;
        // Answers are written whole; waiting for more to send only delays them.
        stream.set_nodelay(true)?;
        Ok(ClientSocket::Tcp(stream))
    }

    /// Lets in whoever waits in a socket that is about to be closed.
    async fn empty(&self, socket: Rc<AsyncFd<OwnedFd>>, gateway: &Rc<Gateway>, door: &Door) {
        if self.family == AddressFamily::UNIX && !self.address.is_inherited() {
            // The kernel refuses whoever comes from now on, and keeps whoever waits: nobody falls between
            // the last accept and the close. A TCP socket would drop them instead, and an inherited one may
            // be somebody else's too.
            let _ = rustix::net::shutdown(socket.get_ref(), rustix::net::Shutdown::Read);
        }
        // Bounded, since to an inherited socket ever more may come.
        for _ in 0..sockets::BACKLOG {
            let Ok(slot) = door.slot().await else { return };
            let Ok(stream) = self.accept_waiting(socket.get_ref()) else { return };
            door.let_in(gateway, stream, slot);
        }
    }

    /// Sees to the socket file. Where it was removed and is made anew, gives the socket that it led to before.
    fn look_after_file(&self) -> Option<Rc<AsyncFd<OwnedFd>>> {
        let mut file = self.file.borrow_mut();
        let known = file.as_mut()?;
        let path = known.path().display().to_string();
        let found = known.look();
        let trouble = match found {
            Found::Ours => None,
            Found::Nothing => {
                match known.bind_again().and_then(|(socket, file)| Ok((async_fd::watch(socket)?, file))) {
                    Ok((socket, made)) => {
                        warn!(path, "the socket file was removed; it is made anew");
                        *file = Some(made);
                        *self.trouble.borrow_mut() = None;
                        return Some(self.socket.replace(Rc::new(socket)));
                    }
                    // Another server is making a socket in that directory; the next look is soon.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                    Err(error) => Some(Trouble::NotAgain(crate::log::cause(&error))),
                }
            }
            other => Some(Trouble::Other(other)),
        };
        if *self.trouble.borrow() != trouble {
            match &trouble {
                None => info!(path, "the socket file is in its place again"),
                Some(Trouble::NotAgain(cause)) => {
                    error!(
                        path,
                        cause,
                        "the socket file was removed, and cannot be made anew yet; no new client can connect"
                    );
                }
                Some(Trouble::Other(Found::Unknown(cause))) => {
                    error!(path, cause, "nobody can tell whether the socket file is still there");
                }
                Some(Trouble::Other(_)) => error!(
                    path,
                    "the socket file was replaced by something else; no new client reaches this server until that is removed"
                ),
            }
            *self.trouble.borrow_mut() = trouble;
        }
        None
    }
}

/// Accepts on every listener until the gateway stops.
pub(crate) fn accept_all(listeners: Vec<Rc<Listener>>, connections: usize, gateway: &Rc<Gateway>) {
    let door = Rc::new(Door::new(connections, gateway.config().allow_from.clone()));
    for listener in listeners {
        info!("listening on {}{}", listener.address(), listener.permissions());
        // Counted before the task first runs, so that a stop in between waits for it.
        gateway.accepting_started();
        gateway.listeners.borrow_mut().push(Rc::clone(&listener));
        tokio::task::spawn_local(listener.accept(Rc::clone(gateway), Rc::clone(&door)));
    }
}

/// Whether an error of `accept` is about the one connection that it would have given: accept(2) names these.
fn is_of_client(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_client = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PERM,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::NONET,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
    ];
    Errno::from_io_error(error).is_some_and(|errno| of_client.contains(&errno))
}
