//! A request on its way through the gateway, with its id in every log. [`Request::finish`] reports its end to the metrics.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use crate::cgi::{TRACEPARENT, TraceId, Variables};
use crate::fastcgi::Role;
use crate::gateway::response::Response;
use crate::gateway::telemetry::metrics::Metrics;
use crate::gateway::telemetry::request_line::RequestLine;
use crate::log::Span;
use crate::os::random;
use crate::proto::body::Body;
use crate::proto::memory::{Memory, Purpose, Share};
use crate::proto::request_end::{Assigned, EndedRequest, RejectReason, RequestEnd, RequestIds};
use crate::proto::request_id::RequestId;

/// Default of `Retry-After`, the time after a 503 at which a client may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Variable with the trace id, for the application.
const TRACE_ID: &[u8] = b"nibiru.trace_id";

/// A request. Complete, unless it was refused or abandoned while it arrived.
#[derive(Debug)]
pub(crate) struct Request {
    /// From the proxy where it is sane, else generated. In the logs, and `nibiru.request_id` for the application.
    pub(crate) request_id: RequestId,
    /// From a valid `traceparent` of the client or the proxy. In the logs, and `nibiru.trace_id` for the application.
    pub(crate) trace_id: Option<TraceId>,
    pub(crate) variables: Variables,
    pub(crate) body: Body,
    pub(crate) role: Role,
    /// Data for a Filter to change.
    pub(crate) data: Option<Body>,
    pub(crate) response: Response,
    /// Time at which the request was complete, or refused.
    pub(crate) came: Instant,
    /// Time that the client had waited at the proxy before, as far as known.
    pub(crate) head_start: Duration,
    /// Whether the whole request has arrived.
    pub(crate) complete: bool,
    /// Dispatch to a worker; `None` while the request is queued.
    pub(crate) assigned: Option<Assigned>,
    /// Whether the worker may send a file as the rest of its response.
    pub(crate) takes_file: bool,
    /// Share of the buffer memory.
    pub(crate) share: Share,
    /// Reason for which the gateway answers in the application's place.
    pub(crate) rejected: Option<RejectReason>,
    metrics: Option<Rc<Metrics>>,
    end: FinishGuard,
}

/// Asserts on drop that the request was finished.
#[derive(Debug)]
struct FinishGuard;

impl Drop for FinishGuard {
    fn drop(&mut self) {
        debug_assert!(std::thread::panicking(), "a request was dropped and not finished");
    }
}

impl Request {
    /// A complete request for a Responder.
    pub(crate) fn new(
        mut variables: Variables,
        body: Body,
        response: Response,
        memory: &Arc<Memory>,
        metrics: &Rc<Metrics>,
    ) -> Box<Self> {
        let (mut given, mut trace_id) = (None, None);
        for (name, value) in &variables {
            match name {
                b"HTTP_X_REQUEST_ID" => given = RequestId::of_proxy(value),
                TRACEPARENT => trace_id = TraceId::of_traceparent(value),
                _ => {}
            }
        }
        let request_id = given.unwrap_or_else(generate);
        if let Some(trace_id) = &trace_id {
            variables.push(TRACE_ID, trace_id.as_str().as_bytes());
        }
        Box::new(Self {
            request_id,
            trace_id,
            variables,
            body,
            role: Role::Responder,
            data: None,
            response,
            came: Instant::now(),
            head_start: Duration::ZERO,
            complete: true,
            assigned: None,
            takes_file: false,
            share: Share::new(memory),
            rejected: None,
            metrics: Some(Rc::clone(metrics)),
            end: FinishGuard,
        })
    }

    /// A request that has arrived in part, and whose rest is not wanted.
    pub(crate) fn partial(
        variables: Variables,
        response: Response,
        memory: &Arc<Memory>,
        metrics: &Rc<Metrics>,
    ) -> Box<Self> {
        let mut request = Self::new(variables, Body::new(), response, memory, metrics);
        request.complete = false;
        request
    }

    /// Bytes of memory that the request holds.
    fn held(&self) -> usize {
        self.variables.held() + self.body.held() + self.data.as_ref().map_or(0, Body::held)
    }

    /// Charges the request to the buffer memory. Returns whether there is room.
    pub(crate) fn take_share(&mut self) -> bool {
        let mut bodies = std::iter::once(&self.body).chain(&self.data);
        if bodies.any(Body::is_spooled) {
            // The part still in memory was charged to the connection before.
            self.share.set(self.held());
            return true;
        }
        // A request with a body was admitted before the body came.
        let has_body = self.body.len() > 0 || self.data.is_some();
        self.share.resize(self.held(), if has_body { Purpose::Admitted } else { Purpose::NewRequest })
    }

    /// Notes the dispatch to a worker.
    pub(crate) fn set_assigned(&mut self, assigned: Assigned) {
        self.assigned = Some(assigned);
        self.response.writer.set_assigned(Some(assigned.at));
    }

    /// Notes that the worker has not read the request, which goes to another worker.
    pub(crate) fn take_back(&mut self) {
        self.assigned = None;
        self.response.writer.set_assigned(None);
    }

    /// The ids for the fields of a log line.
    pub(crate) fn ids(&self) -> RequestIds<'_> {
        let trace_id = self.trace_id.as_ref().map(TraceId::as_str);
        RequestIds { request: &self.request_id, trace_id }
    }

    /// Answers in the application's place, and logs the reason.
    pub(crate) fn reject(self: Box<Self>, why: RejectReason, status: u16, message: &str) {
        self.reject_for(why, status, message, RETRY_AFTER);
    }

    /// Like [`Self::reject`], with `retry_after` as the `Retry-After` of a 503.
    pub(crate) fn reject_for(
        mut self: Box<Self>,
        why: RejectReason,
        status: u16,
        message: &str,
        retry_after: Duration,
    ) {
        let line = RequestLine::of(&self.variables);
        let line = (!line.is_empty()).then(|| tracing::field::display(line));
        let option = match why {
            RejectReason::Memory => " (--buffer-memory)",
            RejectReason::QueueFull => " (--queue)",
            RejectReason::QueueTimeout => " (--queue-timeout)",
            RejectReason::Overloaded => " (--queue-order)",
            RejectReason::BodyFile => " (--body-file-param)",
            RejectReason::Params if status == 431 => " (--max-params)",
            // The other messages name their option, if there is one.
            _ => "",
        };
        if let Some(left_out) = self.metrics.as_ref().and_then(|metrics| metrics.may_log_refusal()) {
            let RequestIds { request, trace_id } = self.ids();
            info!(request, trace_id, status, line, left_out, "request refused: {message}{option}");
        }
        self.rejected = Some(why);
        let seconds = u32::try_from(retry_after.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        self.fail(status, message, (status == 503).then_some(seconds));
    }

    /// Logs that the client left before the whole request had arrived, rate-limited like refusals. Without this line, a proxy
    /// that gives up on a request would leave no trace in the log.
    pub(crate) fn log_abort_while_arriving(&self, came: u64, after: Duration) {
        let line = RequestLine::of(&self.variables);
        let line = (!line.is_empty()).then(|| tracing::field::display(line));
        if let Some(left_out) = self.metrics.as_ref().and_then(|metrics| metrics.may_log_refusal()) {
            let promised = self.variables.get(b"CONTENT_LENGTH").filter(|value| !value.is_empty());
            let promised = promised.map(|value| format!(" of {}", value.escape_ascii())).unwrap_or_default();
            let after = Span::from(after);
            let RequestIds { request, trace_id } = self.ids();
            info!(
                request,
                trace_id,
                line,
                left_out,
                "request aborted by the client after {after} with {came}{promised} bytes of its body here"
            );
        }
    }

    /// Ends the response, and with it the request, as a failure.
    pub(crate) fn fail(mut self: Box<Self>, status: u16, message: &str, retry_after: Option<u32>) {
        self.response.fail(status, message, retry_after);
        self.finish();
    }

    /// Ends the request: its response is complete, on its way to the client, or not wanted any more. The metrics hears of a
    /// response in a file when its last byte is written.
    pub(crate) fn finish(self: Box<Self>) {
        let now = Instant::now();
        self.finish_at(now, now);
    }

    /// Like [`Self::finish`], for a request that the worker was done with at `ended_at`.
    pub(crate) fn finish_at(self: Box<Self>, ended_at: Instant, now: Instant) {
        let done = self.assigned.map(|_| ended_at);
        let Self {
            request_id,
            trace_id,
            variables,
            response,
            came,
            complete,
            assigned,
            share,
            rejected,
            metrics,
            end,
            ..
        } = *self;
        std::mem::forget(end);
        let Some(metrics) = metrics else { return };
        let end = match (response.writer.request_end(), rejected) {
            (RequestEnd::Complete, Some(why)) => RequestEnd::Rejected(why),
            (end, _) => end,
        };
        let (status, bytes) = (response.writer.status(), response.writer.sent());
        let mut ended = EndedRequest {
            request_id,
            trace_id,
            variables,
            came,
            complete,
            assigned,
            done,
            status,
            bytes,
            share,
            end,
        };
        ended.share.set(ended.variables.held());
        if let Some(ended) = response.keep_until_written(ended) {
            metrics.ended(&ended, now);
        }
    }

    /// Excludes the request from all counts, because it is not for the application.
    pub(crate) fn set_aside(&mut self) {
        self.metrics = None;
    }
}

impl Request {
    /// The request line with the id, as the log has it: `GET /path HTTP/1.1 (request 1a2b)`. Secrets in the URI are redacted.
    /// Same as `name` in `lua/nibiru/core/request.lua`.
    pub(crate) fn line(&self) -> String {
        format!("{} (request {})", RequestLine::of(&self.variables), self.request_id)
    }
}

/// A request id of sixteen hexadecimal digits: eight that are random per process, then a count. Unique, not secret.
fn generate() -> RequestId {
    thread_local! {
        // At early boot, without randomness, a prefix of zeros suffices.
        static PREFIX: u32 = u32::from_ne_bytes(random::bytes_or_zeros());
        static COUNT: Cell<u32> = const { Cell::new(0) };
    }
    COUNT.set(COUNT.get().wrapping_add(1));
    PREFIX.with(|prefix| RequestId::of_number(u64::from(*prefix) << u32::BITS | u64::from(COUNT.get())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_differ() {
        let (one, two) = (generate(), generate());
        assert_ne!(one, two);
        assert_eq!((one.len(), &one[..8]), (16, &two[..8]));
    }
}
