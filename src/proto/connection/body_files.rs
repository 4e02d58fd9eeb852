//! Bodies in files of the proxy's (`--body-file-param`): nothing of them arrives, and the driver opens the file.

use std::time::Instant;

use super::event::{Event, Policy};
use super::input::Rejection;
use super::state::Connection;
use super::stream::{Incoming, IncomingRequest, Source, StreamKey, StreamState};
use crate::cgi::Variables;
use crate::cgi::arrival::Arrival;
use crate::cgi::request::{ContentLength, Head};
use crate::fastcgi::Role;
use crate::proto::body::{Body, Open};
use crate::proto::body_file::{self, BodyFileError, OpenedFile};
use crate::proto::request_end::RejectReason;
use crate::proto::space::SpoolError;

impl<'a> Policy<'a> {
    /// The path of the proxy's file with the body; `None` where the body comes in STDIN. An Authorizer has no body.
    pub(super) fn body_file<'v>(&self, variables: &'v Variables, role: Role) -> Option<&'v [u8]> {
        let path = variables.get(self.body_file_param.filter(|_| role != Role::Authorizer)?)?;
        Some(path).filter(|path| !path.is_empty())
    }
}

impl IncomingRequest {
    /// Whether the body is in a file of the proxy's, so that no byte of it may arrive.
    pub(super) fn is_in_file(&self, source: Source) -> bool {
        source == Source::Stdin && self.stdin.body.proxy_file().is_some()
    }
}

impl Connection {
    /// The body of a request in the proxy's file at `path`. Only the end of STDIN is to come: the request waits for that, so that a
    /// body that comes all the same is always noticed.
    pub(super) fn body_in_file(
        &self,
        path: &[u8],
        head: &Head,
        too_large: bool,
        now: Instant,
        policy: &Policy<'_>,
    ) -> Result<Incoming, Rejection> {
        if too_large {
            return Err(Rejection::too_large(Source::Stdin, head.content_length, policy.max_body));
        }
        let body = Body::in_file(path, now, policy.space)?;
        Ok(Incoming { arrival: Arrival::new(ContentLength::UntilEnd), body })
    }

    /// The next file of the proxy's for the driver to open. Each is returned once.
    pub(crate) fn next_body_file(&mut self) -> Option<(StreamKey, Open)> {
        self.streams.iter_mut().find_map(|stream| {
            let StreamState::Arriving(request) = &mut stream.state else { return None };
            Some((stream.key, request.stdin.body.next_open()?))
        })
    }

    /// Handles the end of the opening of a file of the proxy's: the file with its length, or the reason for which it is not taken.
    pub(crate) fn body_file_opened(&mut self, key: StreamKey, opened: OpenedFile, max_body: u64) {
        let Some(request) = self.arriving(key) else { return };
        let promised = request.head.content_length;
        let checked = opened.and_then(|(file, length)| {
            body_file::check_length(length, promised)?;
            Ok((file, length))
        });
        match checked {
            Ok((_, length)) if length > max_body => {
                let promised = ContentLength::Known(length);
                self.reject_arriving(key, |_| Rejection::too_large(Source::Stdin, promised, max_body));
            }
            Ok((file, length)) => {
                request.stdin.body.opened(file, length);
                if request.is_kept() {
                    self.submit(key);
                }
            }
            Err(error) => self.refuse_body_file(key, error),
        }
    }

    /// Rejects a request whose body is in a file of the proxy's that is not taken.
    pub(super) fn refuse_body_file(&mut self, key: StreamKey, error: BodyFileError) {
        let Some(request) = self.arriving(key) else { return };
        let path = request.stdin.body.proxy_file().unwrap_or_default().to_vec();
        let (status, message) = (error.status(), error.to_string());
        self.events.push_back(Event::BodyFileRefused { path, error });
        self.reject_arriving(key, |_| Rejection(RejectReason::BodyFile, status, message));
    }

    /// Rejects a request whose body a disk did not take, or did not give, in time.
    pub(super) fn reject_stalled(&mut self, key: StreamKey) {
        self.reject_arriving(key, |request| match request.stdin.body.opening_since() {
            Some(_) => SpoolError::OpenStalled.into(),
            None => SpoolError::Stalled.into(),
        });
    }
}
