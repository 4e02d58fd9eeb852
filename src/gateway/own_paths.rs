//! Answers requests for the server's own paths, in the gateway itself: never queued, never seen by a worker, so also when every
//! worker is busy and the queue is full.
//!
//! Called for each complete request. `telemetry/status` makes the answers.

use std::time::Instant;

use crate::gateway::Gateway;
use crate::gateway::request::Request;
use crate::gateway::snapshot;
use crate::gateway::telemetry::request_line::RequestLine;
use crate::gateway::telemetry::status::{Endpoint, Format, Health, Page};

/// Answers a request for the health or the status of the server; gives every other request back.
pub(crate) fn answer(mut request: Box<Request>, gateway: &Gateway) -> Option<Box<Request>> {
    let Some(endpoint) = Endpoint::of(&request.variables, request.role, &gateway.config()) else {
        return Some(request);
    };
    let line = RequestLine::of(&request.variables);
    let (query, accept) = (line.uri.query(), request.variables.get(b"HTTP_ACCEPT").unwrap_or_default());
    let now = Instant::now();
    let page = Page::for_method(line.method, || match endpoint {
        Endpoint::Health => {
            let (verdict, reason) = snapshot::verdict(gateway, now);
            Health { verdict, reason }.page(query, accept)
        }
        Endpoint::Status => Format::wanted(query, accept).page(snapshot::status(gateway, now)),
    });
    // The request is in no count and in no log.
    request.set_aside();
    // The head and the body are our own, and right.
    let _ = request.response.head(page.head.as_bytes(), &gateway.proxy_headers);
    let _ = request.response.body(page.body.as_bytes());
    let _ = request.response.end();
    request.finish();
    None
}
