//! The answer to a request for the health path: whether requests should be sent here, and whether the event loop turns.
//!
//! The gateway gives this answer itself, so also while the application loads, while every worker is stuck and while the queue is
//! full. The answer holds the verdict and its reason and nothing else, since anybody may read it.

use serde_json::json;

use crate::cgi::response;
use crate::gateway::telemetry::status::endpoint::Page;
use crate::gateway::telemetry::verdict::{Reason, Verdict};

/// The question that a health check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Whether requests should be sent here.
    Ready,
    /// Whether the event loop turns, which any answer shows.
    Live,
}

impl Question {
    fn of(query: &[u8]) -> Self {
        if has_name(query, b"live") { Self::Live } else { Self::Ready }
    }
}

/// Whether the query or Accept asks for JSON.
fn wants_json(query: &[u8], accept: &[u8]) -> bool {
    let types = accept
        .split(|byte| *byte == b',')
        .map(|range| range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii());
    has_name(query, b"json") || types.into_iter().any(|name| name.eq_ignore_ascii_case(b"application/json"))
}

/// Whether the query has a parameter of this name.
fn has_name(query: &[u8], name: &[u8]) -> bool {
    query.split(|byte| *byte == b'&').any(|part| part.split(|byte| *byte == b'=').next() == Some(name))
}

/// The answer to a request for the health path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Health {
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
}

impl Health {
    /// The answer to a request with this query and this Accept.
    pub(crate) fn page(self, query: &[u8], accept: &[u8]) -> Page {
        let Self { verdict, reason } = self;
        let status = match Question::of(query) {
            Question::Live => 200,
            Question::Ready if verdict.is_ready(reason) => 200,
            Question::Ready => 503,
        };
        let (kind, body) = if wants_json(query, accept) {
            let object = json!({ "verdict": verdict.name(), "reason": reason.to_string() });
            ("application/json", format!("{object}\n"))
        } else {
            ("text/plain; charset=utf-8", format!("{}: {reason}\n", verdict.name()))
        };
        let head = format!(
            "Status: {status} {phrase}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
             Vary: Accept\r\nX-Content-Type-Options: nosniff\r\n\r\n",
            phrase = response::reason(status),
            length = body.len(),
        );
        Page { head, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_the_question_and_the_form() {
        for (query, accept, question, json) in [
            ("", "", Question::Ready, false),
            ("live", "*/*", Question::Live, false),
            ("a=1&live=", "text/html, Application/JSON;q=0.9", Question::Live, true),
            ("alive&json", "", Question::Ready, true),
        ] {
            assert_eq!(Question::of(query.as_bytes()), question, "{query}");
            assert_eq!(wants_json(query.as_bytes(), accept.as_bytes()), json, "{query} {accept}");
        }
    }

    #[test]
    fn only_the_question_whether_requests_should_come_is_answered_with_503() {
        use {Reason::*, Verdict::*};
        for (query, verdict, reason, first, body) in [
            ("", Ok, Ready(2), "Status: 200 OK", "ok: 2 workers are ready\n"),
            ("", Degraded, Shedding, "Status: 200 OK", &*format!("degraded: {Shedding}\n")),
            (
                "",
                Starting,
                Loading,
                "Status: 503 Service Unavailable",
                "starting: the application is being loaded\n",
            ),
            ("live", Down, Stuck, "Status: 200 OK", &*format!("down: {Stuck}\n")),
            ("", Verdict::Stopping, TakenOver, "Status: 200 OK", "stopping: another server has taken over\n"),
            (
                "json",
                Down,
                NotLoaded,
                "Status: 503 Service Unavailable",
                "{\"verdict\":\"down\",\"reason\":\"the application does not load\"}\n",
            ),
        ] {
            let page = Health { verdict, reason }.page(query.as_bytes(), b"");
            assert_eq!(page.head.lines().next(), Some(first), "{query} {reason}");
            assert_eq!(page.body, body, "{query} {reason}");
        }
    }
}
