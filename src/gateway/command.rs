//! What the gateway can be told, what it tells, and where `dev` differs from `serve`.

use std::fmt;
use std::io;
use std::path::PathBuf;

use tokio::sync::watch;

use crate::config::{self, Config, ConfigError, Workers};

/// What the gateway can be told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Load the application afresh and swap to it once it has proved itself.
    Reload,
    /// Open the log and the access log anew, after their files were renamed.
    ReopenLogs,
    /// Finish what is accepted and stop, after the delay that is configured; the second time, stop at once.
    Stop,
    /// The same without the delay: nobody has to be warned.
    StopSoon,
    /// More or fewer workers, until the next reload.
    Scale(Scale),
}

/// How many workers there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// So many.
    To(Workers),
    /// One more.
    Up,
    /// One fewer, but one at least.
    Down,
}

/// Where `dev` differs from `serve`.
#[derive(Debug, Default)]
pub struct Mode {
    /// Failures go to the client as FastCGI STDERR too, and an application that does not load is no
    /// reason to stop: every request is answered with the reason until it does.
    pub development: bool,
    /// Always says how the newest code does.
    pub code: watch::Sender<Code>,
    /// Reads the settings again, for a reload; without it they stay as they are.
    pub read_config: Option<ReadConfig>,
    /// Nobody is to be served: it is only tried whether everything starts, and systemd is told nothing.
    pub trial: bool,
    /// Takes the sockets of the gateway that runs with these settings, if one does, and then lets it go.
    pub take_over: bool,
}

/// Reads the settings again from where they came.
pub struct ReadConfig(pub Box<dyn Fn() -> Result<Config, ConfigError>>);

impl fmt::Debug for ReadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadConfig")
    }
}

/// The newest generation of the code, whether or not it is the one that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// Counts the loads, from 1 on.
    pub generation: u32,
    /// How far it is.
    pub load: Load,
    /// Names of the settings that were changed for it and cannot change in a running server.
    pub needs_restart: Vec<&'static str>,
}

/// How far a generation is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// It is being loaded.
    #[default]
    Running,
    /// It answers.
    Done,
    /// It does not load, and why.
    Failed(String),
}

/// Why the gateway did not start.
#[derive(Debug)]
pub enum Error {
    /// An address, as the user wrote it, cannot be listened on.
    Listen(String, io::Error),
    /// The access log cannot be opened.
    AccessLog(config::AccessLog, io::Error),
    /// Nothing can be kept in this directory.
    Spool(PathBuf, io::Error),
    /// The application does not load.
    Load(String),
    /// The system refused something that every start needs.
    System(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {}", crate::log::cause(error))
            }
            Self::AccessLog(target, error) => {
                write!(f, "cannot open the access log {target}: {}", crate::log::cause(error))
            }
            Self::Spool(path, error) => {
                write!(
                    f,
                    "cannot keep bodies in {}: {} (--spool-dir)",
                    path.display(),
                    crate::log::cause(error)
                )
            }
            Self::Load(message) => f.write_str(message),
            Self::System(error) => write!(f, "cannot start: {}", crate::log::cause(error)),
        }
    }
}

impl std::error::Error for Error {}
