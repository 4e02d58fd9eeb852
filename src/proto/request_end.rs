//! The end of a request, in the words of the metrics, the status and the access log.

use std::time::Instant;

use crate::cgi::{TraceId, Variables};
use crate::proto::memory::Share;

/// Why the gateway itself answered a request that no worker had seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// As many requests share its connection as may.
    ConnectionFull,
    /// FastCGI's parameters are broken, or too long (`--max-params`).
    Params,
    /// The variables contradict each other, or one that is required is missing.
    Variables,
    /// The body is larger than `--max-body`.
    BodyTooLarge,
    /// The body ended before its Content-Length.
    BodyTooShort,
    /// The body came too slowly (`--body-timeout`).
    BodyTimeout,
    /// The body could not be kept (`--max-spool`, a full disk).
    Spool,
    /// Clients hold as much memory as they may (`--buffer-memory`).
    Memory,
    /// As many wait as may (`--queue`).
    QueueFull,
    /// It waited too long (`--queue-timeout`).
    QueueTimeout,
    /// It waited longest in an overloaded queue (`--queue-order adaptive`).
    Overloaded,
    /// A worker was free, but the system did not let it have the request.
    NotHanded,
    /// Workers die before they have answered anything, and the next attempt is still to come.
    Down,
}

impl Refused {
    /// All of them, in the order of a request's life. Each stands at its own place.
    pub(crate) const ALL: [Self; 13] = [
        Self::ConnectionFull,
        Self::Params,
        Self::Variables,
        Self::BodyTooLarge,
        Self::BodyTooShort,
        Self::BodyTimeout,
        Self::Spool,
        Self::Memory,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Overloaded,
        Self::NotHanded,
        Self::Down,
    ];

    /// Its name in metrics, JSON and the access log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConnectionFull => "connection_full",
            Self::Params => "params",
            Self::Variables => "variables",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTooShort => "body_too_short",
            Self::BodyTimeout => "body_timeout",
            Self::Spool => "spool",
            Self::Memory => "memory",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Overloaded => "overloaded",
            Self::NotHanded => "not_handed",
            Self::Down => "down",
        }
    }
}

/// How a request ended, as far as the gateway can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With a whole answer, whatever its status.
    Complete,
    /// Its client went away first.
    Aborted,
    /// Its answer could not be completed after the head was sent.
    Broken,
    /// With the gateway's own answer, and no worker has seen it.
    Refused(Refused),
}

impl End {
    /// Its name in the access log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Aborted => "aborted",
            Self::Broken => "broken",
            Self::Refused(why) => why.name(),
        }
    }
}

/// That a worker was given a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Handed {
    pub(crate) at: Instant,
    pub(crate) worker: u32,
    pub(crate) generation: u32,
}

/// How the log's fields call a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    pub(crate) request: &'a str,
    pub(crate) trace_id: Option<&'a str>,
}

/// A request that has ended: everything that the metrics and the access log say of it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) request_id: String,
    pub(crate) trace_id: Option<TraceId>,
    pub(crate) variables: Variables,
    /// When the request was complete, or rejected.
    pub(crate) came: Instant,
    /// Whether all of it had come.
    pub(crate) complete: bool,
    /// The worker that had it.
    pub(crate) handed: Option<Handed>,
    /// When its worker was done with it; none where no worker was.
    pub(crate) done: Option<Instant>,
    /// The status that was sent.
    pub(crate) status: Option<u16>,
    /// Bytes of the body that was sent.
    pub(crate) bytes: u64,
    /// The part of the memory that the request still takes.
    pub(crate) share: Share,
    /// How the request ended.
    pub(crate) end: End,
}

impl Ended {
    /// The client has gone before it had the response.
    pub(crate) fn abort(&mut self) {
        if self.end != End::Broken {
            self.end = End::Aborted;
        }
    }

    /// The response could not be delivered whole.
    pub(crate) fn break_off(&mut self) {
        self.end = End::Broken;
    }

    /// For the fields of a line in the log.
    pub(crate) fn named(&self) -> Named<'_> {
        let trace_id = self.trace_id.as_ref().map(TraceId::as_str);
        Named { request: &self.request_id, trace_id }
    }
}
