//! Requests that share a connection (FastCGI 1.0 §3.3).

use super::super::*;

#[test]
fn c13_requests_share_a_connection() {
    let wire = Wire::new()
        .begin(1)
        .begin(300)
        .params(300, &[("B", "2")])
        .params(1, &[("A", "1")])
        .stdin(1, b"one ")
        .stdin(300, b"two")
        .stdin(1, b"more")
        .stdin_end(300)
        .stdin_end(1);
    let outcome = check(&wire.0, answer);
    let expected = [
        "begin 1 Responder keep=true",
        "begin 300 Responder keep=true",
        "params 300 B=2",
        "params 1 A=1",
        "stdin 1 one ",
        "stdin 300 two",
        "stdin 1 more",
        "stdin end 300",
        "KeepOpen",
        "stdin end 1",
        "KeepOpen",
    ];
    assert_eq!(outcome.seen, expected);
}

#[test]
fn c13_responses_interleave_by_record() {
    let (mut server, mut out) = (Server::new(Limits::default()), Vec::new());
    let wire = Wire::new().request(1).request(2);
    let mut input = &wire.0[..];
    while server.receive(&mut input, &mut out).unwrap().is_some() {}
    assert_eq!(server.active(), 2);
    server.stdout(1, b"a", &mut out);
    server.stdout(2, b"b", &mut out);
    server.stderr(1, b"oh", &mut out);
    server.stdout(1, b"c", &mut out);
    let _ = server.end(2, 0, ProtocolStatus::RequestComplete, &mut out);
    let _ = server.end(1, 0xdead_beef, ProtocolStatus::RequestComplete, &mut out);
    assert_eq!(server.active(), 0);
    let expected = [
        "stdout 1 a",
        "stdout 2 b",
        "stderr 1 oh",
        "stdout 1 c",
        "end 2 0 RequestComplete",
        "end 1 3735928559 RequestComplete",
    ];
    assert_eq!(replies(&out), expected);
}

#[test]
fn c13_one_request_too_many_is_refused_and_the_others_live() {
    let limits = Limits { max_requests: 2, ..Limits::default() };
    let wire = Wire::new()
        .begin(1)
        .begin(2)
        .begin(3)
        .params(3, &[("A", "1")])
        .stdin(3, b"x")
        .stdin_end(3)
        .params(1, &[])
        .stdin_end(1);
    let outcome = check_within(limits, &wire.request(3).0, answer);
    assert_eq!(outcome.seen[3], "refused 3 TooManyRequests { limit: 2 }");
    assert!(outcome.replies[0].starts_with("stdout 3 Status: 503"), "{:?}", outcome.replies);
    assert_eq!(outcome.replies[1], "end 3 0 RequestComplete");
    assert!(outcome.replies[4].starts_with("stdout 3 Status: 200"), "{:?}", outcome.replies);
}

#[test]
fn c13_those_that_are_refused_are_bounded_too() {
    let limits = Limits { max_requests: 2, ..Limits::default() };
    let wire = (1..=2 + 64 + 1).fold(Wire::new(), Wire::begin);
    let outcome = check_within(limits, &wire.0, wait);
    assert_eq!(outcome.replies, ["end 67 0 Overloaded"]);
}
