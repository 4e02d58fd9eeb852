//! Properties of the heads of requests and responses.

use std::collections::BTreeSet;

use nibiru::cgi::Variables;
use nibiru::cgi::request::{self, BadRequest, ContentLength};
use nibiru::cgi::response::{Head, MAX_HEAD, Status};
use nibiru::fastcgi::params::Pairs;

/// An accepted head cannot split a response, and reads the same when it is parsed again. A prefix of a head is partial, and a
/// prefix with an error keeps that error.
pub(crate) fn response_head(data: &[u8]) {
    let found = Head::parse(data);
    let end = match &found {
        Ok(Status::Complete { head, consumed }) => {
            harmless(head, &data[..*consumed]);
            assert_eq!(Head::parse(&data[..*consumed]), found, "bytes after a head change it");
            *consumed
        }
        Ok(Status::Partial) | Err(_) => data.len(),
    };
    // A sample, because all prefixes of a long head would take too long.
    let step = end.div_ceil(512).max(1);
    for length in (0..end).step_by(step).chain(end.checked_sub(1)) {
        match Head::parse(&data[..length]) {
            Ok(Status::Partial) => {}
            Ok(Status::Complete { .. }) => panic!("{length} of {end} bytes are a head"),
            Err(error) => assert_eq!(found.as_ref(), Err(&error), "{length} of {end} bytes"),
        }
    }
}

fn harmless(head: &Head<'_>, block: &[u8]) {
    assert!(block.len() <= MAX_HEAD);
    assert!((100..=599).contains(&head.status));
    let mut again = Vec::new();
    for (name, value) in head.fields() {
        assert!(!name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b':'));
        assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)));
        again.extend([name, b": ", value, b"\r\n"].concat());
    }
    again.extend_from_slice(b"\r\n");
    // One line end for each field and a final one, so no line hides within another.
    assert_eq!(block.iter().filter(|byte| **byte == b'\n').count(), head.fields().count() + 1);
    let bare = |pair: &[u8]| pair[0] == b'\r' && pair[1] != b'\n';
    assert!(!block.windows(2).any(bare), "a CR without LF");
    assert!(!block.ends_with(b"\r"));
    // The rewritten head may exceed the limit.
    if again.len() <= MAX_HEAD {
        let Ok(Status::Complete { head: parsed, consumed }) = Head::parse(&again) else {
            panic!("the rewritten head is not accepted");
        };
        assert_eq!(consumed, again.len());
        assert_eq!((parsed.status, parsed.reason), (head.status, head.reason));
        assert_eq!(parsed.content_length, head.content_length);
        assert!(parsed.fields().eq(head.fields()));
    }
}

/// An accepted head is unambiguous: each name occurs once, where header names are compared without case and with `-` as
/// `_`; the method is a token; the length is a number. A rejected head is left unchanged.
pub(crate) fn request_head(data: &[u8]) {
    let mut variables = Variables::new();
    for (name, value) in Pairs::new(data).map_while(Result::ok) {
        variables.push(name, value);
    }
    let before = variables.clone();
    match request::Head::parse(&mut variables) {
        Ok(head) => {
            unambiguous(&head, &before);
            let mut again = head.variables.clone();
            let settled = request::Head { repeated: Vec::new(), ..head };
            assert_eq!(
                request::Head::parse(&mut again),
                Ok(settled),
                "a parsed head changes when it is parsed again"
            );
        }
        Err(error) => {
            assert_eq!(variables, before);
            has_a_safe_message(&error);
        }
    }
    let mut variables = before.clone();
    match request::Head::parse_authorizer(&mut variables) {
        Ok(head) => {
            assert_eq!(head.content_length, ContentLength::Known(0));
            assert_eq!(head.variables.get(b"CONTENT_LENGTH"), None);
        }
        Err(error) => {
            assert_eq!(variables, before);
            has_a_safe_message(&error);
        }
    }
}

/// Variables that are added as empty if absent.
const ADDED: [&[u8]; 3] = [b"SCRIPT_NAME", b"PATH_INFO", b"QUERY_STRING"];

fn unambiguous(head: &request::Head, before: &Variables) {
    let mut names = BTreeSet::new();
    for (name, value) in &head.variables {
        assert!(!name.is_empty());
        let same = one_name(name);
        assert_ne!(same, b"HTTP_PROXY");
        assert!(names.insert(same.clone()), "{} occurs twice", name.escape_ascii());
        let values: Vec<&[u8]> = before.iter().filter(|(n, _)| one_name(n) == same).map(|(_, v)| v).collect();
        let Some(last) = values.last() else {
            assert!(ADDED.contains(&name) && value.is_empty(), "{} was not sent", name.escape_ascii());
            continue;
        };
        let parts: Vec<&[u8]> = values.iter().copied().filter(|value| !value.is_empty()).collect();
        let joined = [&b", "[..], b"; "].map(|separator| parts.join(separator));
        let is_header = same.starts_with(b"HTTP_");
        assert!(value == *last || (is_header && joined.iter().any(|joined| joined == value)));
        let told = head.repeated.iter().any(|repeated| repeated == name);
        assert_eq!(told, !is_header && values.len() > 1, "{}", name.escape_ascii());
    }
    let method = head.variables.get(b"REQUEST_METHOD").expect("a method");
    assert!(!method.is_empty() && method.iter().all(u8::is_ascii_graphic));
    assert_eq!(head.head_request, method == b"HEAD");
    let given = head.variables.get(b"CONTENT_LENGTH");
    match (head.content_length, given) {
        (ContentLength::UntilEnd, None | Some(b"" | b"-1")) => {}
        (ContentLength::Known(length), Some(digits)) => {
            assert!(digits.iter().all(u8::is_ascii_digit));
            assert_eq!(str::from_utf8(digits).unwrap().parse(), Ok(length));
        }
        (length, given) => panic!("{length:?} of {given:?}"),
    }
}

/// The form in which names are compared.
fn one_name(name: &[u8]) -> Vec<u8> {
    let upper: Vec<u8> =
        name.to_ascii_uppercase().into_iter().map(|b| if b == b'-' { b'_' } else { b }).collect();
    if upper.starts_with(b"HTTP_") { upper } else { name.to_vec() }
}

/// Messages about a client's bytes are short, and safe for a log and a page.
fn has_a_safe_message(error: &BadRequest) {
    let message = error.to_string();
    assert!(message.len() < 700 && message.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
    assert!((400..500).contains(&error.status()));
}
