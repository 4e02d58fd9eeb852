//! The errors of a request's variables.

use std::fmt;

use thiserror::Error;

/// A request whose variables are wrong. Only the request ends; it never reaches Lua.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadRequest {
    /// A variable has no name.
    #[error("a variable has no name")]
    EmptyName,
    /// A variable came more than once, with different values: the proxy may have acted on one, the application on another.
    #[error("{} came twice, with different values", Excerpt(.name))]
    Contradiction {
        /// The variable's name.
        name: Vec<u8>,
    },
    /// Two names of headers differ only in case, or in `-` against `_`.
    #[error("{} and {} cannot be told apart", Excerpt(.name), Excerpt(.other))]
    Ambiguous {
        /// One of the names.
        name: Vec<u8>,
        /// The other name.
        other: Vec<u8>,
    },
    /// CONTENT_LENGTH or FCGI_DATA_LENGTH is no length.
    #[error("{} is not a length: \"{}\"", Excerpt(.name), Excerpt(.value))]
    Length {
        /// The variable's name.
        name: &'static [u8],
        /// The variable's value.
        value: Vec<u8>,
    },
    /// REQUEST_METHOD is missing.
    #[error("REQUEST_METHOD is missing")]
    MissingMethod,
    /// REQUEST_METHOD is not a token.
    #[error("REQUEST_METHOD is not a method: \"{}\"", Excerpt(.value))]
    Method {
        /// The variable's value.
        value: Vec<u8>,
    },
}

impl BadRequest {
    /// The HTTP status to answer with.
    pub fn status(&self) -> u16 {
        400
    }
}

/// A peer's bytes in a message: printable and short, since the message goes into logs and responses.
struct Excerpt<'a>(&'a [u8]);

/// Bytes of a name or value in a message: enough for any that was meant well.
const MAX_SHOWN: usize = 64;

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..MAX_SHOWN) {
            Some(start) if self.0.len() > MAX_SHOWN => write!(f, "{}...", start.escape_ascii()),
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}
