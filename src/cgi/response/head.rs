//! The head of a response, read and checked.
//!
//! The gateway checks a worker's response with it; `nibiru dev` and `nibiru request` read the server's answer. Never holds
//! bytes: a head borrows from the buffer it was found in.

use super::super::syntax::{parse_length, token_length};
use super::bad_head::{BadHead, MAX_HEAD};

/// The progress of a search for a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status<'a> {
    /// No error yet, but the empty line is still to come.
    Partial,
    /// A whole head.
    Complete {
        /// The head.
        head: Head<'a>,
        /// Bytes of the head, its empty line included; the body follows.
        consumed: usize,
    },
}

/// A checked response head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The HTTP status, 200 to 599: from the field Status, or else 302 with Location and 200 without.
    pub status: u16,
    /// The reason that came with the status, or empty.
    pub reason: &'a [u8],
    /// Bytes of the body, where the application says so.
    pub content_length: Option<u64>,
    /// All lines, without the empty one.
    lines: &'a [u8],
    extensions: bool,
}

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
            if is_named(name, b"Status") {
                let parsed = parse_status(value).filter(|_| status.is_none());
                status = Some(parsed.ok_or(BadHead::Status)?);
            } else if is_named(name, b"Content-Length") {
                let parsed = parse_length(value).filter(|_| content_length.is_none());
                content_length = Some(parsed.ok_or(BadHead::ContentLength)?);
            } else if is_named(name, b"Location") {
                once(&mut location, number)?;
            } else if is_named(name, b"Content-Type") {
                once(&mut content_type, number)?;
            } else if is_named(name, b"Transfer-Encoding") {
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

    /// Whether there are fields whose names begin with `X-`, as all orders for proxies do.
    pub fn has_extensions(&self) -> bool {
        self.extensions
    }

    /// Whether a body may follow: not with 204 and 304 (RFC 9110 §6.4.1), nor with 205 (§15.3.6). The head cannot tell an answer
    /// to HEAD, which has no body either.
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

/// The first line without its end, and the bytes after it; `None` when the end is still to come.
fn split_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    let line = &bytes[..end];
    Some((line.strip_suffix(b"\r").unwrap_or(line), &bytes[end + 1..]))
}

/// Splits a line at its colon. A line that continues the one before begins with a space, which is no
/// token: RFC 3875 §6.3 has no continuation lines.
fn split_field(line: &[u8], number: usize) -> Result<(&[u8], &[u8]), BadHead> {
    let (name, rest) = line.split_at(token_length(line));
    let Some((b':', value)) = rest.split_first().filter(|_| !name.is_empty()) else {
        return Err(BadHead::Name { line: number });
    };
    // RFC 9110 §5.5 lets none but the tab pass. A bare CR ends a line for some proxies, and so lets one field grow into two.
    // All bytes are looked at, several at a time.
    if value.iter().fold(false, |found, byte| found | (byte.is_ascii_control() & (*byte != b'\t'))) {
        return Err(BadHead::Value { line: number });
    }
    Ok((name, trim(value)))
}

/// Whether a field has this name, in whatever case. Most have it in this very case, which is compared in words, not bytes.
fn is_named(name: &[u8], known: &[u8]) -> bool {
    name == known || name.eq_ignore_ascii_case(known)
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

/// Notes a field that may come once only: of two types or targets, proxies and clients take different ones.
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
}
