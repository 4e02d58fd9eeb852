//! One FastCGI request on its connection: begun, arriving, submitted, then gone; or broken off.

use std::fmt;
use std::time::Instant;

use crate::cgi::Variables;
use crate::cgi::arrival::{Arrival, Completeness};
use crate::cgi::request::Head;
use crate::fastcgi::Role;
use crate::proto::body::Body;
use crate::proto::queue::Place;
use crate::proto::rate::MinRate;

/// The name of a stream among all that its connection ever has: a client may use an id again at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamKey {
    /// The FastCGI request id.
    pub(crate) id: u16,
    /// Streams of the connection before this one.
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
    /// The bodies are arriving, or are on their way to their files.
    Arriving(Box<IncomingRequest>),
    /// The request is in the queue, with a worker, or is being answered.
    Submitted(Assignment),
    /// The response broke off, and its client must not take the part that came for the whole.
    Broken { since: Instant },
}

/// The whereabouts of a submitted request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// The worker that has it.
    pub(crate) worker: Option<u32>,
    /// Its place in the queue, from when it is submitted.
    pub(crate) place: Option<Place>,
}

impl StreamState {
    /// Bytes of memory that an incomplete request takes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Arriving(request) => request.head.variables.held() + request.held(),
            _ => 0,
        }
    }

    /// Bytes of memory that its bodies take.
    pub(super) fn body_bytes(&self) -> usize {
        match self {
            Self::Arriving(request) => request.held(),
            _ => 0,
        }
    }

    /// Whether more of the request has to come.
    pub(super) fn is_incomplete(&self) -> bool {
        match self {
            Self::Begun { .. } => true,
            Self::Arriving(request) => !request.is_complete(),
            Self::Submitted(_) | Self::Broken { .. } => false,
        }
    }
}

/// A request whose parameters are complete and whose bodies are not, or not all in their files.
#[derive(Debug)]
pub(crate) struct IncomingRequest {
    pub(crate) head: Head,
    pub(crate) role: Role,
    pub(super) stdin: Incoming,
    /// Of a Filter.
    pub(super) data: Option<Box<Incoming>>,
    /// When the parameters were complete.
    pub(crate) since: Instant,
    /// The promised body is larger than `--max-body`. It is refused with its first byte, or soon: the proxy may keep the body
    /// to itself, as nginx does for the page of an `error_page`.
    pub(super) too_large: bool,
    pub(super) rate: MinRate,
}

/// STDIN or DATA.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) arrival: Arrival,
    pub(super) body: Body,
}

/// The name of a body.
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

    /// Since when bytes have been on their way to a file.
    pub(super) fn writing_since(&self) -> Option<Instant> {
        self.all().filter_map(|incoming| incoming.body.writing_since()).min()
    }

    /// Whether nothing more is read until bytes have been written.
    pub(super) fn is_full(&self) -> bool {
        self.all().any(|incoming| incoming.body.is_full())
    }

    /// Bytes of memory that the bodies take.
    pub(super) fn held(&self) -> usize {
        self.all().map(|incoming| incoming.body.held()).sum()
    }

    /// Bytes of the bodies so far.
    pub(crate) fn len(&self) -> u64 {
        self.all().map(|incoming| incoming.body.len()).sum()
    }

    /// Whether the last byte has come; a part may still be on its way to its file.
    pub(super) fn is_complete(&self) -> bool {
        self.all().all(|incoming| {
            matches!(incoming.arrival.completeness(), Completeness::Complete | Completeness::Withheld { .. })
        })
    }

    /// Whether the last byte has come and all of them are where they stay.
    pub(super) fn is_kept(&self) -> bool {
        self.all().all(|incoming| incoming.body.is_kept())
    }

    /// The variables, the body, and a Filter's data.
    pub(crate) fn into_parts(self) -> (Variables, Body, Option<Body>) {
        (self.head.variables, self.stdin.body, self.data.map(|data| data.body))
    }
}
