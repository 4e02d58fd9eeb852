//! Standard output of the commands: the one way by which they print.
//!
//! `print!` panics where nobody reads any more and where the disk is full, so clippy forbids it (`print_stdout`,
//! `print_stderr` in `Cargo.toml`). The log and the access log have threads of their own and are not written here.

use std::io::{self, Write};

use thiserror::Error;

use crate::log::cause;

/// Writes `bytes` and flushes them.
///
/// # Errors
/// [`Error::is_closed`] tells a reader that has gone from output that is lost.
pub fn write(bytes: &[u8]) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Error)
}

/// Standard output did not take what a command had to say.
#[derive(Debug, Error)]
#[error("cannot write to standard output: {}", cause(.0))]
pub struct Error(#[from] io::Error);

impl Error {
    /// Whether the reader closed its end, as `head` does once it has seen enough: no failure of the command.
    pub fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}
