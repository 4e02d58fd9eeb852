//! The rules of one response: which part may come when, and how much of it. Std only, no I/O, holds no bytes.
//!
//! [`super::response_writer`] asks before it sends anything, so a client's response follows these rules whatever a worker
//! says: one head, a body within its promise, a clean end only of a complete response, nothing after the end.

use crate::cgi::ProxyHeaders;
use crate::cgi::response::{Head, Status};

/// The rule that a worker has broken, in words for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolViolation(pub &'static str);

/// The progress of the response to one request.
#[derive(Clone, Debug)]
pub struct ResponseState {
    /// The request's method is HEAD: the head may promise a body, and no body follows.
    head_request: bool,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// Nothing has come.
    Nothing,
    /// The head has come; this many bytes of body are still promised, where a number was.
    Head(Option<u64>),
    /// The response has ended, as the worker said.
    Ended,
    /// The response has failed, and its client was told; the worker may not know.
    Failed,
}

/// Whether a part of a response is sent.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<T> {
    /// The part follows the rules.
    Send(T),
    /// The response has failed already, so the part is dropped.
    Drop,
}

/// How a failure is made visible.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// By a whole response with a 5xx status: no byte of another has been sent. A HEAD request gets its head alone.
    Whole {
        /// Whether the response has its body.
        body: bool,
    },
    /// By breaking off: the head has been sent, and the client waits for more.
    BreakOff,
    /// By the end alone: the client has every byte that the head promised.
    Stands,
    /// Not at all: the response was over.
    None,
}

impl ResponseState {
    /// Of a request that nothing has come for; `head_request` where its method is HEAD.
    pub fn new(head_request: bool) -> Self {
        Self { head_request, progress: Progress::Nothing }
    }

    /// Takes the head, a CGI header block with its empty line and nothing behind it. Gives its status.
    ///
    /// # Errors
    /// When it is not the first, or no head, or has `orders` for the proxy that are not allowed.
    pub fn head(&mut self, block: &[u8], orders: &ProxyHeaders) -> Result<Part<u16>, ProtocolViolation> {
        match self.progress {
            Progress::Nothing => {}
            Progress::Failed => return Ok(Part::Drop),
            Progress::Head(_) | Progress::Ended => return Err(ProtocolViolation("a second response head")),
        }
        let head = match Head::parse(block) {
            Ok(Status::Complete { head, consumed }) if consumed == block.len() => head,
            Ok(_) => return Err(ProtocolViolation("a malformed response head")),
            Err(bad) => return Err(ProtocolViolation(bad.what())),
        };
        if !orders.permit(&head) {
            return Err(ProtocolViolation("a header with orders for the proxy that is not allowed"));
        }
        let promised = if self.head_request || !head.body_allowed() { Some(0) } else { head.content_length };
        self.progress = Progress::Head(promised);
        Ok(Part::Send(head.status))
    }

    /// Takes `length` bytes of body.
    ///
    /// # Errors
    /// When there is no head before them, or they are more than it promised.
    pub fn body(&mut self, length: usize) -> Result<Part<()>, ProtocolViolation> {
        match &mut self.progress {
            Progress::Head(None) => {}
            Progress::Head(Some(promised)) => {
                *promised = promised
                    .checked_sub(length as u64)
                    .ok_or(ProtocolViolation("a response body longer than its Content-Length"))?;
            }
            Progress::Failed => return Ok(Part::Drop),
            Progress::Nothing | Progress::Ended => {
                return Err(ProtocolViolation("a response body without a head"));
            }
        }
        Ok(Part::Send(()))
    }

    /// Takes the end of an answer that is complete.
    ///
    /// # Errors
    /// When it is not.
    pub fn end(&mut self) -> Result<Part<()>, ProtocolViolation> {
        match self.progress {
            Progress::Head(None | Some(0)) => {
                self.progress = Progress::Ended;
                Ok(Part::Send(()))
            }
            Progress::Head(Some(_)) => {
                Err(ProtocolViolation("a response body shorter than its Content-Length"))
            }
            Progress::Failed => Ok(Part::Drop),
            Progress::Nothing | Progress::Ended => Err(ProtocolViolation("an end without a response head")),
        }
    }

    /// It cannot be completed: because the worker says so or is gone, broke the rules, took too long, or never got it.
    /// `unsent`: the head was taken, and nothing has been sent all the same.
    pub fn fail(&mut self, unsent: bool) -> Failure {
        match std::mem::replace(&mut self.progress, Progress::Failed) {
            Progress::Head(Some(0)) if !unsent => Failure::Stands,
            Progress::Head(_) if !unsent => Failure::BreakOff,
            Progress::Nothing | Progress::Head(_) => Failure::Whole { body: !self.head_request },
            over @ (Progress::Ended | Progress::Failed) => {
                self.progress = over;
                Failure::None
            }
        }
    }

    /// Whether nothing more of it is sent.
    pub fn is_over(&self) -> bool {
        matches!(self.progress, Progress::Ended | Progress::Failed)
    }
}
