//! Records (FastCGI 1.0 §3.3): versions, lengths, and records that are ignored.

use super::super::super::write::write_record;
use super::super::*;

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
