//! Faults of a connection.

use thiserror::Error;

use super::other_protocol::OtherProtocol;

/// A fault of the client on its connection: the connection is closed, and all its requests are aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// A header has a version other than 1.
    #[error("peer sent a record of version {0}, not 1")]
    BadVersion(u8),
    /// The connection began with another protocol.
    #[error("peer speaks {0}, not FastCGI")]
    OtherProtocol(OtherProtocol),
    /// BEGIN_REQUEST with id 0, which stands for the connection itself.
    #[error("peer began a request with id 0")]
    BeginWithoutId,
    /// BEGIN_REQUEST with a body of this many bytes in place of 8.
    #[error("peer sent a BEGIN_REQUEST body of {0} bytes, not 8")]
    BeginLength(u16),
    /// BEGIN_REQUEST with an id that is in use.
    #[error("peer began request {0}, which has not ended")]
    BeginActive(u16),
    /// GET_VALUES of more bytes than the server's own names could ever need.
    #[error("peer sent GET_VALUES of {0} bytes")]
    GetValuesLength(u16),
    /// A length in GET_VALUES goes past its end.
    #[error("peer sent GET_VALUES with a length past its end")]
    GetValuesTruncated,
    /// Too many records that belong to no request, or are of no use in theirs.
    #[error("peer sent more than {limit} records to be ignored")]
    TooManyIgnored {
        /// The limit, in records.
        limit: usize,
    },
}
