//! The answer to a request for the status path, in the format that the request asks for.

use std::fmt::Write as _;

use crate::cgi::response;
use crate::gateway::telemetry::status::endpoint::Page;
use crate::gateway::telemetry::status::{html, json, openmetrics};
use crate::gateway::telemetry::verdict::Verdict;
use crate::link::status::Status;

/// A form of the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Html,
    OpenMetrics,
}

impl Format {
    /// The format in the query, or else the first known one in Accept, or else JSON. Weights are
    /// not looked at: browsers and Prometheus both name the format first that they like best.
    pub(crate) fn wanted(query: &[u8], accept: &[u8]) -> Self {
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

    /// The answer that shows `status` in this format.
    pub(crate) fn page(self, status: Status) -> Page {
        // A monitor that looks at the status line alone has to see an outage. Prometheus drops the body of an answer that is
        // not 200, so that the metrics of an outage would be lost; the verdict is one of the metrics.
        let is_down = status.verdict == Verdict::Down.name() && self != Self::OpenMetrics;
        let code = if is_down { 503 } else { 200 };
        let (body, policy) = match self {
            Self::Json => (json::text(&status), None),
            Self::OpenMetrics => (openmetrics::text(&status), None),
            Self::Html => {
                let nonce = html::nonce();
                (html::page(&status, &nonce), Some(html::policy(&nonce)))
            }
        };
        let policy = policy.as_deref().unwrap_or("default-src 'none'; frame-ancestors 'none'");
        let mut head = format!(
            "Status: {code} {reason}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n",
            reason = response::reason(code),
            kind = self.content_type(),
            length = body.len(),
        );
        // A string takes everything.
        let _ = write!(
            head,
            "Cache-Control: no-store\r\nVary: Accept\r\nX-Content-Type-Options: nosniff\r\n\
             Referrer-Policy: no-referrer\r\nContent-Security-Policy: {policy}\r\n\r\n"
        );
        Page { head, body }
    }
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
