//! The answer to one request, and the rules that keep it truthful.
//!
//! Every failure before the head is a whole response with a 5xx status; every failure after it leaves a
//! response that no client takes for complete. Remembers what it has sent, for the journal.

use std::cell::Cell;
use std::rc::Rc;

use super::connection::Connection;
use super::outcome::End;
use super::request::Request;
use crate::cgi::{ProxyHeaders, response};

/// Whether the client still wants the answer, and which worker is at it. The connection that a request
/// came on and whoever holds the request share one.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    abandoned: Cell<bool>,
    /// Of what was handed to the connection something is lost.
    broken: Cell<bool>,
    worker: Cell<Option<u32>>,
}

impl Ticket {
    /// The client has gone. Gives the worker that is to be told, if any.
    pub(super) fn abandon(&self) -> Option<u32> {
        self.abandoned.set(true);
        self.worker.get()
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.get()
    }

    /// The client gets no more of the answer, which is the server's fault.
    pub(super) fn set_broken(&self) {
        self.broken.set(true);
    }

    pub(super) fn set_worker(&self, worker: Option<u32>) {
        self.worker.set(worker);
    }
}

/// How far the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing is sent.
    Nothing,
    /// The head is sent; this many bytes of body are still promised, if a number was.
    Head(Option<u64>),
    /// It has ended, well or not.
    Over,
}

/// Writes the answer to one request onto its connection.
#[derive(Debug)]
pub(super) struct Reply {
    connection: Rc<Connection>,
    id: u16,
    ticket: Rc<Ticket>,
    head_request: bool,
    progress: Progress,
    /// A head that waits for what follows it, where [`Self::hold_head`] asked for that.
    held: Option<Vec<u8>>,
    /// Of the head that was sent.
    status: Option<u16>,
    /// Bytes of body that were sent.
    sent: u64,
    /// Where the end of a complete answer waits in a file: see [`Connection::end_in_file`].
    end_in_file: Option<u64>,
    broken: bool,
}

/// The worker's answer breaks the rules; the worker is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Untruthful(pub(super) &'static str);

impl Reply {
    /// `head_request`: the answer has a head that may promise a body, and never a body.
    pub(super) fn new(connection: Rc<Connection>, id: u16, ticket: Rc<Ticket>, head_request: bool) -> Self {
        Self {
            connection,
            id,
            ticket,
            head_request,
            progress: Progress::Nothing,
            held: None,
            status: None,
            sent: 0,
            end_in_file: None,
            broken: false,
        }
    }

    /// Sends no head before the body or the end that follows it; for an Authorizer. Its consent is no head that something
    /// can go wrong after, and Apache takes of a denial's body what is in one record with the head.
    pub(super) fn hold_head(&mut self) {
        self.held = Some(Vec::new());
    }

    pub(super) fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// Sends the head: a CGI header block, as the worker wrote it.
    pub(super) fn head(&mut self, block: &[u8], orders: &ProxyHeaders) -> Result<(), Untruthful> {
        if self.progress != Progress::Nothing {
            return Err(Untruthful("a second response head"));
        }
        let head = match response::Head::parse(block) {
            Ok(response::Status::Complete { head, consumed }) if consumed == block.len() => head,
            Ok(_) => return Err(Untruthful("a malformed response head")),
            Err(bad) => return Err(Untruthful(bad.what())),
        };
        if !orders.permit(&head) {
            return Err(Untruthful("a header with orders for the proxy that is not allowed"));
        }
        let promised = if self.head_request || !head.body_allowed() { Some(0) } else { head.content_length };
        self.progress = Progress::Head(promised);
        self.put_head(head.status, block);
        Ok(())
    }

    /// Sends a piece of the body.
    pub(super) fn body(&mut self, bytes: &[u8]) -> Result<(), Untruthful> {
        match &mut self.progress {
            Progress::Head(None) => {}
            Progress::Head(Some(promised)) => {
                *promised = promised
                    .checked_sub(bytes.len() as u64)
                    .ok_or(Untruthful("a response body longer than its Content-Length"))?;
            }
            Progress::Nothing | Progress::Over => return Err(Untruthful("a response body without a head")),
        }
        self.put_body(bytes);
        Ok(())
    }

    /// Ends a complete answer; one that falls short of its promise is broken off.
    pub(super) fn end(&mut self) -> Result<(), Untruthful> {
        match self.progress {
            Progress::Head(None | Some(0)) => {
                self.progress = Progress::Over;
                self.let_go();
                if !self.ticket.is_abandoned() {
                    self.end_in_file = self.connection.end_in_file();
                    self.connection.end(self.id);
                }
                Ok(())
            }
            Progress::Head(Some(_)) => Err(Untruthful("a response body shorter than its Content-Length")),
            Progress::Nothing | Progress::Over => Err(Untruthful("an end without a response head")),
        }
    }

    /// Ends the answer as a failure: with a whole `status` response where nothing is sent yet, by breaking it off where the
    /// client still waits for something. One that has kept its promise stands.
    pub(super) fn fail(&mut self, status: u16, message: &str, retry_after: Option<u32>) {
        let mut progress = std::mem::replace(&mut self.progress, Progress::Over);
        if self.held.as_mut().is_some_and(|held| !std::mem::take(held).is_empty()) {
            // It has not been sent.
            progress = Progress::Nothing;
        }
        if self.ticket.is_abandoned() {
            return;
        }
        match progress {
            Progress::Nothing => {
                let response = response::failure(status, message, retry_after);
                let (head, body) = response::split_failure(&response);
                self.put_head(status, head);
                if !self.head_request {
                    self.put_body(body);
                }
                self.let_go();
                self.connection.end(self.id);
            }
            // The client has all that the head promised. Breaking the transfer now would reach some clients and not others.
            Progress::Head(Some(0)) => {
                self.end_in_file = self.connection.end_in_file();
                self.connection.end(self.id);
            }
            Progress::Head(_) => {
                self.broken = true;
                self.connection.break_off(self.id, message);
            }
            Progress::Over => {}
        }
    }

    /// Sends a message that belongs to no response, as FastCGI's STDERR, with a line end of its own.
    pub(super) fn stderr(&self, message: &[u8]) {
        if self.progress != Progress::Over && !self.ticket.is_abandoned() {
            self.connection.stderr(self.id, &[message, b"\n"].concat());
        }
    }

    /// Hands what has been sent so far to the kernel, as far as it takes it.
    pub(super) fn flush(&self) {
        if !self.ticket.is_abandoned() {
            self.connection.flush();
        }
    }

    /// Waits until the client has read enough for more to be sent. At once where it has gone.
    pub(super) fn room(&self) -> Option<impl Future<Output = ()> + use<>> {
        if self.ticket.is_abandoned() { None } else { Connection::room(&self.connection) }
    }

    fn put_head(&mut self, status: u16, block: &[u8]) {
        if !self.ticket.is_abandoned() {
            self.status = Some(status);
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
    pub(super) fn keep_until_written(request: Box<Request>) {
        if let Some(end) = request.reply.end_in_file {
            let connection = Rc::clone(&request.reply.connection);
            connection.keep_until_written(end, request);
        }
    }

    // For the journal.

    /// The status that was sent.
    pub(super) fn status(&self) -> Option<u16> {
        self.status
    }

    /// Bytes of body that were sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// How it ended. A client that leaves once it has everything aborts nothing.
    pub(super) fn end_of(&self) -> End {
        match (self.broken || self.ticket.broken.get(), self.ticket.is_abandoned()) {
            (true, _) => End::Broken,
            (false, true) => End::Aborted,
            (false, false) => End::Complete,
        }
    }
}
