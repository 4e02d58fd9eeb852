//! The commands `nibiru reload`, `stop`, `scale` and `status`: clients of a running gateway's control socket.
//!
//! `gateway/control` documents the protocol. I/O is blocking, and a connection carries one command.

mod address;
mod outcome;
mod status_text;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize as _;
use serde_json::Value;
use thiserror::Error;

use crate::config::{self, ConfigError, FILE, Listen, Options, StartDirectory};
use crate::link::discovery;
use crate::link::status::Status;
use crate::log::cause;

pub use address::Address;
pub use outcome::{reloaded, scaled, stopped};
pub use status_text::{is_down, status_text};

/// The longest wait for an answer, except that of a reload. A server has the answer at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// The length of a FastCGI record's header, in bytes. A FastCGI server closes the connection after so many bytes of a command,
/// and waits for more after fewer.
const RECORD_HEADER: usize = 8;

/// The cause of a command's failure.
#[derive(Debug, Error)]
pub enum Error {
    /// The settings, which name the control socket, are wrong.
    #[error(transparent)]
    Config(ConfigError),
    /// The server has no control socket by its settings.
    #[error(
        "the server has no control socket, since it makes no Unix socket or --control is off: start it with --control unix:PATH"
    )]
    Off,
    /// No connection to this path.
    #[error("cannot reach the server at {}: {}{}", .0.display(), cause(.1), advice(.0, .1.kind()))]
    Unreachable(PathBuf, io::Error),
    /// Several servers run with the configuration file; these are their control sockets.
    #[error("several servers run with this configuration file; name one:{}", flags(.0))]
    Several(Vec<PathBuf>),
    /// The socket at this path is not a control socket: its answer is no JSON, or the listener closes the connection.
    #[error("{}", not_control(.0))]
    NotControl(PathBuf),
    /// A field of the status has another type than in this version.
    #[error("cannot read the status of a server of another version: {0} (--json shows it as it is)")]
    Status(serde_json::Error),
    /// No answer in time from the socket at this path.
    #[error("no answer at {} within {} s: it is no control socket, or the server is stuck", .0.display(), PATIENCE.as_secs())]
    Silent(PathBuf),
    /// The server refused the command.
    #[error("{message}")]
    Refused {
        /// The server's reason.
        message: String,
        /// The generation that goes on serving after a reload that failed.
        serving: Option<u64>,
    },
}

impl Error {
    /// The exit code; `refused` for [`Error::Refused`].
    pub fn exit_code(&self, refused: u8) -> u8 {
        match self {
            Self::Config(_) | Self::Off | Self::Several(_) => 2,
            Self::Unreachable(..) | Self::NotControl(_) | Self::Status(_) | Self::Silent(_) => 1,
            Self::Refused { .. } => refused,
        }
    }

    /// The server's state after a reload that failed, as text for people; `None` for other errors.
    pub fn outcome(&self) -> Option<String> {
        match self {
            Self::Refused { serving: Some(generation), .. } => {
                Some(format!("the old code goes on serving (generation {generation})\n"))
            }
            _ => None,
        }
    }
}

/// The end of the message that a server cannot be reached: a likely reason, in parentheses, where there is one.
fn advice(path: &Path, kind: io::ErrorKind) -> String {
    match (kind, address::unit_of(path)) {
        (io::ErrorKind::PermissionDenied, _) => {
            " (a control socket is for the server's own user, and for root)".to_owned()
        }
        (io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused, Some(unit)) => {
            format!(" (does {unit} run?)")
        }
        _ => String::new(),
    }
}

/// The flags of which one names the server, a line each.
fn flags(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("\n  --control unix:{}", path.display())).collect()
}

/// The message for a socket that is not a control socket. Names the control socket beside it, where there is one.
fn not_control(path: &Path) -> String {
    let beside = config::control_beside(path);
    match beside.exists() {
        true => format!(
            "{} is the server's FastCGI socket; its control socket is {}",
            path.display(),
            beside.display()
        ),
        false => format!(
            "{} is no control socket; without --control a server has its own beside its first Unix socket, with .ctl at the end",
            path.display()
        ),
    }
}

/// The path of the control socket, from the first source that has one: the flag; the server that runs with this configuration
/// file; the file itself, by the rules of `serve`.
///
/// # Errors
/// [`Error::Config`], [`Error::Off`] and [`Error::Several`].
pub fn find(file: Option<&Path>, given: Option<Address>) -> Result<PathBuf, Error> {
    match given {
        Some(Address::Unix(path)) => return Ok(path),
        Some(Address::Off) => return Err(Error::Off),
        None => {}
    }
    let directory = StartDirectory::of_this_process();
    let mut running = discovery::servers(directory.path(), file.unwrap_or(Path::new(FILE)));
    match running.len() {
        // The file is not read: it may have been edited since the start, or be broken.
        1 => running.remove(0).ok_or(Error::Off),
        0 => by_file(file),
        _ => {
            let named = by_file(file)?;
            let among = |path: &Path| running.iter().flatten().any(|running| running == path);
            match std::path::absolute(&named).is_ok_and(|named| among(&named)) {
                true => Ok(named),
                false => Err(Error::Several(running.into_iter().flatten().collect())),
            }
        }
    }
}

/// The control socket that a server with this configuration file has by the rules of `serve`.
fn by_file(file: Option<&Path>) -> Result<PathBuf, Error> {
    let (options, _) = Options::from_file(Path::new(""), file).map_err(Error::Config)?.unwrap_or_default();
    let listen = if options.listen.is_empty() { vec![Listen::default()] } else { options.listen };
    config::control(options.control, &listen).ok_or(Error::Off)
}

/// The status in an answer to the command `status`.
///
/// # Errors
/// [`Error::Status`]. A field that is missing or unknown is no error.
pub fn status(answer: &Value) -> Result<Status, Error> {
    Status::deserialize(answer).map_err(Error::Status)
}

/// A connection on which a command was sent.
#[derive(Debug)]
pub struct CommandConnection {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl CommandConnection {
    /// Connects to the control socket at `path` and sends a command.
    pub fn new(path: &Path, command: &str) -> Result<Self, Error> {
        let unreachable = |error| Error::Unreachable(path.to_owned(), error);
        let mut stream = UnixStream::connect(path).map_err(unreachable)?;
        let mut line = format!("{command}\n");
        // Padding for a FastCGI server. A gateway reads no further than the first line's end.
        line.extend(std::iter::repeat_n('\n', RECORD_HEADER.saturating_sub(line.len())));
        stream.write_all(line.as_bytes()).map_err(|error| match error.kind() {
            // A gateway never closes a connection before it has read a command.
            io::ErrorKind::BrokenPipe => Error::NotControl(path.to_owned()),
            _ => unreachable(error),
        })?;
        // A reload has no deadline: code may take long to load.
        let patience = Some(PATIENCE).filter(|_| command != "reload");
        stream.set_read_timeout(patience).map_err(unreachable)?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Waits for the answer.
    pub fn answer(&mut self) -> Result<Value, Error> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::Silent(self.path.clone()),
            // `InvalidData`: bytes that are not UTF-8. `ConnectionReset`: the listener closed with the command unread.
            io::ErrorKind::InvalidData | io::ErrorKind::ConnectionReset => {
                Error::NotControl(self.path.clone())
            }
            _ => self.unreachable(error),
        })?;
        let answer: Value = serde_json::from_str(&line).map_err(|_| Error::NotControl(self.path.clone()))?;
        match answer.get("error") {
            Some(error) => Err(Error::Refused {
                message: error.as_str().unwrap_or_default().to_owned(),
                serving: answer["serving"].as_u64(),
            }),
            None => Ok(answer),
        }
    }

    /// Waits until the server closes the connection. A server that stops keeps the connection open until its process ends.
    pub fn wait_for_the_end(&mut self) {
        // An error ends the connection, too.
        let _ = self.stream.get_ref().set_read_timeout(None);
        let _ = self.stream.read_to_end(&mut Vec::new());
    }

    fn unreachable(&self, error: io::Error) -> Error {
        Error::Unreachable(self.path.clone(), error)
    }
}
