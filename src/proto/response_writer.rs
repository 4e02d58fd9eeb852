//! The writer of the response to one request: [`super::response`] checks its parts, [`Sink`] frames them.
//!
//! A failure before the head becomes a whole response with a 5xx status. A failure after it leaves a response that no client takes
//! for complete. The writer counts the sent bytes, for the metrics.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use super::request_end::RequestEnd;
use super::response::{Failure, Part, ProtocolViolation, ResponseState};
use super::server_timing::ServerTiming;
use super::space::Claim;
use crate::cgi::{ProxyHeaders, response};

/// A part of a file that is the rest of a response.
#[derive(Debug)]
pub struct FilePart {
    pub(crate) file: File,
    /// The claim on a descriptor.
    pub(crate) claim: Arc<Claim>,
    pub(crate) offset: u64,
    /// Bytes, at least one.
    pub(crate) length: u64,
}

/// The position at which a response has been written to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseEnd(pub(crate) EndPosition);

/// See [`ResponseEnd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndPosition {
    /// So many bytes of the send buffer are written.
    At(u64),
    /// The file of this stream, by its number on the connection, and the end after it, are written.
    AfterFile(u64),
}

/// The sending side of one request on its connection.
pub trait Sink {
    /// Whether the client still waits for the response.
    fn is_open(&self) -> bool;
    /// Sends response bytes.
    fn stdout(&mut self, bytes: &[u8]);
    /// Sends a part of a file, after which no more bytes of the response come.
    fn file(&mut self, part: FilePart);
    /// Sends bytes for the client's error log.
    fn stderr(&mut self, bytes: &[u8]);
    /// Ends a complete response. If its end waits for a file, returns the position at which it is sent.
    fn end(&mut self, now: Instant) -> Option<ResponseEnd>;
    /// Sends the last response bytes of a complete response, and ends it: [`Self::stdout`] and [`Self::end`] at once.
    fn stdout_and_end(&mut self, bytes: &[u8], now: Instant) -> Option<ResponseEnd> {
        self.stdout(bytes);
        self.end(now)
    }
    /// Breaks off the response, so that it does not look complete.
    fn break_off(&mut self, message: &str, now: Instant);
}

/// The response to one request.
#[derive(Debug)]
pub struct ResponseWriter {
    state: ResponseState,
    /// A held head, which is sent with the bytes after it: see [`Self::hold_head`].
    held: Option<Vec<u8>>,
    /// The times for the Server-Timing header.
    timing: Option<ServerTiming>,
    /// The status that was sent.
    status: Option<u16>,
    /// Bytes of body that were sent.
    sent: u64,
    /// The position of an end that waits for a file: see [`Sink::end`].
    end_in_file: Option<ResponseEnd>,
    broken: bool,
    /// Whether the end or the break was sent.
    end_sent: bool,
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

    fn file(&mut self, part: FilePart) {
        if let Some(sink) = self {
            sink.file(part);
        }
    }

    fn stderr(&mut self, bytes: &[u8]) {
        if let Some(sink) = self {
            sink.stderr(bytes);
        }
    }

    fn end(&mut self, now: Instant) -> Option<ResponseEnd> {
        self.as_mut().and_then(|sink| sink.end(now))
    }

    fn stdout_and_end(&mut self, bytes: &[u8], now: Instant) -> Option<ResponseEnd> {
        self.as_mut().and_then(|sink| sink.stdout_and_end(bytes, now))
    }

    fn break_off(&mut self, message: &str, now: Instant) {
        if let Some(sink) = self {
            sink.break_off(message, now);
        }
    }
}

impl ResponseWriter {
    /// A response without a sent byte. `head_request`: its head may promise a body, and no body follows.
    pub fn new(head_request: bool) -> Self {
        Self {
            state: ResponseState::new(head_request),
            held: None,
            timing: None,
            status: None,
            sent: 0,
            end_in_file: None,
            broken: false,
            end_sent: false,
        }
    }

    /// Holds the head until body or end follow, for an Authorizer. A grant must not be followed by a failure, and Apache takes only
    /// those bytes of a denial's body that are in one record with the head.
    pub fn hold_head(&mut self) {
        self.held = Some(Vec::new());
    }

    /// Adds a Server-Timing header for a request that was complete at `came`.
    pub(crate) fn add_server_timing(&mut self, came: Instant) {
        self.timing = Some(ServerTiming::new(came));
    }

    /// Sets the time of the dispatch to a worker; `None` after a failed one.
    pub(crate) fn set_assigned(&mut self, at: Option<Instant>) {
        if let Some(timing) = &mut self.timing {
            timing.set_assigned(at);
        }
    }

    /// Sends the head: a CGI header block as written by the worker.
    ///
    /// # Errors
    /// If the rules of a response forbid it.
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
    /// If the rules of a response forbid it.
    pub fn body(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<(), ProtocolViolation> {
        if let Part::Send(()) = self.state.body(bytes.len())? {
            self.put_body(bytes, sink);
        }
        Ok(())
    }

    /// Sends the rest of the body from a file.
    ///
    /// # Errors
    /// If the rules of a response forbid it.
    pub(crate) fn file(&mut self, part: FilePart, sink: &mut impl Sink) -> Result<(), ProtocolViolation> {
        if let Part::Send(()) = self.state.file(part.length)? {
            self.release(sink);
            if sink.is_open() {
                self.sent += part.length;
                sink.file(part);
            }
        }
        Ok(())
    }

    /// Ends a complete response.
    ///
    /// # Errors
    /// If the body is shorter than promised. The caller then fails the response.
    pub fn end(&mut self, sink: &mut impl Sink, now: Instant) -> Result<(), ProtocolViolation> {
        if let Part::Send(()) = self.state.end()? {
            self.release(sink);
            if sink.is_open() {
                self.end_in_file = sink.end(now);
                self.end_sent = true;
            }
        }
        Ok(())
    }

    /// Sends the last piece of the body and ends the complete response: [`Self::body`] and [`Self::end`] at once.
    ///
    /// # Errors
    /// As theirs.
    pub(crate) fn body_and_end(
        &mut self,
        bytes: &[u8],
        sink: &mut impl Sink,
        now: Instant,
    ) -> Result<(), ProtocolViolation> {
        let mut ended = self.state.clone();
        let whole = ended.body(bytes.len()) == Ok(Part::Send(())) && ended.end() == Ok(Part::Send(()));
        if !whole || self.held.is_some() || !sink.is_open() {
            self.body(bytes, sink)?;
            return self.end(sink, now);
        }
        self.state = ended;
        self.sent += bytes.len() as u64;
        self.end_in_file = sink.stdout_and_end(bytes, now);
        self.end_sent = true;
        Ok(())
    }

    /// Ends the response as a failure: with a whole `status` response if no byte is sent, with a break if the client waits for more
    /// bytes. A response with all promised bytes ends as usual. Further parts from the worker are dropped.
    pub fn fail(
        &mut self,
        status: u16,
        message: &str,
        retry_after: Option<u32>,
        sink: &mut impl Sink,
        now: Instant,
    ) {
        // A held head has not been sent.
        let unsent = self.held.as_mut().is_some_and(|held| !std::mem::take(held).is_empty());
        let failure = self.state.fail(unsent);
        if !sink.is_open() {
            return;
        }
        self.end_sent |= failure != Failure::None;
        match failure {
            Failure::Whole { body } => {
                let response = response::failure(status, message, retry_after);
                let (head, bytes) = response::split_failure(&response);
                self.put_head(status, head, sink, || now);
                if body {
                    self.put_body(bytes, sink);
                }
                self.release(sink);
                sink.end(now);
            }
            // A break now would be noticed by some clients and not by others.
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
                    self.release(sink);
                }
                _ => sink.stdout(bytes),
            }
        }
    }

    /// Sends the held bytes.
    fn release(&mut self, sink: &mut impl Sink) {
        if let Some(held) = &mut self.held
            && sink.is_open()
        {
            sink.stdout(held);
            held.clear();
        }
    }

    /// Records that the connection has lost a part of the response.
    pub(crate) fn lose(&mut self) {
        self.broken = true;
    }

    // The end.

    /// Where the end of the complete response waits for a file: see [`Sink::end`].
    pub(crate) fn end_in_file(&self) -> Option<ResponseEnd> {
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

    /// Whether the end or the break was sent.
    pub(crate) fn is_end_sent(&self) -> bool {
        self.end_sent
    }

    /// Whether the response has ended or failed.
    pub fn is_over(&self) -> bool {
        self.state.is_over()
    }

    /// The end of the request. A client that leaves after the last byte aborts nothing.
    pub(crate) fn request_end(&self) -> RequestEnd {
        match (self.broken, self.end_sent) {
            (true, _) => RequestEnd::Broken,
            (false, false) => RequestEnd::Aborted,
            (false, true) => RequestEnd::Complete,
        }
    }
}
