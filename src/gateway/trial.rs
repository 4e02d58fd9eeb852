//! `nibiru check`: does what a start does, up to serving, and leaves nothing behind.
//!
//! Called by `check`. Addresses and files are tried by the modules that open them, and the application is loaded by the
//! supervisor, in a zygote and a worker. Never listens: a server that runs at these addresses goes on undisturbed.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::config::{self, Config, Listen, Workers};
use crate::gateway::Command;
use crate::gateway::Error;
use crate::gateway::Mode;
use crate::gateway::events::{Notice, Notices};
use crate::gateway::frontend::socket_file::{self, Permissions};
use crate::gateway::frontend::sockets;
use crate::gateway::frontend::takeover;
use crate::gateway::pool::log_pipe::Readers;
use crate::gateway::pool::supervisor::Supervisor;
use crate::gateway::spool;
use crate::gateway::start::{assemble, cannot_control, share_out};
use crate::gateway::telemetry::access_log::AccessLog;
use crate::os::rlimit;

/// The result of a start that got as far as serving.
#[derive(Debug)]
pub struct Trial {
    /// Every address of `--listen`.
    pub addresses: Vec<(Listen, Tried)>,
    /// How long the application took to load and its first worker to start.
    pub took: Duration,
}

/// The result of a trial of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tried {
    /// The address can be listened on.
    Free,
    /// The server that runs with these settings listens there; a reload leaves it to that.
    Running,
    /// Only the process that is started with the socket can tell.
    Inherited,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free => "free",
            Self::Running => "the running server listens there",
            Self::Inherited => "not tried: the socket is passed to serve when it is started",
        })
    }
}

/// Starts with `config`, and stops before anybody could connect.
pub async fn try_out(config: Config) -> Result<Trial, Error> {
    crate::os::descriptors::keep_from_children();
    let open_files = rlimit::raise();
    let addresses = addresses(&config).await?;
    let budget = share_out(&config)?;
    if let Some(target) = &config.access_log {
        AccessLog::try_out(target).map_err(|error| Error::AccessLog(target.clone(), error))?;
    }
    spool::try_out(&config.spool_dir).map_err(|error| Error::Spool(config.spool_dir.clone(), error))?;

    // The first worker proves what the others would.
    let config = Config { workers: Workers::fixed(1), ..config };
    let mode = Mode { trial: true, ..Mode::default() };
    let (notices, receiver) = Notices::channel();
    let begin = Instant::now();
    let readers = Readers::new();
    let gateway = Rc::new(assemble(config, mode, &budget, None, open_files, notices, readers.counted()));
    let (started, outcome) = oneshot::channel();
    let supervisor = tokio::task::spawn_local(Supervisor::new(Rc::clone(&gateway), receiver, started).run());
    let outcome = outcome.await.map_err(|error| Error::System(std::io::Error::other(error)))?;
    let took = begin.elapsed();
    if outcome.is_ok() {
        gateway.notices.send(Notice::Command(Command::StopSoon));
        supervisor.await.map_err(|error| Error::System(std::io::Error::other(error)))?;
    }
    readers.finish().await;
    outcome.map(|()| Trial { addresses, took })
}

/// Tries the addresses of `--listen` and that of `--control`.
async fn addresses(config: &Config) -> Result<Vec<(Listen, Tried)>, Error> {
    let running = Running::find(config).await?;
    let mut addresses = Vec::new();
    for address in &config.listen {
        let tried = if running.has(address) {
            Ok(Tried::Running)
        } else {
            match address {
                Listen::Unix(path) => {
                    socket_file::try_out(path, &Permissions::of(config)).await.map(|()| Tried::Free)
                }
                Listen::Tcp(name) => sockets::try_tcp(name, &config.allow_from).map(|()| Tried::Free),
                Listen::Fd(_) | Listen::Systemd => Ok(Tried::Inherited),
            }
        };
        let tried = tried.map_err(|error| Error::Listen(address.to_string(), error))?;
        addresses.push((address.clone(), tried));
    }
    if let Some(path) = &config.control
        && running.control.as_ref().is_none_or(|control| control != path)
    {
        socket_file::try_out(path, &Permissions::private())
            .await
            .map_err(|error| cannot_control(path, error))?;
    }
    Ok(addresses)
}

/// The server that runs with these settings, if one does, and the names of the addresses that it listens on.
struct Running {
    addresses: Vec<String>,
    /// The control socket by which the server was reached.
    control: Option<PathBuf>,
}

impl Running {
    /// Asks at the control socket in the settings, and at those that older settings of the same server would have given it.
    async fn find(config: &Config) -> Result<Self, Error> {
        let beside =
            config.listen.iter().filter_map(|address| config::control(None, std::slice::from_ref(address)));
        for path in config.control.iter().cloned().chain(beside) {
            if let Some(addresses) = ask(&path).await? {
                return Ok(Self { addresses, control: Some(path) });
            }
        }
        Ok(Self { addresses: Vec::new(), control: None })
    }

    fn has(&self, address: &Listen) -> bool {
        takeover::is_among(address, &self.addresses)
    }
}

async fn ask(path: &Path) -> Result<Option<Vec<String>>, Error> {
    takeover::addresses_of(path).await.or_else(|error| match error.kind() {
        // The address itself is tried next, and its error says what is there.
        ErrorKind::PermissionDenied | ErrorKind::InvalidInput => Ok(None),
        _ => Err(cannot_control(path, error)),
    })
}
