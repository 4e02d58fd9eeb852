//! The server side of one FastCGI connection: bytes in, events out; responses in, bytes out.
//!
//! Called by the gateway, once per connection. Never reads a socket, never waits, holds no clock: the caller decides how
//! long a record may take. Holds a request's PARAMS until they are complete and nothing of its body.

use super::event::{AfterEnd, Event};
use super::fault::Fault;
use super::limits::{Limits, MAX_REFUSED};
use super::other_protocol::OtherProtocol;
use super::params::{self, Decoder, Pairs};
use super::reader::{self, Piece, Reader};
use super::record::{self, BODY_LENGTH, BadVersion, Header, RecordType};
use super::refusal::Refusal;
use super::request::{Content, Phase, Request, UnfinishedRequests};
use super::role::Role;
use super::status::ProtocolStatus;
use super::write::{self, Records};

/// Bytes of a GET_VALUES query, at most. The three known names take 46; the rest is room for unknown names.
const MAX_GET_VALUES: u16 = 1024;

/// The state of one connection.
#[derive(Debug)]
pub struct Server {
    limits: Limits,
    reader: Reader,
    /// The first record has arrived, so that the peer speaks FastCGI.
    met: bool,
    /// The use of the record that is arriving.
    content: Content,
    /// The first part of a short body that arrives in pieces: at most [`MAX_GET_VALUES`] bytes.
    gathered: Vec<u8>,
    /// Few, so a scan beats a map.
    requests: Vec<Request>,
    /// The Authorizer whose `StdinEnd` comes next.
    stdin_end_due: Option<u16>,
    /// Requests that have ended while the client may still be sending their streams.
    unfinished: UnfinishedRequests,
    ignored: usize,
    /// A request has ended that does not leave the connection open.
    closing: bool,
    fault: Option<Fault>,
}

impl Server {
    /// The state of a new connection.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            reader: Reader::default(),
            met: false,
            content: Content::Ignored,
            gathered: Vec::new(),
            requests: Vec::new(),
            stdin_end_due: None,
            unfinished: UnfinishedRequests::default(),
            ignored: 0,
            closing: false,
            fault: None,
        }
    }

    /// Takes bytes from the front of `input` and gives the next event; `None` once the input is used up
    /// and an event needs more bytes. Call again until it gives `None`, also when `input` is empty.
    ///
    /// Answers that need no decision (GET_VALUES_RESULT, UNKNOWN_TYPE, END_REQUEST for a request that is
    /// refused before it begins) are appended to `out`: never more than three times the bytes of
    /// the records they answer, so writing `out` before the next read bounds them.
    ///
    /// # Errors
    /// A [`Fault`] ends the connection; every later call gives it again.
    pub fn receive<'a>(
        &mut self,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let event = self.next_event(input, out);
        if let Err(fault) = event {
            self.fault = Some(fault);
        }
        event
    }

    /// Appends `bytes` as STDOUT records. No bytes, or an id that is not in use: nothing.
    pub fn stdout(&mut self, id: u16, bytes: &[u8], out: &mut Vec<u8>) {
        if let Some(request) = self.request(id) {
            request.stdout_begun |= !bytes.is_empty();
            write::write_stream(RecordType::Stdout, id, bytes, out);
        }
    }

    /// [`Self::stdout`] without a copy; `None` where the bytes are too many, or the id is not in use.
    pub fn stdout_records<'b>(&mut self, id: u16, bytes: &'b [u8]) -> Option<Records<'b>> {
        let request = self.request(id)?;
        let records = Records::new(RecordType::Stdout, id, bytes)?;
        request.stdout_begun |= !bytes.is_empty();
        Some(records)
    }

    /// Appends `bytes` as STDERR records. No bytes, or an id that is not in use: nothing.
    pub fn stderr(&mut self, id: u16, bytes: &[u8], out: &mut Vec<u8>) {
        if let Some(request) = self.request(id) {
            request.stderr_begun |= !bytes.is_empty();
            write::write_stream(RecordType::Stderr, id, bytes, out);
        }
    }

    /// Ends a request: closes its streams, appends END_REQUEST, frees the id. Records that still arrive for it are
    /// ignored. An id that is not in use: nothing is appended.
    ///
    /// A connection that is to be closed waits for the requests that still run on it: `Close` comes with
    /// the last of them, and requests that would begin meanwhile are ignored.
    pub fn end(&mut self, id: u16, app_status: u32, status: ProtocolStatus, out: &mut Vec<u8>) -> AfterEnd {
        if let Some(position) = self.requests.iter().position(|request| request.id == id) {
            let request = self.requests.swap_remove(position);
            if request.stderr_begun {
                write::write_record(RecordType::Stderr, id, b"", out);
            }
            // A refused request need not have streams at all.
            if request.stdout_begun || status == ProtocolStatus::RequestComplete {
                write::write_record(RecordType::Stdout, id, b"", out);
            }
            write::write_end_request(id, app_status, status, out);
            self.closing |= !request.keep_open;
            if self.stdin_end_due == Some(id) {
                self.stdin_end_due = None;
            }
            self.unfinished.add(&request);
        }
        if self.closing && self.requests.is_empty() { AfterEnd::Close } else { AfterEnd::KeepOpen }
    }

    /// Ends all requests without END_REQUEST, so that no client takes a part of a response for the whole: appends an invalid
    /// record. Records that still arrive for them are ignored. The connection has to be closed.
    pub fn break_off(&mut self, out: &mut Vec<u8>) {
        write::write_invalid_record(out);
        for request in self.requests.drain(..) {
            self.unfinished.add(&request);
        }
        self.stdin_end_due = None;
        self.closing = true;
    }

    /// Memory of the parameters that have come in part, in bytes.
    pub fn held(&self) -> usize {
        self.requests.iter().map(Request::held).sum::<usize>()
    }

    /// Drops the parameters of the newest request whose parameters have come in part; at their end comes `Refused` for it.
    /// Gives whether there was such a request.
    pub fn shed(&mut self) -> bool {
        let newest = self.requests.iter_mut().rfind(|request| request.held() > 0);
        newest.map(|request| request.phase = Phase::Refusing(Refusal::NoMemory)).is_some()
    }

    /// The number of ids in use.
    pub fn active(&self) -> usize {
        self.requests.len()
    }

    /// Whether no id is in use and no record has arrived in part: the state of a kept connection between two requests, in
    /// which it can be closed without a loss.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.is_between_records()
    }

    /// Whether the client may still be sending streams of a request: it has not said that they end.
    pub fn is_sending(&self, id: u16) -> bool {
        self.requests.iter().any(|request| request.id == id && !request.sending.is_over())
    }

    /// Whether the client may still be sending streams of requests that have ended.
    pub fn has_unfinished(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// Whether no record has arrived in part.
    pub fn is_between_records(&self) -> bool {
        self.reader.is_between_records()
    }

    /// The number of records that have come whole since the connection opened.
    pub fn finished_records(&self) -> u64 {
        self.reader.finished()
    }

    fn next_event<'a>(
        &mut self,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, Fault> {
        if let Some(id) = self.stdin_end_due.take() {
            return Ok(Some(Event::StdinEnd { id }));
        }
        while let Some(piece) = self.reader.next_piece(input).map_err(|bad| self.no_record(bad))? {
            self.met = true;
            if piece.first {
                self.content = self.classify(&piece.header, out)?;
            }
            let event = match self.content {
                Content::Ignored => None,
                Content::Begin => self.begin(piece, out)?,
                Content::Params => self.params(piece),
                Content::Body => self.body(piece),
                Content::Abort => self.abort(piece),
                Content::GetValues => self.get_values(piece, out)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// The fault of a peer that sent no FastCGI record: the protocol that it speaks, where its first bytes tell.
    fn no_record(&self, BadVersion(version): BadVersion) -> Fault {
        let other = OtherProtocol::of(self.reader.refused()).filter(|_| !self.met);
        other.map_or(Fault::BadVersion(version), Fault::OtherProtocol)
    }

    /// The use of a record's content, by its header.
    fn classify(&mut self, header: &Header, out: &mut Vec<u8>) -> Result<Content, Fault> {
        let id = header.request_id;
        if id == 0 {
            return self.classify_management(header, out);
        }
        if header.record_type == RecordType::BeginRequest {
            if usize::from(header.content_length) != BODY_LENGTH {
                return Err(Fault::BeginLength(header.content_length));
            }
            if self.request(id).is_some() {
                return Err(Fault::BeginActive(id));
            }
            return Ok(Content::Begin);
        }
        // §3.3: "records with an inactive request ID" are ignored.
        let content = match self.request(id) {
            Some(request) => request.classify(header),
            None => {
                if header.content_length == 0 {
                    self.unfinished.finish(id, header.record_type);
                }
                Content::Ignored
            }
        };
        match content {
            Content::Ignored => self.ignore(),
            content => Ok(content),
        }
    }

    /// §3.3: records with id 0 are management records, about the connection.
    fn classify_management(&mut self, header: &Header, out: &mut Vec<u8>) -> Result<Content, Fault> {
        match header.record_type {
            RecordType::BeginRequest => Err(Fault::BeginWithoutId),
            RecordType::GetValues if header.content_length > MAX_GET_VALUES => {
                Err(Fault::GetValuesLength(header.content_length))
            }
            RecordType::GetValues => Ok(Content::GetValues),
            RecordType::Other(record_type) => {
                let body = [record_type, 0, 0, 0, 0, 0, 0, 0];
                write::write_record(RecordType::UnknownType, 0, &body, out);
                Ok(Content::Ignored)
            }
            // Types that 1.0 defines are known, so UNKNOWN_TYPE would be a lie; id 0 is never in use.
            _ => self.ignore(),
        }
    }

    fn ignore(&mut self) -> Result<Content, Fault> {
        self.ignored += 1;
        if self.ignored > self.limits.max_ignored {
            return Err(Fault::TooManyIgnored { limit: self.limits.max_ignored });
        }
        Ok(Content::Ignored)
    }

    fn begin<'a>(&mut self, piece: Piece<'a>, out: &mut Vec<u8>) -> Result<Option<Event<'a>>, Fault> {
        let Some(&[role1, role0, flags, ..]) = reader::gather(&mut self.gathered, piece) else {
            return Ok(None);
        };
        let id = piece.header.request_id;
        if self.closing {
            self.ignore()?;
            return Ok(None);
        }
        let Some(role) = Role::from_number(u16::from_be_bytes([role1, role0])) else {
            write::write_end_request(id, 0, ProtocolStatus::UnknownRole, out);
            return Ok(None);
        };
        let limit = self.limits.max_requests;
        if self.requests.len() >= limit + MAX_REFUSED {
            write::write_end_request(id, 0, ProtocolStatus::Overloaded, out);
            return Ok(None);
        }
        let phase = if self.requests.len() < limit {
            Phase::Params(Decoder::new(self.limits.max_params, self.limits.max_pairs))
        } else {
            Phase::Refusing(Refusal::TooManyRequests { limit })
        };
        let keep_open = flags & record::KEEP_CONN != 0;
        let mut request = Request::new(id, role, keep_open, phase);
        // An Authorizer's STDIN is ignored, so its end need not be told from the previous request's.
        request.previous_stdin_open = self.unfinished.begin(id) && role != Role::Authorizer;
        self.requests.push(request);
        self.ignored = 0;
        Ok(Some(Event::Begin { id, role, keep_open }))
    }

    fn params<'a>(&mut self, piece: Piece<'a>) -> Option<Event<'a>> {
        let id = piece.header.request_id;
        let request = self.request(id)?;
        if !piece.bytes.is_empty() {
            request.feed(piece.bytes);
            return None;
        }
        match request.finish_params() {
            Ok(variables) => {
                if request.role == Role::Authorizer {
                    self.stdin_end_due = Some(id);
                }
                Some(Event::Params { id, variables })
            }
            Err(refusal) => Some(Event::Refused { id, refusal }),
        }
    }

    fn body<'a>(&mut self, piece: Piece<'a>) -> Option<Event<'a>> {
        let (id, bytes) = (piece.header.request_id, piece.bytes);
        let request = self.request(id)?;
        Some(match (piece.header.record_type, bytes.is_empty()) {
            (RecordType::Data, false) => Event::Data { id, bytes },
            (RecordType::Data, true) => {
                request.data_open = false;
                Event::DataEnd { id }
            }
            (_, false) => {
                // The client has gone on to this request's body, so the previous one's end does not come any more.
                request.previous_stdin_open = false;
                Event::Stdin { id, bytes }
            }
            (_, true) if std::mem::take(&mut request.previous_stdin_open) => Event::StdinEndInDoubt { id },
            (_, true) => {
                request.stdin_open = false;
                Event::StdinEnd { id }
            }
        })
    }

    fn abort<'a>(&mut self, piece: Piece<'a>) -> Option<Event<'a>> {
        let id = piece.header.request_id;
        let request = self.request(id)?;
        if !piece.last {
            return None;
        }
        request.phase = Phase::Over;
        Some(Event::Abort { id })
    }

    fn get_values<'a>(&mut self, piece: Piece<'a>, out: &mut Vec<u8>) -> Result<Option<Event<'a>>, Fault> {
        let Some(query) = reader::gather(&mut self.gathered, piece) else { return Ok(None) };
        let known: [(&[u8], usize); 3] = [
            (b"FCGI_MAX_CONNS", self.limits.server_connections),
            // §4.1 means the whole application. HAProxy, the one client that is known to ask, takes it for one
            // connection's, so it must not be more than a connection has.
            (b"FCGI_MAX_REQS", self.limits.server_requests.min(self.limits.max_requests)),
            (b"FCGI_MPXS_CONNS", 1),
        ];
        let mut asked = [false; 3];
        for pair in Pairs::new(query) {
            let (name, _) = pair.map_err(|params::Truncated| Fault::GetValuesTruncated)?;
            // §4.1: "If the application doesn't understand a variable name that was included in the
            // query, it omits that name from the response."
            if let Some(position) = known.iter().position(|(known, _)| *known == name) {
                asked[position] = true;
            }
        }
        let mut answer = Vec::new();
        for ((name, value), _) in known.iter().zip(asked).filter(|(_, asked)| *asked) {
            params::encode(name, value.to_string().as_bytes(), &mut answer);
        }
        write::write_record(RecordType::GetValuesResult, 0, &answer, out);
        Ok(None)
    }

    fn request(&mut self, id: u16) -> Option<&mut Request> {
        self.requests.iter_mut().find(|request| request.id == id)
    }
}
