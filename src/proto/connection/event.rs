//! The interface between a connection and its driver: settings in, events out.

use std::sync::Arc;
use std::time::Duration;

use super::stream::{Assignment, IncomingRequest, StreamKey};
use crate::cgi::Variables;
use crate::fastcgi::Role;
use crate::proto::body_file::BodyFileError;
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

/// The limits and shared resources that a connection needs while it receives.
#[derive(Clone, Copy)]
pub(crate) struct Policy<'a> {
    /// Most bytes of one request body (`--max-body`).
    pub(crate) max_body: u64,
    /// The memory budget of all clients.
    pub(crate) memory: &'a Memory,
    /// The budget of spool files.
    pub(crate) space: &'a Arc<Space>,
    /// Spare buffers for bodies that go to files.
    pub(crate) buffers: &'a Buffers,
    /// Whether the body of any connection is being written to a file, which will free memory.
    pub(crate) spooling: bool,
    /// The parameter with the path of the proxy's file that has the body (`--body-file-param`).
    pub(crate) body_file_param: Option<&'a [u8]>,
    /// Whether the gateway itself answers a request with these variables: for its health or status.
    pub(crate) is_own: &'a dyn Fn(&Variables, Role) -> bool,
}

/// An event for the driver. Events are handled in order.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request is complete.
    Request { key: StreamKey, request: Box<IncomingRequest> },
    /// A request is rejected: the driver answers with `status`, and no worker gets it.
    Rejected { key: StreamKey, variables: Variables, why: RejectReason, status: u16, message: String },
    /// The proxy's configuration has faults: names that it repeats, and a missing PATH_INFO.
    Misconfigured { repeated: Vec<Vec<u8>>, lacks_path_info: bool },
    /// A file of the proxy's is not taken as a body. [`Self::Rejected`] follows.
    BodyFileRefused { path: Vec<u8>, error: BodyFileError },
    /// The client no longer waits for the response to a submitted request. `lost`: the reason is that the gateway lost a part of
    /// the response.
    Abandoned { assignment: Assignment, lost: bool },
    /// The client left before the parameters of a request were complete.
    AbortedBeforeParams,
    /// The client left before the bodies of a request were complete.
    AbortedWhileArriving { key: StreamKey, request: Box<IncomingRequest> },
    /// The parameters of a request took too long; the connection goes on.
    ParamsLate,
    /// A timeout of the client or of the disk closes the connection.
    Late(&'static str),
    /// Spooled bytes for the client are lost, and the connection is broken off.
    SpoolLost(String),
    /// A file of the application's cannot be sent whole, and the connection is broken off.
    FileLost(String),
    /// The client reads its response too slowly. The driver opens a file, then calls [`Connection::start_spooling`].
    Slow,
    /// The response of an ended request has been written from its file, or is lost.
    Ended(Box<EndedRequest>),
}

/// The result of [`Connection::poll_close`]: the next step of the driver with the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// None: the connection stays open.
    No,
    /// Shut the sending side. The connection stays open until its client closes it.
    ShutDownWrite,
    /// Close the socket.
    Now,
}
