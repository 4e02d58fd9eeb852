//! Bodies in files of the proxy's.

use super::*;
use crate::proto::body_file::BodyFileError;

/// The head of a POST whose body is in a file of the proxy's, and the end of STDIN.
fn in_file(id: u16, length: &str, path: &str) -> Vec<u8> {
    let variables = [("REQUEST_METHOD", "POST"), ("CONTENT_LENGTH", length), ("REQUEST_BODY_FILE", path)];
    [head(id, true, Role::Responder, &variables), stdin_end(id)].concat()
}

fn file() -> Arc<std::fs::File> {
    Arc::new(std::fs::File::open("/dev/null").unwrap())
}

/// The refusal of a body's file: its path, and the status, the reason and the message of the response.
fn refusal(events: &[Event]) -> (&[u8], &BodyFileError, u16, RejectReason, &str) {
    let [Event::BodyFileRefused { path, error }, rejected] = events else { panic!("{events:?}") };
    let (_, status, why, message) = rejection(std::slice::from_ref(rejected));
    (path, error, status, *why, message)
}

#[test]
fn the_request_is_complete_when_stdin_has_ended_and_the_file_is_open() {
    for end_first in [true, false] {
        let mut pair = Pair::new();
        let bytes = in_file(1, "70000", "/body/1");
        let (first, end) = bytes.split_at(bytes.len() - stdin_end(1).len());
        assert!(pair.send(first).is_empty());
        let (key, open) = pair.connection.next_body_file().expect("a file");
        assert!(open.path == b"/body/1" && pair.connection.next_body_file().is_none());
        drop(open);
        let mut events = Vec::new();
        if end_first {
            assert!(pair.send(end).is_empty());
        }
        pair.connection.body_file_opened(key, Ok((file(), 70_000)), pair.max_body);
        if !end_first {
            assert!(pair.events().is_empty());
            events = pair.send(end);
        }
        events.extend(pair.events());
        let Ok([Event::Request { request, .. }]) = <[Event; 1]>::try_from(events) else {
            panic!("no request")
        };
        let (variables, body, _) = request.into_parts();
        assert_eq!(variables.get(b"CONTENT_LENGTH"), Some(&b"70000"[..]));
        assert_eq!(variables.get(b"REQUEST_BODY_FILE"), Some(&b"/body/1"[..]));
        assert!(matches!(body.place(), Place::File(_)) && body.len() == 70_000);
        assert_eq!(pair.space.used(), (0, 1), "a descriptor, and no byte of the spool");
    }
}

#[test]
fn without_the_parameter_or_with_an_empty_one_the_body_is_stdin() {
    let mut pair = Pair::new();
    let variables = [("REQUEST_METHOD", "POST"), ("CONTENT_LENGTH", "5"), ("REQUEST_BODY_FILE", "")];
    let key =
        request_of(pair.send(&[head(1, true, Role::Responder, &variables), stdin(1, b"hello")].concat()));
    pair.hello(key);
    request_of(pair.send(&[post(2, "5"), stdin(2, b"hello")].concat()));
    assert!(pair.connection.next_body_file().is_none());
    // An Authorizer has no body.
    let mut pair = Pair::new();
    let asks = head(1, true, Role::Authorizer, &[("REQUEST_BODY_FILE", "/body/1")]);
    request_of(pair.send(&asks));
    assert!(pair.connection.next_body_file().is_none());
}

#[test]
fn a_body_that_comes_in_stdin_as_well_is_refused_also_when_the_file_is_open() {
    for is_open in [false, true] {
        let mut pair = Pair::new();
        let bytes = in_file(1, "5", "/body/1");
        assert!(pair.send(&bytes[..bytes.len() - stdin_end(1).len()]).is_empty());
        let (key, _) = pair.connection.next_body_file().expect("a file");
        if is_open {
            pair.connection.body_file_opened(key, Ok((file(), 5)), pair.max_body);
        }
        let events = pair.send(&[stdin(1, b"he"), stdin(1, b"llo"), stdin_end(1)].concat());
        let (path, error, status, why, _) = refusal(&events);
        assert_eq!((path, error), (&b"/body/1"[..], &BodyFileError::Twice));
        assert_eq!((status, why), (500, RejectReason::BodyFile));
        // A file that is opened after its request has gone changes nothing.
        pair.connection.body_file_opened(key, Ok((file(), 5)), pair.max_body);
        assert!(pair.events().is_empty());
        pair.respond(key, |writer, sink, now| writer.fail(status, "no", None, sink, now));
        assert_eq!(pair.space.used(), (0, 0));
    }
}

#[test]
fn a_file_that_is_not_taken_or_has_another_length_is_a_refusal_of_its_own() {
    for (opened, status) in [
        (Err(BodyFileError::Missing), 500),
        (Err(BodyFileError::Io("no".into())), 503),
        (Ok((file(), 4)), 400),
        (Ok((file(), 6)), 400),
        (Ok((file(), 1 << 40)), 400),
    ] {
        let mut pair = Pair::new();
        assert!(pair.send(&in_file(1, "5", "/body/1")).is_empty());
        let (key, _) = pair.connection.next_body_file().expect("a file");
        pair.connection.body_file_opened(key, opened, pair.max_body);
        let events = pair.events();
        let (path, error, got, why, message) = refusal(&events);
        assert_eq!((path, got, why), (&b"/body/1"[..], status, RejectReason::BodyFile));
        assert_eq!(message, error.to_string());
    }
}

#[test]
fn a_file_beyond_max_body_is_413_by_its_promise_or_its_length() {
    let mut pair = Pair::new();
    let events = pair.send(&in_file(1, "1048577", "/body/1"));
    let (_, status, why, message) = rejection(&events);
    assert_eq!((status, *why), (413, RejectReason::BodyTooLarge));
    assert_eq!(message, "the body has 1048577 bytes, --max-body is 1048576");
    assert!(pair.connection.next_body_file().is_none());
    let mut pair = Pair::new();
    assert!(pair.send(&in_file(1, "", "/body/1")).is_empty());
    let (key, _) = pair.connection.next_body_file().expect("a file");
    pair.connection.body_file_opened(key, Ok((file(), MAX_BODY + 1)), pair.max_body);
    let events = pair.events();
    let (_, status, why, message) = rejection(&events);
    assert_eq!((status, *why), (413, RejectReason::BodyTooLarge));
    assert_eq!(message, "the body has 1048577 bytes, --max-body is 1048576");
    // At the limit.
    let mut pair = Pair::new();
    assert!(pair.send(&in_file(1, "", "/body/1")).is_empty());
    let (key, _) = pair.connection.next_body_file().expect("a file");
    pair.connection.body_file_opened(key, Ok((file(), MAX_BODY)), pair.max_body);
    request_of(pair.events());
}

#[test]
fn a_file_that_no_descriptor_is_left_for_or_that_is_not_opened_in_time_is_503() {
    let mut pair = Pair::new();
    pair.space = Space::new(1 << 30, 0, None);
    let events = pair.send(&in_file(1, "5", "/body/1"));
    let (_, status, why, _) = rejection(&events);
    assert_eq!((status, *why), (503, RejectReason::Spool));
    let mut pair = Pair::new();
    assert!(pair.send(&in_file(1, "5", "/body/1")).is_empty());
    pair.connection.next_body_file().expect("a file");
    let (span, events) = pair.next_timer().expect("a timer");
    let (_, status, why, message) = rejection(&events);
    assert_eq!((span, status, *why), (TIMEOUTS.body, 503, RejectReason::Spool));
    assert_eq!(message, "the body's file could not be opened in time (--body-timeout)");
}

#[test]
fn a_filters_data_come_beside_a_body_in_a_file() {
    let mut pair = Pair::new();
    let variables = [
        ("FCGI_DATA_LENGTH", "3"),
        ("FCGI_DATA_LAST_MOD", "0"),
        ("CONTENT_LENGTH", "2"),
        ("REQUEST_BODY_FILE", "/body/1"),
    ];
    assert!(pair.send(&[head(1, true, Role::Filter, &variables), stdin_end(1)].concat()).is_empty());
    let (key, _) = pair.connection.next_body_file().expect("a file");
    pair.connection.body_file_opened(key, Ok((file(), 2)), pair.max_body);
    assert!(pair.events().is_empty());
    let mut data = Vec::new();
    client::data(1, b"dat", &mut data);
    client::data_end(1, &mut data);
    request_of(pair.send(&data));
}
