//! Standard output of the commands. All commands print through this module.
//!
//! `print!` panics on a closed pipe and on a full disk, so clippy forbids it (`print_stdout` and `print_stderr` in `Cargo.toml`).
//! The log and the access log have threads of their own and are not written here.

use std::io::{self, Write};

use thiserror::Error;

use crate::log::cause;

/// Writes `bytes` and flushes them.
///
/// # Errors
/// Those of write(2). [`Error::is_closed`] tells a reader that has gone from output that is lost.
pub fn write(bytes: &[u8]) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Error)
}

/// The error of a write to standard output.
#[derive(Debug, Error)]
#[error("cannot write to standard output: {}", cause(.0))]
pub struct Error(#[from] io::Error);

impl Error {
    /// Whether the reader has closed the pipe, as `head` does after its last line. The command has not failed then.
    pub fn is_closed(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}
