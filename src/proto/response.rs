//! The rules of one response: the order of its parts, and the length of its body. Does no I/O, and holds no bytes.
//!
//! [`super::response_writer`] asks before it sends, so the response to a client follows these rules for every worker: one head, a
//! body within the promised length, a clean end only of a complete response, nothing after the end.

use crate::cgi::ProxyHeaders;
use crate::cgi::response::{Head, Status};

/// A violation of the protocol by a worker, as text for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolViolation(pub &'static str);

/// The progress of the response to one request.
#[derive(Clone, Debug)]
pub struct ResponseState {
    /// Whether the method is HEAD: the head may promise a body, and no body follows.
    head_request: bool,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// No part has arrived.
    Nothing,
    /// The head has arrived. Holds the bytes of body still promised; `None` without a Content-Length.
    Head(Option<u64>),
    /// The worker has ended the response.
    Ended,
    /// The response has failed, and its client knows. The worker may not.
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

/// The way in which a failure is made visible to the client.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A whole response with a 5xx status, because no byte has been sent. A HEAD request gets the head alone.
    Whole {
        /// Whether the response has a body.
        body: bool,
    },
    /// A break, because the head has been sent and the client waits for more.
    BreakOff,
    /// An ordinary end, because the client has every promised byte.
    Stands,
    /// None, because the response was over.
    None,
}

impl ResponseState {
    /// The state before the first part. `head_request`: the method is HEAD.
    pub fn new(head_request: bool) -> Self {
        Self { head_request, progress: Progress::Nothing }
    }

    /// Takes the head: a CGI header block with its empty line, and nothing after it. Returns the status.
    ///
    /// # Errors
    /// If there was a head before, if the block is no head, or if it controls the proxy with headers that are not allowed.
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
    /// If there was no head, or if the bytes exceed the promised length.
    pub fn body(&mut self, length: usize) -> Result<Part<()>, ProtocolViolation> {
        self.take_body(length as u64)
    }

    /// Takes a file of `length` bytes as the rest of the body.
    ///
    /// # Errors
    /// If there was no head, or if this is not the promised length.
    pub(crate) fn file(&mut self, length: u64) -> Result<Part<()>, ProtocolViolation> {
        let taken = self.take_body(length)?;
        // Bytes that came after the file would be sent before it.
        match &mut self.progress {
            Progress::Head(Some(1..)) => Err(ProtocolViolation("a file that is not the rest of the body")),
            Progress::Head(promised) => {
                *promised = Some(0);
                Ok(taken)
            }
            Progress::Nothing | Progress::Ended | Progress::Failed => Ok(taken),
        }
    }

    fn take_body(&mut self, length: u64) -> Result<Part<()>, ProtocolViolation> {
        match &mut self.progress {
            Progress::Head(None) => {}
            Progress::Head(Some(promised)) => {
                *promised = promised
                    .checked_sub(length)
                    .ok_or(ProtocolViolation("a response body longer than its Content-Length"))?;
            }
            Progress::Failed => return Ok(Part::Drop),
            Progress::Nothing | Progress::Ended => {
                return Err(ProtocolViolation("a response body without a head"));
            }
        }
        Ok(Part::Send(()))
    }

    /// Takes the end of a complete response.
    ///
    /// # Errors
    /// If the response is not complete.
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

    /// Records that the response cannot be completed: the worker reported so, exited, broke the rules, took too long, or never got
    /// the request. `unsent`: the head was taken, and no byte has been sent yet.
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

    /// Whether the response has ended or failed.
    pub fn is_over(&self) -> bool {
        matches!(self.progress, Progress::Ended | Progress::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A response after these acts, of a request whose method is HEAD or not.
    fn after(acts: &[&str], head_request: bool) -> ResponseState {
        let mut state = ResponseState::new(head_request);
        for part in acts {
            assert_eq!(act(&mut state, part), "send", "{acts:?}");
        }
        state
    }

    /// One act, and its outcome in a word.
    fn act(state: &mut ResponseState, act: &str) -> &'static str {
        fn word<T>(outcome: Result<Part<T>, ProtocolViolation>) -> &'static str {
            match outcome {
                Ok(Part::Send(_)) => "send",
                Ok(Part::Drop) => "drop",
                Err(ProtocolViolation(_)) => "violation",
            }
        }
        let proxy_headers = ProxyHeaders::default();
        match act {
            "head" => word(state.head(b"Status: 200 OK\r\n\r\n", &proxy_headers)),
            "head of 5" => word(state.head(b"Status: 200 OK\r\nContent-Length: 5\r\n\r\n", &proxy_headers)),
            "head of 0" => word(state.head(b"Status: 204 No Content\r\n\r\n", &proxy_headers)),
            "half a head" => word(state.head(b"Status: 200 OK\r\n", &proxy_headers)),
            "head and more" => word(state.head(b"Status: 200 OK\r\n\r\nx", &proxy_headers)),
            "no head" => word(state.head(b"Status: banana\r\n\r\n", &proxy_headers)),
            "a file of the proxy's" => {
                word(state.head(b"Status: 200 OK\r\nX-Accel-Redirect: /etc\r\n\r\n", &proxy_headers))
            }
            "3 bytes" => word(state.body(3)),
            "9 bytes" => word(state.body(9)),
            "a file of 5" => word(state.file(5)),
            "end" => word(state.end()),
            "fail" | "fail unsent" => match state.fail(act == "fail unsent") {
                Failure::Whole { body: true } => "send",
                Failure::Whole { body: false } => "head alone",
                Failure::BreakOff => "break",
                Failure::Stands => "stands",
                Failure::None => "none",
            },
            other => panic!("{other}"),
        }
    }

    #[test]
    fn every_part_is_sent_dropped_or_a_violation_by_the_table() {
        let acts = [
            "head",
            "head of 5",
            "head of 0",
            "3 bytes",
            "9 bytes",
            "a file of 5",
            "end",
            "fail",
            "fail unsent",
        ];
        type Row = (&'static [&'static str], [&'static str; 9]);
        let (s, d, v) = ("send", "drop", "violation");
        let table: [Row; 9] = [
            (&[], [s, s, s, v, v, v, v, s, s]),
            (&["head"], [v, v, v, s, s, s, s, "break", s]),
            (&["head of 5"], [v, v, v, s, v, s, v, "break", s]),
            (&["head of 5", "3 bytes"], [v, v, v, v, v, v, v, "break", s]),
            (&["head of 5", "a file of 5"], [v, v, v, v, v, v, s, "stands", s]),
            (&["head", "a file of 5"], [v, v, v, v, v, v, s, "stands", s]),
            (&["head of 0"], [v, v, v, v, v, v, s, "stands", s]),
            (&["head", "end"], [v, v, v, v, v, v, v, "none", "none"]),
            (&["head", "fail unsent"], [d, d, d, d, d, d, d, "none", "none"]),
        ];
        for (before, outcomes) in table {
            for (part, expected) in acts.into_iter().zip(outcomes) {
                let mut state = after(before, false);
                let got = act(&mut state, part);
                assert_eq!(got, expected, "{part} after {before:?}");
            }
        }
    }

    #[test]
    fn a_head_that_is_none_or_not_allowed_is_a_violation() {
        for part in ["half a head", "head and more", "no head", "a file of the proxy's"] {
            let mut state = after(&[], false);
            assert_eq!(act(&mut state, part), "violation", "{part}");
            assert!(!state.is_over());
        }
    }

    #[test]
    fn a_response_to_head_has_no_body_and_is_complete_with_its_head() {
        let mut state = after(&["head of 5"], true);
        assert_eq!(act(&mut state, "3 bytes"), "violation");
        assert_eq!(act(&mut after(&["head of 5"], true), "fail"), "stands");
        assert_eq!(act(&mut after(&[], true), "fail"), "head alone");
        assert_eq!(act(&mut state, "end"), "send");
        assert!(state.is_over());
    }
}
