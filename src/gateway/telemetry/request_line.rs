//! The request line and the client's address, for people: in logs and on the status page.
//!
//! All parts come from a client. Escaped, they can neither end a line, nor close a quote, nor steer a terminal; HTML has to
//! escape them once more. Secrets in the URI are left out unless the settings ask for them.

use std::borrow::Cow;
use std::fmt::{self, Write};

use crate::cgi::Variables;
use crate::config::AccessLogQuery;
use crate::log::escape::Word;
use crate::log::redact;

/// The method, URI, protocol and client address of a request, as received; empty where a variable is missing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RequestLine<'a> {
    pub(crate) method: &'a [u8],
    pub(crate) uri: Uri<'a>,
    pub(crate) protocol: &'a [u8],
    remote: &'a [u8],
}

/// The URI of a request: REQUEST_URI, or the path and query in other variables.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Uri<'a> {
    whole: &'a [u8],
    script: &'a [u8],
    path: &'a [u8],
    query: &'a [u8],
}

impl<'a> RequestLine<'a> {
    /// The request line of these variables, found in one pass.
    pub(crate) fn of(variables: &'a Variables) -> Self {
        let mut line = Self::default();
        for (name, value) in variables {
            match name {
                b"REQUEST_METHOD" => line.method = value,
                b"REQUEST_URI" => line.uri.whole = value,
                b"SCRIPT_NAME" => line.uri.script = value,
                b"PATH_INFO" => line.uri.path = value,
                b"QUERY_STRING" => line.uri.query = value,
                b"SERVER_PROTOCOL" => line.protocol = value,
                b"REMOTE_ADDR" => line.remote = value,
                _ => {}
            }
        }
        line
    }

    /// Address of the client; `-` if unknown.
    pub(crate) fn remote(&self) -> Word<'a> {
        Word(if self.remote.is_empty() { b"-" } else { self.remote })
    }

    /// Whether the method and the URI are missing.
    pub(crate) fn is_empty(&self) -> bool {
        self.method.is_empty() && self.uri.is_empty()
    }
}

impl Uri<'_> {
    fn is_empty(&self) -> bool {
        [self.whole, self.script, self.path].iter().all(|part| part.is_empty())
    }

    /// Whether SCRIPT_NAME and PATH_INFO together are this path.
    pub(crate) fn is_at(&self, path: &str) -> bool {
        path.as_bytes().strip_prefix(self.script) == Some(self.path)
    }

    pub(crate) fn query(&self) -> &[u8] {
        self.query
    }

    /// The URI with as much of its query as `query` allows.
    pub(crate) fn shown(&self, query: AccessLogQuery) -> Cow<'_, [u8]> {
        let whole = if self.whole.is_empty() {
            let mark: &[u8] = if self.query.is_empty() { b"" } else { b"?" };
            Cow::Owned([self.script, self.path, mark, self.query].concat())
        } else {
            Cow::Borrowed(self.whole)
        };
        let redact = match query {
            AccessLogQuery::On => return whole,
            AccessLogQuery::Redact => redact::uri,
            AccessLogQuery::Off => redact::path,
        };
        match whole {
            Cow::Borrowed(whole) => redact(whole),
            Cow::Owned(whole) => Cow::Owned(redact(&whole).into_owned()),
        }
    }
}

impl RequestLine<'_> {
    /// Writes `GET /path?query HTTP/1.1`, with as much of the query as `query` allows; `-` if all parts are missing.
    pub(crate) fn write(&self, f: &mut impl Write, query: AccessLogQuery) -> fmt::Result {
        if self.is_empty() {
            return f.write_char('-');
        }
        write!(f, "{} {}", Word(self.method), Word(&self.uri.shown(query)))?;
        if self.protocol.is_empty() { Ok(()) } else { write!(f, " {}", Word(self.protocol)) }
    }
}

/// The line without the secrets in its URI.
impl fmt::Display for RequestLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, AccessLogQuery::Redact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pairs: &[(&str, &[u8])]) -> String {
        let mut variables = Variables::new();
        pairs.iter().for_each(|(name, value)| variables.push(name.as_bytes(), value));
        RequestLine::of(&variables).to_string()
    }

    #[test]
    fn nothing_in_a_line_can_end_it_or_its_quotes() {
        let uri = b"/a b\"\\\r\n\x00\x1b[2J\x7f\xc3\xa9";
        assert_eq!(
            line(&[("REQUEST_METHOD", b"GET"), ("REQUEST_URI", uri), ("SERVER_PROTOCOL", b"HTTP/1.1")]),
            r"GET /a\x20b\x22\x5C\x0D\x0A\x00\x1B[2J\x7F\xC3\xA9 HTTP/1.1"
        );
    }

    #[test]
    fn without_a_request_uri_path_and_query_are_shown() {
        let pairs: [(&str, &[u8]); 4] = [
            ("REQUEST_METHOD", b"PUT"),
            ("SCRIPT_NAME", b"/a"),
            ("PATH_INFO", b"/b"),
            ("QUERY_STRING", b"c"),
        ];
        assert_eq!(line(&pairs), "PUT /a/b?c");
        assert_eq!(line(&[]), "-");
    }

    #[test]
    fn a_long_uri_is_cut() {
        let shown = line(&[("REQUEST_METHOD", b"GET"), ("REQUEST_URI", &[b'/'; 100_000])]);
        assert_eq!(shown.len(), "GET ".len() + 4096 + "...".len());
    }

    #[test]
    fn secrets_are_left_out_unless_the_settings_ask_for_them() {
        for pairs in [
            &[("REQUEST_METHOD", &b"GET"[..]), ("REQUEST_URI", b"/a?token=b&c=d")][..],
            &[("REQUEST_METHOD", b"GET"), ("PATH_INFO", b"/a"), ("QUERY_STRING", b"token=b&c=d")],
        ] {
            assert_eq!(line(pairs), "GET /a?token=[redacted]&c=d");
            let mut variables = Variables::new();
            pairs.iter().for_each(|(name, value)| variables.push(name.as_bytes(), value));
            for (query, shown) in [
                (AccessLogQuery::On, "GET /a?token=b&c=d"),
                (AccessLogQuery::Redact, "GET /a?token=[redacted]&c=d"),
                (AccessLogQuery::Off, "GET /a"),
            ] {
                let mut text = String::new();
                RequestLine::of(&variables).write(&mut text, query).unwrap();
                assert_eq!(text, shown);
            }
        }
    }

    #[test]
    fn a_path_is_recognized_however_it_is_split() {
        let split = |script: &'static [u8], path| Uri { script, path, ..Uri::default() };
        assert!(split(b"", b"/-/status").is_at("/-/status"));
        assert!(split(b"/-", b"/status").is_at("/-/status"));
        assert!(split(b"/-/status", b"").is_at("/-/status"));
        for (script, path) in
            [(&b""[..], &b"/-/status/"[..]), (b"/x", b"/-/status"), (b"", b""), (b"/-/status/", b"")]
        {
            assert!(!split(script, path).is_at("/-/status"));
        }
    }
}
