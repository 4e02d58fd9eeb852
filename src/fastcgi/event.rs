//! The events of a connection: the server side's reports to its caller.

use super::refusal::Refusal;
use super::role::Role;
use crate::cgi::Variables;

/// An event of one request. Bytes are borrowed from the input, never copied.
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
        /// The role that the client asks for.
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
    /// An end of STDIN that may be this request's, whose body is empty then, or that of the previous request with the same id,
    /// which ended before its STDIN did. More can come: `Stdin`, and another end. Comes before any `Stdin`, and once.
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
        /// The reason.
        refusal: Refusal,
    },
}

/// The connection's state once a request has ended and all output is written.
#[must_use = "a client that did not ask to keep the connection waits for its end"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterEnd {
    /// The connection stays open, for more requests or for those still running on it.
    KeepOpen,
    /// The connection is to be closed.
    Close,
}
