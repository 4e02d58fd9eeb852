//! Answers that a client takes too slowly: they go to a file, and from there to the client, so that their workers are free.
//!
//! Called by the connection's task. What goes where is `outgoing`'s to say, and how it gets there `spool`'s; neither a write
//! nor a read is waited for.

use std::fmt::Display;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use tracing::{debug, warn};

use crate::gateway::Gateway;
use crate::gateway::frontend::connection::Connection;
use crate::gateway::frontend::connection::state::{Ending, Phase, Receiving, State, Undelivered};
use crate::gateway::request::Request;
use crate::gateway::spool::{Done, Overflow};
use crate::proto::rate::Pace;

impl Connection {
    /// The client is slow. Where there is no room for a file it merely holds up its worker, as before.
    pub(super) fn begin_to_spill(&self, gateway: &Gateway) {
        let limit = gateway.config().spool_response;
        match Overflow::new(limit, &gateway.spool) {
            Ok(overflow) => {
                let state = &mut *self.state.borrow_mut();
                state.overflow = Some(overflow);
                state.out.spill();
            }
            Err(error) => debug!(cause = %error, "an answer is not spooled"),
        }
        self.drained.notify_waiters();
    }

    /// Starts what is to be written and read now. Drops the file of a client that has caught up.
    pub(super) fn move_spilled(&self, gateway: &Gateway) {
        let limit = gateway.config().spool_response;
        let state = &mut *self.state.borrow_mut();
        let Some(overflow) = state.overflow.as_mut().filter(|_| state.out.is_spilling()) else {
            state.overflow = None;
            return;
        };
        if let Some(piece) = state.out.next_read() {
            overflow.read(piece, &gateway.spool);
        }
        if let Some((place, bytes)) = state.out.next_write(|| overflow.grow(limit).is_ok()) {
            overflow.write(place, bytes, &gateway.spool);
            if !state.out.is_full() {
                self.drained.notify_waiters();
            }
        }
    }

    /// Ready when something was written to the file, or read.
    pub(super) fn poll_spilled(&self, context: &mut Context<'_>) -> Poll<Done> {
        let state = &mut *self.state.borrow_mut();
        state.overflow.as_mut().map_or(Poll::Pending, |overflow| overflow.poll(context))
    }

    /// Something was written to the file, or read, or could not be.
    pub(super) fn spilled(self: &Rc<Self>, done: Done, gateway: &Rc<Gateway>) {
        match done {
            Done::Written(written) => {
                self.state.borrow_mut().out.kept(written.is_ok());
                if let Err(error) = written
                    && let Some(left_out) = gateway.journal.may_log_refusal()
                {
                    // Nothing is lost.
                    let cause = crate::log::cause(&error);
                    warn!(left_out, %cause, "cannot spool the answer of a slow client, whose worker waits for it");
                }
            }
            Done::Read(Ok(bytes)) => {
                {
                    let state = &mut *self.state.borrow_mut();
                    state.taking = Pace::new(Instant::now());
                    state.out.read(bytes);
                }
                self.flush();
            }
            Done::Read(Err(error)) => self.lose_spilled(crate::log::cause(&error), gateway),
        }
    }

    /// What waits for the client is lost. It may be of several requests, and nothing can follow: the transfer breaks.
    pub(super) fn lose_spilled(self: &Rc<Self>, cause: impl Display, gateway: &Rc<Gateway>) {
        if let Some(left_out) = gateway.journal.may_log_refusal() {
            warn!(%cause, left_out, "connection broken off: what was spooled for a slow client is lost");
        }
        let (requests, undelivered) = {
            let state = &mut *self.state.borrow_mut();
            state.overflow = None;
            state.out.lose_spilled();
            state.server.break_off(state.out.tail());
            (state.receiving, state.cut) = (Receiving::Done, true);
            state.close_when_written();
            (std::mem::take(&mut state.requests), std::mem::take(&mut state.undelivered))
        };
        for Undelivered { request, .. } in undelivered {
            request.reply.ticket().set_broken();
        }
        for (id, phase) in requests {
            if let Phase::Submitted(ticket) = &phase {
                ticket.set_broken();
            }
            self.abandoned(id, phase, gateway);
        }
        self.drained.notify_waiters();
        self.flush();
    }

    /// Where a client is slow: how many bytes will have been written to it when it has all that is here.
    pub(crate) fn end_in_file(&self) -> Option<u64> {
        let out = &self.state.borrow().out;
        out.is_spilling().then(|| out.appended())
    }

    /// Keeps a request until so many bytes are written, unless they are or never will be.
    pub(crate) fn keep_until_written(&self, end: u64, request: Box<Request>) {
        let state = &mut *self.state.borrow_mut();
        if state.out.sent() >= end {
            return;
        }
        match state.ending {
            Ending::Now => {
                request.reply.ticket().abandon();
            }
            _ => state.undelivered.push(Undelivered { end, request }),
        }
    }
}

impl State {
    /// Requests whose answers are written by now.
    pub(super) fn take_delivered(&mut self) -> Vec<Undelivered> {
        let sent = self.out.sent();
        // Mostly there are none, and nothing is allocated.
        self.undelivered.extract_if(.., |undelivered| undelivered.end <= sent).collect()
    }
}
