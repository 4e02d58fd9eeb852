//! One client's connection: bytes in, complete requests out to the queue; answers in, bytes out.
//!
//! One task a connection reads, and writes what the kernel did not take at once. The other side, the
//! worker's task, writes through a [`Reply`]. Never waits for a worker, and no worker waits for it
//! except through [`Connection::room`].

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::sync::Notify;
use tracing::{debug, info};

use super::Gateway;
use super::journal::Refused;
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

/// How long a request may make no progress while it arrives. nginx gives its own clients 60 s between
/// two reads (`client_body_timeout`), so a proxy that passes a body on as it comes is not cut before.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a client may take no byte of what waits for it. nginx gives its own clients as long
/// (`send_timeout`), and reads from us whether they do or not.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long, while the gateway stops, a client that has just connected may take to send its first request. It
/// found the way in, so it is served.
const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// How long, and for how many bytes, a client may go on sending after its request was answered early.
/// Closing on unread bytes would make the kernel drop the answer.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER_BYTES: u64 = 256 << 20;

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

#[derive(Debug)]
struct State {
    server: Server,
    out: Outgoing,
    /// When the client last took a byte, or there was last nothing for it to take.
    last_write: Instant,
    /// Few, so a scan beats a map.
    requests: Vec<(u16, Phase)>,
    ending: Ending,
    opened: Instant,
    /// Whether a request has begun on it.
    used: bool,
    /// Whether the client may still be sending something that nobody waits for.
    unread: bool,
    /// The gateway stops: closes once nothing is left to answer.
    stopping: bool,
    /// How far the client's side is shut, by us.
    receiving: Receiving,
}

/// Whether more is taken from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiving {
    Open,
    /// The kernel takes nothing more; what it took before is still to be read.
    Shut,
    /// All of that is read.
    Done,
}

/// Where a request of this connection is.
#[derive(Debug)]
enum Phase {
    /// Its parameters are on their way.
    Begun,
    /// Its body is on its way.
    Arriving(Box<Arriving>),
    /// In the queue or with a worker.
    Submitted(Rc<Ticket>),
}

#[derive(Debug)]
struct Arriving {
    head: Head,
    body: Body,
}

/// Why a request is refused, with which status, in which words.
struct Cause(Refused, u16, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The connection lives.
    No,
    /// Close once everything is written.
    WhenWritten,
    /// Everything is written; what still comes is read and dropped.
    Lingering { until: Instant, bytes: u64 },
    /// Close now.
    Now,
}

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
        let reply = Reply::new(Rc::clone(self), id, Rc::default(), false);
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

impl State {
    /// What to wait for. A client that does not read its answers is not read from either.
    fn interest(&self) -> Option<Interest> {
        match (self.out.is_empty(), self.out.is_full() || self.receiving == Receiving::Done) {
            (true, _) => (self.receiving != Receiving::Done).then_some(Interest::READABLE),
            (false, false) => Some(Interest::READABLE | Interest::WRITABLE),
            (false, true) => Some(Interest::WRITABLE),
        }
    }

    /// When the client must have done something.
    fn timeout(&self, last_read: Instant) -> Option<Instant> {
        if let Ending::Lingering { until, .. } = self.ending {
            return Some(until);
        }
        let receive = self.is_arriving().then(|| last_read + RECEIVE_TIMEOUT);
        let send = (!self.out.is_empty()).then(|| self.last_write + SEND_TIMEOUT);
        receive.into_iter().chain(send).min()
    }

    /// Whether a request has come in part; a record that has counts as well.
    fn is_arriving(&self) -> bool {
        let submitted =
            self.requests.iter().filter(|(_, phase)| matches!(phase, Phase::Submitted(_))).count();
        submitted < self.requests.len() || (self.requests.is_empty() && !self.server.is_idle())
    }

    /// When to look at the connection again, if nothing happens before.
    fn deadline(&self, last_read: Instant) -> Option<Instant> {
        let fresh = (self.stopping && !self.used).then(|| self.opened + FIRST_REQUEST_WAIT);
        self.timeout(last_read).into_iter().chain(fresh).min()
    }

    /// Ends the connection if its client has had its time.
    fn expire(&mut self, last_read: Instant) {
        if self.timeout(last_read).is_some_and(|time| time <= Instant::now()) {
            info!("connection closed: the client neither sent nor took a byte for too long");
            self.ending = Ending::Now;
        }
    }

    /// The client's side has ended. Unless that is our own doing, nobody is left to read an answer.
    fn no_more_comes(&mut self) {
        let lingers = matches!(self.ending, Ending::Lingering { .. });
        if self.receiving == Receiving::Open || self.is_arriving() || lingers {
            self.ending = Ending::Now;
        }
        self.receiving = Receiving::Done;
    }

    /// While the gateway stops: closes the connection when there is nothing left to answer.
    ///
    /// A kept connection can have its next request sent at any moment. So the client's side is shut first, which
    /// makes its next write fail; what it wrote before that is here, and is answered. (A TCP client's kernel
    /// hears of it too late.) Closing at once would lose a request that comes between the look and the close.
    fn leave_if_idle(&mut self, stream: &Stream) {
        let idle = |this: &Self| this.server.is_idle() && !stream.has_unread();
        if !self.stopping || self.ending != Ending::No || !idle(self) {
            return;
        }
        let expected = !self.used && Instant::now() < self.opened + FIRST_REQUEST_WAIT;
        if expected {
            return;
        }
        // One that still sends what was refused is to get its answer, not a write that fails.
        if self.receiving == Receiving::Open && !self.unread {
            stream.take_no_more();
            self.receiving = Receiving::Shut;
        }
        if idle(self) {
            self.close_when_written();
        }
    }

    /// Whether the connection is to be closed now.
    fn is_over(&mut self, stream: &Stream) -> bool {
        self.leave_if_idle(stream);
        if self.ending == Ending::WhenWritten && self.out.is_empty() {
            self.ending = if self.unread {
                stream.shut_down_write();
                Ending::Lingering { until: Instant::now() + LINGER_TIMEOUT, bytes: LINGER_BYTES }
            } else {
                Ending::Now
            };
        }
        matches!(self.ending, Ending::Now | Ending::Lingering { bytes: 0, .. })
    }

    fn close_when_written(&mut self) {
        if self.ending == Ending::No {
            self.ending = Ending::WhenWritten;
        }
    }

    fn phase(&mut self, id: u16) -> Option<&mut Phase> {
        self.requests.iter_mut().find(|(request, _)| *request == id).map(|(_, phase)| phase)
    }

    /// Moves a request on; gives where it was.
    fn set_phase(&mut self, id: u16, phase: Phase) -> Option<Phase> {
        self.phase(id).map(|old| std::mem::replace(old, phase))
    }

    fn take_phase(&mut self, id: u16) -> Option<Phase> {
        let position = self.requests.iter().position(|(request, _)| *request == id)?;
        Some(self.requests.swap_remove(position).1)
    }
}
