//! `nibiru request`: one request straight to a FastCGI socket, with the variables that nginx would send.

use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use crate::cgi::Variables;
use crate::cgi::proxy::{HttpRequest, percent_decode};
use crate::cgi::response::{Head, Status};
use crate::cli;
use crate::config::Listen;
use crate::fastcgi::client::{self, Decoder, Reply};
use crate::fastcgi::{ProtocolStatus, Role};
use crate::stdout;

/// The one request on the connection.
const ID: u16 = 1;

/// Why there is no answer, or no whole one.
#[derive(Debug)]
pub enum Error {
    /// What the user wrote does not do: the object and the cause.
    Usage(String, &'static str),
    /// The socket cannot be reached.
    Connect(Listen, io::Error),
    /// The connection or a file broke.
    Io(io::Error),
    /// The answer cannot be printed.
    Output(stdout::Error),
    /// The server's bytes are not FastCGI or not a response.
    Protocol(String),
    /// The server ended the request before the response was complete.
    Truncated,
    /// The server answered END_REQUEST with this.
    Refused(ProtocolStatus),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(object, cause) => write!(f, "{object}: {cause}"),
            Self::Connect(address, error) => write!(f, "{address}: {}", crate::log::cause(error)),
            Self::Io(error) => f.write_str(&crate::log::cause(error)),
            Self::Output(error) => error.fmt(f),
            Self::Protocol(what) => write!(f, "bad answer: {what}"),
            Self::Truncated => f.write_str("bad answer: it ended before it was complete"),
            Self::Refused(status) => write!(f, "the server refused the request: {status:?}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Sends the request and prints the response body (with `--include` its head too) on standard output.
pub fn run(arguments: &cli::Request) -> Result<(), Error> {
    let body = body(arguments)?;
    let mut out = Vec::new();
    client::begin(ID, Role::Responder, false, &mut out);
    client::params(ID, &variables(arguments, body.len())?, &mut out);
    client::stdin(ID, &body, &mut out);
    client::stdin_end(ID, &mut out);
    let mut stream = connect(&arguments.to)?;
    stream.write_all(&out)?;
    let answer = read(&mut *stream)?;
    print(&answer, arguments.include)
}

fn body(arguments: &cli::Request) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    match arguments.data.as_deref() {
        None => {}
        Some("@-") => {
            io::stdin().read_to_end(&mut body)?;
        }
        Some(data) => match data.strip_prefix('@') {
            Some(path) => body = std::fs::read(path)?,
            None => body.extend_from_slice(data.as_bytes()),
        },
    }
    Ok(body)
}

/// What nginx sends for a request with this method, URL and headers.
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

/// Scheme, host and the rest; a URL that is only a path belongs to `http://localhost`.
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

/// Reads the whole answer; what the server says on STDERR goes to ours.
fn read(stream: &mut dyn Stream) -> Result<Vec<u8>, Error> {
    let (mut decoder, mut answer, mut buffer) = (Decoder::new(), Vec::new(), vec![0; 64 * 1024]);
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Err(Error::Truncated);
        }
        let mut input = &buffer[..length];
        while let Some(reply) =
            decoder.receive(&mut input).map_err(|fault| Error::Protocol(fault.to_string()))?
        {
            match reply {
                Reply::Stdout { bytes, .. } => answer.extend_from_slice(bytes),
                Reply::Stderr { bytes, .. } => io::stderr().write_all(bytes)?,
                Reply::End { protocol_status: ProtocolStatus::RequestComplete, app_status: 0, .. } => {
                    return Ok(answer);
                }
                Reply::End { protocol_status: ProtocolStatus::RequestComplete, .. } => {
                    return Err(Error::Truncated);
                }
                Reply::End { protocol_status, .. } => return Err(Error::Refused(protocol_status)),
                Reply::Values(_) | Reply::UnknownType(_) => {}
            }
        }
    }
}

fn print(answer: &[u8], include: bool) -> Result<(), Error> {
    let (length, promised) = match Head::parse(answer) {
        Ok(Status::Complete { head, consumed }) => {
            (consumed, head.content_length.filter(|_| head.body_allowed()))
        }
        Ok(Status::Partial) => return Err(Error::Truncated),
        Err(error) => return Err(Error::Protocol(error.to_string())),
    };
    let (head, body) = answer.split_at(length);
    let write = |bytes| stdout::write(bytes).map_err(Error::Output);
    if include {
        write(head)?;
    }
    write(body)?;
    if io::stdout().is_terminal() && !body.ends_with(b"\n") {
        write(b"\n")?;
    }
    match promised {
        Some(promised) if promised > body.len() as u64 && !body.is_empty() => Err(Error::Truncated),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart() {
        assert_eq!(split_url("/a?b"), ("http", "localhost", "/a?b"));
        assert_eq!(split_url("https://example.org:8443/a"), ("https", "example.org:8443", "/a"));
        assert_eq!(split_url("http://example.org"), ("http", "example.org", "/"));
    }
}
