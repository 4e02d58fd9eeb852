//! One FastCGI request on its connection. Its states: begun, arriving, submitted, removed; or broken off.

use std::fmt;
use std::time::Instant;

use crate::cgi::Variables;
use crate::cgi::arrival::{Arrival, Completeness};
use crate::cgi::request::Head;
use crate::fastcgi::Role;
use crate::proto::body::Body;
use crate::proto::queue::Place;
use crate::proto::rate::MinRate;

/// The key of a stream, unique over the life of its connection. A client may reuse an id at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamKey {
    /// The FastCGI request id.
    pub(crate) id: u16,
    /// Number of streams of the connection before this one.
    pub(super) serial: u64,
}

/// A stream of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) key: StreamKey,
    pub(super) state: StreamState,
}

/// The state of a stream.
#[derive(Debug)]
pub(super) enum StreamState {
    /// The parameters are arriving.
    Begun { since: Instant, role: Role },
    /// The bodies are arriving, or are being written to files.
    Arriving(Box<IncomingRequest>),
    /// The request is in the queue, with a worker, or is being answered.
    Submitted(Assignment),
    /// The worker is done with the response, whose file is being sent.
    Sending,
    /// The response broke off. The client must not take the sent part for the whole.
    Broken { since: Instant },
}

/// The assignment of a submitted request to the queue or a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// The worker that runs it; `None` while it waits.
    pub(crate) worker: Option<u32>,
    /// Its place in the queue, from its submission on.
    pub(crate) place: Option<Place>,
}

impl StreamState {
    /// Bytes that an incomplete request takes in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Arriving(request) => request.head.variables.held() + request.held(),
            _ => 0,
        }
    }

    /// Bytes that its bodies take in memory.
    pub(super) fn body_bytes(&self) -> usize {
        match self {
            Self::Arriving(request) => request.held(),
            _ => 0,
        }
    }

    /// Whether more of the request must arrive.
    pub(super) fn is_incomplete(&self) -> bool {
        match self {
            Self::Begun { .. } => true,
            Self::Arriving(request) => !request.is_complete(),
            Self::Submitted(_) | Self::Sending | Self::Broken { .. } => false,
        }
    }
}

/// A request with complete parameters whose bodies are incomplete, or not written to their files yet.
#[derive(Debug)]
pub(crate) struct IncomingRequest {
    pub(crate) head: Head,
    pub(crate) role: Role,
    pub(super) stdin: Incoming,
    /// The data of a Filter; `None` in other roles.
    pub(super) data: Option<Box<Incoming>>,
    /// Time at which the parameters were complete.
    pub(crate) since: Instant,
    /// Whether the promised body is larger than `--max-body`. It is rejected with its first byte, or after [`super::timers`]'s short
    /// wait: the proxy may withhold the body, as nginx does for the page of an `error_page`.
    pub(super) too_large: bool,
    pub(super) rate: MinRate,
}

/// One body: STDIN or DATA.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) arrival: Arrival,
    pub(super) body: Body,
}

/// The stream of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Stdin,
    Data,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdin => "the body",
            Self::Data => "the data to filter",
        })
    }
}

impl IncomingRequest {
    pub(super) fn from(&mut self, source: Source) -> Option<&mut Incoming> {
        match source {
            Source::Stdin => Some(&mut self.stdin),
            Source::Data => self.data.as_deref_mut(),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Incoming> {
        std::iter::once(&self.stdin).chain(self.data.as_deref())
    }

    /// Start of the oldest write to a file in progress.
    pub(super) fn writing_since(&self) -> Option<Instant> {
        self.all().filter_map(|incoming| incoming.body.writing_since()).min()
    }

    /// Whether reading pauses until bytes are written to a file.
    pub(super) fn is_full(&self) -> bool {
        self.all().any(|incoming| incoming.body.is_full())
    }

    /// Bytes that the bodies take in memory.
    pub(super) fn held(&self) -> usize {
        self.all().map(|incoming| incoming.body.held()).sum()
    }

    /// Bytes of the bodies received so far.
    pub(crate) fn len(&self) -> u64 {
        self.all().map(|incoming| incoming.body.len()).sum()
    }

    /// Whether the last byte has arrived. A write to a file may still be in progress.
    pub(super) fn is_complete(&self) -> bool {
        self.all().all(|incoming| {
            matches!(incoming.arrival.completeness(), Completeness::Complete | Completeness::Withheld { .. })
        })
    }

    /// Whether all bytes are in their final place, in memory or in a file.
    pub(super) fn is_kept(&self) -> bool {
        self.all().all(|incoming| incoming.body.is_kept())
    }

    /// The variables, the body, and a Filter's data.
    pub(crate) fn into_parts(self) -> (Variables, Body, Option<Body>) {
        (self.head.variables, self.stdin.body, self.data.map(|data| data.body))
    }
}
