//! The limits of one connection, each with the reason for its default.

/// The limits of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of PARAMS in one request; more is answered with 431.
    pub max_params: usize,
    /// Pairs of PARAMS in one request; more is answered with 431.
    pub max_pairs: usize,
    /// Requests at a time on this connection; one more is answered with 503.
    pub max_requests: usize,
    /// Records in a row, without a request that begins among them, that are ignored.
    pub max_ignored: usize,
    /// Answer to FCGI_MAX_CONNS: connections that the whole server takes.
    pub server_connections: usize,
    /// Requests at a time that the whole server takes: FCGI_MAX_REQS, unless one connection takes fewer.
    pub server_requests: usize,
}

/// Bytes of PARAMS in one request. nginx takes 32 KiB of request headers unless told otherwise, Apache 100 fields of 8 KiB. Four
/// times nginx's limit leaves room for the variables that the proxy adds.
pub const MAX_PARAMS: usize = 128 * 1024;

/// Pairs of PARAMS in one request. Apache takes 100 header fields, Go 1 MiB of them; a proxy adds some 30 variables of its own.
pub const MAX_PAIRS: usize = 1024;

/// Requests at a time on one connection. With [`MAX_PARAMS`] this bounds the memory that one client can take: 8 MiB.
pub const MAX_REQUESTS: usize = 64;

/// Requests beyond [`Limits::max_requests`] that wait for the end of their PARAMS to be answered with 503. The next one
/// is OVERLOADED at once, for which HAProxy gives the whole connection up. Each costs less than 100 bytes.
pub const MAX_REFUSED: usize = 64;

/// Ignored records in a row. Where a response comes before the body has been read, the rest of the body arrives for a request
/// that has ended. 4096 records of 8 KiB, as Apache sends them, are 32 MiB: more than the buffers between any
/// two processes hold. No content is kept, and the record format bounds it at 256 MiB.
pub const MAX_IGNORED: usize = 4096;

/// The answer to FCGI_MAX_CONNS and FCGI_MAX_REQS for a caller that sets none.
const SERVER_CONNECTIONS: usize = 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_params: MAX_PARAMS,
            max_pairs: MAX_PAIRS,
            max_requests: MAX_REQUESTS,
            max_ignored: MAX_IGNORED,
            server_connections: SERVER_CONNECTIONS,
            server_requests: SERVER_CONNECTIONS,
        }
    }
}
