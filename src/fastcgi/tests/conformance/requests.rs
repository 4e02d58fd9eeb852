//! Application records of a request (FastCGI 1.0 §5.1, §5.4, §5.5): BEGIN_REQUEST, ABORT_REQUEST, END_REQUEST.

use super::super::*;

#[test]
fn c7_a_begin_with_id_0_or_another_body_length_ends_the_connection() {
    let outcome = check(&Wire::new().raw(BEGIN, 0, &[0, 1, 0, 0, 0, 0, 0, 0], 0).0, wait);
    assert_eq!((outcome.fault, outcome.seen.len()), (Some(Fault::BeginWithoutId), 0));
    for length in [0, 7, 9, 65_535] {
        let outcome = check(&Wire::new().raw(BEGIN, 1, &vec![1; length.into()], 0).0, wait);
        assert_eq!((outcome.fault, outcome.seen.len()), (Some(Fault::BeginLength(length)), 0));
    }
}

#[test]
fn c10_the_connection_stays_open_only_when_asked() {
    for (flags, after) in [(0, "Close"), (1, "KeepOpen"), (0xfe, "Close"), (0xff, "KeepOpen")] {
        let wire = Wire::new().raw(BEGIN, 1, &[0, 1, flags, 0, 0, 0, 0, 0], 0).params(1, &[]).stdin_end(1);
        assert_eq!(check(&wire.0, answer).seen.last().unwrap(), after, "flags {flags:#x}");
    }
}

#[test]
fn c10_closing_waits_for_the_other_requests_and_lets_no_more_begin() {
    let wire = Wire::new()
        .begin(1)
        .begin_as(2, Role::Responder, false)
        .params(2, &[])
        .stdin_end(2)
        .request(3)
        .params(1, &[])
        .stdin_end(1);
    let outcome = check(&wire.0, answer);
    let expected =
        ["params 2", "stdin end 2", "KeepOpen", "params 1", "stdin end 1", "Close"].map(String::from);
    assert_eq!(outcome.seen[2..], expected);
}

#[test]
fn c11_an_unknown_role_is_answered_and_the_connection_lives() {
    for role in [0, 4, 0x0101_u16] {
        let [role1, role0] = role.to_be_bytes();
        let wire =
            Wire::new().raw(BEGIN, 5, &[role1, role0, 0, 0, 0, 0, 0, 0], 0).params(5, &[]).stdin_end(5);
        let outcome = check(&wire.request(1).0, wait);
        assert_eq!(outcome.replies, ["end 5 0 UnknownRole"]);
        assert_eq!(outcome.seen, ["begin 1 Responder keep=true", "params 1 A=1", "stdin end 1"]);
    }
}

#[test]
fn c12_a_begin_on_an_active_id_ends_the_connection() {
    for wire in [Wire::new().begin(1), Wire::new().begin(1).params(1, &[]), Wire::new().request(1)] {
        assert_eq!(check(&wire.begin(1).0, wait).fault, Some(Fault::BeginActive(1)));
    }
}

#[test]
fn c14_an_abort_is_told_at_any_point_and_silences_the_request() {
    let begun = || Wire::new().begin(1);
    let half = || begun().raw(PARAMS, 1, b"\x01\x01A", 0);
    for wire in [begun(), half(), begun().params(1, &[]), Wire::new().request(1)] {
        let outcome =
            check(&wire.abort(1).abort(1).raw(PARAMS, 1, b"", 0).stdin(1, b"x").stdin_end(1).0, wait);
        assert_eq!(outcome.seen.last().unwrap(), "abort 1");
        assert_eq!(outcome.fault, None);
    }
    let outcome = check(&half().abort(1).request(1).0, answer);
    assert_eq!(outcome.replies[0], "end 1 1 RequestComplete");
    assert_eq!(outcome.seen[1..4], ["abort 1", "KeepOpen", "begin 1 Responder keep=true"]);
}

#[test]
fn c17_c18_streams_are_ended_and_the_status_is_big_endian() {
    let (mut server, mut out) = (Server::new(Limits::default()), Vec::new());
    for id in [1, 2] {
        while server.receive(&mut &Wire::new().begin(id).0[..], &mut out).unwrap().is_none() {}
    }
    server.stdout(1, b"hello", &mut out);
    server.stderr(1, b"", &mut out);
    let _ = server.end(1, 0x0102_0304, ProtocolStatus::RequestComplete, &mut out);
    let stdout = [1, 6, 0, 1, 0, 5, 3, 0, b'h', b'e', b'l', b'l', b'o', 0, 0, 0, 1, 6, 0, 1, 0, 0, 0, 0];
    let end = [1, 3, 0, 1, 0, 8, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    assert_eq!(out, [&stdout[..], &end].concat());
    out.clear();
    server.stderr(2, b"12345678", &mut out);
    let _ = server.end(2, 0, ProtocolStatus::Overloaded, &mut out);
    let stderr = [&[1, 7, 0, 2, 0, 8, 0, 0][..], b"12345678", &[1, 7, 0, 2, 0, 0, 0, 0]].concat();
    let end = [1, 3, 0, 2, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
    assert_eq!(out, [&stderr[..], &end].concat());
}

#[test]
fn c18_nothing_is_written_for_an_id_that_is_not_in_use() {
    let (mut server, mut out) = (Server::new(Limits::default()), Vec::new());
    server.stdout(1, b"x", &mut out);
    server.stderr(1, b"x", &mut out);
    assert_eq!(server.end(1, 0, ProtocolStatus::RequestComplete, &mut out), AfterEnd::KeepOpen);
    assert_eq!(out, b"");
    assert!(server.is_idle());
}
