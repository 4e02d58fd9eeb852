//! The socket of a connection beside its state: what the responses write to, while the connection's task reads.
//!
//! Never waits for a worker, and no worker waits for the connection except through [`Handle::room`].

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore};

use crate::gateway::frontend::client_socket::ClientSocket;
use crate::gateway::telemetry::metrics::Metrics;
use crate::proto::connection::{Connection, StreamKey, StreamSink};
use crate::proto::request_end::EndedRequest;

/// A connection that is open.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(super) socket: ClientSocket,
    pub(crate) state: RefCell<Connection>,
    /// Bytes that were read are being looked at, and nothing is written meanwhile.
    pub(super) in_turn: Cell<bool>,
    /// The task has something to look at: bytes to write, or the end.
    pub(super) changed: Notify,
    /// There is room for responses again.
    pub(super) drained: Notify,
    /// Held by the response that has the next room; the others wait in the order in which they came.
    turn: Semaphore,
    metrics: Rc<Metrics>,
}

impl Handle {
    pub(super) fn new(socket: ClientSocket, state: Connection, metrics: &Rc<Metrics>) -> Rc<Self> {
        Rc::new(Self {
            socket,
            state: RefCell::new(state),
            in_turn: Cell::new(false),
            changed: Notify::new(),
            drained: Notify::new(),
            turn: Semaphore::new(1),
            metrics: Rc::clone(metrics),
        })
    }

    /// Has `act` send to one stream's client.
    pub(crate) fn send<T>(&self, key: StreamKey, act: impl FnOnce(&mut Option<StreamSink<'_>>) -> T) -> T {
        let connection = &mut *self.state.borrow_mut();
        act(&mut Some(StreamSink { connection, key }))
    }

    /// Whether the client still waits for the response of a stream.
    pub(crate) fn is_open(&self, key: StreamKey) -> bool {
        self.state.borrow().is_open(key)
    }

    /// Writes the end of a response, and what came before.
    pub(crate) fn flush_end(&self) {
        // Before the client reads the end of its response, after which it may send the next request.
        self.leave_if_idle();
        if self.state.borrow().has_broken() {
            // The end puts off the break.
            self.changed.notify_one();
        }
        self.flush();
        if self.state.borrow().has_said_goodbye() {
            self.socket.shut_down_write();
        }
    }

    /// Writes as much as the kernel takes; the task does the rest. Bytes that come of a turn are written at its end, all at once.
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

    /// Gives the requests whose responses are written now.
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
        if !state.is_full() {
            self.drained.notify_waiters();
        }
        if !state.is_written() || state.is_ending() {
            self.changed.notify_one();
        }
        state.flushed()
    }

    /// While the gateway stops: lets the client go where nothing is left to answer.
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

    /// Keeps a request that has ended until so many bytes are written.
    pub(crate) fn keep_until_written(&self, end: u64, ended: EndedRequest) -> Option<EndedRequest> {
        self.state.borrow_mut().keep_until_written(end, ended)
    }

    /// Waits until there is room for more of a response; `None` where there is. Responses that share the connection take
    /// turns, so that one which always has more to send does not keep the others from it. A client that makes a response wait
    /// long is found slow.
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

    /// Whether a response has no room; from then on it counts how fast the client makes some.
    fn is_held_up(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let full = state.is_full();
        if full && state.hold_up(Instant::now) {
            self.changed.notify_one();
        }
        full
    }
}
