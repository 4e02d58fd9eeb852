//! A FastCGI client, independent of the product's codec on purpose: the tests must not share a mistake with it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::GIVE_UP;

pub(crate) const BEGIN_REQUEST: u8 = 1;
pub(crate) const ABORT_REQUEST: u8 = 2;
pub(crate) const END_REQUEST: u8 = 3;
pub(crate) const PARAMS: u8 = 4;
pub(crate) const STDIN: u8 = 5;
pub(crate) const STDOUT: u8 = 6;
pub(crate) const STDERR: u8 = 7;
pub(crate) const DATA: u8 = 8;
pub(crate) const GET_VALUES: u8 = 9;
pub(crate) const GET_VALUES_RESULT: u8 = 10;

pub(crate) const RESPONDER: u16 = 1;
pub(crate) const AUTHORIZER: u16 = 2;
pub(crate) const FILTER: u16 = 3;

/// A record without padding.
pub(crate) fn record(kind: u8, id: u16, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let id = id.to_be_bytes();
    let mut bytes = vec![1, kind, id[0], id[1], length[0], length[1], 0, 0];
    bytes.extend_from_slice(content);
    bytes
}

pub(crate) fn begin(id: u16, role: u16, keep_connection: bool) -> Vec<u8> {
    let role = role.to_be_bytes();
    record(BEGIN_REQUEST, id, &[role[0], role[1], u8::from(keep_connection), 0, 0, 0, 0, 0])
}

/// A name-value pair, with each length in the shortest form.
pub(crate) fn pair(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [name, value] {
        match u8::try_from(part.len()) {
            Ok(length @ 0..=127) => bytes.push(length),
            _ => bytes.extend((u32::try_from(part.len()).unwrap() | 1 << 31).to_be_bytes()),
        }
    }
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(value);
    bytes
}

/// A stream in records of at most 65,535 bytes, and its end.
pub(crate) fn stream(kind: u8, id: u16, content: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        content.chunks(usize::from(u16::MAX)).flat_map(|chunk| record(kind, id, chunk)).collect();
    bytes.extend(record(kind, id, b""));
    bytes
}

/// The parameters of a GET for `url` (path and query), as the content of a PARAMS stream.
pub(crate) fn get_params(url: &str) -> Vec<u8> {
    params("GET", url)
}

/// Name-value pairs as the content of a PARAMS stream.
pub(crate) fn pairs(pairs: &[(&str, &str)]) -> Vec<u8> {
    pairs.iter().flat_map(|(name, value)| pair(name.as_bytes(), value.as_bytes())).collect()
}

/// The parameters of a request for `url`.
pub(crate) fn params(method: &str, url: &str) -> Vec<u8> {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    pairs(&[
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("REQUEST_METHOD", method),
        ("REQUEST_URI", url),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", path),
        ("QUERY_STRING", query),
        ("SERVER_NAME", "localhost"),
        ("SERVER_PORT", "80"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("HTTP_HOST", "localhost"),
    ])
}

/// A complete GET.
pub(crate) fn get(id: u16, url: &str, keep_connection: bool) -> Vec<u8> {
    let mut bytes = begin(id, RESPONDER, keep_connection);
    bytes.extend(stream(PARAMS, id, &get_params(url)));
    bytes.extend(record(STDIN, id, b""));
    bytes
}

/// A complete POST of `body`.
pub(crate) fn post(id: u16, url: &str, body: &[u8], keep_connection: bool) -> Vec<u8> {
    let mut params = params("POST", url);
    params.extend(pair(b"CONTENT_LENGTH", body.len().to_string().as_bytes()));
    let mut bytes = begin(id, RESPONDER, keep_connection);
    bytes.extend(stream(PARAMS, id, &params));
    bytes.extend(stream(STDIN, id, body));
    bytes
}

/// The records of a request, with its streams split into random smaller records.
pub(crate) fn in_pieces(mut request: &[u8], random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    while let [_, kind, id1, id0, length1, length0, padding, ..] = *request {
        let length = usize::from(u16::from_be_bytes([length1, length0]));
        let (mut content, id) = (&request[8..8 + length], u16::from_be_bytes([id1, id0]));
        request = &request[8 + length + usize::from(padding)..];
        while matches!(kind, PARAMS | STDIN) && content.len() > 1 {
            let at = random.usize(1..=content.len()).min(random.usize(1..40_000));
            let (piece, rest) = content.split_at(at);
            pieces.push(record(kind, id, piece));
            content = rest;
        }
        if !content.is_empty() || length == 0 {
            pieces.push(record(kind, id, content));
        }
    }
    pieces
}

/// The records of all scripts, interleaved at random. Those of each script stay in order.
pub(crate) fn interleaved(scripts: Vec<Vec<Vec<u8>>>, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut scripts: Vec<_> = scripts.into_iter().map(|script| script.into_iter().peekable()).collect();
    let mut bytes = Vec::new();
    while !scripts.is_empty() {
        let which = random.usize(..scripts.len());
        bytes.extend(scripts[which].next().unwrap_or_default());
        if scripts[which].peek().is_none() {
            drop(scripts.swap_remove(which));
        }
    }
    bytes
}

/// A record from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: u8,
    pub(crate) id: u16,
    pub(crate) content: Vec<u8>,
}

/// A response that FastCGI marks as complete.
#[derive(Debug, Default)]
pub(crate) struct Response {
    pub(crate) stdout: Vec<u8>,
    pub(crate) app_status: u32,
    pub(crate) protocol_status: u8,
}

impl Response {
    /// Adds a record; true for the last record of the response.
    fn add(&mut self, record: &Record) -> bool {
        match record.kind {
            STDOUT => self.stdout.extend_from_slice(&record.content),
            STDERR => {}
            END_REQUEST => {
                self.app_status = u32::from_be_bytes(record.content[..4].try_into().unwrap());
                self.protocol_status = record.content[4];
            }
            _ => panic!("unexpected {record:?}"),
        }
        record.kind == END_REQUEST
    }

    pub(crate) fn head(&self) -> String {
        String::from_utf8_lossy(self.split().0).into_owned()
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.split().1
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.body()).into_owned()
    }

    /// The status: 200 without a `Status` header, and 0 without any output.
    pub(crate) fn status(&self) -> u16 {
        if self.stdout.is_empty() {
            return 0;
        }
        self.header("Status").map_or(200, |value| value[..3].parse().unwrap())
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let head = self.head();
        let pairs = head.lines().filter_map(|line| line.split_once(':'));
        pairs
            .into_iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let end = self.stdout.windows(4).position(|window| window == b"\r\n\r\n");
        end.map_or((&self.stdout[..], &b""[..]), |end| (&self.stdout[..end + 2], &self.stdout[end + 4..]))
    }
}

/// A connection to a FastCGI server.
#[derive(Debug)]
pub(crate) struct Connection(UnixStream);

impl From<UnixStream> for Connection {
    fn from(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(GIVE_UP)).unwrap();
        stream.set_write_timeout(Some(GIVE_UP)).unwrap();
        Self(stream)
    }
}

impl Connection {
    pub(crate) fn open(socket: &Path) -> Self {
        Self::from(UnixStream::connect(socket).unwrap())
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The same connection, for a thread that sends while another reads.
    pub(crate) fn sender(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }

    /// Sends bytes. An error means that the server closed before all were sent.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Shuts the connection down for every holder of its descriptor. A drop alone does not: programs that other tests
    /// are starting may hold a copy for a moment.
    pub(crate) fn hang_up(&self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }

    /// The number of bytes in the socket's receive buffer.
    pub(crate) fn unread(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.0).unwrap()
    }

    pub(crate) fn finish_sending(&self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Reads and discards `count` bytes.
    #[track_caller]
    pub(crate) fn take(&mut self, count: usize) {
        self.0.read_exact(&mut vec![0; count]).unwrap();
    }

    /// The next record; `None` if the server has closed the connection.
    #[track_caller]
    pub(crate) fn record(&mut self) -> Option<Record> {
        match self.try_record() {
            Ok(record) => Some(record),
            Err(error) if closed(&error) => None,
            Err(error) => panic!("no record: {error}"),
        }
    }

    /// The next record, or the reason why there is none. A header of another version, which breaks a transfer off, is
    /// `InvalidData`. Panics after [`GIVE_UP`]: a time-out is neither a response nor a close.
    #[track_caller]
    pub(crate) fn try_record(&mut self) -> io::Result<Record> {
        let mut header = [0; 8];
        self.read(&mut header)?;
        let [version, kind, id1, id0, length1, length0, padding, _] = header;
        if version != 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("record header {header:?}")));
        }
        let length = usize::from(u16::from_be_bytes([length1, length0]));
        let mut content = vec![0; length + usize::from(padding)];
        self.read(&mut content)?;
        content.truncate(length);
        Ok(Record { kind, id: u16::from_be_bytes([id1, id0]), content })
    }

    #[track_caller]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let read = self.0.read_exact(buffer);
        let silent = read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        assert!(!silent, "the server neither answers nor closes");
        read
    }

    /// The response to request `id`; `None` if the connection ended before it was complete.
    #[track_caller]
    pub(crate) fn response(&mut self, id: u16) -> Option<Response> {
        match self.try_response(id) {
            Ok(response) => Some(response),
            Err(error) if closed(&error) => None,
            Err(error) => panic!("no record: {error}"),
        }
    }

    /// The response to request `id`, or the reason why there is none.
    #[track_caller]
    pub(crate) fn try_response(&mut self, id: u16) -> io::Result<Response> {
        let mut response = Response::default();
        loop {
            let record = self.try_record()?;
            assert_eq!(record.id, id, "record of another request: {record:?}");
            if response.add(&record) {
                return Ok(response);
            }
        }
    }

    /// The next complete response among the requests on this connection; `open` keeps the partial ones.
    #[track_caller]
    pub(crate) fn any_response(&mut self, open: &mut BTreeMap<u16, Response>) -> (u16, Response) {
        loop {
            let record = self.record().expect("the server closed the connection");
            let response = open.entry(record.id).or_default();
            if response.add(&record) {
                return (record.id, open.remove(&record.id).unwrap_or_default());
            }
        }
    }

    /// Sends a GET on this connection, which stays open, and returns the response.
    #[track_caller]
    pub(crate) fn get(&mut self, url: &str) -> Response {
        self.send(&get(1, url, true));
        self.response(1).expect("the server closed the connection")
    }

    /// Returns once the server has read everything sent so far: it answers GET_VALUES in order.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        self.send(&record(GET_VALUES, 0, &pair(b"FCGI_MPXS_CONNS", b"")));
        let answer = self.record().expect("the server closed the connection");
        assert_eq!((answer.kind, answer.id), (GET_VALUES_RESULT, 0), "{answer:?}");
    }

    /// Whether the transfer breaks off: the connection ends without an END_REQUEST.
    #[track_caller]
    pub(crate) fn response_breaks(&mut self) -> bool {
        let mut rest = Vec::new();
        if let Err(error) = self.0.read_to_end(&mut rest) {
            assert!(closed(&error), "the server neither answers nor closes: {error}");
        }
        !rest.windows(2).any(|header| header == [1, END_REQUEST])
    }

    /// Whether the server closes the connection within [`GIVE_UP`], after any bytes.
    pub(crate) fn closes(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(error) => closed(&error),
        }
    }
}

/// Whether an error means a close. A close with unread data of ours is a reset.
fn closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}
