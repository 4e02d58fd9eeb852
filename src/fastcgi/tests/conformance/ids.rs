//! Request ids that are used again (FastCGI 1.0 §3.3), while the client may still be sending the previous request.

use super::super::*;

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
