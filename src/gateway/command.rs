//! The commands to a running gateway, the modes of a start, the progress of a load, and the errors of a start.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;
use tokio::sync::watch;

use crate::config::{self, Config, ConfigError, Workers};
use crate::log::cause;

/// A command to a running gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Load the application afresh, and swap to the new generation once it has proved itself.
    Reload,
    /// Reopen the log and the access log, after their files were renamed.
    ReopenLogs,
    /// Finish accepted requests and stop, after the configured delay; a second `Stop` stops at once.
    Stop,
    /// Finish accepted requests and stop without the delay, where no proxy has to be warned.
    StopSoon,
    /// Change the number of workers until the next reload.
    Scale(Scale),
}

/// A change of the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// This number.
    To(Workers),
    /// One more.
    Up,
    /// One fewer, but one at least.
    Down,
}

/// The mode of a start: the points in which `dev`, `check` and `--take-over` differ from `serve`.
#[derive(Debug, Default)]
pub struct Mode {
    /// Whether failures go to the client as FastCGI STDERR too. A load failure does not end the server then: every request is
    /// answered with the reason until a load succeeds.
    pub development: bool,
    /// The state of the newest code, always up to date.
    pub code: watch::Sender<NewestGeneration>,
    /// Reads the settings again for a reload; `None` where they cannot change.
    pub read_config: Option<ReadConfig>,
    /// Whether the start is a trial: no client is served, and systemd gets no notifications.
    pub trial: bool,
    /// Whether to replace the running gateway with these settings, if there is one.
    pub take_over: bool,
}

/// Reads the settings again from their sources.
pub struct ReadConfig(pub Box<dyn Fn() -> Result<Config, ConfigError>>);

impl fmt::Debug for ReadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadConfig")
    }
}

/// The newest generation of the code, serving or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewestGeneration {
    /// Number of the load, from 1 on.
    pub generation: u32,
    /// The progress of the load.
    pub load: Load,
    /// Names of changed settings that cannot change in a running server.
    pub needs_restart: Vec<&'static str>,
}

/// The progress of a generation's load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// The generation is being loaded.
    #[default]
    Running,
    /// The generation answers requests.
    Done,
    /// The generation does not load, with the cause.
    Failed(String),
}

/// The cause of a start that failed.
#[derive(Debug, Error)]
pub enum Error {
    /// An address, as the user wrote it, cannot be listened on.
    #[error("cannot listen on {}: {}", .0, cause(.1))]
    Listen(String, io::Error),
    /// The access log cannot be opened.
    #[error("cannot open the access log {}: {}", .0, cause(.1))]
    AccessLog(config::AccessLog, io::Error),
    /// No file can be created in this directory.
    #[error("cannot keep bodies in {}: {} (--spool-dir)", .0.display(), cause(.1))]
    Spool(PathBuf, io::Error),
    /// The proxy's directory for bodies cannot be opened.
    #[error("cannot open {}: {} (--body-file-dir)", .0.display(), cause(.1))]
    BodyFiles(PathBuf, io::Error),
    /// The application does not load.
    #[error("{0}")]
    Load(String),
    /// The system refused a resource that every start needs.
    #[error("cannot start: {}", cause(.0))]
    System(io::Error),
}
