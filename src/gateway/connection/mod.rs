//! One client's connection: bytes in, complete requests out to the queue; answers in, bytes out.
//!
//! One task a connection reads, and writes what the kernel did not take at once. The other side, the
//! worker's task, writes through a [`Reply`]. Never waits for a worker, and no worker waits for it
//! except through [`Connection::room`].

mod state;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use tokio::io::Interest;
use tokio::sync::Notify;
use tracing::{debug, info};

use self::state::{Arriving, Ending, Phase, Receiving, State};
use super::Gateway;
use super::outcome::Refused;
use super::outgoing::Outgoing;
use super::reply::{Reply, Ticket};
use super::request::Request;
use super::spool::Body;
use super::stream::Stream;
use crate::cgi::Variables;
use crate::cgi::request::{ContentLength, Head};
use crate::fastcgi::{self, AfterEnd, Event, Fault, ProtocolStatus, Role, Server};

/// Full reads of one connection before the others have their turn: a quarter of a mebibyte, some 100 µs.
const READS_IN_A_ROW: usize = 4;

/// An accepted connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    state: RefCell<State>,
    /// The task has something to look at: bytes to write, or the end.
    changed: Notify,
    /// There is room in [`State::out`] again.
    drained: Notify,
}

/// Why a request is refused, with which status, in which words.
struct Cause(Refused, u16, String);

impl Connection {
    pub(super) fn new(stream: Stream, limits: fastcgi::Limits) -> Rc<Self> {
        Rc::new(Self {
            stream,
            state: RefCell::new(State {
                server: Server::new(limits),
                out: Outgoing::default(),
                last_write: Instant::now(),
                requests: Vec::new(),
                ending: Ending::No,
                opened: Instant::now(),
                used: false,
                unread: false,
                stopping: false,
                receiving: Receiving::Open,
            }),
            changed: Notify::new(),
            drained: Notify::new(),
        })
    }

    /// Serves the connection to its end. Whatever runs for it then is aborted.
    pub(super) async fn serve(self: Rc<Self>, gateway: Rc<Gateway>) {
        let mut last_read = Instant::now();
        let mut stopping = gateway.stopping();
        loop {
            let (interest, deadline) = {
                let mut state = self.state.borrow_mut();
                state.stopping = *stopping.borrow();
                if state.is_over(&self.stream) {
                    break;
                }
                (state.interest(), state.deadline(last_read))
            };
            let ready = tokio::select! {
                ready = self.stream.ready(interest.unwrap_or(Interest::READABLE)), if interest.is_some() => ready,
                () = self.changed.notified() => Ok(tokio::io::Ready::EMPTY),
                () = super::sleep_until(deadline) => {
                    self.state.borrow_mut().expire(last_read);
                    Ok(tokio::io::Ready::EMPTY)
                }
                _ = stopping.wait_for(|stopping| *stopping), if !*stopping.borrow() => {
                    Ok(tokio::io::Ready::EMPTY)
                }
            };
            let Ok(ready) = ready else { break };
            if ready.is_writable() {
                self.flush();
            }
            if ready.is_readable() || ready.is_read_closed() {
                last_read = Instant::now();
                if self.read(&gateway) {
                    tokio::task::yield_now().await;
                }
            }
        }
        self.abandon_all(&gateway);
    }

    /// Reads what is there, as long as the answers leave room and for so long that no other connection
    /// waits noticeably. Says whether there may be more.
    fn read(self: &Rc<Self>, gateway: &Rc<Gateway>) -> bool {
        let mut scratch = gateway.scratch.borrow_mut();
        for _ in 0..READS_IN_A_ROW {
            match self.stream.try_read(&mut scratch) {
                Ok(0) => self.state.borrow_mut().no_more_comes(),
                Ok(length) => {
                    if let Err(fault) = self.receive(&scratch[..length], gateway) {
                        info!(cause = %fault, "connection closed");
                        self.state.borrow_mut().ending = Ending::Now;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    debug!(cause = %crate::log::cause(&error), "connection lost");
                    self.state.borrow_mut().ending = Ending::Now;
                }
            }
            // Before the next read, so that a client which never reads bounds what it can ask for.
            if !self.state.borrow().out.is_empty() {
                self.flush();
            }
            let state = self.state.borrow();
            if state.ending == Ending::Now || !state.interest().is_some_and(Interest::is_readable) {
                return false;
            }
        }
        true
    }

    fn receive(self: &Rc<Self>, mut input: &[u8], gateway: &Rc<Gateway>) -> Result<(), Fault> {
        loop {
            let event = {
                let state = &mut *self.state.borrow_mut();
                if let Ending::Lingering { bytes, .. } = &mut state.ending {
                    *bytes = bytes.saturating_sub(input.len() as u64);
                    return Ok(());
                }
                state.server.receive(&mut input, state.out.tail())?
            };
            match event {
                None => return Ok(()),
                // The application sees the Responder role; the others are refused as a role that is not known.
                Some(Event::Begin { id, role, .. }) if role != Role::Responder => {
                    self.end_with(id, 0, ProtocolStatus::UnknownRole);
                }
                Some(Event::Begin { id, .. }) => {
                    let mut state = self.state.borrow_mut();
                    // Clients send one request after the other, so the one that was refused has all come.
                    state.unread = false;
                    state.used = true;
                    state.requests.push((id, Phase::Begun));
                }
                Some(Event::Params { id, variables }) => self.params(id, variables, gateway),
                Some(Event::Stdin { id, bytes }) => self.stdin(id, bytes, gateway),
                Some(Event::StdinEnd { id }) => self.stdin_end(id, gateway),
                Some(Event::Refused { id, refusal }) => {
                    let cause = Cause(Refused::Params, refusal.status(), refusal.to_string());
                    self.refuse(id, Variables::new(), cause, true, gateway);
                    if refusal.closes() {
                        self.state.borrow_mut().close_when_written();
                    }
                }
                Some(Event::Abort { id }) => {
                    self.abandon(id, gateway);
                    self.end_with(id, 0, ProtocolStatus::RequestComplete);
                }
                // Only the Filter role has them.
                Some(Event::Data { .. } | Event::DataEnd { .. }) => {}
            }
        }
    }

    fn params(self: &Rc<Self>, id: u16, mut variables: Variables, gateway: &Rc<Gateway>) {
        let head = match Head::parse(&mut variables) {
            Ok(head) => head,
            Err(error) => {
                let cause = Cause(Refused::Variables, error.status(), error.to_string());
                return self.refuse(id, variables, cause, true, gateway);
            }
        };
        let limit = gateway.config().max_body;
        if let ContentLength::Known(length) = head.content_length
            && length > limit
        {
            let message = format!("the body has {length} bytes, --max-body is {limit}");
            let cause = Cause(Refused::BodyTooLarge, 413, message);
            return self.refuse(id, head.variables, cause, true, gateway);
        }
        let arriving = Phase::Arriving(Box::new(Arriving { head, body: Body::new() }));
        self.state.borrow_mut().set_phase(id, arriving);
    }

    fn stdin(self: &Rc<Self>, id: u16, bytes: &[u8], gateway: &Rc<Gateway>) {
        let (variables, cause) = {
            let mut state = self.state.borrow_mut();
            let Some(Phase::Arriving(arriving)) = state.phase(id) else { return };
            let limit = gateway.config().max_body;
            let (room, bounded) = match arriving.head.content_length {
                // What exceeds CONTENT_LENGTH is not the body's, and dropped.
                ContentLength::Known(length) => (length - arriving.body.len(), true),
                ContentLength::UntilEnd => (limit - arriving.body.len(), false),
            };
            let kept = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            let cause = if kept < bytes.len() && !bounded {
                let message = format!("the body has more than {limit} bytes (--max-body)");
                Cause(Refused::BodyTooLarge, 413, message)
            } else {
                match arriving.body.append(&bytes[..kept], &gateway.spool) {
                    Ok(()) => return,
                    Err(error) => Cause(Refused::Spool, error.status(), error.to_string()),
                }
            };
            (std::mem::take(&mut arriving.head.variables), cause)
        };
        self.refuse(id, variables, cause, true, gateway);
    }

    fn stdin_end(self: &Rc<Self>, id: u16, gateway: &Rc<Gateway>) {
        let ticket = Rc::new(Ticket::default());
        let phase = self.state.borrow_mut().set_phase(id, Phase::Submitted(Rc::clone(&ticket)));
        let Some(Phase::Arriving(arriving)) = phase else { return };
        let Arriving { head, body } = *arriving;
        if let ContentLength::Known(promised) = head.content_length
            && body.len() < promised
        {
            let came = body.len();
            let message = format!("the body ended after {came} of {promised} bytes");
            let cause = Cause(Refused::BodyTooShort, 400, message);
            return self.refuse(id, head.variables, cause, false, gateway);
        }
        let reply = Reply::new(Rc::clone(self), id, ticket, head.head_request);
        gateway.submit(Request::new(head.variables, body, reply, Rc::clone(&gateway.journal)));
    }

    /// Answers a request that never becomes one for a worker. `more`: the client may still be sending it,
    /// and what comes is dropped.
    fn refuse(self: &Rc<Self>, id: u16, variables: Variables, cause: Cause, more: bool, gateway: &Gateway) {
        let Cause(why, status, message) = cause;
        self.state.borrow_mut().unread = more;
        let head_request = variables.get(b"REQUEST_METHOD") == Some(b"HEAD");
        let reply = Reply::new(Rc::clone(self), id, Rc::default(), head_request);
        Request::partial(variables, reply, Rc::clone(&gateway.journal)).refuse(why, status, &message);
    }

    /// The client does not wait for this request's answer any more.
    fn abandon(self: &Rc<Self>, id: u16, gateway: &Gateway) {
        let phase = self.state.borrow_mut().take_phase(id);
        if let Some(phase) = phase {
            self.abandoned(id, phase, gateway);
        }
    }

    fn abandoned(self: &Rc<Self>, id: u16, phase: Phase, gateway: &Gateway) {
        match phase {
            // Nothing is known of it.
            Phase::Begun => {}
            Phase::Arriving(arriving) => {
                let ticket = Ticket::default();
                ticket.abandon();
                let reply = Reply::new(Rc::clone(self), id, Rc::new(ticket), false);
                drop(Request::partial(arriving.head.variables, reply, Rc::clone(&gateway.journal)));
            }
            Phase::Submitted(ticket) => gateway.abandoned(&ticket),
        }
    }

    fn abandon_all(self: &Rc<Self>, gateway: &Gateway) {
        let requests = {
            let mut state = self.state.borrow_mut();
            state.ending = Ending::Now;
            state.out.clear();
            std::mem::take(&mut state.requests)
        };
        for (id, phase) in requests {
            self.abandoned(id, phase, gateway);
        }
        self.drained.notify_waiters();
    }

    // The side of the answers.

    /// Appends response bytes.
    pub(super) fn stdout(&self, id: u16, bytes: &[u8]) {
        let state = &mut *self.state.borrow_mut();
        if state.out.is_empty() {
            state.last_write = Instant::now();
        }
        state.server.stdout(id, bytes, state.out.tail());
    }

    /// Appends bytes for the client's error log.
    pub(super) fn stderr(&self, id: u16, bytes: &[u8]) {
        let state = &mut *self.state.borrow_mut();
        state.server.stderr(id, bytes, state.out.tail());
    }

    /// Ends a request whose answer is complete.
    pub(super) fn end(&self, id: u16) {
        self.end_with(id, 0, ProtocolStatus::RequestComplete);
    }

    fn end_with(&self, id: u16, app_status: u32, protocol_status: ProtocolStatus) {
        {
            let state = &mut *self.state.borrow_mut();
            state.take_phase(id);
            if state.server.end(id, app_status, protocol_status, state.out.tail()) == AfterEnd::Close {
                state.close_when_written();
            }
            // Before the client reads the end of this answer, after which it may send the next request.
            state.leave_if_idle(&self.stream);
        }
        self.flush();
        let state = self.state.borrow();
        if state.stopping && state.ending == Ending::WhenWritten && state.out.is_empty() {
            // Follows the answer at once, so that a proxy does not take this connection for one that is kept.
            self.stream.shut_down_write();
        }
    }

    /// Ends a request whose head is sent and whose body cannot be completed.
    ///
    /// Where nothing else runs on the connection, a header with a bad version and the close tell the
    /// client that the transfer broke; END_REQUEST or a clean close would look complete. Where other
    /// requests share the connection, only this one can end, with an application status that says so.
    pub(super) fn break_off(&self, id: u16, message: &str) {
        let alone = self.state.borrow().server.active() <= 1;
        if alone {
            let state = &mut *self.state.borrow_mut();
            state.take_phase(id);
            fastcgi::poison(state.out.tail());
            state.close_when_written();
        } else {
            self.stderr(id, message.as_bytes());
            return self.end_with(id, 1, ProtocolStatus::RequestComplete);
        }
        self.flush();
    }

    /// Writes as much as the kernel takes; the task does the rest.
    pub(super) fn flush(&self) {
        let state = &mut *self.state.borrow_mut();
        while !state.out.is_empty() {
            match self.stream.try_write(state.out.unwritten()) {
                Ok(length) => {
                    state.out.wrote(length);
                    state.last_write = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    state.ending = Ending::Now;
                    state.out.clear();
                }
            }
        }
        if !state.out.is_full() {
            self.drained.notify_waiters();
        }
        if !state.out.is_empty() || state.ending != Ending::No {
            self.changed.notify_one();
        }
    }

    /// Waits until there is room for more of an answer; `None` where there is.
    pub(super) fn room(self: &Rc<Self>) -> Option<impl Future<Output = ()> + use<>> {
        if !self.state.borrow().out.is_full() {
            return None;
        }
        let connection = Rc::clone(self);
        Some(async move {
            loop {
                let drained = connection.drained.notified();
                if !connection.state.borrow().out.is_full() {
                    return;
                }
                drained.await;
            }
        })
    }
}
