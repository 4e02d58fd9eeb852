//! HTTP/1.1 as a strict client reads it, byte by byte from a socket: whether a response is whole, and whether anything
//! follows it that nobody asked for. curl forgives too much, and keeps too much to itself.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

use super::wait::GIVE_UP;

/// One response, as far as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// Everything that the head promised has come.
    pub(crate) whole: bool,
}

impl Answer {
    /// Every value of the field `name`, in order.
    pub(crate) fn fields<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let same = move |(key, _): &&(String, Vec<u8>)| key.eq_ignore_ascii_case(name);
        self.fields.iter().filter(same).map(|(_, value)| value.trim_ascii())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.fields(name).next().map(|value| String::from_utf8_lossy(value).to_ascii_lowercase())
    }

    fn is_chunked(&self) -> bool {
        self.text("Transfer-Encoding").is_some_and(|value| value == "chunked")
    }
}

/// One connection to a proxy.
#[derive(Debug)]
pub(crate) struct Http {
    stream: TcpStream,
    /// What has come and is not taken yet.
    buffer: Vec<u8>,
    closed: bool,
}

impl Http {
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(GIVE_UP)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new(), closed: false }
    }

    /// Sends bytes; a server that listens no longer has answered already.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next response, as far as it comes; `None` where the connection closes before one begins. What does not begin as a
    /// response has status 0.
    #[track_caller]
    pub(crate) fn answer(&mut self, head_request: bool) -> Option<Answer> {
        let status = self.line()?;
        let mut answer = Answer { status: 0, fields: Vec::new(), body: Vec::new(), whole: false };
        let code = status
            .strip_prefix(b"HTTP/1.")
            .and_then(|rest| str::from_utf8(rest.get(2..5)?).ok()?.parse().ok());
        let Some(code) = code else {
            answer.body = status;
            return Some(answer);
        };
        answer.status = code;
        loop {
            let Some(line) = self.line() else { return Some(answer) };
            if line.is_empty() {
                break;
            }
            let colon = line.iter().position(|byte| *byte == b':').expect("a colon in every field");
            let name = String::from_utf8_lossy(&line[..colon]).into_owned();
            answer.fields.push((name, line[colon + 1..].to_vec()));
        }
        // RFC 9112 §6.3, in its order.
        if head_request || matches!(answer.status, 100..=199 | 204 | 304) {
            answer.whole = true;
        } else if answer.is_chunked() {
            answer.whole = self.chunks(&mut answer.body);
        } else if let Some(length) = answer.text("Content-Length") {
            let length = length.parse().unwrap();
            answer.whole = self.take(length, &mut answer.body);
        } else {
            // Only the close ends it, which a broken transfer does as well: HTTP/1.0's way, and no proxy's here.
            answer.body = self.rest();
        }
        Some(answer)
    }

    /// Whatever comes until the server closes.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.buffer)
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let Some(line) = self.line() else { return false };
            let size = String::from_utf8_lossy(&line).into_owned();
            let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}"));
            if !self.take(size, body) {
                return false;
            }
            match self.line() {
                None => return false,
                Some(line) => assert!(line.is_empty(), "a chunk does not end with its size"),
            }
            if size == 0 {
                return true;
            }
        }
    }

    /// Moves `length` bytes to `body`, or as many as come.
    fn take(&mut self, length: usize, body: &mut Vec<u8>) -> bool {
        while self.buffer.len() < length && self.more() {}
        let there = length.min(self.buffer.len());
        body.extend(self.buffer.drain(..there));
        there == length
    }

    /// The next line without its CRLF; `None` where it does not come whole.
    fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = self.buffer[..end].to_vec();
                self.buffer.drain(..end + 2);
                return Some(line);
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// Waits for more bytes; false where the server has closed.
    #[track_caller]
    fn more(&mut self) -> bool {
        let mut piece = [0; 4096];
        while !self.closed {
            match self.stream.read(&mut piece) {
                Ok(0) => self.closed = true,
                Ok(length) => {
                    self.buffer.extend_from_slice(&piece[..length]);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.closed = true,
                // A read with a timeout is not begun again after a stop of this process (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("the server neither answers nor closes: {error}"),
            }
        }
        false
    }
}

/// One kept-alive HTTP connection, for loads that curl is too slow for.
#[derive(Debug)]
pub(crate) struct HttpClient(TcpStream, Vec<u8>);

impl HttpClient {
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(GIVE_UP)).unwrap();
        Self(stream, Vec::new())
    }

    /// The status of one GET, whose answer must have a length and be whole.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> u16 {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.write_all(request.as_bytes()).unwrap();
        let Self(stream, buffer) = self;
        buffer.clear();
        loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                let length: usize = length.expect("a length").parse().unwrap();
                if buffer.len() >= end + 4 + length {
                    return head[9..12].parse().unwrap();
                }
            }
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece).unwrap();
            assert_ne!(length, 0, "the proxy closed the connection: {}", String::from_utf8_lossy(buffer));
            buffer.extend_from_slice(&piece[..length]);
        }
    }
}
