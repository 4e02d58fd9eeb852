//! Faults of a connection.

use std::{error, fmt};

use super::other_protocol::OtherProtocol;

/// A fault of the client on its connection: the connection is closed, and all its requests are aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A header has a version other than 1.
    BadVersion(u8),
    /// The connection began with another protocol.
    OtherProtocol(OtherProtocol),
    /// BEGIN_REQUEST with id 0, which stands for the connection itself.
    BeginWithoutId,
    /// BEGIN_REQUEST with a body of this many bytes in place of 8.
    BeginLength(u16),
    /// BEGIN_REQUEST with an id that is in use.
    BeginActive(u16),
    /// GET_VALUES of more bytes than the server's own names could ever need.
    GetValuesLength(u16),
    /// A length in GET_VALUES goes past its end.
    GetValuesTruncated,
    /// Too many records that belong to no request, or are of no use in theirs.
    TooManyIgnored {
        /// The limit, in records.
        limit: usize,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadVersion(version) => write!(f, "peer sent a record of version {version}, not 1"),
            Self::OtherProtocol(protocol) => write!(f, "peer speaks {protocol}, not FastCGI"),
            Self::BeginWithoutId => write!(f, "peer began a request with id 0"),
            Self::BeginLength(length) => write!(f, "peer sent a BEGIN_REQUEST body of {length} bytes, not 8"),
            Self::BeginActive(id) => write!(f, "peer began request {id}, which has not ended"),
            Self::GetValuesLength(length) => write!(f, "peer sent GET_VALUES of {length} bytes"),
            Self::GetValuesTruncated => write!(f, "peer sent GET_VALUES with a length past its end"),
            Self::TooManyIgnored { limit } => write!(f, "peer sent more than {limit} records to be ignored"),
        }
    }
}

impl error::Error for Fault {}
