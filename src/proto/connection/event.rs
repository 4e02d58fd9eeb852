//! The words between a connection and its driver.

use std::sync::Arc;
use std::time::Duration;

use super::stream::{Assignment, IncomingRequest, StreamKey};
use crate::cgi::Variables;
use crate::fastcgi::Role;
use crate::proto::memory::Memory;
use crate::proto::request_end::{EndedRequest, RejectReason};
use crate::proto::space::{Buffers, Space};

/// The time limits from the settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// `--header-timeout`
    pub(crate) header: Duration,
    /// `--body-timeout`
    pub(crate) body: Duration,
    /// `--send-timeout`
    pub(crate) send: Duration,
}

/// What a connection has to know of the rest of the server while it takes input.
#[derive(Clone, Copy)]
pub(crate) struct Policy<'a> {
    /// Bytes of one request body (`--max-body`).
    pub(crate) max_body: u64,
    /// The memory of all clients.
    pub(crate) memory: &'a Memory,
    /// The room for files.
    pub(crate) space: &'a Arc<Space>,
    /// For bodies that go to files.
    pub(crate) buffers: &'a Buffers,
    /// Bodies of some connection are on their way to files, so that memory is about to be free.
    pub(crate) spooling: bool,
    /// Whether the server itself answers a request with these variables: for its health or status.
    pub(crate) is_own: &'a dyn Fn(&Variables, Role) -> bool,
}

/// What the driver is to do, in this order.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request is complete.
    Request { key: StreamKey, request: Box<IncomingRequest> },
    /// A request is to be answered with `status`, since no worker will get it.
    Rejected { key: StreamKey, variables: Variables, why: RejectReason, status: u16, message: String },
    /// The proxy's configuration has faults: names that it repeats, and a missing PATH_INFO.
    Misconfigured { repeated: Vec<Vec<u8>>, lacks_path_info: bool },
    /// The client does not wait any more for the answer to a request that was submitted. `lost`: since the server has lost a part
    /// of it.
    Abandoned { assignment: Assignment, lost: bool },
    /// The client has left before the parameters of a request had come.
    AbortedBeforeParams,
    /// The client has left before the bodies of a request had come.
    AbortedWhileArriving { key: StreamKey, request: Box<IncomingRequest> },
    /// The parameters of a request took too long; the connection goes on.
    ParamsLate,
    /// The connection is closed: its client, or the disk, has had its time.
    Late(&'static str),
    /// Bytes that were spooled for the client are lost, and the connection is broken off.
    SpoolLost(String),
    /// The client makes no room for its response: a file is to take it, then [`Connection::start_spooling`].
    Slow,
    /// A request has ended whose response waited in a file.
    Ended(Box<EndedRequest>),
}

/// What the driver does with the socket when [`Connection::poll_close`] is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// Nothing: the connection lives.
    No,
    /// Shut the sending side; the connection lives on until its client closes it.
    ShutDownWrite,
    /// Close the socket.
    Now,
}
