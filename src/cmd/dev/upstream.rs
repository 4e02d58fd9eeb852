//! The upstream of one HTTP request: a FastCGI connection of its own. The request goes out while the response comes in.
//!
//! No whole body is held in either direction. The drop of an upstream closes its connection, so that the gateway learns that the
//! client has gone.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::header::{HeaderName, HeaderValue};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::AbortHandle;

use crate::cgi::Variables;
use crate::cgi::proxy_headers::is_for_proxy;
use crate::cgi::response::{Head, Status};
use crate::fastcgi::client::{self, Decoder, Reply};
use crate::fastcgi::{ProtocolStatus, Role};

/// The FastCGI id of the connection's only request.
const ID: u16 = 1;

/// The most bytes of one read from the gateway.
const READ_BUFFER: usize = 64 * 1024;

/// The most bytes of STDERR that are kept. The longest traceback is much shorter.
const MAX_STDERR: usize = 256 * 1024;

/// The connection of a request that runs.
#[derive(Debug)]
pub(super) struct Upstream {
    reader: OwnedReadHalf,
    decoder: Decoder,
    buffer: Box<[u8]>,
    /// The end of the response, with the cause where it is incomplete; `None` before.
    end: Option<Result<(), &'static str>>,
    stderr: Vec<u8>,
    upload: AbortHandle,
}

impl Upstream {
    /// Connects, and starts a task that sends the request.
    pub(super) async fn begin(socket: &Path, variables: &Variables, body: Incoming) -> io::Result<Self> {
        let (reader, writer) = UnixStream::connect(socket).await?.into_split();
        let mut out = Vec::with_capacity(4096);
        client::begin(ID, Role::Responder, false, &mut out);
        client::params(ID, variables, &mut out);
        let upload = tokio::task::spawn_local(upload(writer, out, body)).abort_handle();
        let buffer = vec![0; READ_BUFFER].into_boxed_slice();
        Ok(Self { reader, decoder: Decoder::new(), buffer, end: None, stderr: Vec::new(), upload })
    }

    /// Waits for the response's head. Gives the head and the first bytes of the body.
    pub(super) async fn head(&mut self) -> io::Result<(Response<()>, Bytes)> {
        let mut received = Vec::new();
        loop {
            let Some(piece) = self.stdout().await? else {
                return Err(broken("the response ended within its head"));
            };
            received.extend_from_slice(&piece);
            match Head::parse(&received).map_err(io::Error::other)? {
                Status::Partial => {}
                Status::Complete { head, consumed } => {
                    let head = response(&head).map_err(io::Error::other)?;
                    return Ok((head, Bytes::from(received).slice(consumed..)));
                }
            }
        }
    }

    /// Waits for the end of the response and discards the body. STDERR is complete afterwards.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        while self.stdout().await?.is_some() {}
        Ok(())
    }

    /// The received part of the STDERR stream.
    pub(super) fn stderr(&self) -> &[u8] {
        &self.stderr
    }

    async fn stdout(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|context| self.poll_stdout(context)).await
    }

    /// The next piece of the response; `None` at its end, an error where the response is incomplete.
    pub(super) fn poll_stdout(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            if let Some(end) = self.end {
                return Poll::Ready(end.map(|()| None).map_err(broken));
            }
            let mut buffer = ReadBuf::new(&mut self.buffer);
            ready!(Pin::new(&mut self.reader).poll_read(context, &mut buffer))?;
            let length = buffer.filled().len();
            let piece = self.receive(length);
            if !piece.is_empty() {
                return Poll::Ready(Ok(Some(piece.into())));
            }
        }
    }

    /// Decodes the first `length` bytes of the buffer. Gives their STDOUT bytes.
    fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut stdout = Vec::new();
        let mut input = &self.buffer[..length];
        if input.is_empty() {
            self.end = Some(Err("the gateway closed the connection"));
        }
        while self.end.is_none() {
            match self.decoder.receive(&mut input) {
                Ok(None) => break,
                Ok(Some(Reply::Stdout { bytes, .. })) => stdout.extend_from_slice(bytes),
                Ok(Some(Reply::Stderr { bytes, .. })) => {
                    let room = MAX_STDERR - self.stderr.len();
                    self.stderr.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                Ok(Some(Reply::End {
                    app_status: 0,
                    protocol_status: ProtocolStatus::RequestComplete,
                    ..
                })) => self.end = Some(Ok(())),
                Ok(Some(Reply::End { .. })) => self.end = Some(Err("the gateway ended the request")),
                Ok(Some(Reply::Values(_) | Reply::UnknownType(_))) => {}
                // For example the record of a bad version, by which nibiru marks a response as incomplete.
                Err(_) => self.end = Some(Err("the gateway broke the response off")),
            }
        }
        stdout
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // After a complete response the upload goes on, and the gateway discards it: a client that reads only after it has sent
        // its whole body gets the response.
        if self.end != Some(Ok(())) {
            self.upload.abort();
        }
    }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what)
}

/// Sends the request: `out`, then the body as it comes from the client.
async fn upload(mut writer: OwnedWriteHalf, mut out: Vec<u8>, mut body: Incoming) {
    loop {
        // A gateway that takes no more has answered: the reader finds out.
        if writer.write_all(&out).await.is_err() {
            break;
        }
        out.clear();
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    client::stdin(ID, &bytes, &mut out);
                }
            }
            // The client broke off. The dropped writer closes this side, so that the gateway sees an incomplete body.
            Some(Err(_)) => return,
            None => {
                client::stdin_end(ID, &mut out);
                let _ = writer.write_all(&out).await;
                break;
            }
        }
    }
    // A dropped writer would shut this side down, and the gateway would close the connection after this response.
    writer.forget();
}

/// The response head as HTTP, without the fields of a connection (RFC 9110 §7.6.1) and those for the proxy.
fn response(head: &Head<'_>) -> Result<Response<()>, hyper::http::Error> {
    let mut response = Response::builder().status(head.status).body(())?;
    if let Ok(reason) = ReasonPhrase::try_from(head.reason)
        && !head.reason.is_empty()
    {
        response.extensions_mut().insert(reason);
    }
    for (name, value) in head.fields() {
        let name = HeaderName::from_bytes(name)?;
        let kept = !matches!(
            name.as_str(),
            "status" | "connection" | "keep-alive" | "transfer-encoding" | "upgrade"
        ) && !is_for_proxy(name.as_str().as_bytes());
        if kept {
            response.headers_mut().append(name, HeaderValue::from_bytes(value)?);
        }
    }
    Ok(response)
}
