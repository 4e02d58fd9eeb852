//! Answers requests for the health path: whether requests should be sent here, and whether the event loop turns.
//!
//! In the gateway itself, so also while the application loads, while every worker is stuck and while the queue is full. Says
//! the verdict and its reason and nothing else, since anybody may read it.

use serde_json::json;

use crate::cgi::response;
use crate::fastcgi::Role;
use crate::gateway::Gateway;
use crate::gateway::request::Request;
use crate::gateway::telemetry::request_line::RequestLine;

/// The question that a health check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Whether requests should be sent here.
    Ready,
    /// Whether the event loop turns: the answer itself says so.
    Live,
}

impl Question {
    fn of(query: &[u8]) -> Self {
        if has_name(query, b"live") { Self::Live } else { Self::Ready }
    }
}

/// Whether the answer is to be JSON: where the query or Accept says so.
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

impl Gateway {
    /// Answers a request for the health path; gives every other one back.
    pub(super) fn answer_health(&self, request: Box<Request>) -> Option<Box<Request>> {
        let config = self.config();
        let Some(path) = &config.health_path else { return Some(request) };
        let line = RequestLine::of(&request.variables);
        // A 200 to an Authorizer would be consent.
        if request.role != Role::Responder || !line.uri.is_at(path) {
            return Some(request);
        }
        let accept = request.variables.get(b"HTTP_ACCEPT").unwrap_or_default();
        let (head, body) = match line.method {
            b"GET" => self.health(line.uri.query(), accept),
            b"HEAD" => (self.health(line.uri.query(), accept).0, String::new()),
            _ => crate::gateway::telemetry::status::answer::not_allowed(),
        };
        self.answer_with(request, &head, &body);
        None
    }

    /// Head and body.
    fn health(&self, query: &[u8], accept: &[u8]) -> (String, String) {
        let (verdict, reason) = self.verdict();
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
        (head, body)
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
}
