//! `nibiru reload`, `stop`, `scale` and `status`: talk to a running gateway over its control socket.
//!
//! A client of `gateway/control`, which documents the protocol. Blocking; never more than one command.

mod describe;
mod outcome;

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::{self, ConfigError, Listen, Options};

pub use describe::{describe, is_down};
pub use outcome::{reloaded, scaled, stopped};

/// Why a command came to nothing.
#[derive(Debug)]
pub enum Error {
    /// The settings do not say where the control socket is.
    Config(ConfigError),
    /// There is to be no control socket.
    Off,
    /// Nobody answers at this path.
    Unreachable(PathBuf, io::Error),
    /// The server says no.
    Refused {
        /// Why.
        message: String,
        /// After a reload: which generation goes on serving.
        serving: Option<u64>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Off => f.write_str("no control socket: name one with --control unix:PATH"),
            Self::Unreachable(path, error) => {
                write!(f, "cannot reach the server at {}: {}", path.display(), crate::log::cause(error))
            }
            Self::Refused { message, .. } => f.write_str(message),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// The exit code: `refused` where the server says no.
    pub fn exit_code(&self, refused: u8) -> u8 {
        match self {
            Self::Config(_) | Self::Off => 2,
            Self::Unreachable(..) => 1,
            Self::Refused { .. } => refused,
        }
    }

    /// What a refused command has left behind, as text for people; nothing where nothing changed that could have.
    pub fn outcome(&self) -> Option<String> {
        match self {
            Self::Refused { serving: Some(generation), .. } => {
                Some(format!("the old code goes on serving (generation {generation})\n"))
            }
            _ => None,
        }
    }
}

/// Where the control socket is, by the rules of `serve`: the flag, then the file, then beside the first Unix socket.
pub fn find(file: Option<&Path>, given: Option<config::Control>) -> Result<PathBuf, Error> {
    let (options, _) = Options::from_file(Path::new(""), file).map_err(Error::Config)?.unwrap_or_default();
    let listen = if options.listen.is_empty() { vec![Listen::default()] } else { options.listen };
    config::control(given.or(options.control), &listen).ok_or(Error::Off)
}

/// A connection with a command on its way.
#[derive(Debug)]
pub struct Call {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Call {
    /// Sends a command.
    pub fn new(path: &Path, command: &str) -> Result<Self, Error> {
        let unreachable = |error| Error::Unreachable(path.to_owned(), error);
        let mut stream = UnixStream::connect(path).map_err(unreachable)?;
        stream.write_all(format!("{command}\n").as_bytes()).map_err(unreachable)?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Waits for the answer.
    pub fn answer(&mut self) -> Result<Value, Error> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(|error| self.unreachable(error))?;
        let answer: Value = serde_json::from_str(&line)
            .map_err(|_| self.unreachable(io::Error::other("it ended without an answer")))?;
        match answer.get("error") {
            Some(error) => Err(Error::Refused {
                message: error.as_str().unwrap_or_default().to_owned(),
                serving: answer["serving"].as_u64(),
            }),
            None => Ok(answer),
        }
    }

    /// Waits until the server has closed the connection; a server that stops does so with its end.
    pub fn wait_for_the_end(&mut self) {
        // An error is an end, too.
        let _ = self.stream.read_to_end(&mut Vec::new());
    }

    fn unreachable(&self, error: io::Error) -> Error {
        Error::Unreachable(self.path.clone(), error)
    }
}
