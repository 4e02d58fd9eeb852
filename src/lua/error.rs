//! Errors before a request: of the state itself, or of the application while it loads.

use std::fmt;

use thiserror::Error;

use crate::log::escape;

/// A state cannot be made, or its settings make no sense. The process that wanted it ends.
#[derive(Debug, Error)]
pub enum Error {
    /// The operator's target is not `module.path:name` or `path/to/file.lua[:name]`.
    #[error("{0:?} is not an application: expected module.path:name or path/to/file.lua[:name]")]
    Target(String),
    /// Lua refused nibiru's own code or ran out of memory.
    #[error("cannot prepare the Lua state: {0}")]
    Lua(#[from] mlua::Error),
}

/// The application does not load, or its start hook failed. The application is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The error in Lua's words: file and line first.
    pub message: String,
    /// `stack traceback:` and its lines, where application code was running; otherwise empty.
    pub traceback: String,
}

/// Bytes of a message with its stack, at most: the log takes no more. The message is cut before it is escaped.
const LONGEST_MESSAGE: usize = 64 * 1024;

impl LoadError {
    /// Splits a text into a message and the stack under it, both escaped: people read them.
    pub(super) fn new(text: &[u8]) -> Self {
        const MARK: &str = "\nstack traceback:\n";
        let text = escape::text(escape::front(text, LONGEST_MESSAGE));
        match text.find(MARK) {
            Some(at) => Self { message: text[..at].to_owned(), traceback: text[at + 1..].to_owned() },
            None => Self { message: text.into_owned(), traceback: String::new() },
        }
    }
}

impl From<mlua::Error> for LoadError {
    fn from(error: mlua::Error) -> Self {
        Self::new(error.to_string().as_bytes())
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.traceback.is_empty() { Ok(()) } else { write!(f, "\n{}", self.traceback) }
    }
}

impl std::error::Error for LoadError {}
