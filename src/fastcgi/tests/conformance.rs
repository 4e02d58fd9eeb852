//! What FastCGI 1.0 decides on the wire.

use super::record::write_record;
use super::*;

#[test]
fn c1_a_version_other_than_1_ends_the_connection() {
    for version in [0, 2, 255] {
        let mut wire = Wire::new().request(1);
        wire.0.extend_from_slice(&[version, BEGIN, 0, 2, 0, 8, 0, 0]);
        let outcome = check(&wire.0, wait);
        assert_eq!(outcome.fault, Some(Fault::BadVersion(version)));
        assert_eq!(outcome.seen, ["begin 1 Responder keep=true", "params 1 A=1", "stdin end 1"]);
    }
}

#[test]
fn c1_another_protocol_is_named_where_the_connection_begins_with_it() {
    use OtherProtocol::{Http, Proxy, Tls};
    for (bytes, protocol) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], Some(Http)),
        (b"POST /a HTTP/1.0\r\n\r\n", Some(Http)),
        (b"PROPFIND / HTTP/1.1\r\n\r\n", Some(Http)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Http)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01", Some(Tls)),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", Some(Proxy)),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c", Some(Proxy)),
        (b"GETTING / HTTP/1.1\r\n", None),
        (b"{\"json\": 1}", None),
    ] {
        let refused = |outcome: Outcome| {
            assert_eq!(outcome.out, b"");
            outcome.fault.unwrap()
        };
        let expected = protocol.map_or(Fault::BadVersion(bytes[0]), Fault::OtherProtocol);
        let whole = refused(run(Limits::default(), [&bytes[..8]], wait));
        let in_bytes = refused(run(Limits::default(), bytes[..8].chunks(1), wait));
        assert_eq!([whole, in_bytes], [expected; 2], "{}", bytes.escape_ascii());
        // Behind a record it is no more than a bad header.
        let mut wire = Wire::new().request(1);
        wire.0.extend_from_slice(&bytes[..8]);
        assert_eq!(check(&wire.0, wait).fault, Some(Fault::BadVersion(bytes[0])));
    }
}

#[test]
fn c2_any_content_and_padding_lengths_are_read_and_reserved_bytes_ignored() {
    for padding in [0, 1, 7, 8, 255] {
        for length in [1, 7, 8, 65_535] {
            let body = vec![b'b'; length];
            let mut wire = Wire::new()
                .raw(BEGIN, 1, &[0, 1, 1, 9, 9, 9, 9, 9], padding)
                .raw(PARAMS, 1, b"\x01\x01A1", padding)
                .raw(PARAMS, 1, b"", padding)
                .raw(STDIN, 1, &body, padding)
                .raw(STDIN, 1, b"", padding)
                .request(2);
            wire.0[7] = 0xff;
            let outcome = check(&wire.0, wait);
            assert_eq!(outcome.fault, None);
            assert_eq!(outcome.seen[..2], ["begin 1 Responder keep=true", "params 1 A=1"]);
            assert_eq!(outcome.seen[2].len(), "stdin 1 ".len() + length);
            assert_eq!(outcome.seen[3..5], ["stdin end 1", "begin 2 Responder keep=true"]);
        }
    }
}

#[test]
fn c3_any_split_into_records_gives_the_same_streams() {
    let mut pairs = Vec::new();
    for n in 0..20_usize {
        params::encode(format!("NAME{n}").as_bytes(), "v".repeat(n * 11).as_bytes(), &mut pairs);
    }
    let body: Vec<u8> = (0..=255).collect();
    let split = |size: usize| {
        let mut wire = Wire::new().begin(1);
        for part in pairs.chunks(size) {
            wire = wire.raw(PARAMS, 1, part, 3);
        }
        wire = wire.raw(PARAMS, 1, b"", 0);
        for part in body.chunks(size) {
            wire = wire.raw(STDIN, 1, part, 3);
        }
        check(&wire.stdin_end(1).0, wait).seen
    };
    let whole = split(usize::MAX);
    assert_eq!(whole.len(), 4);
    for size in [1, 2, 3, 7, 64, 127, 500] {
        assert_eq!(split(size), whole, "records of {size}");
    }
}

#[test]
fn c4_all_forms_of_lengths_are_read_and_pairs_may_straddle_records() {
    let mut content = Vec::new();
    let long = "L".repeat(200);
    params::encode(b"SHORT", b"short", &mut content);
    params::encode(b"SHORT", long.as_bytes(), &mut content);
    params::encode(long.as_bytes(), b"short", &mut content);
    params::encode(long.as_bytes(), long.as_bytes(), &mut content);
    content.extend_from_slice(b"\x80\0\0\x03\x03FOObar");
    content.extend_from_slice(b"\x03\x80\0\0\x03FOObar");
    content.extend_from_slice(b"\x80\0\0\x03\x80\0\0\x03FOObar");
    content.extend_from_slice(b"\x80\0\0\0\0");
    let expected =
        format!("params 1 SHORT=short SHORT={long} {long}=short {long}={long} FOO=bar FOO=bar FOO=bar =");
    for size in [1, 2, 3, 5, 100, 65_535] {
        let mut wire = Wire::new().begin(1);
        for part in content.chunks(size) {
            wire = wire.raw(PARAMS, 1, part, 0);
        }
        let outcome = check(&wire.raw(PARAMS, 1, b"", 0).0, wait);
        assert_eq!(outcome.seen[1], expected, "records of {size}");
    }
}

#[test]
fn c5_a_length_past_the_end_is_refused_with_400_and_close() {
    let contents: [&[u8]; 7] = [
        b"\x05",
        b"\x05\x05",
        b"\x05\x05NAMEvalu",
        b"\x80\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\x05NAME",
        b"\x01\x01A1\x01\xff\xff\xff\xffB",
    ];
    for content in contents {
        let wire = Wire::new().begin(1).raw(PARAMS, 1, content, 0).raw(PARAMS, 1, b"", 0).stdin_end(1);
        let outcome = check(&wire.0, answer);
        assert_eq!(outcome.seen[1..], ["refused 1 Truncated", "Close"], "{content:?}");
        assert_eq!(outcome.replies[0], "stdout 1 Status: 400\\r\\n\\r\\n");
        assert_eq!(outcome.fault, None);
    }
}

#[test]
fn c6_a_nul_in_a_name_or_value_is_refused_with_400() {
    for (name, value) in [("A\0B", "1"), ("\0", ""), ("A", "1\0"), ("A", "\0")] {
        let outcome = check(&Wire::new().begin(1).params(1, &[("X", "1"), (name, value)]).0, answer);
        assert_eq!(outcome.seen[1..], ["refused 1 Nul", "KeepOpen"]);
    }
}

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
fn c8_records_for_an_inactive_id_are_ignored() {
    let wire = Wire::new()
        .stdin(7, b"nobody")
        .abort(7)
        .raw(PARAMS, 7, b"\x01\x01A1", 3)
        .raw(6, 0, b"an answer", 1)
        .request(1)
        .stdin(1, b"late")
        .stdin_end(1)
        .abort(1)
        .request(1);
    let outcome = check(&wire.0, answer);
    let once = ["begin 1 Responder keep=true", "params 1 A=1", "stdin end 1", "KeepOpen"];
    assert_eq!(outcome.seen, [once, once].concat());
    assert_eq!(outcome.fault, None);
}

#[test]
fn c8_unknown_types_on_an_active_id_are_ignored() {
    let wire =
        Wire::new().begin(1).raw(200, 1, b"what", 4).raw(9, 1, b"", 0).params(1, &[]).raw(0, 1, b"?", 0);
    let outcome = check(&wire.stdin_end(1).0, wait);
    assert_eq!(outcome.seen, ["begin 1 Responder keep=true", "params 1", "stdin end 1"]);
    assert_eq!((outcome.out.len(), outcome.fault), (0, None));
}

#[test]
fn c8_ignored_records_are_bounded_between_two_requests() {
    let limits = Limits { max_ignored: 3, ..Limits::default() };
    let three = || Wire::new().request(1).stdin(1, b"late").raw(200, 9, b"", 0).abort(1);
    assert_eq!(check_within(limits, &three().request(1).stdin(1, b"late").0, answer).fault, None);
    let outcome = check_within(limits, &three().stdin_end(1).0, answer);
    assert_eq!(outcome.fault, Some(Fault::TooManyIgnored { limit: 3 }));
}

#[test]
fn c8_params_of_a_refused_request_are_bounded_too() {
    let limits = Limits { max_params: 4, max_ignored: 3, ..Limits::default() };
    let mut wire = Wire::new().begin(1).raw(PARAMS, 1, b"\x05\x05NAME", 0);
    for _ in 0..3 {
        wire = wire.raw(PARAMS, 1, b"more", 0);
    }
    assert_eq!(check_within(limits, &wire.0, wait).fault, None);
    let outcome = check_within(limits, &wire.raw(PARAMS, 1, b"more", 0).0, wait);
    assert_eq!(outcome.fault, Some(Fault::TooManyIgnored { limit: 3 }));
}

#[test]
fn c9_an_id_can_be_used_again_right_after_its_end() {
    let outcome = check(&Wire::new().request(1).request(1).request(65_535).request(1).0, answer);
    assert_eq!(outcome.seen.len(), 16);
    assert_eq!(outcome.fault, None);
    assert_eq!(outcome.replies.iter().filter(|reply| *reply == "end 1 0 RequestComplete").count(), 3);
}

#[test]
fn c9_the_rest_of_a_record_whose_request_has_ended_is_ignored() {
    let (mut server, mut out) = (Server::new(Limits::default()), Vec::new());
    let wire = Wire::new().begin(1).params(1, &[]).stdin(1, &[b'x'; 100]).request(1);
    let (mut head, mut tail) = wire.0.split_at(42);
    let mut seen = Vec::new();
    while let Some(event) = server.receive(&mut head, &mut out).unwrap() {
        note(&event, &mut seen);
    }
    assert_eq!(seen.pop().unwrap(), format!("stdin 1 {}", "x".repeat(10)));
    assert!(!server.is_idle());
    assert_eq!(server.end(1, 0, ProtocolStatus::RequestComplete, &mut out), AfterEnd::KeepOpen);
    seen.clear();
    while let Some(event) = server.receive(&mut tail, &mut out).unwrap() {
        note(&event, &mut seen);
    }
    // The first has not ended its STDIN, so the end is in doubt.
    assert_eq!(seen, ["begin 1 Responder keep=true", "params 1 A=1", "stdin end in doubt 1"]);
}

/// Answers each request once its first five bytes of body have come, as if that were all that was promised.
fn answer_early(server: &mut Server, event: &Event<'_>, out: &mut Vec<u8>) -> Option<AfterEnd> {
    match event {
        Event::Stdin { id, bytes } if bytes.len() == 5 => {
            Some(server.end(*id, 0, ProtocolStatus::RequestComplete, out))
        }
        _ => None,
    }
}

/// What a server that answered the first request early makes of these records, read whole and byte by byte.
#[track_caller]
fn after_an_early_answer(wire: Wire) -> Vec<String> {
    let (mut server, mut out) = (Server::new(Limits::default()), Vec::new());
    let first = Wire::new().begin(1).params(1, &[]).stdin(1, b"first");
    let mut run = |bytes: &[u8]| {
        let (mut input, mut seen) = (bytes, Vec::new());
        while let Some(event) = server.receive(&mut input, &mut out).unwrap() {
            note(&event, &mut seen);
            answer_early(&mut server, &event, &mut out);
        }
        seen
    };
    assert_eq!(run(&first.0), ["begin 1 Responder keep=true", "params 1", "stdin 1 first"]);
    let mut seen = Vec::new();
    for byte in &wire.0 {
        for line in run(std::slice::from_ref(byte)) {
            match line.strip_prefix("stdin 1 ") {
                Some(piece) => push_joined("stdin 1 ".to_owned(), piece.as_bytes(), &mut seen),
                None => seen.push(line),
            }
        }
    }
    seen
}

#[test]
fn c9_the_late_end_of_a_body_does_not_touch_the_next_request_with_that_id() {
    let begun = ["begin 1 Responder keep=true", "params 1"];
    // In order, as every client sends that writes one request after the other.
    let wire = Wire::new().stdin_end(1).begin(1).params(1, &[]).stdin(1, b"abc").stdin_end(1);
    assert_eq!(after_an_early_answer(wire), [&begun[..], &["stdin 1 abc", "stdin end 1"]].concat());
    // Never, as Apache does that has seen the answer before it sent the end.
    let wire = Wire::new().begin(1).params(1, &[]).stdin(1, b"abc").stdin_end(1);
    assert_eq!(after_an_early_answer(wire), [&begun[..], &["stdin 1 abc", "stdin end 1"]].concat());
    // Behind the next BEGIN_REQUEST, and behind its PARAMS.
    let wire = Wire::new().begin(1).stdin_end(1).params(1, &[]).stdin(1, b"abc").stdin_end(1);
    assert_eq!(after_an_early_answer(wire), [&begun[..], &["stdin 1 abc", "stdin end 1"]].concat());
    let wire = Wire::new().begin(1).params(1, &[]).stdin_end(1).stdin(1, b"abc").stdin_end(1);
    let doubted = ["stdin end in doubt 1", "stdin 1 abc", "stdin end 1"];
    assert_eq!(after_an_early_answer(wire), [&begun[..], &doubted].concat());
    // Another id is not in doubt, nor is the second request after.
    let wire = Wire::new().begin(2).params(2, &[]).stdin_end(2);
    assert_eq!(after_an_early_answer(wire).last().unwrap(), "stdin end 2");
    let wire = Wire::new().stdin_end(1).request(1);
    assert_eq!(after_an_early_answer(wire).last().unwrap(), "stdin end 1");
}

#[test]
fn a_request_is_being_sent_until_its_streams_end_also_when_it_has_ended() {
    let sending = |wire: Wire, role: Role| {
        let (mut server, mut out) = (Server::new(Limits::default()), Vec::new());
        let wire = Wire::new().begin_as(1, role, true).params(1, &[]).raw_all(&wire);
        let mut input = &wire.0[..];
        while server.receive(&mut input, &mut out).unwrap().is_some() {}
        let before = server.is_sending(1);
        let _ = server.end(1, 0, ProtocolStatus::RequestComplete, &mut out);
        assert_eq!(server.has_unfinished(), before);
        let late = Wire::new().stdin_end(1).raw(8, 1, b"", 0);
        let mut input = &late.0[..];
        while server.receive(&mut input, &mut out).unwrap().is_some() {}
        assert!(!server.has_unfinished(), "its late end has come");
        before
    };
    for role in [Role::Responder, Role::Authorizer] {
        assert!(sending(Wire::new(), role));
        assert!(!sending(Wire::new().stdin_end(1), role));
    }
    assert!(sending(Wire::new().stdin(1, b"abc"), Role::Responder));
    assert!(sending(Wire::new().stdin_end(1), Role::Filter));
    assert!(!sending(Wire::new().raw(8, 1, b"", 0).stdin_end(1), Role::Filter));
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
fn c16_nothing_is_refused_before_the_end_of_params() {
    let limits = Limits { max_params: 100, max_pairs: 3, ..Limits::default() };
    let long = "v".repeat(101);
    let many: Vec<(&str, &str)> = vec![("A", "1"); 4];
    let refusals = [
        (Wire::new().begin(1).params(1, &[("A", &long)]), "TooManyBytes { limit: 100 }", "KeepOpen"),
        (Wire::new().begin(1).params(1, &many), "TooManyPairs { limit: 3 }", "KeepOpen"),
        (Wire::new().begin(1).params(1, &[("A", "\0")]), "Nul", "KeepOpen"),
        (Wire::new().begin(1).stdin(1, b"x").params(1, &[("A", "1")]), "EarlyBody", "Close"),
        (Wire::new().begin(1).raw(DATA, 1, b"x", 0).params(1, &[("A", "1")]), "EarlyBody", "Close"),
    ];
    for (wire, refusal, after) in refusals {
        let before_the_end = &wire.0[..wire.0.len() - 8];
        let outcome = check_within(limits, before_the_end, answer);
        assert_eq!((outcome.seen.len(), outcome.out.len()), (1, 0), "{refusal}");
        let outcome = check_within(limits, &wire.stdin(1, b"late").stdin_end(1).0, answer);
        assert_eq!(outcome.seen[1..], [format!("refused 1 {refusal}"), after.into()]);
    }
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
fn c17_stdout_ends_even_when_nothing_was_written_to_it() {
    let outcome = check(&Wire::new().begin(1).abort(1).0, answer);
    assert_eq!(outcome.out, [1, 6, 0, 1, 0, 0, 0, 0, 1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
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

#[test]
fn c20_an_authorizer_has_no_body_with_or_without_a_stdin_record() {
    let expected = ["begin 1 Authorizer keep=true", "params 1 A=1", "stdin end 1"];
    let wire = || Wire::new().begin_as(1, Role::Authorizer, true).params(1, &[("A", "1")]);
    for wire in [wire(), wire().stdin_end(1), wire().stdin(1, b"body").stdin_end(1)] {
        assert_eq!(check(&wire.0, wait).seen, expected);
        let outcome = check(&wire.request(1).0, answer);
        assert_eq!((outcome.seen.len(), outcome.fault), (8, None));
    }
}

#[test]
fn c20_an_authorizer_that_is_ended_at_once_has_no_further_event() {
    fn deny(server: &mut Server, event: &Event<'_>, out: &mut Vec<u8>) -> Option<AfterEnd> {
        let Event::Params { id, .. } = event else { return None };
        Some(server.end(*id, 0, ProtocolStatus::RequestComplete, out))
    }
    let outcome = check(&Wire::new().begin_as(1, Role::Authorizer, false).params(1, &[]).0, deny);
    assert_eq!(outcome.seen[1..], ["params 1", "Close"]);
}

#[test]
fn c21_a_filter_gets_stdin_then_data() {
    let mut wire = Wire::new()
        .begin_as(1, Role::Filter, true)
        .params(1, &[("FCGI_DATA_LENGTH", "4"), ("FCGI_DATA_LAST_MOD", "0")])
        .stdin(1, b"in")
        .stdin_end(1);
    client::data(1, b"file", &mut wire.0);
    client::data_end(1, &mut wire.0);
    client::data(1, b"late", &mut wire.0);
    let expected = [
        "begin 1 Filter keep=true",
        "params 1 FCGI_DATA_LENGTH=4 FCGI_DATA_LAST_MOD=0",
        "stdin 1 in",
        "stdin end 1",
        "data 1 file",
        "data end 1",
    ];
    assert_eq!(check(&wire.0, wait).seen, expected);
    let wire = Wire::new().request(1).raw(DATA, 1, b"no file", 0).raw(DATA, 1, b"", 0);
    assert_eq!(check(&wire.0, wait).seen.len(), 3, "a Responder gets no DATA");
}

#[test]
fn c22_c23_values_are_answered_at_any_time_and_the_connection_lives() {
    let limits = Limits { server_connections: 10, server_requests: 20, ..Limits::default() };
    let names = ["FCGI_MPXS_CONNS", "FCGI_MAX_REQS", "NO_SUCH", "FCGI_MAX_CONNS", "FCGI_MAX_REQS"];
    let wire = Wire::new()
        .get_values(&names)
        .begin(1)
        .get_values(&["FCGI_MAX_REQS"])
        .params(1, &[])
        .get_values(&["NO_SUCH"])
        .stdin(1, b"x")
        .get_values(&[])
        .stdin_end(1);
    let outcome = check_within(limits, &wire.0, wait);
    let all = "values FCGI_MAX_CONNS=10 FCGI_MAX_REQS=20 FCGI_MPXS_CONNS=1";
    assert_eq!(outcome.replies, [all, "values FCGI_MAX_REQS=20", "values", "values"]);
    assert_eq!(outcome.seen, ["begin 1 Responder keep=true", "params 1", "stdin 1 x", "stdin end 1"]);
}

#[test]
fn c22_max_reqs_is_not_more_than_one_connection_takes() {
    let limits = Limits { server_requests: 5000, ..Limits::default() };
    let outcome = check_within(limits, &Wire::new().get_values(&["FCGI_MAX_REQS"]).0, wait);
    assert_eq!(outcome.replies, ["values FCGI_MAX_REQS=64"]);
}

#[test]
fn c22_values_are_bounded() {
    let many = vec!["FCGI_MAX_CONNS"; 64];
    let outcome = check(&Wire::new().get_values(&many).0, wait);
    assert_eq!(outcome.replies.len(), 1, "64 times 16 bytes are within the limit");
    assert!(outcome.out.len() < 64, "each name once");
    let outcome = check(&Wire::new().raw(9, 0, &[0; 1025], 0).0, wait);
    assert_eq!(outcome.fault, Some(Fault::GetValuesLength(1025)));
    let outcome = check(&Wire::new().raw(9, 0, b"\x05\0NAM", 0).0, wait);
    assert_eq!(outcome.fault, Some(Fault::GetValuesTruncated));
}

#[test]
fn c24_unknown_management_types_are_answered_and_the_connection_lives() {
    let wire =
        Wire::new().raw(12, 0, b"", 0).begin(1).raw(255, 0, b"content", 9).raw(0, 0, b"", 0).params(1, &[]);
    let outcome = check(&wire.0, wait);
    assert_eq!(outcome.replies, ["unknown type 12", "unknown type 255", "unknown type 0"]);
    assert_eq!(outcome.seen.len(), 2);
    assert_eq!(outcome.out[..16], [1, 11, 0, 0, 0, 8, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn records_after_the_end_of_their_stream_are_ignored() {
    let wire = Wire::new().request(1).params(1, &[("B", "2")]).stdin(1, b"more").stdin_end(1);
    assert_eq!(check(&wire.0, wait).seen.len(), 3);
}

#[test]
fn a_client_breaks_off_at_poison() {
    let (mut server, mut out) = (Server::new(Limits::default()), Vec::new());
    server.receive(&mut &Wire::new().begin(1).0[..], &mut out).unwrap();
    server.stdout(1, b"half a bo", &mut out);
    server.break_off(&mut out);
    assert!(server.is_idle() && server.has_unfinished());
    let (mut decoder, mut input) = (client::Decoder::new(), &out[..]);
    assert!(matches!(decoder.receive(&mut input), Ok(Some(client::Reply::Stdout { .. }))));
    assert_eq!(decoder.receive(&mut input), Err(client::Fault::BadVersion(0)));
}

#[test]
fn a_client_refuses_answers_that_make_no_sense() {
    let decode = |wire: Wire| client::Decoder::new().receive(&mut &wire.0[..]).map(|_| ());
    assert_eq!(decode(Wire::new().raw(3, 1, &[0; 7], 0)), Err(client::Fault::BodyLength(7)));
    assert_eq!(decode(Wire::new().raw(11, 0, b"", 0)), Err(client::Fault::BodyLength(0)));
    let undefined = Wire::new().raw(3, 1, &[0, 0, 0, 0, 4, 0, 0, 0], 0);
    assert_eq!(decode(undefined), Err(client::Fault::ProtocolStatus(4)));
    assert_eq!(decode(Wire::new().raw(10, 0, b"\x05\x01A", 0)), Err(client::Fault::ValuesTruncated));
    assert_eq!(decode(Wire::new().raw(77, 3, b"what", 0).raw(6, 1, b"", 0)), Ok(()));
}

#[test]
fn a_client_reads_replies_in_any_split() {
    let wire = Wire::new().get_values(&["FCGI_MAX_REQS"]).raw(99, 0, b"", 0).request(1).request(2);
    let out = check(&wire.0, answer).out;
    let (mut decoder, mut count) = (client::Decoder::new(), 0);
    for byte in out.chunks(1) {
        let mut input = byte;
        while let Some(reply) = decoder.receive(&mut input).unwrap() {
            count += usize::from(!matches!(reply, client::Reply::Stdout { .. }));
        }
    }
    assert_eq!(count, 4, "values, an unknown type and two ends");
}

#[test]
fn a_flood_for_an_ended_request_is_not_kept() {
    let (mut server, mut out) = (Server::new(Limits::default()), Vec::new());
    let mut record = Vec::new();
    write_record(RecordType::Stdin, 1, &[b'x'; 65_535], &mut record);
    for _ in 0..MAX_IGNORED {
        assert_eq!(server.receive(&mut &record[..], &mut out), Ok(None));
    }
    let fault = server.receive(&mut &record[..], &mut out);
    assert_eq!(fault, Err(Fault::TooManyIgnored { limit: MAX_IGNORED }));
}
