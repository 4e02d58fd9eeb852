//! The variables that a proxy makes of an HTTP request: the set of `deploy/nginx/nibiru_params`.
//!
//! `nibiru dev` and `nibiru request` send them in a proxy's place. Never opens a connection and reads no HTTP: the
//! request comes in as its parts.

use super::Variables;

/// An HTTP request as its proxy knows it. An empty part is unknown, and not sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpRequest<'a> {
    /// The proxy's `name/version`.
    pub software: &'a str,
    /// `HTTP/1.1`.
    pub protocol: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The method.
    pub method: &'a str,
    /// Path and query as the client sent them.
    pub target: &'a str,
    /// The path that [`percent_decode`](super::path::percent_decode) and, where the proxy does so, [`normalise`](super::path::normalise) make of `target`.
    pub path: &'a [u8],
    /// Host and port as the client sent them.
    pub host: &'a str,
    /// The proxy's own address.
    pub server_addr: &'a str,
    /// The port that the client connected to.
    pub server_port: &'a str,
    /// The client's address.
    pub remote_addr: &'a str,
    /// The client's port.
    pub remote_port: &'a str,
    /// The directory of static files.
    pub document_root: &'a str,
    /// Bytes of the body, where that is known before the body has come.
    pub content_length: &'a str,
    /// The request's name in the proxy's log.
    pub request_id: &'a str,
}

impl HttpRequest<'_> {
    /// The variables, with the request's `headers` in order.
    pub fn variables<'h>(&self, headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Variables {
        let (path, query) = self.target.split_once('?').unwrap_or((self.target, ""));
        debug_assert!(path.starts_with('/'), "what asks for no path is refused before");
        let name = match self.host.rsplit_once(':') {
            // Not a colon within an IPv6 address.
            Some((name, port)) if !port.ends_with(']') => name,
            // HTTP/1.0 need not name a host.
            _ if self.host.is_empty() => self.server_addr,
            _ => self.host,
        };
        let mut variables = Variables::new();
        for (name, value) in [("SCRIPT_NAME", ""), ("QUERY_STRING", query)] {
            variables.push(name.as_bytes(), value.as_bytes());
        }
        variables.push(b"PATH_INFO", self.path);
        variables.push(b"DOCUMENT_URI", self.path);
        for (name, value) in [
            ("REQUEST_URI", self.target),
            ("DOCUMENT_ROOT", self.document_root),
            ("REQUEST_METHOD", self.method),
            ("REQUEST_SCHEME", self.scheme),
            ("HTTPS", if self.scheme == "https" { "on" } else { "" }),
            ("SERVER_PROTOCOL", self.protocol),
            ("CONTENT_LENGTH", self.content_length),
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("SERVER_SOFTWARE", self.software),
            ("SERVER_NAME", name),
            ("SERVER_ADDR", self.server_addr),
            ("SERVER_PORT", self.server_port),
            ("REMOTE_ADDR", self.remote_addr),
            ("REMOTE_PORT", self.remote_port),
            ("HTTP_HOST", self.host),
            ("HTTP_X_REQUEST_ID", self.request_id),
        ] {
            if !value.is_empty() {
                variables.push(name.as_bytes(), value.as_bytes());
            }
        }
        for (name, value) in joined(headers) {
            match name.as_str() {
                "CONTENT_TYPE" if value.is_empty() => {}
                "CONTENT_TYPE" => variables.push(b"CONTENT_TYPE", &value),
                "X_REQUEST_ID" if !self.request_id.is_empty() => {}
                // Host and length have their place above; many HTTP clients take HTTP_PROXY for their proxy
                // (httpoxy, CVE-2016-5385); a transfer coding is undone by now.
                "HOST" | "CONTENT_LENGTH" | "PROXY" | "TRANSFER_ENCODING" => {}
                name => variables.push(format!("HTTP_{name}").as_bytes(), &value),
            }
        }
        variables
    }
}

/// The headers under their variables' names, the values of a repeated name as one: RFC 9110 §5.3 joins with a comma,
/// RFC 6265 §5.4 cookies with a semicolon. A name that is not letters, digits and hyphens is dropped, as
/// nginx drops it: `X_Foo` could not be told from `X-Foo` any more.
fn joined<'h>(headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in headers {
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            continue;
        }
        let name = name.to_ascii_uppercase().replace('-', "_");
        match all.iter_mut().find(|(other, _)| *other == name) {
            Some((name, values)) => {
                values.extend_from_slice(if name == "COOKIE" { b"; " } else { b", " });
                values.extend_from_slice(value);
            }
            None => all.push((name, value.to_vec())),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> Variables {
        let request = HttpRequest {
            method: "GET",
            target: "/a%20b?x=%20",
            path: b"/a b",
            host: "[::1]:8000",
            request_id: "abc",
            ..HttpRequest::default()
        };
        request.variables(list.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    fn text(variables: &Variables, name: &str) -> Option<String> {
        variables.get(name.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    #[test]
    fn the_target_comes_apart_once_and_stays_whole_once() {
        let variables = headers(&[]);
        for (name, value) in [
            ("SCRIPT_NAME", Some("")),
            ("PATH_INFO", Some("/a b")),
            ("QUERY_STRING", Some("x=%20")),
            ("REQUEST_URI", Some("/a%20b?x=%20")),
            ("SERVER_NAME", Some("[::1]")),
            ("HTTP_HOST", Some("[::1]:8000")),
            ("CONTENT_LENGTH", None),
            ("HTTPS", None),
        ] {
            assert_eq!(text(&variables, name).as_deref(), value, "{name}");
        }
    }

    #[test]
    fn headers_are_joined_and_those_that_could_harm_are_dropped() {
        let variables = headers(&[
            ("Accept", "a"),
            ("accept", "b"),
            ("Cookie", "c=1"),
            ("Cookie", "d=2"),
            ("Content-Type", "text/plain"),
            ("Content-Length", "5"),
            ("Transfer-Encoding", "chunked"),
            ("Proxy", "http://evil"),
            ("X_Under", "score"),
            ("X-Request-Id", "chosen"),
        ]);
        for (name, value) in [
            ("HTTP_ACCEPT", Some("a, b")),
            ("HTTP_COOKIE", Some("c=1; d=2")),
            ("CONTENT_TYPE", Some("text/plain")),
            ("HTTP_X_REQUEST_ID", Some("abc")),
            ("HTTP_CONTENT_TYPE", None),
            ("HTTP_CONTENT_LENGTH", None),
            ("HTTP_TRANSFER_ENCODING", None),
            ("HTTP_PROXY", None),
            ("HTTP_X_UNDER", None),
        ] {
            assert_eq!(text(&variables, name).as_deref(), value, "{name}");
        }
    }
}
