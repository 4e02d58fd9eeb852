//! The command `nibiru request`: one request to a FastCGI socket, with the variables that nginx would send.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use thiserror::Error;

use super::stdout;
use crate::cgi::Variables;
use crate::cgi::path::percent_decode;
use crate::cgi::proxy::HttpRequest;
use crate::cgi::response::{Head, Status};
use crate::cli;
use crate::config::Listen;
use crate::fastcgi::client::{self, Decoder, Reply};
use crate::fastcgi::{ProtocolStatus, Role};
use crate::log::cause;
use crate::log::escape::TextStream;

/// The FastCGI id of the connection's only request.
const ID: u16 = 1;

/// The cause of a response that is missing or incomplete.
#[derive(Debug, Error)]
pub enum Error {
    /// An argument is wrong: its text and the cause.
    #[error("{0}: {1}")]
    Usage(String, &'static str),
    /// The socket cannot be reached.
    #[error("{}: {}", .0, cause(.1))]
    Connect(Listen, io::Error),
    /// The body's file cannot be read: the path as the user wrote it.
    #[error("{}: {}", .0, cause(.1))]
    Data(String, io::Error),
    /// The address leads to a server's control socket.
    #[error("{0} is the server's control socket; requests go to the one of --listen")]
    Control(Listen),
    /// The connection broke.
    #[error("{}", cause(.0))]
    Io(#[from] io::Error),
    /// The response cannot be printed.
    #[error(transparent)]
    Output(stdout::Error),
    /// The server's bytes are not FastCGI or not a response.
    #[error("bad answer: {0}")]
    Protocol(String),
    /// The response ended before it was complete, and the received part is printed: the number of body bytes received, or `None`
    /// where the head is incomplete; and the cause.
    #[error("the answer is broken off {}: {}", place(*.0), .1)]
    BrokenOff(Option<u64>, String),
    /// The server ended the request with this protocol status.
    #[error("the server refused the request: {0:?}")]
    Refused(ProtocolStatus),
}

/// The place in the response where [`Error::BrokenOff`] happened, as text.
fn place(body_bytes: Option<u64>) -> Cow<'static, str> {
    body_bytes.map_or("within its head".into(), |bytes| format!("after {bytes} bytes of its body").into())
}

/// Sends the request and prints the response body on standard output, with `--include` the head before it. Prints each piece as
/// it comes, and holds one piece at a time.
///
/// # Errors
/// Those of the connection, and of a response that is incomplete. The received part is printed by then.
pub fn run(arguments: &cli::Request) -> Result<(), Error> {
    let body = body(arguments)?;
    let mut out = Vec::new();
    client::begin(ID, Role::Responder, false, &mut out);
    client::params(ID, &variables(arguments, body.len())?, &mut out);
    client::stdin(ID, &body, &mut out);
    client::stdin_end(ID, &mut out);
    let mut stream = connect(&arguments.to)?;
    // A failed write is no error yet: the server may have answered before it read the whole request. `receive` finds out.
    let _ = stream.write_all(&out);
    let mut answer = Answer::new(arguments.include, arguments.method == "HEAD");
    let mut stdout =
        Sink::new(io::stdout().is_terminal(), |bytes| stdout::write(bytes).map_err(Error::Output));
    let received = receive(&mut *stream, &arguments.to, &mut answer, &mut stdout);
    // The received part of a head is printed also where the rest never came.
    stdout.write(answer.unfinished_head())?;
    stdout.end().and(received)
}

fn body(arguments: &cli::Request) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    match arguments.data.as_deref() {
        None => {}
        Some("@-") => {
            io::stdin().read_to_end(&mut body)?;
        }
        Some(data) => match data.strip_prefix('@') {
            Some(path) => {
                body = std::fs::read(path).map_err(|error| Error::Data(data.to_owned(), error))?;
            }
            None => body.extend_from_slice(data.as_bytes()),
        },
    }
    Ok(body)
}

/// The variables that nginx sends for a request with this method, URL and headers.
fn variables(arguments: &cli::Request, body_length: usize) -> Result<Variables, Error> {
    let (scheme, host, target) = split_url(&arguments.url);
    if !target.starts_with('/') {
        return Err(Error::Usage(arguments.url.clone(), "a URL has a path that starts with a slash"));
    }
    let (path, _) = target.split_once('?').unwrap_or((target, ""));
    let port = match host.rsplit_once(':') {
        Some((_, port)) => port,
        None if scheme == "https" => "443",
        None => "80",
    };
    let content_length = body_length.to_string();
    let has_body = arguments.data.is_some();
    let request = HttpRequest {
        software: concat!("nibiru-request/", env!("CARGO_PKG_VERSION")),
        protocol: "HTTP/1.1",
        scheme,
        method: &arguments.method,
        target,
        path: &percent_decode(path),
        host,
        server_port: port,
        remote_addr: "127.0.0.1",
        content_length: if has_body { &content_length } else { "" },
        ..HttpRequest::default()
    };
    let mut headers = Vec::with_capacity(arguments.headers.len() + 1);
    for header in &arguments.headers {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| Error::Usage(header.clone(), "a header reads \"Name: value\""))?;
        headers.push((name.trim(), value.trim().as_bytes()));
    }
    if has_body && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Content-Type")) {
        headers.push(("Content-Type", b"application/x-www-form-urlencoded"));
    }
    Ok(request.variables(headers))
}

/// Scheme, host and request target of a URL. A URL that is only a path belongs to `http://localhost`.
fn split_url(url: &str) -> (&str, &str, &str) {
    let Some((scheme, rest)) = url.split_once("://") else { return ("http", "localhost", url) };
    let path = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, target) = rest.split_at(path);
    (scheme, host, if target.is_empty() { "/" } else { target })
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn connect(address: &Listen) -> Result<Box<dyn Stream>, Error> {
    let connected: io::Result<Box<dyn Stream>> = match address {
        Listen::Unix(path) => UnixStream::connect(path).map(|stream| Box::new(stream) as _),
        Listen::Tcp(address) => TcpStream::connect(address).map(|stream| Box::new(stream) as _),
        Listen::Fd(_) | Listen::Systemd => {
            return Err(Error::Usage(address.to_string(), "send to unix:PATH or tcp:HOST:PORT"));
        }
    };
    connected.map_err(|error| Error::Connect(address.clone(), error))
}

/// Receives the response and prints it as it comes. The server's STDERR stream goes to standard error.
fn receive(
    stream: &mut dyn Stream,
    address: &Listen,
    answer: &mut Answer,
    stdout: &mut Sink<impl FnMut(&[u8]) -> Result<(), Error>>,
) -> Result<(), Error> {
    // A closed standard error does not change the response.
    let mut stderr = Sink::new(io::stderr().is_terminal(), |bytes| {
        let _ = io::stderr().write_all(bytes);
        Ok(())
    });
    let (mut decoder, mut buffer) = (Decoder::new(), vec![0; 64 * 1024]);
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Err(answer.broken_off("the server closed the connection")),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(answer.broken_off(cause(&error))),
        };
        let mut input = &buffer[..length];
        loop {
            match decoder.receive(&mut input) {
                Ok(None) => break,
                Ok(Some(Reply::Stdout { bytes, .. })) => {
                    let piece = answer.piece(bytes)?;
                    stdout.write(&piece)?;
                }
                Ok(Some(Reply::Stderr { bytes, .. })) => stderr.write(bytes)?,
                Ok(Some(Reply::End { app_status, protocol_status, .. })) => {
                    stderr.end()?;
                    return answer.end(app_status, protocol_status);
                }
                Ok(Some(Reply::Values(_) | Reply::UnknownType(_))) => {}
                // A control socket answers with a JSON object.
                Err(client::Fault::BadVersion(b'{')) => return Err(Error::Control(address.clone())),
                // nibiru itself sends an invalid record to mark a response as incomplete.
                Err(fault) => return Err(answer.broken_off(fault)),
            }
        }
    }
}

/// The progress of the response. Decides which bytes are printed and whether the response is complete. No I/O.
#[derive(Debug)]
struct Answer {
    /// Whether the head is printed before the body (`--include`).
    include: bool,
    /// Whether the request was a HEAD. Its response has no body, also where the head has a Content-Length.
    head_only: bool,
    /// The received part of the head; empty once the head is complete.
    head: Vec<u8>,
    /// The body bytes received, and the Content-Length; `None` until the head is complete.
    body: Option<(u64, Option<u64>)>,
}

impl Answer {
    fn new(include: bool, head_only: bool) -> Self {
        Self { include, head_only, head: Vec::new(), body: None }
    }

    /// Takes the next bytes of the response, and gives the bytes to print.
    fn piece<'a>(&mut self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, Error> {
        if let Some((received, _)) = &mut self.body {
            *received += bytes.len() as u64;
            return Ok(Cow::Borrowed(bytes));
        }
        self.head.extend_from_slice(bytes);
        match Head::parse(&self.head) {
            Ok(Status::Partial) => Ok(Cow::Borrowed(b"")),
            Ok(Status::Complete { head, consumed }) => {
                let promised = head.content_length.filter(|_| head.body_allowed() && !self.head_only);
                self.body = Some(((self.head.len() - consumed) as u64, promised));
                let mut printed = std::mem::take(&mut self.head);
                if !self.include {
                    printed.drain(..consumed);
                }
                Ok(Cow::Owned(printed))
            }
            Err(error) => Err(Error::Protocol(error.to_string())),
        }
    }

    /// Takes END_REQUEST. Gives an error where the response is incomplete.
    fn end(&self, app_status: u32, protocol_status: ProtocolStatus) -> Result<(), Error> {
        if protocol_status != ProtocolStatus::RequestComplete {
            return Err(Error::Refused(protocol_status));
        }
        match self.body {
            _ if app_status != 0 => {
                Err(self.broken_off(format!("the server ended it with application status {app_status}")))
            }
            None => Err(self.broken_off("the server ended it")),
            Some((received, Some(promised))) if received < promised => {
                Err(self.broken_off(format!("its Content-Length is {promised}")))
            }
            Some((received, Some(promised))) if received > promised => Err(Error::Protocol(format!(
                "its body has {received} bytes, and its Content-Length is {promised}"
            ))),
            Some(_) => Ok(()),
        }
    }

    /// The received part of an incomplete head, where heads are printed.
    fn unfinished_head(&self) -> &[u8] {
        if self.include { &self.head } else { b"" }
    }

    fn broken_off(&self, why: impl fmt::Display) -> Error {
        Error::BrokenOff(self.body.map(|(received, _)| received), why.to_string())
    }
}

/// An output for bytes of the response. A file or a pipe gets the bytes as they are. A terminal, which would obey control
/// characters, gets them escaped and with a final line end.
struct Sink<W> {
    write: W,
    terminal: Option<TextStream>,
    /// Whether the last byte written is a line end; true where nothing was written.
    at_line_end: bool,
}

impl<W: FnMut(&[u8]) -> Result<(), Error>> Sink<W> {
    fn new(terminal: bool, write: W) -> Self {
        Self { write, terminal: terminal.then(TextStream::default), at_line_end: true }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let text = self.terminal.as_mut().map(|terminal| terminal.piece(bytes));
        let bytes = text.as_ref().map_or(bytes, |text| text.as_bytes());
        if let Some(last) = bytes.last() {
            self.at_line_end = *last == b'\n';
            (self.write)(bytes)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(terminal) = &mut self.terminal else { return Ok(()) };
        let rest = terminal.end();
        let end = if rest.is_empty() && self.at_line_end { "" } else { "\n" };
        if rest.is_empty() && end.is_empty() { Ok(()) } else { (self.write)((rest + end).as_bytes()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgi::response;

    const HEAD: &[u8] = b"Status: 200 OK\r\nContent-Length: 4\r\n\r\n";

    /// The output for a response in pieces of `size` bytes, and the result.
    fn printed(answer: &[u8], size: usize, include: bool, head_only: bool) -> (Vec<u8>, Result<(), String>) {
        let (mut state, mut printed) = (Answer::new(include, head_only), Vec::new());
        for piece in answer.chunks(size) {
            match state.piece(piece) {
                Ok(piece) => printed.extend_from_slice(&piece),
                Err(error) => return (printed, Err(error.to_string())),
            }
        }
        (printed, state.end(0, ProtocolStatus::RequestComplete).map_err(|error| error.to_string()))
    }

    #[test]
    fn an_answer_is_printed_as_it_comes_and_told_from_one_that_is_not_whole() {
        let broken = |what: &str| Err(format!("the answer is broken off {what}"));
        let bad = |what: &str| Err(format!("bad answer: {what}"));
        for size in 1..60 {
            let with = |body: &[u8]| [HEAD, body].concat();
            assert_eq!(printed(&with(b"four"), size, false, false), (b"four".to_vec(), Ok(())));
            assert_eq!(printed(&with(b"four"), size, true, false), (with(b"four"), Ok(())));
            let end = broken("after 2 bytes of its body: its Content-Length is 4");
            assert_eq!(printed(&with(b"tw"), size, true, false), (with(b"tw"), end));
            let end = broken("after 0 bytes of its body: its Content-Length is 4");
            assert_eq!(printed(&with(b""), size, false, false), (vec![], end));
            assert_eq!(printed(&with(b""), size, false, true), (vec![], Ok(())), "HEAD");
            let end = bad("its body has 5 bytes, and its Content-Length is 4");
            assert_eq!(printed(&with(b"fiver"), size, false, false), (b"fiver".to_vec(), end));
            let end = broken("within its head: the server ended it");
            assert_eq!(printed(&HEAD[..20], size, true, false), (vec![], end));
        }
        for (include, shown) in [(true, &HEAD[..20]), (false, b"")] {
            let mut answer = Answer::new(include, false);
            answer.piece(&HEAD[..20]).unwrap();
            assert_eq!(answer.unfinished_head(), shown);
        }
        let mut answer = Answer::new(false, false);
        answer.piece(HEAD).unwrap();
        assert!(matches!(answer.end(1, ProtocolStatus::RequestComplete), Err(Error::BrokenOff(Some(0), _))));
        assert!(matches!(answer.end(0, ProtocolStatus::Overloaded), Err(Error::Refused(_))));
    }

    #[test]
    fn a_head_without_end_is_not_kept_for_ever() {
        let (mut answer, line) = (Answer::new(false, false), [b'x'; 1000]);
        let pieces = (0..).take_while(|_| answer.piece(&line).is_ok()).count();
        assert!(pieces <= response::MAX_HEAD / line.len() + 1, "{pieces}");
    }

    #[test]
    fn a_terminal_gets_text_and_a_pipe_the_very_bytes() {
        let pieces: [&[u8]; 4] = [b"a\x1b[2J", b"\xc3", b"\xa9\xff\r", b"\nb"];
        for (terminal, expected) in
            [(true, "a\\x1B[2Jé\\xFF\nb\n".as_bytes().to_vec()), (false, pieces.concat())]
        {
            let mut written = Vec::new();
            let mut sink = Sink::new(terminal, |bytes: &[u8]| {
                written.extend_from_slice(bytes);
                Ok(())
            });
            pieces.iter().try_for_each(|piece| sink.write(piece)).unwrap();
            sink.end().unwrap();
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn urls_come_apart() {
        assert_eq!(split_url("/a?b"), ("http", "localhost", "/a?b"));
        assert_eq!(split_url("https://example.org:8443/a"), ("https", "example.org:8443", "/a"));
        assert_eq!(split_url("http://example.org"), ("http", "example.org", "/"));
    }
}
