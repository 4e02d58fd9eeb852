//! `nibiru check`: a start up to serving that leaves nothing behind.
//!
//! Addresses and files are tested by the modules that open them; the supervisor loads the application in a zygote and a worker.
//! Never listens: a running server at these addresses is undisturbed.

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
use crate::gateway::body_files_of;
use crate::gateway::events::{SupervisorEvent, SupervisorEvents};
use crate::gateway::frontend::socket_file::{self, Permissions};
use crate::gateway::frontend::sockets;
use crate::gateway::frontend::takeover;
use crate::gateway::pool::log_pipe::Readers;
use crate::gateway::pool::supervisor::Supervisor;
use crate::gateway::spool;
use crate::gateway::start::{assemble, cannot_control, share_out};
use crate::gateway::telemetry::access_log::AccessLog;
use crate::os::rlimit;

/// The result of a successful trial.
#[derive(Debug)]
pub struct Trial {
    /// The addresses of `--listen`, each with its result.
    pub addresses: Vec<(Listen, AddressTrial)>,
    /// Time in which the application loaded and its first worker started.
    pub took: Duration,
}

/// The result of the trial of one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressTrial {
    /// The address is free to listen on.
    Free,
    /// The running server with these settings listens at the address, and a reload keeps it there.
    Running,
    /// The address is an inherited socket, which only a real start has.
    Inherited,
}

impl fmt::Display for AddressTrial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free => "free",
            Self::Running => "the running server listens there",
            Self::Inherited => "not tried: the socket is passed to serve when it is started",
        })
    }
}

/// Starts with `config`, and stops before the first connection.
pub async fn try_out(config: Config) -> Result<Trial, Error> {
    crate::os::descriptors::keep_from_children();
    let open_files = rlimit::raise();
    let addresses = addresses(&config).await?;
    let budget = share_out(&config)?;
    if let Some(target) = &config.access_log {
        AccessLog::try_out(target).map_err(|error| Error::AccessLog(target.clone(), error))?;
    }
    let body_files = body_files_of(&config)?;
    spool::try_out(&config.spool_dir).map_err(|error| Error::Spool(config.spool_dir.clone(), error))?;

    // One worker proves as much as several.
    let config = Config { workers: Workers::fixed(1), ..config };
    let mode = Mode { trial: true, ..Mode::default() };
    let (supervisor_events, receiver) = SupervisorEvents::channel();
    let begin = Instant::now();
    let readers = Readers::new();
    let gateway =
        Rc::new(assemble(config, mode, &budget, None, open_files, supervisor_events, readers.drain_guard()));
    gateway.body_files.replace(body_files);
    let (started, outcome) = oneshot::channel();
    let supervisor = tokio::task::spawn_local(Supervisor::new(Rc::clone(&gateway), receiver, started).run());
    let outcome = outcome.await.map_err(|error| Error::System(std::io::Error::other(error)))?;
    let took = begin.elapsed();
    if outcome.is_ok() {
        gateway.supervisor_events.send(SupervisorEvent::Command(Command::StopSoon));
        supervisor.await.map_err(|error| Error::System(std::io::Error::other(error)))?;
    }
    readers.finish().await;
    outcome.map(|()| Trial { addresses, took })
}

/// Tests the addresses of `--listen` and of `--control`.
async fn addresses(config: &Config) -> Result<Vec<(Listen, AddressTrial)>, Error> {
    let running = Running::find(config).await?;
    let mut addresses = Vec::new();
    for address in &config.listen {
        let tried = if running.has(address) {
            Ok(AddressTrial::Running)
        } else {
            match address {
                Listen::Unix(path) => {
                    socket_file::try_out(path, &Permissions::of(config)).await.map(|()| AddressTrial::Free)
                }
                Listen::Tcp(name) => sockets::try_tcp(name, &config.allow_from).map(|()| AddressTrial::Free),
                Listen::Fd(_) | Listen::Systemd => Ok(AddressTrial::Inherited),
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

/// The running server with these settings, if there is one, with the addresses it listens on.
struct Running {
    addresses: Vec<String>,
    /// The control socket by which the server was reached.
    control: Option<PathBuf>,
}

impl Running {
    /// Asks at the control socket of the settings, and at the default ones beside each listening address, for a server with
    /// older settings.
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
        // The address itself is tested next, and its error names the cause.
        ErrorKind::PermissionDenied | ErrorKind::InvalidInput => Ok(None),
        _ => Err(cannot_control(path, error)),
    })
}
