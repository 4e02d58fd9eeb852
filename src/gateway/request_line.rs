//! How a request is named for people: its line and its client's address, in logs and on the status page.
//!
//! All of it is text of a stranger's. It is written so that it can neither end a line, nor close a quote, nor
//! steer a terminal; HTML has to escape it once more.

use std::fmt::{self, Write};

use crate::cgi::Variables;

/// Bytes of a URI that are shown. nginx takes request lines of 8 KiB, but thousands of lines may wait for a
/// log that takes nothing; what tells requests apart stands at the front.
const MAX_SHOWN: usize = 4096;

/// Method, URI and protocol as they came, and from whom. Empty where a variable is missing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestLine<'a> {
    pub(super) method: &'a [u8],
    pub(super) uri: Uri<'a>,
    pub(super) protocol: &'a [u8],
    remote: &'a [u8],
}

/// REQUEST_URI, or what other variables say of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uri<'a> {
    whole: &'a [u8],
    script: &'a [u8],
    path: &'a [u8],
    query: &'a [u8],
}

impl<'a> RequestLine<'a> {
    /// Finds them in one pass.
    pub(super) fn of(variables: &'a Variables) -> Self {
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

    /// The client's address; `-` where it is not known.
    pub(super) fn remote(&self) -> Shown<'a> {
        Shown(if self.remote.is_empty() { b"-" } else { self.remote })
    }

    /// Whether nothing is known of the request.
    pub(super) fn is_empty(&self) -> bool {
        self.method.is_empty() && self.uri.is_empty()
    }
}

impl Uri<'_> {
    fn is_empty(&self) -> bool {
        [self.whole, self.script, self.path].iter().all(|part| part.is_empty())
    }

    /// Whether SCRIPT_NAME and PATH_INFO together are this path.
    pub(super) fn is_at(&self, path: &str) -> bool {
        path.as_bytes().strip_prefix(self.script) == Some(self.path)
    }

    pub(super) fn query(&self) -> &[u8] {
        self.query
    }
}

/// `GET /path?query HTTP/1.1`; `-` where nothing is known.
impl fmt::Display for RequestLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_char('-');
        }
        write!(f, "{} {}", Shown(self.method), self.uri)?;
        if self.protocol.is_empty() { Ok(()) } else { write!(f, " {}", Shown(self.protocol)) }
    }
}

impl fmt::Display for Uri<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.whole.is_empty() {
            return Shown(self.whole).fmt(f);
        }
        write!(f, "{}{}", Shown(self.script), Shown(self.path))?;
        if self.query.is_empty() { Ok(()) } else { write!(f, "?{}", Shown(self.query)) }
    }
}

/// A stranger's bytes: printable ASCII as it is, but for quotes and backslashes; those and all else as `\xNN`, as
/// nginx writes them. Spaces too, so that a word stays one word and a request line has three.
pub(super) struct Shown<'a>(pub(super) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.get(..MAX_SHOWN).unwrap_or(self.0);
        while !rest.is_empty() {
            let harmless = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\".contains(byte);
            let plain = rest.iter().position(|byte| !harmless(byte)).unwrap_or(rest.len());
            f.write_str(str::from_utf8(&rest[..plain]).unwrap_or_default())?;
            let Some(byte) = rest.get(plain) else { break };
            write!(f, "\\x{byte:02X}")?;
            rest = &rest[plain + 1..];
        }
        if self.0.len() > MAX_SHOWN { f.write_str("...") } else { Ok(()) }
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
    fn without_a_request_uri_the_path_and_query_do() {
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
        assert_eq!(shown.len(), "GET ".len() + MAX_SHOWN + "...".len());
    }

    #[test]
    fn a_path_is_known_however_it_is_split() {
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
