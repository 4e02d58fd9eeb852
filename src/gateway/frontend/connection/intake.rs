//! From a connection's bytes to complete requests: what each event of the protocol means for the gateway.
//!
//! Called with what was read. Answers here what is wrong, submits what is complete, tells of clients that have gone;
//! reads and writes nothing itself.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use tracing::{info, warn};

use crate::cgi::Variables;
use crate::cgi::arrival::{Arrival, Completeness};
use crate::cgi::request::{ContentLength, Head};
use crate::fastcgi::{Event, Fault, ProtocolStatus, Refusal, Role};
use crate::gateway::Gateway;
use crate::gateway::frontend::connection::Connection;
use crate::gateway::frontend::connection::arriving::{Arriving, Incoming, Source};
use crate::gateway::frontend::connection::due::{Due, Timeouts};
use crate::gateway::frontend::connection::state::{Ending, Phase, Receiving, Undelivered};
use crate::gateway::frontend::response_writer::{Reply, Ticket};
use crate::gateway::own_paths;
use crate::gateway::request::Request;
use crate::gateway::spool::{Body, SpoolError};
use crate::gateway::turn::{PIECE, Turn};
use crate::link::message::{MAX_INLINE_BODY, MAX_INLINE_BODY_OF_TWO};
use crate::proto::rate::Pace;
use crate::proto::request_end::Refused;

/// Why a request is refused, with which status, in which words.
pub(super) struct Cause(pub(super) Refused, pub(super) u16, pub(super) String);

impl From<SpoolError> for Cause {
    fn from(error: SpoolError) -> Self {
        let why = if matches!(error, SpoolError::Memory) { Refused::Memory } else { Refused::Spool };
        Self(why, error.status(), error.to_string())
    }
}

/// Logs, once each, the parameters that the proxy repeats, and a missing PATH_INFO: faults of its configuration.
fn tell_of_parameters(head: &mut Head, gateway: &Gateway) {
    if head.repeated.is_empty() && !head.lacks_path_info {
        return;
    }
    let told = &mut *gateway.told.borrow_mut();
    for name in std::mem::take(&mut head.repeated) {
        if told.repeated(&name) {
            warn!("the proxy sends {} more than once; its last value counts", name.escape_ascii());
        }
    }
    if head.lacks_path_info && told.missing_path_info() {
        warn!(
            "the proxy sends no path in PATH_INFO, as nginx's own fastcgi_params does not; include nibiru_params in its place, with \
             fastcgi_split_path_info"
        );
    }
}

impl Connection {
    /// Takes input for as long as the turn goes on and the answers leave room. Gives the rest.
    pub(super) fn receive<'i>(
        self: &Rc<Self>,
        input: &'i [u8],
        now: Instant,
        turn: &mut Turn,
        gateway: &Rc<Gateway>,
    ) -> Result<&'i [u8], Fault> {
        let mut rest = input;
        loop {
            let event = {
                let state = &mut *self.state.borrow_mut();
                if let Ending::Lingering { bytes, .. } = &mut state.ending {
                    *bytes = bytes.saturating_sub(rest.len() as u64);
                    turn.goes_on_after(rest.len());
                    return Ok(&[]);
                }
                // What needs no more bytes is never left for later.
                if !rest.is_empty() && (turn.is_over() || state.out.is_full()) {
                    return Ok(rest);
                }
                // Records that are answered or ignored without a decision make no event: these are bounded by their length.
                let mut piece = &rest[..rest.len().min(PIECE)];
                let length = piece.len();
                let event = state.server.receive(&mut piece, state.out.tail())?;
                rest = &rest[length - piece.len()..];
                event
            };
            turn.goes_on();
            match event {
                None if rest.is_empty() => return Ok(rest),
                None => {}
                Some(Event::Begin { id, role, .. }) => {
                    let mut state = self.state.borrow_mut();
                    // Clients send one request after the other, so the one that was refused has all come.
                    state.unread = false;
                    state.used = true;
                    state.shared |= !state.requests.is_empty();
                    state.requests.push((id, Phase::Begun(now, role)));
                }
                Some(Event::Params { id, variables }) => self.params(id, variables, now, gateway),
                Some(Event::Stdin { id, bytes }) => self.take(id, Source::Stdin, bytes, now, gateway),
                Some(Event::Data { id, bytes }) => self.take(id, Source::Data, bytes, now, gateway),
                Some(Event::StdinEnd { id }) => self.take_end(id, Source::Stdin, Arrival::end, gateway),
                Some(Event::StdinEndInDoubt { id }) => {
                    self.take_end(id, Source::Stdin, Arrival::end_in_doubt, gateway);
                }
                Some(Event::DataEnd { id }) => self.take_end(id, Source::Data, Arrival::end, gateway),
                Some(Event::Refused { id, refusal }) => {
                    let why = match refusal {
                        Refusal::TooManyRequests { .. } => Refused::ConnectionFull,
                        Refusal::NoMemory => Refused::Memory,
                        _ => Refused::Params,
                    };
                    let cause = Cause(why, refusal.status(), refusal.to_string());
                    self.refuse(id, Variables::new(), cause, gateway);
                    if refusal.closes() {
                        self.state.borrow_mut().close_when_written();
                    }
                }
                Some(Event::Abort { id }) => {
                    self.abandon(id, gateway);
                    self.end_with(id, 0, ProtocolStatus::RequestComplete);
                }
            }
        }
    }

    fn params(self: &Rc<Self>, id: u16, mut variables: Variables, now: Instant, gateway: &Rc<Gateway>) {
        let Some(&mut Phase::Begun(_, role)) = self.state.borrow_mut().phase(id) else { return };
        let parsed = match role {
            Role::Responder => Head::parse(&mut variables).map(|head| (head, None)),
            Role::Authorizer => Head::parse_authorizer(&mut variables).map(|head| (head, None)),
            Role::Filter => Head::parse_filter(&mut variables).map(|(head, data)| (head, Some(data))),
        };
        let (head, data) = match parsed {
            Ok((mut head, data)) => {
                tell_of_parameters(&mut head, gateway);
                (head, data)
            }
            Err(error) => {
                let cause = Cause(Refused::Variables, error.status(), error.to_string());
                return self.refuse(id, variables, cause, gateway);
            }
        };
        let limit = gateway.config().max_body;
        let exceeds = |promised| matches!(promised, ContentLength::Known(length) if length > limit);
        if let Some(data) = data.filter(|data| exceeds(*data)) {
            return self.refuse(id, head.variables, too_large(Source::Data, data, limit), gateway);
        }
        let too_large = exceeds(head.content_length);
        let in_memory = if data.is_some() { MAX_INLINE_BODY_OF_TWO } else { MAX_INLINE_BODY };
        let incoming = |promised| Incoming { arrival: Arrival::new(promised), body: Body::within(in_memory) };
        let (stdin, data) = (incoming(head.content_length), data.map(|data| Box::new(incoming(data))));
        let arriving = Arriving { head, role, stdin, data, since: now, too_large, pace: Pace::new(now) };
        self.state.borrow_mut().set_phase(id, Phase::Arriving(Box::new(arriving)));
        for source in [Source::Stdin, Source::Data] {
            self.progress(id, source, gateway);
        }
        self.admit(id, gateway);
    }

    fn take(self: &Rc<Self>, id: u16, source: Source, bytes: &[u8], now: Instant, gateway: &Rc<Gateway>) {
        let cause = {
            let mut state = self.state.borrow_mut();
            let Some(Phase::Arriving(arriving)) = state.phase(id) else { return };
            if arriving.too_large && source == Source::Stdin {
                drop(state);
                return self.refuse_too_large(id, gateway);
            }
            arriving.pace.moved(bytes.len(), now);
            let Some(Incoming { arrival, body }) = arriving.from(source) else { return };
            if arrival.completeness() != Completeness::Incomplete {
                // More than was promised, while the rest is on its way to its file.
                return;
            }
            let limit = gateway.config().max_body;
            let kept = arrival.receive(bytes.len());
            // A promise within the limit has been let in. A reload may have lowered the limit since.
            if !arrival.is_promised() && body.len() + kept as u64 > limit {
                let message = format!("{source} has more than {limit} bytes (--max-body)");
                Some(Cause(Refused::BodyTooLarge, 413, message))
            } else {
                let short = gateway.is_short_of_memory(kept);
                body.append(&bytes[..kept], short, &gateway.spool).err().map(Cause::from)
            }
        };
        match cause {
            Some(cause) => self.refuse_arriving(id, gateway, |_| cause),
            None => self.progress(id, source, gateway),
        }
    }

    /// A stream has ended, as `end` says.
    fn take_end(self: &Rc<Self>, id: u16, source: Source, end: fn(&mut Arrival), gateway: &Rc<Gateway>) {
        {
            let mut state = self.state.borrow_mut();
            let Some(Phase::Arriving(arriving)) = state.phase(id) else { return };
            let Some(Incoming { arrival, .. }) = arriving.from(source) else { return };
            if arrival.completeness() != Completeness::Incomplete {
                // It was complete without.
                return;
            }
            end(arrival);
        }
        self.progress(id, source, gateway);
    }

    /// Submits the request where this was the last of it; refuses it where it can never be complete.
    fn progress(self: &Rc<Self>, id: u16, source: Source, gateway: &Rc<Gateway>) {
        let (came, promised) = {
            let mut state = self.state.borrow_mut();
            let Some(Phase::Arriving(arriving)) = state.phase(id) else { return };
            let Some(Incoming { arrival, body }) = arriving.from(source) else { return };
            match (arrival.completeness(), source) {
                (Completeness::Incomplete, _) => return,
                (Completeness::Complete, _) | (Completeness::Withheld { .. }, Source::Stdin) => {
                    body.finish(&gateway.spool);
                    if !arriving.is_kept() {
                        return;
                    }
                    drop(state);
                    return self.submit(id, gateway);
                }
                (Completeness::Withheld { promised } | Completeness::Short { promised }, _) => {
                    (body.len(), promised)
                }
            }
        };
        let message = format!("{source} ended after {came} of {promised} bytes");
        self.refuse_arriving(id, gateway, |_| Cause(Refused::BodyTooShort, 400, message));
    }

    /// All of a request is here.
    fn submit(self: &Rc<Self>, id: u16, gateway: &Rc<Gateway>) {
        let ticket = Rc::new(Ticket::default());
        let phase = self.state.borrow_mut().set_phase(id, Phase::Submitted(Rc::clone(&ticket)));
        // From now on its own share counts it.
        self.state.borrow_mut().account_for_less();
        let Some(Phase::Arriving(arriving)) = phase else { return };
        let Arriving { mut head, role, stdin, data, since, .. } = *arriving;
        if let Completeness::Withheld { promised } = stdin.arrival.completeness() {
            head.withhold_body(promised);
        }
        let mut reply = Reply::new(Rc::clone(self), id, ticket, head.head_request);
        if role == Role::Authorizer {
            reply.hold_head();
        }
        let mut request = Request::new(head.variables, stdin.body, reply, gateway);
        request.head_start = gateway.head_start(&request.variables, since);
        (request.role, request.data) = (role, data.map(|data| data.body));
        if let Some(request) = own_paths::answer(request, gateway) {
            gateway.submit(request);
        }
    }

    /// Ready when a part of a body was written, or could not be.
    pub(super) fn poll_spooled(
        &self,
        context: &mut Context<'_>,
        gateway: &Gateway,
    ) -> Poll<(u16, Result<bool, SpoolError>)> {
        for (id, arriving) in self.state.borrow_mut().spooling() {
            let written =
                arriving.writing().find_map(|body| match body.poll_written(context, &gateway.spool) {
                    Poll::Ready(written) => Some(written),
                    Poll::Pending => None,
                });
            if let Some(written) = written {
                return Poll::Ready((id, written.map(|()| arriving.is_kept())));
            }
        }
        Poll::Pending
    }

    /// A part of a body was written; all of it where it is `kept` now.
    pub(super) fn spooled(self: &Rc<Self>, id: u16, kept: Result<bool, SpoolError>, gateway: &Rc<Gateway>) {
        self.state.borrow_mut().account_for_less();
        match kept {
            Ok(true) => self.submit(id, gateway),
            Ok(false) => {}
            Err(error) => self.refuse_arriving(id, gateway, |_| Cause::from(error)),
        }
    }

    /// Does what is due, for clients and disks that have had their time.
    pub(super) fn expire(self: &Rc<Self>, gateway: &Rc<Gateway>) {
        let timeouts = Timeouts::of(&gateway.config());
        let others_wait = !gateway.queue.borrow().is_empty();
        let settled = gateway.clock.settled();
        let due = || self.state.borrow_mut().due(&timeouts, others_wait, settled, Instant::now());
        while let Some(due) = due() {
            match due {
                Due::Close(why) => return self.close_late(why, gateway),
                Due::Params(id) => {
                    // §3.3: there can be no output before the end of PARAMS. Alone on its connection it ends with that.
                    if self.state.borrow().requests.len() == 1 {
                        let why = "the parameters took too long (--header-timeout)";
                        return self.close_late(why, gateway);
                    }
                    log_throttled(gateway, "request ended: its parameters took too long (--header-timeout)");
                    self.end_with(id, 1, ProtocolStatus::RequestComplete);
                }
                Due::Body(id) => {
                    self.refuse_arriving(id, gateway, |arriving| {
                        let came = arriving.len();
                        let message =
                            format!("the body came too slowly: {came} bytes so far (--body-timeout)");
                        Cause(Refused::BodyTimeout, 408, message)
                    });
                    let mut state = self.state.borrow_mut();
                    if state.requests.is_empty() {
                        // RFC 9110 §15.5.9: 408 closes the connection, on which the rest may still come.
                        state.late = true;
                        state.close_when_written();
                    }
                }
                Due::TooLarge(id) => self.refuse_too_large(id, gateway),
                Due::Break => {
                    self.state.borrow_mut().break_transfer();
                    self.flush();
                }
                Due::Broken(id) => self.end_with(id, 1, ProtocolStatus::RequestComplete),
                Due::Spool(id) => self.refuse_arriving(id, gateway, |_| Cause::from(SpoolError::Stalled)),
                Due::Slow => self.begin_to_spill(gateway),
                Due::Lost => {
                    self.lose_spilled("the disk did not give it back in time (--send-timeout)", gateway);
                }
            }
        }
    }

    /// Ends the connection of a client that has had its time.
    fn close_late(&self, why: &str, gateway: &Gateway) {
        log_throttled(gateway, &format!("connection closed: {why}"));
        let mut state = self.state.borrow_mut();
        (state.ending, state.cut) = (Ending::Now, true);
    }

    /// Refuses a request whose promised body is larger than `--max-body`.
    fn refuse_too_large(self: &Rc<Self>, id: u16, gateway: &Gateway) {
        let limit = gateway.config().max_body;
        self.refuse_arriving(id, gateway, |arriving| {
            too_large(Source::Stdin, arriving.head.content_length, limit)
        });
    }

    /// Refuses a request whose body is on its way.
    pub(super) fn refuse_arriving(
        self: &Rc<Self>,
        id: u16,
        gateway: &Gateway,
        cause: impl FnOnce(&Arriving) -> Cause,
    ) {
        let phase = self.state.borrow_mut().take_phase(id);
        let Some(Phase::Arriving(arriving)) = phase else { return };
        let cause = cause(&arriving);
        self.refuse(id, arriving.head.variables, cause, gateway);
    }

    /// Answers a request that no worker gets. The rest of its body is dropped as it arrives.
    fn refuse(self: &Rc<Self>, id: u16, variables: Variables, cause: Cause, gateway: &Gateway) {
        let Cause(why, status, message) = cause;
        let head_request = variables.get(b"REQUEST_METHOD") == Some(b"HEAD");
        let reply = Reply::new(Rc::clone(self), id, Rc::default(), head_request);
        Request::partial(variables, reply, gateway).refuse(why, status, &message);
    }

    /// The client sends nothing more. A client that has only shut its writing side still gets the answers to the requests that
    /// are complete; incomplete ones are aborted.
    pub(super) fn end_of_input(self: &Rc<Self>, gateway: &Gateway) {
        let half_closed = self.stream.is_half_closed();
        if half_closed && self.state.borrow().receiving == Receiving::Open {
            let incomplete = || self.state.borrow().incomplete().next();
            while let Some(id) = incomplete() {
                self.abandon(id, gateway);
                self.end_with(id, 0, ProtocolStatus::RequestComplete);
            }
        }
        self.state.borrow_mut().no_more_comes(half_closed);
    }

    /// The client does not wait for this request's answer any more.
    fn abandon(self: &Rc<Self>, id: u16, gateway: &Gateway) {
        let phase = self.state.borrow_mut().take_phase(id);
        if let Some(phase) = phase {
            self.abandoned(id, phase, gateway);
        }
    }

    pub(super) fn abandoned(self: &Rc<Self>, id: u16, phase: Phase, gateway: &Gateway) {
        match phase {
            Phase::Begun(..) => {
                if !self.state.borrow().cut {
                    log_throttled(gateway, "request aborted by the client before its parameters had come");
                }
            }
            // All is said.
            Phase::Broken(_) => {}
            Phase::Arriving(arriving) => {
                let ticket = Ticket::default();
                ticket.abandon();
                let reply = Reply::new(Rc::clone(self), id, Rc::new(ticket), false);
                let came = arriving.len();
                let request = Request::partial(arriving.head.variables, reply, gateway);
                if !self.state.borrow().cut {
                    request.log_abort_while_arriving(came, arriving.since.elapsed());
                }
            }
            Phase::Submitted(ticket) => gateway.abandoned(&ticket),
        }
    }

    pub(super) fn abandon_all(self: &Rc<Self>, gateway: &Gateway) {
        let (requests, undelivered) = {
            let mut state = self.state.borrow_mut();
            state.ending = Ending::Now;
            state.out.clear();
            state.overflow = None;
            state.held = Vec::new();
            let taken = (std::mem::take(&mut state.requests), std::mem::take(&mut state.undelivered));
            state.account_for_answers();
            state.account_for_less();
            taken
        };
        for Undelivered { request, .. } in undelivered {
            request.reply.ticket().abandon();
        }
        for (id, phase) in requests {
            self.abandoned(id, phase, gateway);
        }
        self.drained.notify_waiters();
    }
}

fn too_large(source: Source, promised: ContentLength, limit: u64) -> Cause {
    let length = match promised {
        ContentLength::Known(length) => format!("{length} bytes"),
        ContentLength::UntilEnd => "too many bytes".to_owned(),
    };
    Cause(Refused::BodyTooLarge, 413, format!("{source} has {length}, --max-body is {limit}"))
}

/// Logs why a request or a connection ended early, as often as refusals may be logged.
fn log_throttled(gateway: &Gateway, message: &str) {
    if let Some(left_out) = gateway.journal.may_log_refusal() {
        info!(left_out, "{message}");
    }
}
