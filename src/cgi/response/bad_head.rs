//! The errors of a response head, and its limit.

use thiserror::Error;

/// Bytes of a head, its empty line included. nginx takes 4 or 8 KiB unless told otherwise
/// (`fastcgi_buffer_size`), and browsers give up at 256 KiB.
pub const MAX_HEAD: usize = 64 * 1024;

/// A response head that breaks the rules: the application's fault, so the request fails with 500.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadHead {
    /// No empty line within [`MAX_HEAD`] bytes.
    #[error("response head is longer than {MAX_HEAD} bytes")]
    TooLong,
    /// A line has no colon, or the part before its colon is not a token.
    #[error("response head has no field name in line {line}")]
    Name {
        /// The line's number, from 1.
        line: usize,
    },
    /// A value holds a control character other than the tab.
    #[error("response head has a control character in line {line}")]
    Value {
        /// The line's number, from 1.
        line: usize,
    },
    /// Status is not a number from 200 to 599 with a reason behind it, or came twice.
    #[error("response head has a bad or second Status")]
    Status,
    /// Content-Length is not a number, came twice, or came with 204.
    #[error("response head has a bad, second or forbidden Content-Length")]
    ContentLength,
    /// Content-Type or Location came twice.
    #[error("response head has a field for the second time in line {line}")]
    Twice {
        /// The second line's number, from 1.
        line: usize,
    },
    /// Transfer-Encoding, which is the proxy's.
    #[error("response head has a Transfer-Encoding")]
    TransferEncoding,
}

impl BadHead {
    /// The error as the end of a sentence.
    pub fn what(&self) -> &'static str {
        match self {
            Self::TooLong => "a response head without an end",
            Self::Name { .. } => "a response head with a line that is no field",
            Self::Value { .. } => "a response head with a control character",
            Self::Status => "a response head with a bad or second Status",
            Self::ContentLength => "a response head with a bad, second or forbidden Content-Length",
            Self::Twice { .. } => "a response head with two Content-Types or Locations",
            Self::TransferEncoding => "a response head with Transfer-Encoding",
        }
    }
}
