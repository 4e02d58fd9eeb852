//! One request of a connection: the use of each of its records, and the streams that the client may still be sending.
//!
//! Called by [`super::server`], which has the connection. Holds PARAMS until they are complete, and nothing of a body.

use std::collections::VecDeque;

use super::limits::{MAX_REFUSED, MAX_REQUESTS};
use super::params::Decoder;
use super::record::{Header, RecordType};
use super::refusal::Refusal;
use super::role::Role;
use crate::cgi::Variables;

/// Ended requests that are remembered while the client may still be sending them. A client that leaves the end of a body out
/// for good, as HAProxy does over HTTP/2 where the body is empty, would add one with each request; a client that sends it late
/// has no more on their way than can be open at a time.
const MAX_UNFINISHED: usize = MAX_REQUESTS + MAX_REFUSED;

/// The use of the content of the record that is arriving.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    Ignored,
    Begin,
    Params,
    /// STDIN or DATA.
    Body,
    Abort,
    GetValues,
}

/// An id in use.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: u16,
    pub(super) role: Role,
    pub(super) keep_open: bool,
    pub(super) phase: Phase,
    pub(super) stdin_open: bool,
    pub(super) data_open: bool,
    /// The streams that the client may still be sending, wanted or not.
    pub(super) sending: OpenStreams,
    /// The request that had this id before ended before its STDIN did, so the end of that may still be on its way.
    pub(super) previous_stdin_open: bool,
    pub(super) stdout_begun: bool,
    pub(super) stderr_begun: bool,
}

/// The streams of a request that the client has not ended yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenStreams {
    stdin: bool,
    data: bool,
}

impl OpenStreams {
    fn end(&mut self, stream: RecordType) {
        match stream {
            RecordType::Stdin => self.stdin = false,
            RecordType::Data => self.data = false,
            _ => {}
        }
    }

    pub(super) fn is_over(self) -> bool {
        !self.stdin && !self.data
    }
}

/// Requests that have ended while the client may still be sending them: at most [`MAX_UNFINISHED`].
#[derive(Debug, Default)]
pub(super) struct UnfinishedRequests(VecDeque<(u16, Role, OpenStreams)>);

impl UnfinishedRequests {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The request has ended.
    pub(super) fn add(&mut self, request: &Request) {
        if request.sending.is_over() {
            return;
        }
        if self.0.len() == MAX_UNFINISHED {
            self.0.pop_front();
        }
        self.0.push_back((request.id, request.role, request.sending));
    }

    /// A stream of a request that has ended has ended too.
    pub(super) fn finish(&mut self, ended: u16, stream: RecordType) {
        self.0.retain_mut(|(id, _, sending)| {
            if *id == ended {
                sending.end(stream);
            }
            !sending.is_over()
        });
    }

    /// A request begins with this id. Gives whether the STDIN of the previous request with it has not ended. An Authorizer may have
    /// no STDIN.
    pub(super) fn begin(&mut self, begun: u16) -> bool {
        let mut stdin = false;
        self.0.retain(|(id, role, sending)| {
            stdin |= *id == begun && sending.stdin && *role != Role::Authorizer;
            *id != begun
        });
        stdin
    }
}

#[derive(Debug)]
pub(super) enum Phase {
    /// PARAMS is arriving.
    Params(Decoder),
    /// PARAMS is arriving for nothing: the answer waits for its end, since no output may come before.
    Refusing(Refusal),
    /// STDIN and DATA are arriving.
    Body,
    /// Refused or aborted: every record is ignored until the caller ends the request.
    Over,
}

impl Request {
    pub(super) fn new(id: u16, role: Role, keep_open: bool, phase: Phase) -> Self {
        Self {
            id,
            role,
            keep_open,
            phase,
            // An Authorizer gets no body (§6.3), and mod_fcgid sends not even the record that would end it.
            stdin_open: role != Role::Authorizer,
            data_open: role == Role::Filter,
            sending: OpenStreams { stdin: true, data: role == Role::Filter },
            previous_stdin_open: false,
            stdout_begun: false,
            stderr_begun: false,
        }
    }

    pub(super) fn classify(&mut self, header: &Header) -> Content {
        if header.content_length == 0 {
            // The previous request's end does not end this one's stream, nor is it a body that comes too early.
            let of_previous = header.record_type == RecordType::Stdin
                && matches!(self.phase, Phase::Params(_))
                && std::mem::take(&mut self.previous_stdin_open);
            if of_previous {
                return Content::Ignored;
            }
            if !(self.previous_stdin_open && header.record_type == RecordType::Stdin) {
                self.sending.end(header.record_type);
            }
        }
        match (header.record_type, &self.phase) {
            (RecordType::AbortRequest, Phase::Params(_) | Phase::Refusing(_) | Phase::Body) => Content::Abort,
            (RecordType::Params, Phase::Params(_)) => Content::Params,
            (RecordType::Params, Phase::Refusing(_)) if header.content_length == 0 => Content::Params,
            (RecordType::Stdin | RecordType::Data, Phase::Params(_)) => {
                // No client is known to send it, and a body whose length is not known yet has no bound.
                self.phase = Phase::Refusing(Refusal::EarlyBody);
                Content::Ignored
            }
            (RecordType::Stdin, Phase::Body) if self.stdin_open => Content::Body,
            (RecordType::Data, Phase::Body) if self.data_open => Content::Body,
            _ => Content::Ignored,
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if let Phase::Params(decoder) = &mut self.phase
            && let Err(refusal) = decoder.feed(bytes)
        {
            self.phase = Phase::Refusing(refusal);
        }
    }

    /// Memory of the parameters while they arrive, in bytes.
    pub(super) fn held(&self) -> usize {
        if let Phase::Params(decoder) = &self.phase { decoder.held() } else { 0 }
    }

    pub(super) fn finish_params(&mut self) -> Result<Variables, Refusal> {
        let finished = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Params(decoder) => decoder.finish(),
            Phase::Refusing(refusal) => Err(refusal),
            Phase::Body | Phase::Over => unreachable!("PARAMS are ignored after their end"),
        };
        match finished {
            Ok(_) => self.phase = Phase::Body,
            Err(refusal) => self.keep_open &= !refusal.closes(),
        }
        finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_never_end_their_bodies_are_remembered_in_bounds() {
        let mut unfinished = UnfinishedRequests::default();
        for id in 1..=1000 {
            unfinished.add(&Request::new(id, Role::Responder, true, Phase::Body));
        }
        assert_eq!(unfinished.0.len(), MAX_UNFINISHED);
        assert!(unfinished.begin(1000) && !unfinished.begin(1000) && !unfinished.begin(1));
    }
}
