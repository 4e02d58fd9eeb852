//! The end of a request, in the words of the metrics, the status and the access log.

use std::time::Instant;

use crate::cgi::{TraceId, Variables};
use crate::proto::memory::Share;
use crate::proto::request_id::RequestId;

/// Reason for which the gateway answered a request that no worker had read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RejectReason {
    /// The connection is at its limit of requests at once.
    ConnectionFull,
    /// FastCGI's parameters are broken, or too long (`--max-params`).
    Params,
    /// The variables contradict each other, or a required one is missing.
    Variables,
    /// The body is larger than `--max-body`.
    BodyTooLarge,
    /// The body ended before its Content-Length.
    BodyTooShort,
    /// The body arrived too slowly (`--body-timeout`).
    BodyTimeout,
    /// The body could not be spooled (`--max-spool`, a full disk).
    Spool,
    /// The file of the proxy's with the body was not taken (`--body-file-param`).
    BodyFile,
    /// The buffer memory is used up (`--buffer-memory`).
    Memory,
    /// The queue is full (`--queue`).
    QueueFull,
    /// The request waited too long in the queue (`--queue-timeout`).
    QueueTimeout,
    /// The request had waited longest in an overloaded queue (`--queue-order adaptive`).
    Overloaded,
    /// A worker was free, but the system did not deliver the request to it.
    NotAssigned,
    /// Workers die before their first answer, and the next attempt is still to come.
    Down,
}

impl RejectReason {
    /// All reasons, in the order of a request's life. Each is at the index of its discriminant.
    pub(crate) const ALL: [Self; 14] = [
        Self::ConnectionFull,
        Self::Params,
        Self::Variables,
        Self::BodyTooLarge,
        Self::BodyTooShort,
        Self::BodyTimeout,
        Self::Spool,
        Self::BodyFile,
        Self::Memory,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Overloaded,
        Self::NotAssigned,
        Self::Down,
    ];

    /// Name of the reason in metrics, JSON and the access log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConnectionFull => "connection_full",
            Self::Params => "params",
            Self::Variables => "variables",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTooShort => "body_too_short",
            Self::BodyTimeout => "body_timeout",
            Self::Spool => "spool",
            Self::BodyFile => "body_file",
            Self::Memory => "memory",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Overloaded => "overloaded",
            Self::NotAssigned => "not_handed",
            Self::Down => "down",
        }
    }
}

/// The end of a request, as far as the gateway knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestEnd {
    /// The response is complete, whatever its status.
    Complete,
    /// The client left first.
    Aborted,
    /// The response could not be completed after its head was sent.
    Broken,
    /// The gateway answered, and no worker has read the request.
    Rejected(RejectReason),
}

impl RequestEnd {
    /// Name of the end in the access log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Aborted => "aborted",
            Self::Broken => "broken",
            Self::Rejected(why) => why.name(),
        }
    }
}

/// The dispatch of a request to a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Assigned {
    pub(crate) at: Instant,
    pub(crate) worker: u32,
    pub(crate) generation: u32,
}

/// The ids of a request for the fields of a log line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestIds<'a> {
    pub(crate) request: &'a str,
    pub(crate) trace_id: Option<&'a str>,
}

/// A request that has ended, with all facts for the metrics and the access log.
#[derive(Debug)]
pub(crate) struct EndedRequest {
    pub(crate) request_id: RequestId,
    pub(crate) trace_id: Option<TraceId>,
    pub(crate) variables: Variables,
    /// Time at which the request was complete, or refused.
    pub(crate) came: Instant,
    /// Whether the whole request had arrived.
    pub(crate) complete: bool,
    /// Dispatch to the worker; `None` if no worker had the request.
    pub(crate) assigned: Option<Assigned>,
    /// Time at which the worker was done; `None` if no worker had the request.
    pub(crate) done: Option<Instant>,
    /// Status that was sent.
    pub(crate) status: Option<u16>,
    /// Bytes of the body that were sent.
    pub(crate) bytes: u64,
    /// Share of the buffer memory that the request still holds.
    pub(crate) share: Share,
    /// End of the request.
    pub(crate) end: RequestEnd,
}

impl EndedRequest {
    /// Notes that the client left before it had the response.
    pub(crate) fn abort(&mut self) {
        if self.end != RequestEnd::Broken {
            self.end = RequestEnd::Aborted;
        }
    }

    /// Notes that the response could not be delivered whole.
    pub(crate) fn break_off(&mut self) {
        self.end = RequestEnd::Broken;
    }

    /// The ids for the fields of a log line.
    pub(crate) fn ids(&self) -> RequestIds<'_> {
        let trace_id = self.trace_id.as_ref().map(TraceId::as_str);
        RequestIds { request: &self.request_id, trace_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_a_name_of_its_own() {
        let ends = [RequestEnd::Complete, RequestEnd::Aborted, RequestEnd::Broken]
            .into_iter()
            .chain(RejectReason::ALL.map(RequestEnd::Rejected));
        let names: Vec<&str> = ends.map(RequestEnd::name).collect();
        assert!(
            names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1),
            "{names:?}"
        );
        assert_eq!(names.len(), 17);
    }
}
