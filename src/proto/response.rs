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
        let acts = ["head", "head of 5", "head of 0", "3 bytes", "9 bytes", "end", "fail", "fail unsent"];
        type Row = (&'static [&'static str], [&'static str; 8]);
        let (s, d, v) = ("send", "drop", "violation");
        let table: [Row; 7] = [
            (&[], [s, s, s, v, v, v, s, s]),
            (&["head"], [v, v, v, s, s, s, "break", s]),
            (&["head of 5"], [v, v, v, s, v, v, "break", s]),
            (&["head of 5", "3 bytes"], [v, v, v, v, v, v, "break", s]),
            (&["head of 0"], [v, v, v, v, v, s, "stands", s]),
            (&["head", "end"], [v, v, v, v, v, v, "none", "none"]),
            (&["head", "fail unsent"], [d, d, d, d, d, d, "none", "none"]),
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
