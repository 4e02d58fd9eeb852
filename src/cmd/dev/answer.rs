//! Response bodies of the front, and the log line of each response.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use tower_http::services::fs::ServeFileSystemResponseBody;
use tracing::info;

use super::upstream::Upstream;
use crate::log::{Span, redact};

/// A response of the front.
pub(super) type Answer = Response<Content>;

/// The source of a response body.
pub(super) enum Content {
    /// Bytes in memory: the whole body.
    Whole(Bytes),
    /// The application's response, which comes in pieces.
    Stream {
        /// The body bytes that came together with the head; empty once they are sent.
        first: Bytes,
        /// The connection that the rest comes from. Boxed, since it is ten times the size of the other variants.
        upstream: Box<Upstream>,
    },
    /// A static file.
    File(ServeFileSystemResponseBody),
}

impl Content {
    /// The length of the body, in bytes, where it is known.
    fn size(&self) -> Option<u64> {
        match self {
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Stream { .. } => None,
            Self::File(file) => file.size_hint().exact(),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match self {
            Self::Whole(first) | Self::Stream { first, .. } if !first.is_empty() => {
                Poll::Ready(Ok(Some(std::mem::take(first))))
            }
            Self::Whole(_) => Poll::Ready(Ok(None)),
            Self::Stream { upstream, .. } => upstream.poll_stdout(context),
            Self::File(file) => {
                let frame = ready!(Pin::new(file).poll_frame(context)).transpose()?;
                Poll::Ready(Ok(frame.and_then(|frame| frame.into_data().ok())))
            }
        }
    }
}

/// A short response of the front's own.
pub(super) fn text(status: StatusCode, message: impl fmt::Display) -> Answer {
    let line = format!("{status}: {message}\n");
    whole(status, "text/plain; charset=utf-8", line)
}

/// A response whose body is in memory.
pub(super) fn whole(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Content::Whole(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A [`Content`] that writes the log line of its request when the response ends.
pub(super) struct LoggedContent {
    content: Content,
    line: Line,
}

/// The log line of one request.
#[derive(Debug)]
pub(super) struct Line {
    method: String,
    /// Path and query, without secrets.
    target: String,
    /// The request's id.
    pub(super) id: String,
    came: Instant,
    status: u16,
    outcome: Outcome,
}

/// The progress of a response body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The number of bytes sent, and the Content-Length where there is one.
    Sending(u64, Option<u64>),
    Complete,
    Broken,
}

impl Line {
    pub(super) fn new(method: &str, target: &str, id: String) -> Self {
        Self {
            method: method.to_owned(),
            target: String::from_utf8_lossy(&redact::uri(target.as_bytes())).into_owned(),
            id,
            came: Instant::now(),
            status: 0,
            outcome: Outcome::Broken,
        }
    }

    /// Makes this the log line of `answer`. `bodiless`: no body follows, also where the head has a Content-Length.
    pub(super) fn attach(mut self, answer: Answer, bodiless: bool) -> Response<LoggedContent> {
        let length = answer.headers().get(CONTENT_LENGTH);
        let promised = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let promised = promised.or(answer.body().size());
        self.status = answer.status().as_u16();
        self.outcome = if bodiless { Outcome::Complete } else { Outcome::Sending(0, promised) };
        answer.map(|content| LoggedContent { content, line: self })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let (method, target, status, time) =
            (&self.method, &self.target, self.status, Span::from(self.came.elapsed()));
        let broken = match self.outcome {
            Outcome::Complete => "",
            // hyper asks for no more bytes than the Content-Length.
            Outcome::Sending(sent, promised) if promised == Some(sent) => "",
            Outcome::Sending(..) => ", the client went away",
            Outcome::Broken if status == 0 => {
                return info!(
                    process = "dev",
                    request = self.id,
                    "{method} {target}: the client went away after {time}"
                );
            }
            Outcome::Broken => ", broken off",
        };
        info!(process = "dev", request = self.id, "{method} {target} {status} in {time}{broken}");
    }
}

impl Body for LoggedContent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = ready!(self.content.poll(context));
        let outcome = match (&next, self.line.outcome) {
            (Ok(Some(bytes)), Outcome::Sending(sent, promised)) => {
                Outcome::Sending(sent + bytes.len() as u64, promised)
            }
            (Ok(Some(_)), outcome) => outcome,
            (Ok(None), _) => Outcome::Complete,
            (Err(_), _) => Outcome::Broken,
        };
        self.line.outcome = outcome;
        Poll::Ready(next.transpose().map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
