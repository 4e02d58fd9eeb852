//! A request on its way through the gateway, and the name it has in every log. [`Request::finish`] tells the journal how it ended.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;

use crate::cgi::{TRACEPARENT, TraceId, Variables};
use crate::fastcgi::Role;
use crate::gateway::response::Response;
use crate::gateway::telemetry::journal::Journal;
use crate::gateway::telemetry::request_line::RequestLine;
use crate::os::random;
use crate::proto::body::Body;
use crate::proto::memory::{For, Memory, Share};
use crate::proto::request_end::{End, Ended, Handed, Named, Refused};

/// How long after a 503 a client may try again: `Retry-After`.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The longest `X-Request-Id` that is taken over: a UUID has 36 characters, a W3C trace parent 55.
const MAX_REQUEST_ID: usize = 64;

/// For the application: the trace that the request belongs to.
const TRACE_ID: &[u8] = b"nibiru.trace_id";

/// One request: complete, but for those that are refused or left while they arrive.
#[derive(Debug)]
pub(crate) struct Request {
    /// From the proxy where it is sane, else generated; in the logs, and `nibiru.request_id` for the application.
    pub(crate) request_id: String,
    /// Of the client's or proxy's `traceparent`, where that is valid; in the logs, and `nibiru.trace_id` for the application.
    pub(crate) trace_id: Option<TraceId>,
    pub(crate) variables: Variables,
    pub(crate) body: Body,
    pub(crate) role: Role,
    /// What a Filter is to change.
    pub(crate) data: Option<Body>,
    pub(crate) response: Response,
    /// When it was complete, or refused.
    pub(crate) came: Instant,
    /// How long its client had waited at the proxy before, as far as that is known.
    pub(crate) head_start: Duration,
    /// Whether all of it has come.
    pub(crate) complete: bool,
    /// Which worker has it.
    pub(crate) handed: Option<Handed>,
    /// Its part of the memory.
    pub(crate) share: Share,
    /// Why the gateway answers it.
    pub(crate) refused: Option<Refused>,
    journal: Option<Rc<Journal>>,
    end: EndDue,
}

/// Asserts, where a request is dropped, that it was finished.
#[derive(Debug)]
struct EndDue;

impl Drop for EndDue {
    fn drop(&mut self) {
        debug_assert!(std::thread::panicking(), "a request was dropped and not finished");
    }
}

impl Request {
    /// A complete one, for a Responder.
    pub(crate) fn new(
        mut variables: Variables,
        body: Body,
        response: Response,
        memory: &Arc<Memory>,
        journal: &Rc<Journal>,
    ) -> Box<Self> {
        let (mut given, mut trace_id) = (None, None);
        for (name, value) in &variables {
            match name {
                b"HTTP_X_REQUEST_ID" => given = sane(value),
                TRACEPARENT => trace_id = TraceId::of_traceparent(value),
                _ => {}
            }
        }
        let request_id = given.map_or_else(generate, str::to_owned);
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
            handed: None,
            share: Share::new(memory),
            refused: None,
            journal: Some(Rc::clone(journal)),
            end: EndDue,
        })
    }

    /// One that has come in part, and of which no more is wanted.
    pub(crate) fn partial(
        variables: Variables,
        response: Response,
        memory: &Arc<Memory>,
        journal: &Rc<Journal>,
    ) -> Box<Self> {
        let mut request = Self::new(variables, Body::new(), response, memory, journal);
        request.complete = false;
        request
    }

    /// Bytes of memory that it takes.
    fn held(&self) -> usize {
        self.variables.held() + self.body.held() + self.data.as_ref().map_or(0, Body::held)
    }

    /// Takes its part of the memory. Says whether there is room for it.
    pub(crate) fn take_share(&mut self) -> bool {
        let mut bodies = std::iter::once(&self.body).chain(&self.data);
        if bodies.any(Body::is_spooled) {
            // What is left of it in memory was its connection's part a moment ago.
            self.share.set(self.held());
            return true;
        }
        // One with a body was let in before that came.
        let has_body = self.body.len() > 0 || self.data.is_some();
        self.share.resize(self.held(), if has_body { For::LetIn } else { For::New })
    }

    /// A worker has it now.
    pub(crate) fn set_handed(&mut self, handed: Handed) {
        self.handed = Some(handed);
        self.response.writer.set_assigned(Some(handed.at));
    }

    /// Its worker has not read it, and another is to have it.
    pub(crate) fn take_back(&mut self) {
        self.handed = None;
        self.response.writer.set_assigned(None);
    }

    /// For the fields of a line in the log.
    pub(crate) fn named(&self) -> Named<'_> {
        let trace_id = self.trace_id.as_ref().map(TraceId::as_str);
        Named { request: &self.request_id, trace_id }
    }

    /// Answers it in the application's place; logs why.
    pub(crate) fn refuse(self: Box<Self>, why: Refused, status: u16, message: &str) {
        self.refuse_for(why, status, message, RETRY_AFTER);
    }

    /// [`Self::refuse`], where a client that gets 503 may try again after so long.
    pub(crate) fn refuse_for(
        mut self: Box<Self>,
        why: Refused,
        status: u16,
        message: &str,
        retry_after: Duration,
    ) {
        let line = RequestLine::of(&self.variables);
        let line = (!line.is_empty()).then(|| tracing::field::display(line));
        let option = match why {
            Refused::Memory => " (--buffer-memory)",
            Refused::QueueFull => " (--queue)",
            Refused::QueueTimeout => " (--queue-timeout)",
            Refused::Overloaded => " (--queue-order)",
            Refused::Params if status == 431 => " (--max-params)",
            // The others say it themselves where there is one.
            _ => "",
        };
        if let Some(left_out) = self.journal.as_ref().and_then(|journal| journal.may_log_refusal()) {
            let Named { request, trace_id } = self.named();
            info!(request, trace_id, status, line, left_out, "request refused: {message}{option}");
        }
        self.refused = Some(why);
        let seconds = u32::try_from(retry_after.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
        self.fail(status, message, (status == 503).then_some(seconds));
    }

    /// Logs that the client went away before all of it had come, as often as refusals may be logged. A proxy that gives a
    /// request up which never becomes complete would otherwise leave no line.
    pub(crate) fn log_abort_while_arriving(&self, came: u64, after: Duration) {
        let line = RequestLine::of(&self.variables);
        let line = (!line.is_empty()).then(|| tracing::field::display(line));
        if let Some(left_out) = self.journal.as_ref().and_then(|journal| journal.may_log_refusal()) {
            let promised = self.variables.get(b"CONTENT_LENGTH").filter(|value| !value.is_empty());
            let promised = promised.map(|value| format!(" of {}", value.escape_ascii())).unwrap_or_default();
            let seconds = after.as_secs_f32();
            let Named { request, trace_id } = self.named();
            info!(
                request,
                trace_id,
                line,
                left_out,
                "request aborted by the client after {seconds:.1} s with {came}{promised} bytes of its body here"
            );
        }
    }

    /// Ends the response as a failure, and with it the request.
    pub(crate) fn fail(mut self: Box<Self>, status: u16, message: &str, retry_after: Option<u32>) {
        self.response.fail(status, message, retry_after);
        self.finish();
    }

    /// The request has ended: nobody waits for its response any more, or its client has what there is of it, or will have. The
    /// journal hears of that when the last byte is written.
    pub(crate) fn finish(self: Box<Self>) {
        let now = Instant::now();
        let done = self.handed.map(|_| now);
        let Self {
            request_id,
            trace_id,
            variables,
            response,
            came,
            complete,
            handed,
            share,
            refused,
            journal,
            end,
            ..
        } = *self;
        std::mem::forget(end);
        let Some(journal) = journal else { return };
        let end = match (response.writer.how_it_ended(), refused) {
            (End::Complete, Some(why)) => End::Refused(why),
            (end, _) => end,
        };
        let (status, bytes) = (response.writer.status(), response.writer.sent());
        let mut ended = Ended {
            request_id,
            trace_id,
            variables,
            came,
            complete,
            handed,
            done,
            status,
            bytes,
            share,
            end,
        };
        ended.share.set(ended.variables.held());
        if let Some(ended) = response.keep_until_written(ended) {
            journal.ended(&ended, now);
        }
    }

    /// Is not for the application: it counts nowhere.
    pub(crate) fn set_aside(&mut self) {
        self.journal = None;
    }
}

impl Request {
    /// How the log names it, as `name` in `lua/nibiru/core/request.lua` does: `GET /path HTTP/1.1 (request 1a2b)`. Without the
    /// secrets in its URI.
    pub(crate) fn line(&self) -> String {
        format!("{} (request {})", RequestLine::of(&self.variables), self.request_id)
    }
}

/// Takes an id that cannot harm a log line or a header.
fn sane(value: &[u8]) -> Option<&str> {
    let fits = (1..=MAX_REQUEST_ID).contains(&value.len());
    let harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(byte);
    if fits && value.iter().all(harmless) { str::from_utf8(value).ok() } else { None }
}

/// Sixteen hexadecimal digits: eight that are random per process, then a count. Unique, not secret.
fn generate() -> String {
    thread_local! {
        // Before the pool of randomness is ready (early boot) a prefix of zeros does.
        static PREFIX: u32 = u32::from_ne_bytes(random::bytes_or_zeros());
        static COUNT: Cell<u32> = const { Cell::new(0) };
    }
    COUNT.set(COUNT.get().wrapping_add(1));
    PREFIX.with(|prefix| format!("{prefix:08x}{:08x}", COUNT.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_of_the_proxy_is_kept_only_where_it_is_harmless() {
        assert_eq!(sane(b"4bf92f35-77b3_4da6.1"), Some("4bf92f35-77b3_4da6.1"));
        for bad in [&b""[..], b"a b", b"a\nb", b"\"", b"\xff", &[b'a'; 65]] {
            assert_eq!(sane(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn generated_ids_differ() {
        let (one, two) = (generate(), generate());
        assert_ne!(one, two);
        assert_eq!((one.len(), &one[..8]), (16, &two[..8]));
    }
}
