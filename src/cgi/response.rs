//! Response heads (RFC 3875 §6): reading those of applications, writing those of nibiru itself.
//!
//! The gateway checks with [`Head`] what a worker wrote; `nibiru dev` and `nibiru request` read with it
//! what the server answered. Never holds bytes: a head borrows from the buffer it was found in.

use std::{error, fmt};

use super::{is_token, parse_length};

/// Bytes of a head, its empty line included. nginx takes 4 or 8 KiB unless told otherwise
/// (`fastcgi_buffer_size`), and browsers give up at 256 KiB; what is longer is no head.
pub const MAX_HEAD: usize = 64 * 1024;

/// What has been found of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status<'a> {
    /// Nothing wrong yet, but the empty line is still to come.
    Partial,
    /// All of it.
    Complete {
        /// The head.
        head: Head<'a>,
        /// Bytes that it took, its empty line included; the body follows.
        consumed: usize,
    },
}

/// A checked response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The HTTP status, 200 to 599: that of the field Status, or else 302 with Location and 200 without.
    pub status: u16,
    /// The reason that came with the status; empty when none did.
    pub reason: &'a [u8],
    /// Bytes of body, when the application says so.
    pub content_length: Option<u64>,
    /// All lines, without the empty one.
    lines: &'a [u8],
    extensions: bool,
}

/// What is wrong with a head: the application's fault, so the request fails with 500.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// No empty line within [`MAX_HEAD`] bytes.
    TooLong,
    /// A line has no colon, or what is before it is not a token.
    Name {
        /// The line's number, from 1.
        line: usize,
    },
    /// A value holds a control character other than the tab.
    Value {
        /// The line's number, from 1.
        line: usize,
    },
    /// Status is not a number from 200 to 599 with a reason behind it, or came twice.
    Status,
    /// Content-Length is not a number, came twice, or came with 204.
    ContentLength,
    /// Content-Type or Location came twice.
    Twice {
        /// The second line's number, from 1.
        line: usize,
    },
    /// Transfer-Encoding, which is the proxy's.
    TransferEncoding,
}

impl BadHead {
    /// What is wrong, as the end of a sentence.
    pub fn what(&self) -> &'static str {
        match self {
            Self::TooLong => "a response head without an end",
            Self::Name { .. } => "a response head with a line that is no field",
            Self::Value { .. } => "a response head with a control character",
            Self::Status => "a response head with a bad or second Status",
            Self::ContentLength => "a response head with a bad, second or forbidden Content-Length",
            Self::Twice { .. } => "a response head with two Content-Types or Locations",
            Self::TransferEncoding => "a response head with Transfer-Encoding",
        }
    }
}

impl fmt::Display for BadHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "response head is longer than {MAX_HEAD} bytes"),
            Self::Name { line } => write!(f, "response head has no field name in line {line}"),
            Self::Value { line } => write!(f, "response head has a control character in line {line}"),
            Self::Status => write!(f, "response head has a bad or second Status"),
            Self::ContentLength => write!(f, "response head has a bad, second or forbidden Content-Length"),
            Self::Twice { line } => write!(f, "response head has a field for the second time in line {line}"),
            Self::TransferEncoding => write!(f, "response head has a Transfer-Encoding"),
        }
    }
}

impl error::Error for BadHead {}

impl<'a> Head<'a> {
    /// Looks for a head at the front of `bytes`, from its first byte on at each call. Lines end in CRLF or LF.
    ///
    /// # Errors
    /// When `bytes` is no head, as soon as that can be seen.
    pub fn parse(bytes: &'a [u8]) -> Result<Status<'a>, BadHead> {
        let (mut rest, mut number) = (bytes, 0);
        let (mut status, mut content_length) = (None, None);
        let (mut location, mut content_type, mut extensions) = (false, false, false);
        while let Some((line, after)) = split_line(rest) {
            if bytes.len() - after.len() > MAX_HEAD {
                return Err(BadHead::TooLong);
            }
            if line.is_empty() {
                let lines = &bytes[..bytes.len() - rest.len()];
                // RFC 3875 §6.3.3: "Status code 200 'OK' […] is assumed if it is omitted"; §6.2.3: with
                // Location alone the client is redirected, with 302.
                let default: (u16, &[u8]) = if location { (302, b"") } else { (200, b"") };
                let (status, reason) = status.unwrap_or(default);
                // RFC 9110 §8.6: "A server MUST NOT send a Content-Length header field in any response with a
                // status code of 1xx (Informational) or 204 (No Content)."
                if status == 204 && content_length.is_some() {
                    return Err(BadHead::ContentLength);
                }
                let head = Self { status, reason, content_length, lines, extensions };
                return Ok(Status::Complete { head, consumed: bytes.len() - after.len() });
            }
            rest = after;
            number += 1;
            let (name, value) = split_field(line, number)?;
            if name.eq_ignore_ascii_case(b"Status") {
                let parsed = parse_status(value).filter(|_| status.is_none());
                status = Some(parsed.ok_or(BadHead::Status)?);
            } else if name.eq_ignore_ascii_case(b"Content-Length") {
                let parsed = parse_length(value).filter(|_| content_length.is_none());
                content_length = Some(parsed.ok_or(BadHead::ContentLength)?);
            } else if name.eq_ignore_ascii_case(b"Location") {
                once(&mut location, number)?;
            } else if name.eq_ignore_ascii_case(b"Content-Type") {
                once(&mut content_type, number)?;
            } else if name.eq_ignore_ascii_case(b"Transfer-Encoding") {
                // CGI has no transfer codings: a client that believed this would read other bytes as the body.
                return Err(BadHead::TransferEncoding);
            } else {
                extensions |= matches!(name, [b'X' | b'x', b'-', ..]);
            }
        }
        if bytes.len() >= MAX_HEAD { Err(BadHead::TooLong) } else { Ok(Status::Partial) }
    }

    /// All fields `(name, value)` in order, Status included; values without the spaces around them.
    pub fn fields(&self) -> Fields<'a> {
        Fields { rest: self.lines }
    }

    /// The value of the first field of that name, in whatever case.
    pub fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.fields().find(|(other, _)| other.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// Whether there are fields whose names begin with `X-`, as all those do by which proxies take orders.
    pub fn has_extensions(&self) -> bool {
        self.extensions
    }

    /// Whether a body may follow: not with 204 and 304 (RFC 9110 §6.4.1), nor with 205 (§15.3.6). Nor does one follow the
    /// head of an answer to HEAD, which the head itself cannot tell.
    pub fn body_allowed(&self) -> bool {
        !matches!(self.status, 204 | 205 | 304)
    }
}

/// Iterates over the fields of a [`Head`].
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (line, rest) = split_line(self.rest)?;
        self.rest = rest;
        let colon = line.iter().position(|&byte| byte == b':')?;
        Some((&line[..colon], trim(&line[colon + 1..])))
    }
}

/// The first line without its end, and what follows; `None` when the end is still to come.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &bytes[end + 1..]))
}

/// Splits a line at its colon. A line that continues the one before begins with a space, which is no
/// token: RFC 3875 §6.3 has no continuation lines.
fn split_field(line: &[u8], number: usize) -> Result<(&[u8], &[u8]), BadHead> {
    let colon = line.iter().position(|&byte| byte == b':').ok_or(BadHead::Name { line: number })?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err(BadHead::Name { line: number });
    }
    // RFC 9110 §5.5 lets none but the tab pass. A bare CR ends a line for some proxies, and so lets one field grow into two.
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(BadHead::Value { line: number });
    }
    Ok((name, trim(value)))
}

/// RFC 9110 §5.5: spaces and tabs around a value do not belong to it.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Notes a field that nobody could choose from two of: of two types or targets, proxies and clients take different ones.
fn once(seen: &mut bool, line: usize) -> Result<(), BadHead> {
    if std::mem::replace(seen, true) { Err(BadHead::Twice { line }) } else { Ok(()) }
}

/// `3digit [SP reason]`, RFC 3875 §6.3.3. Never 1xx: to HTTP that is an answer which another one follows, so the client
/// would take the next response on its connection for this one's.
fn parse_status(value: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, reason) = value.split_first_chunk::<3>()?;
    if !(reason.is_empty() || reason.starts_with(b" ")) {
        return None;
    }
    let status = u16::try_from(parse_length(digits)?).ok()?;
    (200..=599).contains(&status).then(|| (status, trim(reason)))
}

/// A whole response that says why nibiru, not the application, answers. `message` is one line of text;
/// `retry_after` is in seconds.
pub fn failure(status: u16, message: &str, retry_after: Option<u32>) -> Vec<u8> {
    let title = match reason(status) {
        "" => status.to_string(),
        reason => format!("{status} {reason}"),
    };
    let body = if message.is_empty() { format!("{title}\n") } else { format!("{title}: {message}\n") };
    let retry_after = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
    format!(
        "Status: {title}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         {retry_after}\r\n{body}",
        length = body.len(),
    )
    .into_bytes()
}

/// The head, its empty line included, and the body of a [`failure`].
pub fn split_failure(response: &[u8]) -> (&[u8], &[u8]) {
    match Head::parse(response) {
        Ok(Status::Complete { consumed, .. }) => response.split_at(consumed),
        Ok(Status::Partial) | Err(_) => (response, &[]),
    }
}

/// The reason that goes with a status (RFC 9110 §15 and the IANA registry); empty for one without.
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "I'm a teapot",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<(Head<'_>, usize), BadHead> {
        match Head::parse(bytes)? {
            Status::Complete { head, consumed } => Ok((head, consumed)),
            Status::Partial => panic!("{:?} is partial", bytes.escape_ascii().to_string()),
        }
    }

    #[test]
    fn heads_are_found_at_their_very_last_byte() {
        let heads: [&[u8]; 3] = [
            b"Status: 404 Not Found\r\nContent-Type: text/html\r\nX: \r\n\r\n",
            b"Status: 404 Not Found\nContent-Type: text/html\nX:\n\n",
            b"Status:404  Not Found \nContent-Type: \ttext/html  \r\nX: \t \n\r\n",
        ];
        for bytes in &heads {
            for length in 0..bytes.len() {
                assert_eq!(Head::parse(&bytes[..length]), Ok(Status::Partial), "{length}");
            }
            let with_body = [bytes, &b"body\n\n: no head"[..]].concat();
            let (head, consumed) = parse(&with_body).unwrap();
            assert_eq!((head.status, head.reason, consumed), (404, &b"Not Found"[..], bytes.len()));
            let fields: Vec<_> = head.fields().skip(1).collect();
            assert_eq!(fields, [(&b"Content-Type"[..], &b"text/html"[..]), (b"X", b"")]);
            assert_eq!(head.field("content-type"), Some(&b"text/html"[..]));
            assert_eq!(head.field("Y"), None);
        }
    }

    #[test]
    fn c29_only_status_and_location_set_the_status() {
        let cases: [(&[u8], u16); 7] = [
            (b"\n", 200),
            (b"Content-Type: text/plain\n\n", 200),
            (b"WWW-Authenticate: Basic\n\n", 200),
            (b"Location: /x\n\n", 302),
            (b"location: http://x/\nX: 500\n\n", 302),
            (b"STATUS: 301\nLocation: /x\n\n", 301),
            (b"Location: /x\nStatus: 201 Created\n\n", 201),
        ];
        for (bytes, status) in cases {
            assert_eq!(parse(bytes).unwrap().0.status, status, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_status_is_three_digits_and_comes_once() {
        for status in [
            "",
            "20",
            "2000",
            "+20",
            "099",
            "100",
            "101",
            "199",
            "600",
            "OK",
            "200OK",
            "200\tOK",
            "HTTP/1.1 200 OK",
            "-10",
        ] {
            let bytes = format!("Status: {status}\n\n");
            assert_eq!(Head::parse(bytes.as_bytes()), Err(BadHead::Status), "{status}");
        }
        assert_eq!(Head::parse(b"Status: 200\nStatus: 200\n\n"), Err(BadHead::Status));
        for status in ["200", "200 ", "200 Sch\u{f6}n", "599 My Own  Words"] {
            assert!(parse(format!("Status: {status}\n\n").as_bytes()).is_ok(), "{status}");
        }
    }

    #[test]
    fn a_content_length_is_a_number_and_comes_once() {
        let length = |lines: &str| {
            let bytes = format!("{lines}\n\n");
            parse(bytes.as_bytes()).map(|(head, _)| head.content_length)
        };
        assert_eq!(length("X: 1"), Ok(None));
        assert_eq!(length("content-length: 0"), Ok(Some(0)));
        assert_eq!(length("Content-Length:  0042 "), Ok(Some(42)));
        for value in ["", "+5", "-1", "1,1", "1 1", "18446744073709551616"] {
            assert_eq!(length(&format!("Content-Length: {value}")), Err(BadHead::ContentLength), "{value}");
        }
        assert_eq!(length("Content-Length: 5\nContent-Length: 5"), Err(BadHead::ContentLength));
        assert_eq!(length("Status: 204\nContent-Length: 0"), Err(BadHead::ContentLength));
        assert_eq!(length("Content-Length: 0\nStatus: 204"), Err(BadHead::ContentLength));
        assert_eq!(length("Status: 304\nContent-Length: 5"), Ok(Some(5)));
    }

    #[test]
    fn lines_that_are_no_fields_are_refused_at_once() {
        for line in
            ["HTTP/1.1 200 OK", "<html>", ": x", "A B: x", "A : x", " A: x", "\tx", "\u{e9}: x", "A\0: x"]
        {
            let bytes = format!("X: 1\n{line}\n");
            assert_eq!(Head::parse(bytes.as_bytes()), Err(BadHead::Name { line: 2 }), "{line:?}");
        }
        for value in ["\0", "a\rb: c", "a\r\r", "\x0b", "\x0c", "a\x1b[0m", "\x7f"] {
            let bytes = format!("X: 1\nA: {value}\n");
            assert_eq!(Head::parse(bytes.as_bytes()), Err(BadHead::Value { line: 2 }), "{value:?}");
        }
        let (head, _) = parse(b"A: \xff\x80\tb:c\n\n").unwrap();
        assert_eq!(head.field("A"), Some(&b"\xff\x80\tb:c"[..]));
    }

    #[test]
    fn a_type_and_a_target_come_once_and_a_transfer_coding_never() {
        let error = |lines: &str| Head::parse(format!("{lines}\n\n").as_bytes()).err();
        assert_eq!(error("Content-Type: a/b\ncontent-type: a/b"), Some(BadHead::Twice { line: 2 }));
        assert_eq!(error("Location: /\nX: 1\nLocation: /"), Some(BadHead::Twice { line: 3 }));
        assert_eq!(error("X: 1\nX: 1\nSet-Cookie: a\nSet-Cookie: a"), None);
        for value in ["chunked", "identity", "gzip", ""] {
            assert_eq!(error(&format!("X: 1\ntransfer-Encoding: {value}")), Some(BadHead::TransferEncoding));
        }
        assert_eq!(error("X-Transfer-Encoding: chunked"), None);
    }

    #[test]
    fn heads_are_bounded() {
        let head = |length: usize| [&b"X: "[..], &vec![b'x'; length - 5], b"\n\n"].concat();
        assert_eq!(parse(&head(MAX_HEAD)).unwrap().1, MAX_HEAD);
        assert_eq!(Head::parse(&head(MAX_HEAD + 1)), Err(BadHead::TooLong));
        assert_eq!(Head::parse(&vec![b'x'; MAX_HEAD - 1]), Ok(Status::Partial));
        assert_eq!(Head::parse(&vec![b'x'; MAX_HEAD]), Err(BadHead::TooLong));
    }

    #[test]
    fn some_statuses_have_no_body() {
        for (status, allowed) in
            [(200, true), (204, false), (205, false), (206, true), (304, false), (500, true)]
        {
            let bytes = format!("Status: {status}\n\n");
            assert_eq!(parse(bytes.as_bytes()).unwrap().0.body_allowed(), allowed, "{status}");
        }
    }

    #[test]
    fn a_failure_is_a_whole_response() {
        let response = failure(503, "the queue is full", Some(2));
        let expected = "Status: 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\n\
                        Content-Length: 43\r\nRetry-After: 2\r\n\r\n503 Service Unavailable: the queue is full\n";
        assert_eq!(String::from_utf8(response).unwrap(), expected);
        for (status, message) in [(400, "caf\u{e9}"), (500, ""), (599, "x"), (599, "")] {
            let response = failure(status, message, None);
            let (head, consumed) = parse(&response).unwrap();
            assert_eq!(head.status, status);
            assert_eq!(head.content_length, Some((response.len() - consumed) as u64));
            assert_eq!(head.reason, reason(status).as_bytes());
        }
    }
}
