//! A strict HTTP/1.1 client, which detects incomplete responses and bytes that belong to no request. curl tolerates too
//! much and reports too little.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use super::wait::GIVE_UP;

/// A response, as far as it has come.
#[derive(Debug)]
pub(crate) struct HttpResponse {
    pub(crate) status: u16,
    fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body is complete by the head.
    pub(crate) whole: bool,
}

impl HttpResponse {
    /// Every value of the field `name`, in order.
    pub(crate) fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let same = move |(key, _): &&(String, Vec<u8>)| key.eq_ignore_ascii_case(name);
        self.fields.iter().filter(same).map(|(_, value)| value.trim_ascii())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn value(&self, name: &str) -> Option<String> {
        self.fields(name).next().map(|value| String::from_utf8_lossy(value).to_ascii_lowercase())
    }

    fn is_chunked(&self) -> bool {
        self.value("Transfer-Encoding").is_some_and(|value| value == "chunked")
    }
}

/// A connection to a proxy.
#[derive(Debug)]
pub(crate) struct Http {
    stream: TcpStream,
    /// Received bytes that are not parsed yet.
    buffer: Vec<u8>,
    closed: bool,
}

impl From<TcpStream> for Http {
    fn from(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(GIVE_UP)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), closed: false }
    }
}

impl Http {
    pub(crate) fn connect(port: u16) -> Self {
        Self::from(TcpStream::connect(("127.0.0.1", port)).unwrap())
    }

    /// A connection on which a GET has been sent.
    pub(crate) fn begin(port: u16, path: &str) -> Self {
        let mut http = Self::connect(port);
        http.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        http
    }

    /// The status of a GET, whose response must be complete.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> u16 {
        self.try_send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
        let response = self.response(false).expect("a response");
        assert!(response.whole, "{response:?}");
        response.status
    }

    /// Sends bytes, and ignores errors: a server that closes early has answered already.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.try_send(bytes);
    }

    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The number of bytes in the socket's receive buffer.
    pub(crate) fn unread(&self) -> u64 {
        rustix::io::ioctl_fionread(&self.stream).unwrap()
    }

    /// The next response, as far as it comes; `None` if the connection closes before a response begins. Bytes that are
    /// not a status line have status 0.
    #[track_caller]
    pub(crate) fn response(&mut self, head_request: bool) -> Option<HttpResponse> {
        self.try_response(head_request).unwrap_or_else(|error| panic!("no response: {error}"))
    }

    /// As [`Self::response`], with an error for a response that violates HTTP.
    #[track_caller]
    pub(crate) fn try_response(&mut self, head_request: bool) -> io::Result<Option<HttpResponse>> {
        let Some(status) = self.line()? else { return Ok(None) };
        let mut response = HttpResponse { status: 0, fields: Vec::new(), body: Vec::new(), whole: false };
        let code = status
            .strip_prefix(b"HTTP/1.")
            .and_then(|rest| str::from_utf8(rest.get(2..5)?).ok()?.parse().ok());
        let Some(code) = code else {
            response.body = status;
            return Ok(Some(response));
        };
        response.status = code;
        loop {
            let Some(line) = self.line()? else { return Ok(Some(response)) };
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let colon = colon.ok_or_else(|| io::Error::other("a field without a colon"))?;
            let name = String::from_utf8_lossy(&line[..colon]).into_owned();
            response.fields.push((name, line[colon + 1..].to_vec()));
        }
        // RFC 9112 §6.3, in its order.
        if head_request || matches!(response.status, 100..=199 | 204 | 304) {
            response.whole = true;
        } else if response.is_chunked() {
            response.whole = self.chunks(&mut response.body)?;
        } else if let Some(length) = response.value("Content-Length") {
            let length = length.parse().map_err(io::Error::other)?;
            response.whole = self.take(length, &mut response.body)?;
        } else {
            // Only the close ends this body, as in HTTP/1.0, so it cannot be told from a broken transfer.
            response.body = self.try_rest()?;
        }
        Ok(Some(response))
    }

    /// The bytes until the server closes.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        self.try_rest().unwrap_or_else(|error| panic!("the server does not close: {error}"))
    }

    /// Reads until `text` occurs in the raw bytes of the connection, including heads and chunk sizes.
    #[track_caller]
    pub(crate) fn sees(&mut self, text: &str) {
        while !self.buffer.windows(text.len()).any(|window| window == text.as_bytes()) {
            let more = self.more().unwrap_or(false);
            assert!(more, "no {text:?} in {}", String::from_utf8_lossy(&self.buffer));
        }
    }

    fn try_rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            let Some(line) = self.line()? else { return Ok(false) };
            let size = String::from_utf8_lossy(&line).into_owned();
            let size = usize::from_str_radix(&size, 16)
                .map_err(|_| io::Error::other(format!("no chunk size: {size:?}")))?;
            if !self.take(size, body)? {
                return Ok(false);
            }
            match self.line()? {
                None => return Ok(false),
                Some(line) if line.is_empty() => {}
                Some(_) => return Err(io::Error::other("a chunk does not end with its size")),
            }
            if size == 0 {
                return Ok(true);
            }
        }
    }

    /// Moves `length` bytes to `body`, or as many as come. Returns whether all have come.
    fn take(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<bool> {
        while self.buffer.len() < length && self.more()? {}
        let there = length.min(self.buffer.len());
        body.extend(self.buffer.drain(..there));
        Ok(there == length)
    }

    /// The next line without its CRLF; `None` if the connection ends before.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = self.buffer[..end].to_vec();
                self.buffer.drain(..end + 2);
                return Ok(Some(line));
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    /// Waits for more bytes; false if the server has closed. Panics after [`GIVE_UP`]: a time-out is neither a response
    /// nor a close.
    #[track_caller]
    fn more(&mut self) -> io::Result<bool> {
        let mut piece = [0; 16_384];
        while !self.closed {
            match self.stream.read(&mut piece) {
                Ok(0) => self.closed = true,
                Ok(length) => {
                    self.buffer.extend_from_slice(&piece[..length]);
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.closed = true,
                // A read with a time-out is not restarted after a stop of this process (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    panic!("the server neither answers nor closes")
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}
