//! From a connection's bytes to complete requests: what each event of the protocol means for the gateway.
//!
//! Called with what was read. Answers here what is wrong, submits what is complete, tells of clients that have gone;
//! reads and writes nothing itself.

use std::rc::Rc;

use super::Connection;
use super::state::{Arriving, Ending, Phase};
use crate::cgi::Variables;
use crate::cgi::request::{ContentLength, Head};
use crate::fastcgi::{Event, Fault, ProtocolStatus, Role};
use crate::gateway::Gateway;
use crate::gateway::outcome::Refused;
use crate::gateway::reply::{Reply, Ticket};
use crate::gateway::request::Request;
use crate::gateway::spool::Body;

/// Why a request is refused, with which status, in which words.
struct Cause(Refused, u16, String);

impl Connection {
    pub(super) fn receive(self: &Rc<Self>, mut input: &[u8], gateway: &Rc<Gateway>) -> Result<(), Fault> {
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

    pub(super) fn abandon_all(self: &Rc<Self>, gateway: &Gateway) {
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
}
