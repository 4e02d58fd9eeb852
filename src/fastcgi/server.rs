//! The server side of one FastCGI connection: bytes in, events out; responses in, bytes out.
//!
//! Called by the gateway, once per connection. Never reads a socket, never waits, holds no clock: how
//! long a record may take is the caller's to decide. Holds a request's PARAMS until they are complete
//! and nothing of its body.

use super::event::{AfterEnd, Event, Fault, OtherProtocol, Refusal};
use super::params::{self, Decoder, Pairs};
use super::record::{self, BODY_LENGTH, BadVersion, Header, Piece, ProtocolStatus, Reader, RecordType, Role};
use super::request::{Content, Phase, Request, Unfinished};

/// What a connection may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of PARAMS in one request; more is answered with 431.
    pub max_params: usize,
    /// Pairs of PARAMS in one request; more is answered with 431.
    pub max_pairs: usize,
    /// Requests at a time on this connection; one more is answered with 503.
    pub max_requests: usize,
    /// Records in a row, without a request that begins among them, that are ignored.
    pub max_ignored: usize,
    /// Answer to FCGI_MAX_CONNS: connections that the whole server takes.
    pub server_connections: usize,
    /// Requests at a time that the whole server takes: FCGI_MAX_REQS, unless one connection takes fewer.
    pub server_requests: usize,
}

/// nginx takes 32 KiB of request headers unless told otherwise, Apache 100 fields of 8 KiB. Four times
/// nginx leaves room for the variables that the proxy adds.
pub const MAX_PARAMS: usize = 128 * 1024;

/// Apache takes 100 header fields, Go 1 MiB of them; a proxy adds some 30 variables of its own.
pub const MAX_PAIRS: usize = 1024;

/// With [`MAX_PARAMS`] this bounds what one client can make a connection hold: 8 MiB.
pub const MAX_REQUESTS: usize = 64;

/// Requests beyond [`Limits::max_requests`] that wait for the end of their PARAMS to be answered with 503. The next one
/// is OVERLOADED at once, for which HAProxy gives the whole connection up. One costs less than 100 bytes.
pub const MAX_REFUSED: usize = 64;

/// When an answer comes before the body has been read, the rest of the body arrives for a request that
/// has ended. 4096 records of 8 KiB, as Apache sends them, are 32 MiB: more than the buffers between any
/// two processes hold. No content is kept, and the record format bounds it at 256 MiB.
pub const MAX_IGNORED: usize = 4096;

/// Answer to FCGI_MAX_CONNS and FCGI_MAX_REQS when the caller does not know better.
const SERVER_CONNECTIONS: usize = 1024;

/// The three names there are take 46 bytes; the rest is room for names that we do not know.
const MAX_GET_VALUES: u16 = 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_params: MAX_PARAMS,
            max_pairs: MAX_PAIRS,
            max_requests: MAX_REQUESTS,
            max_ignored: MAX_IGNORED,
            server_connections: SERVER_CONNECTIONS,
            server_requests: SERVER_CONNECTIONS,
        }
    }
}

/// The state of one connection.
#[derive(Debug)]
pub struct Server {
    limits: Limits,
    reader: Reader,
    /// The first record has arrived, so that the peer speaks FastCGI.
    met: bool,
    /// What the record that is arriving is.
    content: Content,
    /// The first part of a short body that arrives in pieces: at most [`MAX_GET_VALUES`] bytes.
    gathered: Vec<u8>,
    /// Few, so a scan beats a map.
    requests: Vec<Request>,
    /// The Authorizer whose `StdinEnd` comes next.
    stdin_end_due: Option<u16>,
    /// Requests that have ended before the client's streams for them did.
    unfinished: Unfinished,
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
            unfinished: Unfinished::default(),
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
        self.fault = event.as_ref().err().copied();
        event
    }

    /// Appends `bytes` as STDOUT records. No bytes, or an id that is not in use: nothing.
    pub fn stdout(&mut self, id: u16, bytes: &[u8], out: &mut Vec<u8>) {
        if let Some(request) = self.request(id) {
            request.stdout_begun |= !bytes.is_empty();
            record::write_stream(RecordType::Stdout, id, bytes, out);
        }
    }

    /// Appends `bytes` as STDERR records. No bytes, or an id that is not in use: nothing.
    pub fn stderr(&mut self, id: u16, bytes: &[u8], out: &mut Vec<u8>) {
        if let Some(request) = self.request(id) {
            request.stderr_begun |= !bytes.is_empty();
            record::write_stream(RecordType::Stderr, id, bytes, out);
        }
    }

    /// Ends a request: closes its streams, says END_REQUEST, frees the id. What still arrives for it is
    /// ignored. An id that is not in use: nothing is appended.
    ///
    /// A connection that is to be closed waits for the requests that still run on it: `Close` comes with
    /// the last of them, and requests that would begin meanwhile are ignored.
    pub fn end(&mut self, id: u16, app_status: u32, status: ProtocolStatus, out: &mut Vec<u8>) -> AfterEnd {
        if let Some(position) = self.requests.iter().position(|request| request.id == id) {
            let request = self.requests.swap_remove(position);
            if request.stderr_begun {
                record::write_record(RecordType::Stderr, id, b"", out);
            }
            // A refused request need not have streams at all.
            if request.stdout_begun || status == ProtocolStatus::RequestComplete {
                record::write_record(RecordType::Stdout, id, b"", out);
            }
            record::write_end_request(id, app_status, status, out);
            self.closing |= !request.keep_open;
            if self.stdin_end_due == Some(id) {
                self.stdin_end_due = None;
            }
            self.unfinished.add(&request);
        }
        if self.closing && self.requests.is_empty() { AfterEnd::Close } else { AfterEnd::KeepOpen }
    }

    /// Leaves all requests without their END_REQUEST, so that no client takes what came of their answers for whole: appends a
    /// header that is none. What still arrives for them is ignored. The connection has to be closed.
    pub fn break_off(&mut self, out: &mut Vec<u8>) {
        record::poison(out);
        for request in self.requests.drain(..) {
            self.unfinished.add(&request);
        }
        self.stdin_end_due = None;
        self.closing = true;
    }

    /// Bytes of memory that parameters take which have come in part.
    pub fn held(&self) -> usize {
        self.requests.iter().map(Request::held).sum::<usize>()
    }

    /// Drops the parameters of the newest request whose parameters have come in part; at their end comes `Refused` for it.
    /// Says whether there was one.
    pub fn shed(&mut self) -> bool {
        let newest = self.requests.iter_mut().rfind(|request| request.held() > 0);
        newest.map(|request| request.phase = Phase::Refusing(Refusal::NoMemory)).is_some()
    }

    /// How many ids are in use.
    pub fn active(&self) -> usize {
        self.requests.len()
    }

    /// Whether no id is in use and no record has arrived in part: what a kept connection waits in, and
    /// where closing it loses nothing.
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

    /// How many records have come whole since the connection opened.
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

    /// Decides from a record's header what becomes of its content.
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
                record::write_record(RecordType::UnknownType, 0, &body, out);
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
        let Some(&[role1, role0, flags, ..]) = record::gather(&mut self.gathered, piece) else {
            return Ok(None);
        };
        let id = piece.header.request_id;
        if self.closing {
            self.ignore()?;
            return Ok(None);
        }
        let Some(role) = Role::from_number(u16::from_be_bytes([role1, role0])) else {
            record::write_end_request(id, 0, ProtocolStatus::UnknownRole, out);
            return Ok(None);
        };
        let limit = self.limits.max_requests;
        if self.requests.len() >= limit + MAX_REFUSED {
            record::write_end_request(id, 0, ProtocolStatus::Overloaded, out);
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
        let Some(query) = record::gather(&mut self.gathered, piece) else { return Ok(None) };
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
        record::write_record(RecordType::GetValuesResult, 0, &answer, out);
        Ok(None)
    }

    fn request(&mut self, id: u16) -> Option<&mut Request> {
        self.requests.iter_mut().find(|request| request.id == id)
    }
}
