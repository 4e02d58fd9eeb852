//! Answers requests for the status path, in the gateway itself: never queued, never seen by a worker, so also when
//! every worker is busy and the queue is full.
//!
//! Chooses the format, writes the head. The formats themselves are next door.

use std::fmt::Write as _;

use crate::cgi::{Variables, response};
use crate::fastcgi::Role;
use crate::gateway::Gateway;
use crate::gateway::request::Request;
use crate::gateway::telemetry::request_line::RequestLine;
use crate::gateway::telemetry::status::{html, openmetrics};
use crate::gateway::telemetry::verdict::Verdict;

/// In which form the status is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Html,
    OpenMetrics,
}

impl Format {
    /// What the query names, else what Accept names first; JSON where neither does. Weights are not looked at: browsers
    /// and Prometheus both begin with what they like best.
    fn wanted(query: &[u8], accept: &[u8]) -> Self {
        for part in query.split(|byte| *byte == b'&') {
            match part.split(|byte| *byte == b'=').next() {
                Some(b"json") => return Self::Json,
                Some(b"html") => return Self::Html,
                Some(b"openmetrics") => return Self::OpenMetrics,
                _ => {}
            }
        }
        for range in accept.split(|byte| *byte == b',') {
            let name = range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            for (known, format) in [
                (&b"application/json"[..], Self::Json),
                (b"text/html", Self::Html),
                (b"application/openmetrics-text", Self::OpenMetrics),
            ] {
                if name.eq_ignore_ascii_case(known) {
                    return format;
                }
            }
        }
        Self::Json
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Html => "text/html; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Gateway {
    /// Answers a request that is for the server itself, for its health or its status; gives every other one back.
    pub(crate) fn answer_itself(&self, request: Box<Request>) -> Option<Box<Request>> {
        self.answer_health(request).and_then(|request| self.answer_status(request))
    }

    /// Whether [`Self::answer_itself`] would answer a request with these variables.
    pub(crate) fn is_for_itself(&self, variables: &Variables, role: Role) -> bool {
        let config = self.config();
        let mut paths = [&config.health_path, &config.status_path].into_iter().flatten().peekable();
        if role != Role::Responder || paths.peek().is_none() {
            return false;
        }
        let line = RequestLine::of(variables);
        paths.any(|path| line.uri.is_at(path))
    }

    /// Answers a request for the status path; gives every other one back.
    fn answer_status(&self, request: Box<Request>) -> Option<Box<Request>> {
        let config = self.config();
        let Some(path) = &config.status_path else { return Some(request) };
        let line = RequestLine::of(&request.variables);
        // A 200 to an Authorizer would be consent.
        if request.role != Role::Responder || !line.uri.is_at(path) {
            return Some(request);
        }
        let accept = request.variables.get(b"HTTP_ACCEPT").unwrap_or_default();
        let format = Format::wanted(line.uri.query(), accept);
        let (head, body) = match line.method {
            b"GET" => self.page(format),
            b"HEAD" => (self.page(format).0, String::new()),
            _ => not_allowed(),
        };
        self.answer_with(request, &head, &body);
        None
    }

    /// Answers in the application's place. The request is in no count and in no log.
    pub(super) fn answer_with(&self, mut request: Box<Request>, head: &str, body: &str) {
        request.set_aside();
        // Both are our own, and right.
        let _ = request.reply.head(head.as_bytes(), &self.proxy_headers);
        let _ = request.reply.body(body.as_bytes());
        let _ = request.reply.end();
    }

    /// Head and body.
    fn page(&self, format: Format) -> (String, String) {
        let status = self.status();
        // A monitor that looks at the status line alone has to see it. Prometheus drops the body of an answer that is not
        // 200, so that the metrics of an outage would be lost: there the verdict is one of them.
        let is_down = status.verdict == Verdict::Down.name() && format != Format::OpenMetrics;
        let code = if is_down { 503 } else { 200 };
        let (body, policy) = match format {
            Format::Json => (serde_json::to_string(&status).unwrap_or_default(), None),
            Format::OpenMetrics => (openmetrics::text(status), None),
            Format::Html => {
                let nonce = html::nonce();
                (html::page(&status, &nonce), Some(html::policy(&nonce)))
            }
        };
        let policy = policy.as_deref().unwrap_or("default-src 'none'; frame-ancestors 'none'");
        let mut head = format!(
            "Status: {code} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n",
            reason = response::reason(code),
            kind = format.content_type(),
            length = body.len(),
        );
        let _ = write!(
            head,
            "Cache-Control: no-store\r\nVary: Accept\r\nX-Content-Type-Options: nosniff\r\n\
             Referrer-Policy: no-referrer\r\nContent-Security-Policy: {policy}\r\n\r\n"
        );
        (head, body)
    }
}

pub(super) fn not_allowed() -> (String, String) {
    let body = "405 Method Not Allowed: this is there for GET and HEAD\n";
    let head = format!(
        "Status: 405 {reason}\r\nAllow: GET, HEAD\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\nCache-Control: no-store\r\n\r\n",
        reason = response::reason(405),
        length = body.len(),
    );
    (head, body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_the_format_else_accept_does() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (query, accept, format) in [
            ("", "", Format::Json),
            ("", "*/*", Format::Json),
            ("", browser, Format::Html),
            ("", prometheus, Format::OpenMetrics),
            ("", "Text/HTML ; q=1", Format::Html),
            ("json", browser, Format::Json),
            ("a=1&html=", prometheus, Format::Html),
            ("openmetrics", browser, Format::OpenMetrics),
            ("jsonx&format=html", "", Format::Json),
        ] {
            assert_eq!(Format::wanted(query.as_bytes(), accept.as_bytes()), format, "{query} {accept}");
        }
    }
}
