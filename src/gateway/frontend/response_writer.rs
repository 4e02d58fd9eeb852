//! The answer to one request, on its way to the connection that the request came on.
//!
//! [`crate::proto::response`] says what may be sent. Every failure before the head is a whole response with a 5xx status; every
//! failure after it leaves a response that no client takes for complete. Remembers what it has sent, for the journal.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use crate::cgi::{ProxyHeaders, response};
use crate::gateway::frontend::connection::Connection;
use crate::gateway::request::Request;
use crate::gateway::telemetry::server_timing::ServerTiming;
use crate::proto::queue::Place;
use crate::proto::request_end::End;
use crate::proto::response::{Answer, Failure, Part, ProtocolViolation};

/// Whether the client still wants the answer, and which worker is at it. The connection that a request
/// came on and whoever holds the request share one.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    abandoned: Cell<bool>,
    /// Of what was handed to the connection something is lost.
    broken: Cell<bool>,
    worker: Cell<Option<u32>>,
    /// In the queue, from when it is submitted.
    place: Cell<Option<Place>>,
}

impl Ticket {
    /// The client has gone. Gives the worker that is to be told, if any.
    pub(crate) fn abandon(&self) -> Option<u32> {
        self.abandoned.set(true);
        self.worker.get()
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.abandoned.get()
    }

    /// The client gets no more of the answer, which is the server's fault.
    pub(crate) fn set_broken(&self) {
        self.broken.set(true);
    }

    pub(crate) fn place(&self) -> Option<Place> {
        self.place.get()
    }

    pub(crate) fn set_place(&self, place: Place) {
        self.place.set(Some(place));
    }

    pub(crate) fn set_worker(&self, worker: Option<u32>) {
        self.worker.set(worker);
    }
}

/// Writes the answer to one request onto its connection.
#[derive(Debug)]
pub(crate) struct Reply {
    connection: Rc<Connection>,
    id: u16,
    ticket: Rc<Ticket>,
    answer: Answer,
    /// A head that waits for what follows it, where [`Self::hold_head`] asked for that.
    held: Option<Vec<u8>>,
    /// Where the head is to have it.
    timing: Option<ServerTiming>,
    /// Of the head that was sent.
    status: Option<u16>,
    /// Bytes of body that were sent.
    sent: u64,
    /// Where the end of a complete answer waits in a file: see [`Connection::end_in_file`].
    end_in_file: Option<u64>,
    broken: bool,
}

impl Reply {
    /// `head_request`: the answer has a head that may promise a body, and never a body.
    pub(crate) fn new(connection: Rc<Connection>, id: u16, ticket: Rc<Ticket>, head_request: bool) -> Self {
        Self {
            connection,
            id,
            ticket,
            answer: Answer::new(head_request),
            held: None,
            timing: None,
            status: None,
            sent: 0,
            end_in_file: None,
            broken: false,
        }
    }

    /// Sends no head before the body or the end that follows it; for an Authorizer. Its consent is no head that something
    /// can go wrong after, and Apache takes of a denial's body what is in one record with the head.
    pub(crate) fn hold_head(&mut self) {
        self.held = Some(Vec::new());
    }

    /// The head tells where the time of the request, complete since `came`, went.
    pub(crate) fn tell_timing(&mut self, came: Instant) {
        self.timing = Some(ServerTiming::new(came));
    }

    /// A worker has the request, or does not have it any more.
    pub(crate) fn set_handed(&mut self, at: Option<Instant>) {
        if let Some(timing) = &mut self.timing {
            timing.set_handed(at);
        }
    }

    pub(crate) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Sends the head: a CGI header block, as the worker wrote it.
    pub(crate) fn head(&mut self, block: &[u8], orders: &ProxyHeaders) -> Result<(), ProtocolViolation> {
        if let Part::Send(status) = self.answer.head(block, orders)? {
            self.put_head(status, block);
        }
        Ok(())
    }

    /// Sends a piece of the body.
    pub(crate) fn body(&mut self, bytes: &[u8]) -> Result<(), ProtocolViolation> {
        if let Part::Send(()) = self.answer.body(bytes.len())? {
            self.put_body(bytes);
        }
        Ok(())
    }

    /// Ends a complete answer; one that falls short of its promise is an error, and to be broken off.
    pub(crate) fn end(&mut self) -> Result<(), ProtocolViolation> {
        if let Part::Send(()) = self.answer.end()? {
            self.let_go();
            if !self.ticket.is_abandoned() {
                self.end_in_file = self.connection.end_in_file();
                self.connection.end(self.id);
            }
        }
        Ok(())
    }

    /// Ends the answer as a failure: with a whole `status` response where nothing is sent yet, by breaking it off where the
    /// client still waits for something. One that has kept its promise stands. What the worker still says is dropped.
    pub(crate) fn fail(&mut self, status: u16, message: &str, retry_after: Option<u32>) {
        // A head that is held has not been sent.
        let unsent = self.held.as_mut().is_some_and(|held| !std::mem::take(held).is_empty());
        let failure = self.answer.fail(unsent);
        if self.ticket.is_abandoned() {
            return;
        }
        match failure {
            Failure::Whole { body } => {
                let response = response::failure(status, message, retry_after);
                let (head, bytes) = response::split_failure(&response);
                self.put_head(status, head);
                if body {
                    self.put_body(bytes);
                }
                self.let_go();
                self.connection.end(self.id);
            }
            // Breaking the transfer now would reach some clients and not others.
            Failure::Stands => {
                self.end_in_file = self.connection.end_in_file();
                self.connection.end(self.id);
            }
            Failure::BreakOff => {
                self.broken = true;
                self.connection.break_off(self.id, message);
            }
            Failure::None => {}
        }
    }

    /// Sends a message that belongs to no response, as FastCGI's STDERR, with a line end of its own.
    pub(crate) fn stderr(&self, message: &[u8]) {
        if !self.answer.is_over() && !self.ticket.is_abandoned() {
            self.connection.stderr(self.id, &[message, b"\n"].concat());
        }
    }

    /// Hands what has been sent so far to the kernel, as far as it takes it.
    pub(crate) fn flush(&self) {
        if !self.ticket.is_abandoned() {
            self.connection.flush();
        }
    }

    /// Waits until the client has read enough for more to be sent. At once where it has gone.
    pub(crate) fn room(&self) -> Option<impl Future<Output = ()> + use<>> {
        if self.ticket.is_abandoned() { None } else { Connection::room(&self.connection) }
    }

    fn put_head(&mut self, status: u16, block: &[u8]) {
        if !self.ticket.is_abandoned() {
            self.status = Some(status);
            let timed = self.timing.map(|timing| [timing.field(Instant::now()).as_bytes(), block].concat());
            let block = timed.as_deref().unwrap_or(block);
            match &mut self.held {
                Some(held) => held.extend_from_slice(block),
                None => self.connection.stdout(self.id, block),
            }
        }
    }

    fn put_body(&mut self, bytes: &[u8]) {
        if !self.ticket.is_abandoned() {
            self.sent += bytes.len() as u64;
            match &mut self.held {
                Some(held) if !held.is_empty() => {
                    held.extend_from_slice(bytes);
                    self.let_go();
                }
                _ => self.connection.stdout(self.id, bytes),
            }
        }
    }

    /// Sends what was held.
    fn let_go(&mut self) {
        if let Some(held) = &mut self.held
            && !self.ticket.is_abandoned()
        {
            self.connection.stdout(self.id, held);
            held.clear();
        }
    }

    /// Keeps the request until its answer is written, where the end of that waits in a file: so long its client can still go
    /// away first.
    pub(crate) fn keep_until_written(request: Box<Request>) {
        if let Some(end) = request.reply.end_in_file {
            let connection = Rc::clone(&request.reply.connection);
            connection.keep_until_written(end, request);
        }
    }

    // For the journal.

    /// The status that was sent.
    pub(crate) fn status(&self) -> Option<u16> {
        self.status
    }

    /// Bytes of body that were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// How it ended. A client that leaves once it has everything aborts nothing.
    pub(crate) fn end_of(&self) -> End {
        match (self.broken || self.ticket.broken.get(), self.ticket.is_abandoned()) {
            (true, _) => End::Broken,
            (false, true) => End::Aborted,
            (false, false) => End::Complete,
        }
    }
}
