//! The worker's side of a response: a weak handle of the client's connection, and the key of the stream on it.
//!
//! [`crate::proto::response_writer`] decides about the bytes to send. A closed connection discards all data, and keeps no request.

use std::rc::{Rc, Weak};
use std::time::Instant;

use crate::cgi::ProxyHeaders;
use crate::gateway::frontend::connection::handle::Handle;
use crate::proto::connection::{Assignment, StreamKey, StreamSink};
use crate::proto::request_end::EndedRequest;
use crate::proto::response::ProtocolViolation;
use crate::proto::response_writer::{FilePart, ResponseWriter};

/// A writer of the response to one request on its connection.
#[derive(Debug)]
pub(crate) struct Response {
    connection: Weak<Handle>,
    key: StreamKey,
    pub(crate) writer: ResponseWriter,
}

impl Response {
    /// A response of which nothing is sent yet. `head_request`: the head may announce a body, and no body follows.
    pub(crate) fn new(connection: &Rc<Handle>, key: StreamKey, head_request: bool) -> Self {
        Self { connection: Rc::downgrade(connection), key, writer: ResponseWriter::new(head_request) }
    }

    /// Keeps the head back until bytes follow it: see [`ResponseWriter::hold_head`].
    pub(crate) fn hold_head(&mut self) {
        self.writer.hold_head();
    }

    /// Whether the client no longer waits for the response.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.connection.upgrade().is_none_or(|connection| !connection.is_open(self.key))
    }

    /// Changes the connection's record of the request's assignment, which counts when the client leaves.
    pub(crate) fn assign(&self, change: impl FnOnce(&mut Assignment)) {
        if let Some(connection) = self.connection.upgrade() {
            connection.state.borrow_mut().assign(self.key, change);
        }
    }

    /// Sends the head, a CGI header block as written by the worker.
    pub(crate) fn head(&mut self, block: &[u8], allowed: &ProxyHeaders) -> Result<(), ProtocolViolation> {
        self.send(|writer, sink| writer.head(block, allowed, sink, Instant::now))
    }

    /// Sends a piece of the body.
    pub(crate) fn body(&mut self, bytes: &[u8]) -> Result<(), ProtocolViolation> {
        self.send(|writer, sink| writer.body(bytes, sink))
    }

    /// Sends the rest of the body from a file.
    pub(crate) fn file(&mut self, part: FilePart) -> Result<(), ProtocolViolation> {
        self.send(|writer, sink| writer.file(part, sink))
    }

    /// Sends the last piece of the body, and ends a complete response.
    pub(crate) fn body_and_end(&mut self, bytes: &[u8]) -> Result<(), ProtocolViolation> {
        self.finish(|writer, sink| writer.body_and_end(bytes, sink, Instant::now()))
    }

    /// Ends a complete response. A response shorter than its announced length is an error, and must be failed.
    pub(crate) fn end(&mut self) -> Result<(), ProtocolViolation> {
        self.finish(|writer, sink| writer.end(sink, Instant::now()))
    }

    /// Ends the response as a failure: see [`ResponseWriter::fail`].
    pub(crate) fn fail(&mut self, status: u16, message: &str, retry_after: Option<u32>) {
        self.finish(|writer, sink| writer.fail(status, message, retry_after, sink, Instant::now()));
    }

    /// Sends a message outside of the response as FastCGI STDERR, with a line end of its own.
    pub(crate) fn stderr(&self, message: &[u8]) {
        if let Some(connection) = self.connection.upgrade() {
            connection.send(self.key, |sink| self.writer.stderr(message, sink));
        }
    }

    /// Writes pending data to the socket, as far as the kernel takes it.
    pub(crate) fn flush(&self) {
        if let Some(connection) = self.connection.upgrade()
            && connection.is_open(self.key)
        {
            connection.flush();
        }
    }

    /// Waits until the client has read enough for more data. `None` where there is room, or the client has gone.
    pub(crate) fn room(&self) -> Option<impl Future<Output = ()> + use<>> {
        let connection = self.connection.upgrade()?;
        if connection.is_open(self.key) { connection.room() } else { None }
    }

    /// Keeps an ended request until the rest of its response, which waits in a file, is written: the client may still leave
    /// before. Returns a request that is not kept.
    pub(crate) fn keep_until_written(self, mut ended: EndedRequest) -> Option<EndedRequest> {
        let Some(end) = self.writer.end_in_file() else { return Some(ended) };
        match self.connection.upgrade() {
            Some(connection) => connection.keep_until_written(end, ended),
            None => {
                ended.abort();
                Some(ended)
            }
        }
    }

    fn send<T>(&mut self, act: impl FnOnce(&mut ResponseWriter, &mut Option<StreamSink<'_>>) -> T) -> T {
        match self.connection.upgrade() {
            Some(connection) => connection.send(self.key, |sink| act(&mut self.writer, sink)),
            None => act(&mut self.writer, &mut None),
        }
    }

    /// Like [`Self::send`], for the end of a response: flushes at once.
    fn finish<T>(&mut self, act: impl FnOnce(&mut ResponseWriter, &mut Option<StreamSink<'_>>) -> T) -> T {
        let was_sent = self.writer.is_end_sent();
        let outcome = self.send(act);
        if self.writer.is_end_sent()
            && !was_sent
            && let Some(connection) = self.connection.upgrade()
        {
            connection.flush_end();
        }
        outcome
    }
}
