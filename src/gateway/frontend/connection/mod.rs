//! One client's connection: bytes in, complete requests out to the queue; answers in, bytes out.
//!
//! One task a connection reads, and writes what the kernel did not take at once. The other side, the
//! worker's task, writes through a [`Reply`]. Never waits for a worker, and no worker waits for it
//! except through [`Connection::room`]. What the bytes mean is `intake`'s to say.

mod account;
mod arriving;
mod due;
mod intake;
mod spill;
mod state;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tracing::{debug, info, warn};

use crate::fastcgi::{self, AfterEnd, Fault, ProtocolStatus};
use crate::gateway::Gateway;
use crate::gateway::frontend::client_socket::Stream;
use crate::gateway::frontend::connection::due::{Blocked, Timeouts};
use crate::gateway::frontend::connection::state::{Ending, Phase, State, Undelivered};
use crate::gateway::turn::Turn;
use crate::proto::memory::Memory;
use crate::proto::rate::Pace;

/// An accepted connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    state: RefCell<State>,
    /// The task has something to look at: bytes to write, or the end.
    changed: Notify,
    /// There is room in [`State::out`] again.
    drained: Notify,
    /// Held by the answer that has the next room; the others wait in the order in which they came.
    turn: Semaphore,
}

impl Connection {
    pub(crate) fn new(stream: Stream, limits: fastcgi::Limits, memory: &Arc<Memory>) -> Rc<Self> {
        Rc::new(Self {
            stream,
            state: RefCell::new(State::new(limits, memory, Instant::now())),
            changed: Notify::new(),
            drained: Notify::new(),
            turn: Semaphore::new(1),
        })
    }

    /// Serves the connection to its end. Whatever runs for it then is aborted.
    pub(crate) async fn serve(self: Rc<Self>, gateway: Rc<Gateway>) {
        let _served = Served { connection: Rc::clone(&self), gateway: Rc::clone(&gateway) };
        let mut stopping = gateway.stopping();
        let (mut hang_up, mut half_closed) = (None, false);
        loop {
            if !half_closed && self.state.borrow().half_closed {
                half_closed = true;
                match self.watch_for_hang_up(&gateway.half_closed) {
                    Ok(watched) => hang_up = Some(watched),
                    // No descriptor is left. The client gets its answers all the same; that it has gone is noticed when they
                    // are written.
                    Err(error) => {
                        if let Some(left_out) = gateway.journal.may_log_refusal() {
                            let cause = crate::log::cause(&error);
                            warn!(cause, left_out, "a client that has shut its side is not watched");
                        }
                    }
                }
            }
            if self.state.borrow().overflow.is_some() {
                self.move_spilled(&gateway);
            }
            let written = gateway.spool.written();
            let (interest, held, deadline, look, spooling, spilling, waits_for_room) = {
                let mut state = self.state.borrow_mut();
                state.stopping = *stopping.borrow();
                if state.is_over(&self.stream) {
                    break;
                }
                state.waits_for_room = state.has_to_wait_for_room(&gateway);
                let interest = state.interest();
                let reading = interest.is_some_and(Interest::is_readable);
                if reading != state.reading {
                    state.note_reading(reading, Instant::now());
                }
                let timeouts = Timeouts::of(&gateway.config());
                let spooling = state.spooling().next().is_some();
                let held = reading && !state.held.is_empty();
                let (deadline, look) = (state.deadline(&timeouts), state.look());
                (interest, held, deadline, look, spooling, state.overflow.is_some(), state.waits_for_room)
            };
            let ready = tokio::select! {
                ready = self.stream.ready(interest.unwrap_or(Interest::READABLE)), if interest.is_some() => ready,
                () = std::future::ready(()), if held => Ok(Ready::READABLE),
                () = self.changed.notified() => Ok(Ready::EMPTY),
                (id, kept) = poll_fn(|context| self.poll_spooled(context, &gateway)), if spooling => {
                    self.spooled(id, kept, &gateway);
                    Ok(Ready::EMPTY)
                }
                done = poll_fn(|context| self.poll_spilled(context)), if spilling => {
                    self.spilled(done, &gateway);
                    Ok(Ready::EMPTY)
                }
                () = written, if waits_for_room => Ok(Ready::EMPTY),
                () = hung_up(hang_up.as_ref().map(|(watched, _)| watched)), if hang_up.is_some() => break,
                () = gateway.clock.passed(deadline) => {
                    self.expire(&gateway);
                    Ok(Ready::EMPTY)
                }
                () = crate::gateway::sleep_until(look) => {
                    self.expire(&gateway);
                    Ok(Ready::EMPTY)
                }
                _ = stopping.wait_for(|stopping| *stopping), if !*stopping.borrow() => Ok(Ready::EMPTY),
            };
            let Ok(ready) = ready else { break };
            if ready.is_writable() {
                self.flush();
            }
            if (ready.is_readable() || ready.is_read_closed())
                // Others may have taken the room meanwhile.
                && !self.state.borrow().has_to_wait_for_room(&gateway)
                && self.read(&gateway)
            {
                gateway.turnstile.pass().await;
            }
        }
    }

    /// Has its turn: takes what is held and what can be read, as long as the answers leave room, and then writes what has come
    /// of it. Says whether the turn was too short for all of it.
    fn read(self: &Rc<Self>, gateway: &Rc<Gateway>) -> bool {
        let mut turn = Turn::begin(Instant::now);
        self.state.borrow_mut().in_turn = true;
        self.read_until_over(&mut turn, gateway);
        self.state.borrow_mut().in_turn = false;
        if !self.state.borrow().out.is_empty() {
            self.flush_ends();
        }
        turn.is_over()
    }

    fn read_until_over(self: &Rc<Self>, turn: &mut Turn, gateway: &Rc<Gateway>) {
        let mut scratch = gateway.scratch.borrow_mut();
        let now = Instant::now();
        loop {
            let held = std::mem::take(&mut self.state.borrow_mut().held);
            let read = if held.is_empty() { self.stream.try_read(&mut scratch) } else { Ok(held.len()) };
            match read {
                Ok(0) => self.end_of_input(gateway),
                Ok(length) => {
                    let input = if held.is_empty() { &scratch[..length] } else { &held };
                    match self.receive(input, now, turn, gateway) {
                        Ok(rest) => self.state.borrow_mut().held = rest.to_vec(),
                        Err(fault) => {
                            self.tell_of_fault(fault, gateway);
                            let mut state = self.state.borrow_mut();
                            (state.ending, state.cut) = (Ending::Now, true);
                        }
                    }
                    self.state.borrow_mut().note_read(now);
                    self.account(gateway);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    debug!(cause = %crate::log::cause(&error), "connection lost");
                    self.state.borrow_mut().ending = Ending::Now;
                }
            }
            // Before more is taken, so that a client which never reads bounds what it can ask for.
            if self.state.borrow().out.is_full() {
                self.flush_now();
            }
            let state = self.state.borrow();
            let reads = state.interest().is_some_and(Interest::is_readable);
            if turn.is_over() || state.ending == Ending::Now || !reads {
                return;
            }
        }
    }

    /// A second descriptor of the socket, by which its hang-up is seen, and its part of the budget of descriptors.
    fn watch_for_hang_up<'a>(
        &self,
        room: &'a Semaphore,
    ) -> io::Result<(AsyncFd<OwnedFd>, SemaphorePermit<'a>)> {
        let part = room
            .try_acquire()
            .map_err(|_| io::Error::other("the limit of open files allows no more of them (ulimit -n)"))?;
        Ok((self.stream.watch_for_hang_up()?, part))
    }

    /// Counts a connection that ends for a fault, and logs why; where the peer speaks another protocol, as a warning with its address, since it has to be
    /// configured anew.
    fn tell_of_fault(&self, fault: Fault, gateway: &Gateway) {
        gateway.journal.connection_malformed();
        let Some(left_out) = gateway.journal.may_log_refusal() else { return };
        if let Fault::OtherProtocol(protocol) = fault {
            warn!(
                peer = self.stream.peer(),
                left_out,
                "connection closed: the peer speaks {protocol}, not FastCGI (nginx: fastcgi_pass; Caddy: transport fastcgi; \
                 HAProxy: proto fcgi; Apache: ProxyPass with fcgi://)"
            );
        } else {
            info!(cause = %fault, left_out, "connection closed");
        }
    }

    // The side of the answers.

    /// Appends response bytes.
    pub(crate) fn stdout(&self, id: u16, bytes: &[u8]) {
        let state = &mut *self.state.borrow_mut();
        if state.out.is_empty() {
            state.taking = Pace::new(Instant::now());
        }
        state.server.stdout(id, bytes, state.out.tail());
    }

    /// Appends bytes for the client's error log.
    pub(crate) fn stderr(&self, id: u16, bytes: &[u8]) {
        let state = &mut *self.state.borrow_mut();
        state.server.stderr(id, bytes, state.out.tail());
    }

    /// Ends a request whose answer is complete.
    pub(crate) fn end(&self, id: u16) {
        self.end_with(id, 0, ProtocolStatus::RequestComplete);
    }

    fn end_with(&self, id: u16, app_status: u32, protocol_status: ProtocolStatus) {
        {
            let state = &mut *self.state.borrow_mut();
            state.take_phase(id);
            state.unread |= state.server.is_sending(id);
            if state.server.end(id, app_status, protocol_status, state.out.tail()) == AfterEnd::Close {
                state.close_when_written();
            }
            if state.has_broken() {
                state.last_end = Instant::now();
                self.changed.notify_one();
            }
            state.close_if_half_closed();
        }
        self.flush_ends();
    }

    /// [`Self::flush`] after ends of answers.
    fn flush_ends(&self) {
        // Before the client reads the end of its answer, after which it may send the next request.
        self.state.borrow_mut().leave_if_idle(&self.stream);
        self.flush();
        let state = self.state.borrow();
        if state.stopping && state.ending == Ending::WhenWritten && state.out.is_empty() {
            // Follows the answer at once, so that a proxy does not take this connection for one that is kept.
            self.stream.shut_down_write();
        }
    }

    /// Leaves a request whose head is sent and whose body cannot be completed.
    ///
    /// A header with a bad version and the close tell the client that the transfer broke; END_REQUEST, with whatever
    /// status, or a clean close would look complete. Where requests share the connection, that waits until nothing else
    /// happens on it, or for the client to lose patience.
    pub(crate) fn break_off(&self, id: u16, message: &str) {
        {
            let state = &mut *self.state.borrow_mut();
            let now = Instant::now();
            if state.shared {
                state.server.stderr(id, message.as_bytes(), state.out.tail());
                state.set_phase(id, Phase::Broken(now));
                state.last_end = now;
                self.changed.notify_one();
            } else {
                state.break_transfer();
            }
        }
        self.flush();
    }

    /// Writes as much as the kernel takes; the task does the rest. What comes of a turn is written at its end, all at once.
    pub(crate) fn flush(&self) {
        if !self.state.borrow().in_turn {
            self.flush_now();
        }
    }

    fn flush_now(&self) {
        let delivered = self.write();
        // They tell the journal.
        drop(delivered);
    }

    /// Gives the requests whose answers are written now.
    fn write(&self) -> Vec<Undelivered> {
        let state = &mut *self.state.borrow_mut();
        while !state.out.unwritten().is_empty() {
            match self.stream.try_write(state.out.unwritten()) {
                Ok(length) => {
                    state.out.wrote(length);
                    if state.out.is_empty() {
                        state.blocked = None;
                    } else {
                        let now = Instant::now();
                        state.taking.moved(length, now);
                        if let Some(blocked) = &mut state.blocked {
                            blocked.pace.moved(length, now);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    state.ending = Ending::Now;
                    state.out.clear();
                }
            }
        }
        state.account_for_answers();
        if !state.out.is_full() {
            self.drained.notify_waiters();
        }
        if !state.out.is_empty() || state.ending != Ending::No {
            self.changed.notify_one();
        }
        state.take_delivered()
    }

    /// Waits until there is room for more of an answer; `None` where there is. Answers that share the connection take
    /// turns, so that one which always has more to send does not keep the others from it. Whoever waits long has the
    /// client found slow.
    pub(crate) fn room(self: &Rc<Self>) -> Option<impl Future<Output = ()> + use<>> {
        let nobody_waits = self.turn.available_permits() > 0;
        if nobody_waits && !self.is_held_up() {
            return None;
        }
        let connection = Rc::clone(self);
        Some(async move {
            // Never closed, so this is never an error.
            let _turn = connection.turn.acquire().await;
            loop {
                let drained = connection.drained.notified();
                if !connection.is_held_up() {
                    return;
                }
                drained.await;
            }
        })
    }

    /// Whether there is no room; from then on it counts how fast the client makes some.
    fn is_held_up(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let full = state.out.is_full();
        if full && state.blocked.is_none() {
            state.blocked = Some(Blocked::new(Instant::now()));
            self.changed.notify_one();
        }
        full
    }
}

/// A connection while its task lives.
struct Served {
    connection: Rc<Connection>,
    gateway: Rc<Gateway>,
}

/// Also where the task is dropped with the gateway: a request whose answer waits in a file is held by its connection and holds
/// it, and with it the access log, which would never be flushed.
impl Drop for Served {
    fn drop(&mut self) {
        self.connection.abandon_all(&self.gateway);
    }
}

/// Waits until a client that has shut its writing side closes its socket.
async fn hung_up(watched: Option<&AsyncFd<OwnedFd>>) {
    let Some(watched) = watched else { return };
    while let Ok(mut ready) = watched.writable().await {
        if ready.ready().is_write_closed() {
            return;
        }
        // The client has read something, and still has the socket.
        ready.clear_ready();
    }
}
