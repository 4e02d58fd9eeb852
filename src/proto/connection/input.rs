//! The receiving side of a connection: handles the events of the protocol, and decides which requests are complete, rejected or
//! abandoned.

use std::time::Instant;

use super::event::{Event, Policy};
use super::state::{Connection, Ending, Receiving};
use super::stream::{Assignment, Incoming, IncomingRequest, Source, StreamKey, StreamState};
use crate::cgi::Variables;
use crate::cgi::arrival::{Arrival, Completeness};
use crate::cgi::request::{ContentLength, Head};
use crate::fastcgi::{self, Fault, ProtocolStatus, Refusal, Role};
use crate::link::message::{MAX_INLINE_BODY, MAX_INLINE_BODY_OF_TWO};
use crate::proto::body::{Body, Write};
use crate::proto::body_file::BodyFileError;
use crate::proto::memory::{Purpose, UNCOUNTED_PER_CONNECTION};
use crate::proto::rate::MinRate;
use crate::proto::request_end::RejectReason;
use crate::proto::space::{Buffers, SpoolError};
use crate::proto::turn::{PIECE, Turn};

/// The reason of a rejection, with the status and the message of the response.
pub(super) struct Rejection(pub(super) RejectReason, pub(super) u16, pub(super) String);

impl From<SpoolError> for Rejection {
    fn from(error: SpoolError) -> Self {
        let why = if error == SpoolError::Memory { RejectReason::Memory } else { RejectReason::Spool };
        Self(why, error.status(), error.to_string())
    }
}

impl Rejection {
    fn no_memory(what: &str) -> Self {
        Self(RejectReason::Memory, 503, format!("no memory is left for {what}"))
    }

    pub(super) fn too_large(source: Source, promised: ContentLength, limit: u64) -> Self {
        let length = match promised {
            ContentLength::Known(length) => format!("{length} bytes"),
            ContentLength::UntilEnd => "too many bytes".to_owned(),
        };
        Self(RejectReason::BodyTooLarge, 413, format!("{source} has {length}, --max-body is {limit}"))
    }
}

impl Connection {
    /// Takes bytes from the front of `input` until there is an event for the driver. Returns whether there is one. Otherwise the
    /// rest of the input, if any, has to wait, because the turn is over or the send buffer is full.
    ///
    /// # Errors
    /// A [`Fault`] ends the connection.
    pub(crate) fn receive(
        &mut self,
        input: &mut &[u8],
        now: Instant,
        turn: &mut Turn,
        policy: &Policy<'_>,
    ) -> Result<bool, Fault> {
        loop {
            if let Ending::Lingering { bytes, .. } = &mut self.ending {
                *bytes = bytes.saturating_sub(input.len() as u64);
                turn.goes_on_after(input.len());
                *input = &[];
                return Ok(false);
            }
            // An event that needs no more bytes is never postponed.
            if !input.is_empty() && (turn.is_over() || self.out.is_full()) {
                return Ok(false);
            }
            // Records that are answered or ignored right away make no event, so they are bounded by their length.
            let mut piece = &input[..input.len().min(PIECE)];
            let length = piece.len();
            let event = self.server.receive(&mut piece, self.out.tail())?;
            *input = &input[length - piece.len()..];
            turn.goes_on();
            match event {
                None if input.is_empty() => return Ok(false),
                None => {}
                Some(event) => self.handle(event, now, policy),
            }
            if !self.events.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Keeps the rest of a read for the next turn.
    pub(crate) fn hold(&mut self, rest: &[u8]) {
        self.held = rest.to_vec();
    }

    /// The bytes kept for this turn.
    pub(crate) fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Whether bytes are kept for the next turn.
    pub(crate) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Notes the end of a read.
    pub(crate) fn note_read(&mut self, now: Instant) {
        self.last_read = now;
        self.discarding_input &= self.server.has_unfinished();
        let stray = !self.is_arriving() && !self.server.is_between_records();
        // Each read of a busy connection may end within a record, so each complete record restarts the time.
        let finished = self.server.finished_records();
        let same = std::mem::replace(&mut self.finished_records, finished) == finished;
        self.stray_since = stray.then(|| self.stray_since.filter(|_| same).unwrap_or(now));
    }

    /// Whether a request is incomplete.
    fn is_arriving(&self) -> bool {
        let arriving =
            |state: &StreamState| matches!(state, StreamState::Begun { .. } | StreamState::Arriving(_));
        self.streams.iter().any(|stream| arriving(&stream.state))
    }

    fn handle(&mut self, event: fastcgi::Event<'_>, now: Instant, policy: &Policy<'_>) {
        match event {
            fastcgi::Event::Begin { id, role, .. } => {
                // Clients send requests in sequence, so the rejected one has arrived whole.
                self.discarding_input = false;
                self.used = true;
                self.multiplexed |= !self.streams.is_empty();
                self.open_stream(id, StreamState::Begun { since: now, role });
            }
            fastcgi::Event::Params { id, variables } => self.handle_params(id, variables, now, policy),
            fastcgi::Event::Stdin { id, bytes } => self.handle_bytes(id, Source::Stdin, bytes, now, policy),
            fastcgi::Event::Data { id, bytes } => self.handle_bytes(id, Source::Data, bytes, now, policy),
            fastcgi::Event::StdinEnd { id } => self.handle_end(id, Source::Stdin, Arrival::end, now, policy),
            fastcgi::Event::StdinEndInDoubt { id } => {
                self.handle_end(id, Source::Stdin, Arrival::end_in_doubt, now, policy);
            }
            fastcgi::Event::DataEnd { id } => self.handle_end(id, Source::Data, Arrival::end, now, policy),
            fastcgi::Event::Refused { id, refusal } => self.handle_refusal(id, refusal),
            fastcgi::Event::Abort { id } => match self.key_of(id) {
                Some(key) => self.abandon(key, now),
                None => self.end_on_wire(id, 0, ProtocolStatus::RequestComplete, now),
            },
        }
    }

    fn handle_refusal(&mut self, id: u16, refusal: Refusal) {
        let why = match refusal {
            Refusal::TooManyRequests { .. } => RejectReason::ConnectionFull,
            Refusal::NoMemory => RejectReason::Memory,
            _ => RejectReason::Params,
        };
        let key = self.key_of(id);
        let key = key.unwrap_or_else(|| self.open_stream(id, StreamState::Submitted(Assignment::default())));
        self.reject(key, Variables::new(), Rejection(why, refusal.status(), refusal.to_string()));
        if refusal.closes() {
            self.close_when_written();
        }
    }

    fn handle_params(&mut self, id: u16, mut variables: Variables, now: Instant, policy: &Policy<'_>) {
        let Some(key) = self.key_of(id) else { return };
        let Some(&mut StreamState::Begun { role, .. }) = self.stream(key).map(|stream| &mut stream.state)
        else {
            return;
        };
        let parsed = match role {
            Role::Responder => Head::parse(&mut variables).map(|head| (head, None)),
            Role::Authorizer => Head::parse_authorizer(&mut variables).map(|head| (head, None)),
            Role::Filter => Head::parse_filter(&mut variables).map(|(head, data)| (head, Some(data))),
        };
        let (mut head, data) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                let cause = Rejection(RejectReason::Variables, error.status(), error.to_string());
                return self.reject(key, variables, cause);
            }
        };
        if !head.repeated.is_empty() || head.lacks_path_info {
            let (repeated, lacks_path_info) = (std::mem::take(&mut head.repeated), head.lacks_path_info);
            self.events.push_back(Event::Misconfigured { repeated, lacks_path_info });
        }
        let exceeds = |promised| matches!(promised, ContentLength::Known(length) if length > policy.max_body);
        if let Some(data) = data.filter(|data| exceeds(*data)) {
            let cause = Rejection::too_large(Source::Data, data, policy.max_body);
            return self.reject(key, head.variables, cause);
        }
        let too_large = exceeds(head.content_length);
        let in_memory = if data.is_some() { MAX_INLINE_BODY_OF_TWO } else { MAX_INLINE_BODY };
        let incoming = |promised| Incoming { arrival: Arrival::new(promised), body: Body::within(in_memory) };
        let stdin = match policy.body_file(&head.variables, role) {
            None => incoming(head.content_length),
            Some(path) => match self.body_in_file(path, &head, too_large, now, policy) {
                Ok(stdin) => stdin,
                Err(cause) => return self.reject(key, head.variables, cause),
            },
        };
        let data = data.map(|data| Box::new(incoming(data)));
        let rate = MinRate::new(now);
        let request = Box::new(IncomingRequest { head, role, stdin, data, since: now, too_large, rate });
        if let Some(stream) = self.stream(key) {
            stream.state = StreamState::Arriving(request);
        }
        for source in [Source::Stdin, Source::Data] {
            self.progress(key, source, now, policy.buffers);
        }
        self.admit(key, policy);
    }

    /// The request of a stream while it arrives.
    pub(super) fn arriving(&mut self, key: StreamKey) -> Option<&mut IncomingRequest> {
        match &mut self.stream(key)?.state {
            StreamState::Arriving(request) => Some(request),
            _ => None,
        }
    }

    fn handle_bytes(&mut self, id: u16, source: Source, bytes: &[u8], now: Instant, policy: &Policy<'_>) {
        let Some(key) = self.key_of(id) else { return };
        let Some(request) = self.arriving(key) else { return };
        if request.is_in_file(source) {
            return self.refuse_body_file(key, BodyFileError::Twice);
        }
        if request.too_large && source == Source::Stdin {
            return self.reject_too_large(key, policy.max_body);
        }
        request.rate.moved(bytes.len(), now);
        let Some(Incoming { arrival, body }) = request.from(source) else { return };
        if arrival.completeness() != Completeness::Incomplete {
            // Bytes beyond the promised length, while the body is being written to its file.
            return;
        }
        let limit = policy.max_body;
        let kept = arrival.receive(bytes.len());
        // A promised length was checked against the limit before. A reload may have lowered the limit since.
        if !arrival.is_promised() && body.len() + kept as u64 > limit {
            let message = format!("{source} has more than {limit} bytes (--max-body)");
            return self.reject_arriving(key, |_| Rejection(RejectReason::BodyTooLarge, 413, message));
        }
        // Bytes in a file take no memory.
        let short = policy.space.relieves_memory() && !policy.memory.has_room(kept as u64, Purpose::Body);
        match body.append(&bytes[..kept], short, now, policy.space, policy.buffers) {
            Ok(()) => self.progress(key, source, now, policy.buffers),
            Err(error) => self.reject_arriving(key, |_| error.into()),
        }
    }

    /// Handles the end of a body's stream. `end` is the kind of end.
    fn handle_end(
        &mut self,
        id: u16,
        source: Source,
        end: fn(&mut Arrival),
        now: Instant,
        policy: &Policy<'_>,
    ) {
        let Some(key) = self.key_of(id) else { return };
        let Some(Incoming { arrival, .. }) = self.arriving(key).and_then(|request| request.from(source))
        else {
            return;
        };
        // The body may have been complete before this end.
        if arrival.completeness() == Completeness::Incomplete {
            end(arrival);
            self.progress(key, source, now, policy.buffers);
        }
    }

    /// Submits the request if it is complete, and rejects it if it can never be.
    fn progress(&mut self, key: StreamKey, source: Source, now: Instant, buffers: &Buffers) {
        let Some(request) = self.arriving(key) else { return };
        let Some(Incoming { arrival, body }) = request.from(source) else { return };
        let (came, promised) = match (arrival.completeness(), source) {
            (Completeness::Incomplete, _) => return,
            (Completeness::Complete, _) | (Completeness::Withheld { .. }, Source::Stdin) => {
                body.finish(now, buffers);
                if request.is_kept() {
                    self.submit(key);
                }
                return;
            }
            (Completeness::Withheld { promised } | Completeness::Short { promised }, _) => {
                (body.len(), promised)
            }
        };
        let message = format!("{source} ended after {came} of {promised} bytes");
        self.reject_arriving(key, |_| Rejection(RejectReason::BodyTooShort, 400, message));
    }

    /// Submits a complete request to the driver.
    pub(super) fn submit(&mut self, key: StreamKey) {
        let Some(stream) = self.stream(key) else { return };
        let submitted = StreamState::Submitted(Assignment::default());
        let StreamState::Arriving(mut request) = std::mem::replace(&mut stream.state, submitted) else {
            return;
        };
        // The request has a share of its own from now on.
        self.account_for_less();
        if let Completeness::Withheld { promised } = request.stdin.arrival.completeness() {
            request.head.withhold_body(promised);
        }
        self.events.push_back(Event::Request { key, request });
    }

    // Writes of bodies to files.

    /// The next write of a body for the driver to start. Each is returned once.
    pub(crate) fn next_body_write(&mut self) -> Option<(StreamKey, Source, Write)> {
        self.streams.iter_mut().find_map(|stream| {
            let StreamState::Arriving(request) = &mut stream.state else { return None };
            request.writing_since()?;
            [Source::Stdin, Source::Data].into_iter().find_map(|source| {
                let write = request.from(source)?.body.next_write()?;
                Some((stream.key, source, write))
            })
        })
    }

    /// Handles the end of a write of a body.
    pub(crate) fn body_written(
        &mut self,
        (key, source): (StreamKey, Source),
        file: Result<std::sync::Arc<std::fs::File>, SpoolError>,
        now: Instant,
        buffers: &Buffers,
    ) {
        let Some(request) = self.arriving(key) else { return };
        let Some(incoming) = request.from(source) else { return };
        let written = incoming.body.wrote(file, now, buffers);
        let is_kept = request.is_kept();
        self.account_for_less();
        match written {
            Ok(()) if is_kept => self.submit(key),
            Ok(()) => {}
            Err(error) => self.reject_arriving(key, |_| error.into()),
        }
    }

    // Rejections.

    /// Rejects a request. The rest of its body is dropped as it arrives.
    fn reject(&mut self, key: StreamKey, variables: Variables, cause: Rejection) {
        let Some(stream) = self.stream(key) else { return };
        stream.state = StreamState::Submitted(Assignment::default());
        let Rejection(why, status, message) = cause;
        self.events.push_back(Event::Rejected { key, variables, why, status, message });
    }

    /// Rejects a request whose body is arriving.
    pub(super) fn reject_arriving(
        &mut self,
        key: StreamKey,
        cause: impl FnOnce(&IncomingRequest) -> Rejection,
    ) {
        let Some(stream) = self.stream(key) else { return };
        let submitted = StreamState::Submitted(Assignment::default());
        match std::mem::replace(&mut stream.state, submitted) {
            StreamState::Arriving(request) => {
                let cause = cause(&request);
                self.reject(key, request.head.variables, cause);
            }
            other => stream.state = other,
        }
    }

    /// Rejects a request whose promised body is larger than `--max-body`.
    pub(super) fn reject_too_large(&mut self, key: StreamKey, limit: u64) {
        self.reject_arriving(key, |request| {
            Rejection::too_large(Source::Stdin, request.head.content_length, limit)
        });
    }

    /// Rejects a request whose body came too slowly.
    pub(super) fn reject_slow_body(&mut self, key: StreamKey) {
        self.reject_arriving(key, |request| {
            let came = request.len();
            let message = format!("the body came too slowly: {came} bytes so far (--body-timeout)");
            Rejection(RejectReason::BodyTimeout, 408, message)
        });
        if self.timed_out {
            self.close_when_written();
        }
    }

    // Memory.

    /// Charges the received bytes to the memory budget. If the budget is used up, drops the newest incomplete parameters, whose
    /// requests get a 503 at their end, and then rejects the requests with the newest bodies. Exempt are bodies that are being
    /// written to a file: reading pauses until the write ends, so the budget is exceeded by the bytes of one read.
    pub(crate) fn account(&mut self) {
        loop {
            let purpose = if self.server.held() > 0 { Purpose::NewRequest } else { Purpose::Admitted };
            let bytes = self.incoming_bytes();
            if self.incoming.resize(bytes, purpose) {
                return;
            }
            if self.server.shed() {
                continue;
            }
            let newest = self.streams.iter().rfind(|stream| stream.state.body_bytes() > 0);
            let newest = newest.map(|stream| stream.key).filter(|_| !self.has_full_body());
            match newest {
                Some(key) => self.reject_arriving(key, |_| Rejection::no_memory("its body")),
                None => return self.incoming.set(bytes),
            }
        }
    }

    /// Rejects a request with complete parameters and an incomplete body if new requests have no memory left. Exempt are requests
    /// for the gateway's own health and status.
    fn admit(&mut self, key: StreamKey, policy: &Policy<'_>) {
        let Some(request) = self.arriving(key) else { return };
        let (variables, role) = (&request.head.variables, request.role);
        // While bodies are being written to files, admitted requests leave this much to new ones.
        let small = variables.held() <= UNCOUNTED_PER_CONNECTION;
        let purpose = if small && policy.spooling { Purpose::Admitted } else { Purpose::NewRequest };
        let has_room = policy.memory.has_room(variables.held() as u64, purpose);
        if !has_room && !(policy.is_own)(variables, role) {
            self.reject_arriving(key, |_| Rejection::no_memory("it"));
        }
    }

    // The end of the input.

    /// Handles the end of the input. A client that has only shut its writing side (`half_closed`) still gets the responses to
    /// complete requests. Incomplete requests are aborted.
    pub(crate) fn end_of_input(&mut self, half_closed: bool, now: Instant) {
        if half_closed && self.receiving == Receiving::Open {
            while let Some(key) = self.first_incomplete() {
                self.abandon(key, now);
            }
        }
        let lingers = matches!(self.ending, Ending::Lingering { .. });
        match self.receiving {
            Receiving::Open if half_closed => self.half_closed = true,
            Receiving::Open => self.ending = Ending::Now,
            // The gateway ended the input itself. An incomplete request gets no response.
            Receiving::Shut | Receiving::Done if self.awaits_more() => self.ending = Ending::Now,
            Receiving::Shut | Receiving::Done => {}
        }
        if lingers {
            self.ending = Ending::Now;
        }
        self.receiving = Receiving::Done;
        self.discarding_input = false;
        self.close_if_half_closed();
    }

    /// Whether a request or a record is incomplete, and will stay so.
    fn awaits_more(&self) -> bool {
        self.first_incomplete().is_some() || (self.streams.is_empty() && !self.server.is_idle())
    }

    fn first_incomplete(&self) -> Option<StreamKey> {
        self.streams.iter().find(|stream| stream.state.is_incomplete()).map(|stream| stream.key)
    }

    /// Abandons a stream whose client no longer waits for the response. The connection goes on.
    fn abandon(&mut self, key: StreamKey, now: Instant) {
        let Some(state) = self.take_stream(key) else { return };
        self.abandoned(key, state, false);
        self.end_on_wire(key.id, 0, ProtocolStatus::RequestComplete, now);
    }

    /// Whether the log says why the connection was cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }
}
