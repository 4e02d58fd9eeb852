//! Refusals of one request.

use thiserror::Error;

/// The refusal of one request: the client's fault, or a limit of the server's. Only that request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A length in PARAMS goes past the end of the stream.
    #[error("a length in PARAMS goes past the end of the stream")]
    Truncated,
    /// A name or value holds a NUL byte.
    #[error("a name or value in PARAMS holds a NUL byte")]
    Nul,
    /// PARAMS is longer than [`Limits::max_params`](super::Limits::max_params).
    #[error("PARAMS is longer than {limit} bytes")]
    TooManyBytes {
        /// The limit, in bytes.
        limit: usize,
    },
    /// PARAMS has more pairs than [`Limits::max_pairs`](super::Limits::max_pairs).
    #[error("PARAMS has more than {limit} pairs")]
    TooManyPairs {
        /// The limit, in pairs.
        limit: usize,
    },
    /// STDIN or DATA came before the end of PARAMS.
    #[error("the body came before the end of PARAMS")]
    EarlyBody,
    /// The connection has its most requests already: [`Limits::max_requests`](super::Limits::max_requests).
    #[error("{limit} requests share the connection already")]
    TooManyRequests {
        /// The limit, in requests.
        limit: usize,
    },
    /// The caller had no memory for the request's parameters: [`Server::shed`](super::Server::shed).
    #[error("no memory is left for its parameters")]
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
    /// large is the browser's fault, not the client's, and so is a NUL: HAProxy passes it on from a header. A request too many
    /// leaves its neighbours alone.
    pub fn closes(self) -> bool {
        matches!(self, Self::Truncated | Self::EarlyBody)
    }
}
