//! What the server side tells its caller: events, refusals of one request, faults of a connection.

use std::{error, fmt};

use super::record::{HEADER_LENGTH, Role};
use crate::cgi::Variables;

/// Something that happened to a request. Bytes are borrowed from the input, never copied.
///
/// A request's events come in this order: `Begin`; `Params` or `Refused`; `StdinEndInDoubt` at most once; `Stdin`… `StdinEnd`; and in the
/// role Filter also `Data`… `DataEnd`. `Abort` can come at any point after `Begin`. Nothing follows
/// `Refused` or `Abort`, and nothing follows [`Server::end`](super::Server::end).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A request begins; its id is in use until it is ended.
    Begin {
        /// The request.
        id: u16,
        /// What the client wants.
        role: Role,
        /// Whether the client wants the connection kept after this request.
        keep_open: bool,
    },
    /// The meta-variables are complete. From now on there can be output.
    Params {
        /// The request.
        id: u16,
        /// All pairs as they came, duplicates included.
        variables: Variables,
    },
    /// A piece of the request body, not empty.
    Stdin {
        /// The request.
        id: u16,
        /// The piece.
        bytes: &'a [u8],
    },
    /// The request body is complete. In the role Authorizer this follows `Params` at once.
    StdinEnd {
        /// The request.
        id: u16,
    },
    /// The request body ends without a byte, or that of the request which had the same id and ended before its STDIN did.
    /// More can come: `Stdin`, and another end. Comes before any `Stdin`, and once.
    StdinEndInDoubt {
        /// The request.
        id: u16,
    },
    /// A piece of the file to filter, not empty.
    Data {
        /// The request.
        id: u16,
        /// The piece.
        bytes: &'a [u8],
    },
    /// The file to filter is complete.
    DataEnd {
        /// The request.
        id: u16,
    },
    /// The client wants no answer any more. The request is still to be ended, and soon.
    Abort {
        /// The request.
        id: u16,
    },
    /// The request cannot be served: answer with [`Refusal::status`], then end it. Comes in place of `Params`.
    Refused {
        /// The request.
        id: u16,
        /// What is wrong with it.
        refusal: Refusal,
    },
}

/// What the client did wrong in one request; only that request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A length in PARAMS goes past the end of the stream.
    Truncated,
    /// A name or value holds a NUL byte.
    Nul,
    /// PARAMS is longer than [`Limits::max_params`](super::Limits::max_params).
    TooManyBytes {
        /// The limit, in bytes.
        limit: usize,
    },
    /// PARAMS has more pairs than [`Limits::max_pairs`](super::Limits::max_pairs).
    TooManyPairs {
        /// The limit, in pairs.
        limit: usize,
    },
    /// STDIN or DATA came before the end of PARAMS.
    EarlyBody,
    /// As many requests share the connection as may: [`Limits::max_requests`](super::Limits::max_requests).
    TooManyRequests {
        /// The limit, in requests.
        limit: usize,
    },
    /// The caller had no memory for its parameters: [`Server::shed`](super::Server::shed).
    NoMemory,
}

impl Refusal {
    /// The HTTP status to answer with.
    pub fn status(self) -> u16 {
        match self {
            Self::Truncated | Self::Nul | Self::EarlyBody => 400,
            Self::TooManyBytes { .. } | Self::TooManyPairs { .. } => 431,
            Self::TooManyRequests { .. } | Self::NoMemory => 503,
        }
    }

    /// Whether the connection closes after the answer.
    ///
    /// A client that encodes wrongly is not trusted with another request. A request that is merely too
    /// large is the browser's doing, not the client's, and so is a NUL: HAProxy passes it on from a header. One too many
    /// leaves its neighbours alone.
    pub fn closes(self) -> bool {
        matches!(self, Self::Truncated | Self::EarlyBody)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => write!(f, "a length in PARAMS goes past the end of the stream"),
            Self::Nul => write!(f, "a name or value in PARAMS holds a NUL byte"),
            Self::TooManyBytes { limit } => write!(f, "PARAMS is longer than {limit} bytes"),
            Self::TooManyPairs { limit } => write!(f, "PARAMS has more than {limit} pairs"),
            Self::EarlyBody => write!(f, "the body came before the end of PARAMS"),
            Self::TooManyRequests { limit } => {
                write!(f, "{limit} requests share the connection already")
            }
            Self::NoMemory => write!(f, "no memory is left for its parameters"),
        }
    }
}

impl error::Error for Refusal {}

/// What the client did wrong on the connection: it is closed, and all its requests are aborted.
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
    /// Too many records that belong to no request or make no sense in theirs.
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

/// What a peer speaks that was configured for another kind of server, told from the first bytes of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherProtocol {
    /// HTTP, 1 or 2: `proxy_pass` in place of `fastcgi_pass`.
    Http,
    /// TLS.
    Tls,
    /// The PROXY protocol of load balancers (HAProxy's `send-proxy`).
    Proxy,
}

impl OtherProtocol {
    /// What a connection that begins so speaks, where that is known.
    pub(super) fn of(start: &[u8; HEADER_LENGTH]) -> Option<Self> {
        const HTTP: [&[u8]; 11] = [
            b"GET ",
            b"HEAD ",
            b"POST ",
            b"PUT ",
            b"DELETE ",
            b"CONNECT ",
            b"OPTIONS ",
            b"TRACE ",
            b"PATCH ",
            b"PROPFIND",
            // RFC 9113 §3.4
            b"PRI * HT",
        ];
        let begins = |with: &[u8]| start.starts_with(with);
        if HTTP.into_iter().any(begins) {
            Some(Self::Http)
        } else if begins(b"\x16\x03") {
            // RFC 8446 §5.1: a handshake record.
            Some(Self::Tls)
        } else if begins(b"PROXY ") || begins(b"\r\n\r\n\0\r\nQ") {
            Some(Self::Proxy)
        } else {
            None
        }
    }
}

impl fmt::Display for OtherProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Tls => "TLS",
            Self::Proxy => "the PROXY protocol",
        })
    }
}

/// What becomes of the connection once a request has ended and all output is written.
#[must_use = "a client that did not ask to keep the connection waits for its end"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterEnd {
    /// It stays open, for more requests or for those still running on it.
    KeepOpen,
    /// It is to be closed.
    Close,
}
