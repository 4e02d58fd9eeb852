//! What a connection holds of `--buffer-memory`, and which of its requests goes where there is no room.

use std::rc::Rc;

use crate::gateway::Gateway;
use crate::gateway::frontend::connection::Connection;
use crate::gateway::frontend::connection::intake::Cause;
use crate::gateway::frontend::connection::state::{Phase, State};
use crate::gateway::start::READ_BUFFER;
use crate::gateway::telemetry::status::Endpoint;
use crate::proto::memory::{FREE_OF_A_CONNECTION, For};
use crate::proto::request_end::Refused;
use crate::proto::send_buffer::KEPT_BUFFER;

impl Cause {
    pub(super) fn no_memory(what: &str) -> Self {
        Self(Refused::Memory, 503, format!("no memory is left for {what}"))
    }
}

impl Connection {
    /// Counts what has come. Where there is no room for it the newest parameters that are not complete go, which are answered
    /// with 503 at their end, and then the newest bodies, which are answered at once; unless one is on its way to a file. Nothing
    /// more is read then until it is there, so the bound is exceeded by what one read has brought.
    pub(super) fn account(self: &Rc<Self>, gateway: &Gateway) {
        loop {
            let newest = {
                let state = &mut *self.state.borrow_mut();
                let purpose = if state.server.held() > 0 { For::New } else { For::LetIn };
                let bytes = state.incoming_bytes();
                if state.incoming.resize(bytes, purpose) {
                    return;
                }
                if state.server.shed() {
                    continue;
                }
                if state.has_full_body() {
                    return state.incoming.set(bytes);
                }
                let newest =
                    state.requests.iter().rfind(|(_, phase)| phase.body_bytes() > 0).map(|(id, _)| *id);
                if newest.is_none() {
                    state.incoming.set(bytes);
                }
                newest
            };
            let Some(id) = newest else { return };
            self.refuse_arriving(id, gateway, |_| Cause::no_memory("its body"));
        }
    }

    /// Refuses a request whose parameters have just come, and whose body is still to come, where others need the memory; but
    /// for the health and the status.
    pub(super) fn admit(self: &Rc<Self>, id: u16, gateway: &Gateway) {
        let admitted = match self.state.borrow_mut().phase(id) {
            Some(Phase::Arriving(arriving)) => {
                let variables = &arriving.head.variables;
                // Where files make room, those that were let in leave this much to new ones.
                let small = variables.held() <= FREE_OF_A_CONNECTION;
                let purpose = if small && gateway.spool.is_writing() { For::LetIn } else { For::New };
                gateway.memory.has_room(variables.held() as u64, purpose)
                    || Endpoint::of(variables, arriving.role, &gateway.config()).is_some()
            }
            _ => true,
        };
        if !admitted {
            self.refuse_arriving(id, gateway, |_| Cause::no_memory("it"));
        }
    }
}

impl Gateway {
    /// Whether so many bytes more of a body had better be in a file.
    pub(super) fn is_short_of_memory(&self, bytes: usize) -> bool {
        self.spool.relieves_memory() && !self.memory.has_room(bytes as u64, For::Bodies)
    }

    /// Whether there is no room for what a read may bring (the growth of a buffer may double it), beside new requests, and files are
    /// about to make some.
    fn is_being_relieved(&self) -> bool {
        self.spool.is_writing() && !self.memory.has_room(2 * READ_BUFFER as u64, For::New)
    }
}

impl State {
    /// Whether a body is on its way to us, and is not to be read before files have made room for more of it.
    pub(super) fn has_to_wait_for_room(&self, gateway: &Gateway) -> bool {
        gateway.is_being_relieved() && self.has_arriving_body()
    }

    /// Counts what is left of incomplete requests, after some of it has gone.
    pub(super) fn account_for_less(&mut self) {
        let bytes = self.incoming_bytes();
        self.incoming.set(bytes);
    }

    /// Counts what waits to be written.
    pub(super) fn account_for_answers(&mut self) {
        self.outgoing.set(self.out.held().saturating_sub(KEPT_BUFFER));
    }

    /// Bytes of memory that incomplete requests take, but for those that do not count.
    fn incoming_bytes(&self) -> usize {
        let arriving: usize = self.requests.iter().map(|(_, phase)| phase.bytes()).sum();
        (arriving + self.server.held() + self.held.capacity()).saturating_sub(FREE_OF_A_CONNECTION)
    }
}

impl Phase {
    fn bytes(&self) -> usize {
        match self {
            Self::Arriving(arriving) => arriving.head.variables.held() + arriving.held(),
            _ => 0,
        }
    }

    fn body_bytes(&self) -> usize {
        match self {
            Self::Arriving(arriving) => arriving.held(),
            _ => 0,
        }
    }
}
