//! The handle of an open connection: its socket and its state. Responses write through it, while the task of the connection reads.
//!
//! Never waits for a worker, and no worker waits for the connection except through [`Handle::room`].

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore};

use super::wait::Signal;
use crate::gateway::frontend::client_socket::ClientSocket;
use crate::gateway::telemetry::metrics::Metrics;
use crate::proto::connection::{Connection, Socket, StreamKey, StreamSink};
use crate::proto::request_end::EndedRequest;
use crate::proto::response_writer::ResponseEnd;

/// An open connection.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(super) socket: ClientSocket,
    pub(crate) state: RefCell<Connection>,
    /// Whether a turn of the task is in progress, during which nothing is written.
    pub(super) in_turn: Cell<bool>,
    /// Wakes the task: there are bytes to write, or the connection ends.
    pub(super) changed: Signal,
    /// Signal that the send buffer has room again.
    pub(super) drained: Notify,
    /// Permit of the response that gets the next room. The other responses wait in order of arrival.
    turn: Semaphore,
    metrics: Rc<Metrics>,
}

impl Handle {
    pub(super) fn new(socket: ClientSocket, state: Connection, metrics: &Rc<Metrics>) -> Rc<Self> {
        Rc::new(Self {
            socket,
            state: RefCell::new(state),
            in_turn: Cell::new(false),
            changed: Signal::default(),
            drained: Notify::new(),
            turn: Semaphore::new(1),
            metrics: Rc::clone(metrics),
        })
    }

    /// Calls `act` with the sending side of a stream.
    pub(crate) fn send<T>(&self, key: StreamKey, act: impl FnOnce(&mut Option<StreamSink<'_>>) -> T) -> T {
        let write = |slices: &[IoSlice<'_>]| self.socket.try_write_vectored(slices);
        let connection = &mut *self.state.borrow_mut();
        // During a turn, writes are postponed to its end.
        let socket = (!self.in_turn.get()).then_some(Socket { write: &write, now: Instant::now });
        act(&mut Some(StreamSink { connection, key, socket }))
    }

    /// Whether the client still waits for the response of a stream.
    pub(crate) fn is_open(&self, key: StreamKey) -> bool {
        self.state.borrow().is_open(key)
    }

    /// Writes all bytes up to the end of a response.
    pub(crate) fn flush_end(&self) {
        // Before the write, because a client that has read the end of a response may send the next request.
        self.leave_if_idle();
        if self.state.borrow().has_broken() {
            // An end postpones the close for broken responses.
            self.changed.give();
        }
        self.flush();
        if self.state.borrow().has_written_last_response() {
            self.socket.shut_down_write();
        }
    }

    /// Writes as much as the kernel takes. The task writes the rest. During a turn, writes are postponed to its end.
    pub(crate) fn flush(&self) {
        if !self.in_turn.get() {
            self.flush_now();
        }
    }

    pub(super) fn flush_now(&self) {
        let delivered = self.write();
        for ended in delivered {
            self.metrics.ended(&ended, Instant::now());
        }
    }

    /// Writes as much as the kernel takes. Returns the requests whose responses are written now.
    fn write(&self) -> Vec<EndedRequest> {
        let state = &mut *self.state.borrow_mut();
        while !state.transmit().is_empty() {
            match self.socket.try_write(state.transmit()) {
                Ok(length) => state.transmitted(length, Instant::now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.blocked(Instant::now);
                    break;
                }
                Err(_) => state.transmit_failed(),
            }
        }
        // Only the response with the permit waits for room.
        if self.turn.available_permits() == 0 && !state.is_full() {
            self.drained.notify_waiters();
        }
        if !state.is_written() || state.is_ending() {
            self.changed.give();
        }
        state.flushed()
    }

    /// While the gateway stops: closes a connection with nothing left to answer.
    pub(super) fn leave_if_idle(&self) {
        if !self.state.borrow().is_stopping() || self.in_turn.get() {
            return;
        }
        let now = Instant::now();
        let idle = || self.state.borrow().may_leave(now) && !self.socket.has_unread();
        if !idle() {
            return;
        }
        if self.state.borrow_mut().leave(now) {
            self.socket.take_no_more();
        }
        if idle() {
            self.state.borrow_mut().close_when_written();
        }
    }

    /// Keeps an ended request until its response is written up to `end`. Returns it if it is already, or never will be.
    pub(crate) fn keep_until_written(&self, end: ResponseEnd, ended: EndedRequest) -> Option<EndedRequest> {
        self.state.borrow_mut().keep_until_written(end, ended)
    }

    /// A future that waits until the send buffer has room; `None` if it has room now. Responses that share the connection take
    /// turns, so that one with unlimited data does not block the others. A client that makes a response wait for long counts as
    /// slow.
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

    /// Whether the send buffer is full. Then the measurement of the client's rate starts.
    fn is_held_up(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let full = state.is_full();
        if full && state.hold_up(Instant::now) {
            self.changed.give();
        }
        full
    }
}
