//! The response to one request on its way to its client: [`super::response`] says what may be sent, [`Sink`] frames it.
//!
//! Every failure before the head is a whole response with a 5xx status; every failure after it leaves a response that no
//! client takes for complete. The writer remembers what it has sent, for the metrics.

use std::time::Instant;

use super::request_end::RequestEnd;
use super::response::{Failure, Part, ProtocolViolation, ResponseState};
use super::server_timing::ServerTiming;
use crate::cgi::{ProxyHeaders, response};

/// The sending side of one request on its connection.
pub trait Sink {
    /// Whether the client still waits for the response.
    fn is_open(&self) -> bool;
    /// Sends response bytes.
    fn stdout(&mut self, bytes: &[u8]);
    /// Sends bytes for the client's error log.
    fn stderr(&mut self, bytes: &[u8]);
    /// Ends the response, which is complete. Gives how many bytes the connection will have written when the client has the end,
    /// where that waits in a file.
    fn end(&mut self, now: Instant) -> Option<u64>;
    /// Leaves the response without an end that looks complete.
    fn break_off(&mut self, message: &str, now: Instant);
}

/// The response to one request.
#[derive(Debug)]
pub struct ResponseWriter {
    state: ResponseState,
    /// A head that waits for the bytes that follow it, where [`Self::hold_head`] asked for that.
    held: Option<Vec<u8>>,
    /// For a head that is to say where the time went.
    timing: Option<ServerTiming>,
    /// The status of the head that was sent.
    status: Option<u16>,
    /// Bytes of body that were sent.
    sent: u64,
    /// Where the end of a complete response waits in a file: see [`Sink::end`].
    end_in_file: Option<u64>,
    broken: bool,
    /// The client was told the end, or the break.
    told: bool,
}

/// The sending side of a request whose connection may be gone.
impl<S: Sink> Sink for Option<S> {
    fn is_open(&self) -> bool {
        self.as_ref().is_some_and(Sink::is_open)
    }

    fn stdout(&mut self, bytes: &[u8]) {
        if let Some(sink) = self {
            sink.stdout(bytes);
        }
    }

    fn stderr(&mut self, bytes: &[u8]) {
        if let Some(sink) = self {
            sink.stderr(bytes);
        }
    }

    fn end(&mut self, now: Instant) -> Option<u64> {
        self.as_mut().and_then(|sink| sink.end(now))
    }

    fn break_off(&mut self, message: &str, now: Instant) {
        if let Some(sink) = self {
            sink.break_off(message, now);
        }
    }
}

impl ResponseWriter {
    /// A response of which nothing is sent. `head_request`: its head may promise a body, and no body follows.
    pub fn new(head_request: bool) -> Self {
        Self {
            state: ResponseState::new(head_request),
            held: None,
            timing: None,
            status: None,
            sent: 0,
            end_in_file: None,
            broken: false,
            told: false,
        }
    }

    /// Sends no head before the body or the end that follows it; for an Authorizer. Its consent is no head that something
    /// can go wrong after, and Apache takes of a denial's body only the bytes that are in one record with the head.
    pub fn hold_head(&mut self) {
        self.held = Some(Vec::new());
    }

    /// Has the head tell where the time of the request, complete since `came`, went.
    pub(crate) fn tell_timing(&mut self, came: Instant) {
        self.timing = Some(ServerTiming::new(came));
    }

    /// A worker has the request since `at`, or does not have it any more.
    pub(crate) fn set_assigned(&mut self, at: Option<Instant>) {
        if let Some(timing) = &mut self.timing {
            timing.set_assigned(at);
        }
    }

    /// Sends the head: a CGI header block, as the worker wrote it.
    ///
    /// # Errors
    /// When the rules of a response forbid it.
    pub fn head(
        &mut self,
        block: &[u8],
        allowed: &ProxyHeaders,
        sink: &mut impl Sink,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), ProtocolViolation> {
        if let Part::Send(status) = self.state.head(block, allowed)? {
            self.put_head(status, block, sink, now);
        }
        Ok(())
    }

    /// Sends a piece of the body.
    ///
    /// # Errors
    /// When the rules of a response forbid it.
    pub fn body(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), ProtocolViolation> {
        if let Part::Send(()) = self.state.body(bytes.len())? {
            self.put_body(bytes, sink);
        }
        Ok(())
    }

    /// Ends a complete response.
    ///
    /// # Errors
    /// When it falls short of its promise, and is to be broken off.
    pub fn end(&mut self, sink: &mut impl Sink, now: Instant) -> Result<(), ProtocolViolation> {
        if let Part::Send(()) = self.state.end()? {
            self.let_go(sink);
            if sink.is_open() {
                self.end_in_file = sink.end(now);
                self.told = true;
            }
        }
        Ok(())
    }

    /// Ends the response as a failure: with a whole `status` response where nothing is sent yet, by breaking it off where the
    /// client still waits for bytes. A response that has kept its promise stands. What the worker still says is dropped.
    pub fn fail(
        &mut self,
        status: u16,
        message: &str,
        retry_after: Option<u32>,
        sink: &mut impl Sink,
        now: Instant,
    ) {
        // A head that is held has not been sent.
        let unsent = self.held.as_mut().is_some_and(|held| !std::mem::take(held).is_empty());
        let failure = self.state.fail(unsent);
        if !sink.is_open() {
            return;
        }
        self.told |= failure != Failure::None;
        match failure {
            Failure::Whole { body } => {
                let response = response::failure(status, message, retry_after);
                let (head, bytes) = response::split_failure(&response);
                self.put_head(status, head, sink, || now);
                if body {
                    self.put_body(bytes, sink);
                }
                self.let_go(sink);
                sink.end(now);
            }
            // Breaking the transfer now would reach some clients and not others.
            Failure::Stands => self.end_in_file = sink.end(now),
            Failure::BreakOff => {
                self.broken = true;
                sink.break_off(message, now);
            }
            Failure::None => {}
        }
    }

    /// Sends a message that belongs to no response, as FastCGI's STDERR, with a line end of its own.
    pub fn stderr(&self, message: &[u8], sink: &mut impl Sink) {
        if !self.state.is_over() && sink.is_open() {
            sink.stderr(&[message, b"\n"].concat());
        }
    }

    fn put_head(&mut self, status: u16, block: &[u8], sink: &mut impl Sink, now: impl FnOnce() -> Instant) {
        if sink.is_open() {
            self.status = Some(status);
            let timed = self.timing.map(|timing| [timing.field(now()).as_bytes(), block].concat());
            let block = timed.as_deref().unwrap_or(block);
            match &mut self.held {
                Some(held) => held.extend_from_slice(block),
                None => sink.stdout(block),
            }
        }
    }

    fn put_body(&mut self, bytes: &[u8], sink: &mut impl Sink) {
        if sink.is_open() {
            self.sent += bytes.len() as u64;
            match &mut self.held {
                Some(held) if !held.is_empty() => {
                    held.extend_from_slice(bytes);
                    self.let_go(sink);
                }
                _ => sink.stdout(bytes),
            }
        }
    }

    /// Sends the bytes that were held.
    fn let_go(&mut self, sink: &mut impl Sink) {
        if let Some(held) = &mut self.held
            && sink.is_open()
        {
            sink.stdout(held);
            held.clear();
        }
    }

    /// A part of the response that was handed to the connection is lost.
    pub(crate) fn lose(&mut self) {
        self.broken = true;
    }

    // How it ended.

    /// Where the end of the complete response waits in a file: see [`Sink::end`].
    pub(crate) fn end_in_file(&self) -> Option<u64> {
        self.end_in_file
    }

    /// The status that was sent.
    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }

    /// Bytes of body that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether the client was told the end, or the break.
    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    /// Whether the response has ended, well or not.
    pub fn is_over(&self) -> bool {
        self.state.is_over()
    }

    /// How the request ended. A client that leaves once it has everything aborts nothing.
    pub(crate) fn how_it_ended(&self) -> RequestEnd {
        match (self.broken, self.told) {
            (true, _) => RequestEnd::Broken,
            (false, false) => RequestEnd::Aborted,
            (false, true) => RequestEnd::Complete,
        }
    }
}
