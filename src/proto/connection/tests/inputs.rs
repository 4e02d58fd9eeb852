//! Bytes become requests, rejections and aborts.

use super::*;
use crate::proto::response_writer::Sink as _;
use crate::proto::turn::PIECE;

#[test]
fn a_request_is_complete_however_its_bytes_are_cut() {
    let mut bytes = post(1, "5");
    bytes.extend([stdin(1, b"hello"), stdin_end(1)].concat());
    for size in [1, 2, 3, 7, 8, 9, 64, bytes.len()] {
        let mut pair = Pair::new();
        let events: Vec<Event> = bytes.chunks(size).flat_map(|piece| pair.send(piece)).collect();
        let Ok([Event::Request { request, .. }]) = <[Event; 1]>::try_from(events) else { panic!("{size}") };
        assert_eq!((request.role, request.len()), (Role::Responder, 5));
        let (variables, body, data) = request.into_parts();
        assert_eq!(variables.get(b"REQUEST_METHOD"), Some(&b"POST"[..]));
        assert!(matches!(body.place(), Place::Memory(b"hello")) && data.is_none());
    }
}

#[test]
fn a_promised_body_is_complete_without_the_end_of_its_stream_and_a_late_end_is_ignored() {
    let mut pair = Pair::new();
    let key = request_of(pair.send(&[post(1, "5"), stdin(1, b"hello")].concat()));
    pair.hello(key);
    assert!(pair.send(&stdin_end(1)).is_empty());
    // And none at all.
    let key = request_of(pair.send(&post(1, "0")));
    pair.hello(key);
    assert!(pair.send(&stdin_end(1)).is_empty());
    pair.get(2);
}

#[test]
fn requests_share_a_connection_and_keep_their_bodies_apart() {
    let mut pair = Pair::new();
    assert!(pair.send(&[post(1, "4"), post(2, "4"), stdin(2, b"tw")].concat()).is_empty());
    assert!(pair.send(&stdin(1, b"on")).is_empty());
    let body = |events: Vec<Event>| match <[Event; 1]>::try_from(events).unwrap() {
        [Event::Request { request, .. }] => match request.into_parts().1.place() {
            Place::Memory(bytes) => bytes.to_vec(),
            Place::File(_) => panic!("in a file"),
        },
        [other] => panic!("{other:?}"),
    };
    assert_eq!(body(pair.send(&stdin(2, b"o!"))), b"two!");
    assert_eq!(body(pair.send(&stdin(1, b"e!"))), b"one!");
}

#[test]
fn a_request_that_is_wrong_is_rejected_with_its_reason() {
    let filter = |length: &str| {
        let variables = [("FCGI_DATA_LENGTH", length), ("FCGI_DATA_LAST_MOD", "0")];
        head(1, true, Role::Filter, &variables)
    };
    let mut too_long = post(1, "");
    too_long.extend(stdin(1, &vec![0; 65_000].repeat(17)));
    for (bytes, status, why, part) in [
        (post(1, "x"), 400, RejectReason::Variables, "CONTENT_LENGTH"),
        ([post(1, "5"), stdin(1, b"hell"), stdin_end(1)].concat(), 400, RejectReason::BodyTooShort, "4 of 5"),
        ([post(1, "1048577"), stdin(1, b"h")].concat(), 413, RejectReason::BodyTooLarge, "1048577 bytes"),
        (filter("1048577"), 413, RejectReason::BodyTooLarge, "the data to filter has 1048577 bytes"),
        (too_long, 413, RejectReason::BodyTooLarge, "more than 1048576 bytes (--max-body)"),
    ] {
        let mut pair = Pair::new();
        let events = pair.send(&bytes);
        let (key, got, reason, message) = rejection(&events[..1]);
        assert_eq!((got, *reason), (status, why), "{message}");
        assert!(message.contains(part), "{message}");
        pair.respond(key, |writer, sink, now| writer.fail(status, "no", None, sink, now));
        let got = pair.got(1).unwrap();
        assert!(got.stdout.starts_with(&format!("Status: {status} ")) && got.end == Some(0), "{got:?}");
    }
}

#[test]
fn a_body_that_the_proxy_keeps_to_itself_is_withheld() {
    let mut pair = Pair::new();
    let events = pair.send(&[post(1, "5"), stdin_end(1)].concat());
    let [Event::Request { request, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(request.len(), 0);
    assert_eq!(request.head.variables.get(b"CONTENT_LENGTH"), Some(&b"0"[..]));
}

#[test]
fn a_filter_has_two_bodies() {
    let mut pair = Pair::new();
    let variables = [("FCGI_DATA_LENGTH", "3"), ("FCGI_DATA_LAST_MOD", "0"), ("CONTENT_LENGTH", "2")];
    assert!(pair.send(&head(1, true, Role::Filter, &variables)).is_empty());
    assert!(pair.send(&[stdin(1, b"in"), stdin_end(1)].concat()).is_empty());
    let mut data = Vec::new();
    client::data(1, b"dat", &mut data);
    client::data_end(1, &mut data);
    let events = pair.send(&data);
    let [Event::Request { .. }] = &events[..] else { panic!("{events:?}") };
}

#[test]
fn faults_of_the_proxys_configuration_are_told_and_the_request_goes_on() {
    let mut pair = Pair::new();
    let mut bytes = Vec::new();
    client::begin(1, Role::Responder, true, &mut bytes);
    let pairs: [(&[u8], &[u8]); 6] = [
        (b"REQUEST_METHOD", b"GET"),
        (b"SCRIPT_NAME", b"/a"),
        (b"SCRIPT_NAME", b""),
        (b"REQUEST_URI", b"/a/b"),
        (b"DOCUMENT_URI", b"/a/b"),
        (b"PATH_INFO", b""),
    ];
    client::params(1, pairs, &mut bytes);
    client::stdin_end(1, &mut bytes);
    let events = pair.send(&bytes);
    let [Event::Misconfigured { repeated, .. }, Event::Request { .. }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(repeated, &[b"SCRIPT_NAME".to_vec()]);

    // Each by itself.
    let twice = head(1, true, Role::Responder, &[("SCRIPT_NAME", "/a"), ("SCRIPT_NAME", "")]);
    let without = [("DOCUMENT_URI", "/a"), ("PATH_INFO", "")];
    let without = head(1, true, Role::Responder, &without);
    for (bytes, names, lacks) in [(twice, 1, false), (without, 0, true)] {
        let events = Pair::new().send(&bytes);
        let [Event::Misconfigured { repeated, lacks_path_info }] = &events[..1] else { panic!("{events:?}") };
        assert_eq!((repeated.len(), *lacks_path_info), (names, lacks));
    }
}

#[test]
fn an_abort_ends_its_request_wherever_that_is() {
    let mut pair = Pair::new();
    pair.get(9);
    // BEGIN_REQUEST alone has 16 bytes.
    assert!(pair.send(&get(1, true)[..16]).is_empty());
    let events = pair.send(&abort(1));
    assert!(matches!(events[..], [Event::AbortedBeforeParams]), "{events:?}");
    assert!(pair.send(&[post(1, "5"), stdin(1, b"he")].concat()).is_empty());
    let events = pair.send(&abort(1));
    let [Event::AbortedWhileArriving { request, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(request.len(), 2);
    pair.flush();
    let key = pair.get(2);
    pair.connection.assign(key, |assignment| assignment.worker = Some(7));
    let events = pair.send(&abort(2));
    let [Event::Abandoned { assignment, lost: false }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(assignment.worker, Some(7));
    assert!(!pair.connection.is_open(key));
    pair.flush();
    assert_eq!(pair.got(2).unwrap(), Got { end: Some(0), ..Got::default() });
    // The id may be used again at once, and a response to the request before does not reach it.
    let again = pair.get(2);
    assert_ne!(key, again);
    pair.connection.assign(key, |assignment| assignment.worker = Some(9));
    pair.received.clear();
    let mut late = ResponseWriter::new(false);
    pair.respond_with(&mut late, key, |writer, sink, now| {
        writer.head(HELLO[0], &ProxyHeaders::default(), sink, || now).unwrap();
        writer.body(HELLO[1], sink).unwrap();
        writer.end(sink, now).unwrap();
    });
    assert_eq!((late.request_end(), late.status(), late.sent()), (RequestEnd::Aborted, None, 0));
    assert!(pair.received.is_empty());
    // Nor does the sink itself let anything through.
    let now = pair.now;
    let mut sink = StreamSink { connection: &mut pair.connection, key, socket: None };
    sink.stdout(b"foreign");
    sink.stderr(b"foreign");
    assert_eq!(sink.end(now), None);
    sink.break_off("foreign", now);
    assert!(pair.connection.transmit().is_empty() && pair.connection.is_open(again));
    pair.hello(again);
    assert!(pair.got(2).unwrap().stdout.ends_with("hello"));
}

#[test]
fn one_request_too_many_on_a_connection_is_rejected_and_the_others_stay() {
    let mut pair = Pair::new();
    let keys: Vec<StreamKey> = (1..=64).map(|id| pair.get(id)).collect();
    let events = pair.send(&get(65, true));
    let (key, status, why, _) = rejection(&events);
    assert_eq!((status, *why), (503, RejectReason::ConnectionFull));
    pair.respond(key, |writer, sink, now| writer.fail(503, "full", Some(1), sink, now));
    assert!(pair.got(65).unwrap().stdout.starts_with("Status: 503"));
    for key in keys {
        pair.hello(key);
        assert!(pair.got(key.id).unwrap().end.is_some());
    }
}

#[test]
fn bytes_that_are_no_fastcgi_are_a_fault() {
    let mut pair = Pair::new();
    assert!(matches!(pair.read(b"GET / HTTP/1.1\r\n"), Err(Fault::OtherProtocol(_))));
}

#[test]
fn records_of_no_request_do_not_delay_the_request_that_is_read_with_them() {
    let mut pair = Pair::new();
    let mut bytes = stdin(7, &[0; 60_000]).repeat(1 + PIECE / 60_000);
    bytes.extend(get(1, true));
    request_of(pair.send(&bytes));
    assert!(!pair.connection.has_held());
}

#[test]
fn a_turn_that_is_over_holds_the_rest_until_the_next() {
    let mut pair = Pair::new();
    pair.turn = fast;
    let bytes: Vec<u8> = (1..=60).flat_map(|id| get(id, true)).collect();
    let mut requests = pair.send(&bytes).len();
    let mut turns = 1;
    while pair.connection.has_held() {
        let held = pair.connection.take_held();
        requests += pair.send(&held).len();
        turns += 1;
    }
    assert!(requests == 60 && turns > 3, "{requests} requests in {turns} turns");
}

#[test]
fn a_large_body_goes_to_a_file_and_its_client_waits_while_the_disk_does() {
    let mut pair = Pair::new();
    let body = vec![7; 60_000];
    assert!(pair.send(&post(1, "600000")).is_empty());
    let mut file = Vec::new();
    let mut events = Vec::new();
    let mut waited = false;
    for _ in 0..10 {
        waited |= !pair.connection.is_readable();
        while !pair.connection.is_readable() {
            events.extend(write_bodies(&mut pair, &mut file));
        }
        events.extend(pair.send(&stdin(1, &body)));
    }
    while events.is_empty() {
        events.extend(write_bodies(&mut pair, &mut file));
    }
    let [Event::Request { request, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((request.len(), file.len()), (600_000, 600_000));
    assert!(waited && file.iter().all(|byte| *byte == 7));
}

/// Performs all due writes of bodies.
pub(super) fn write_bodies(pair: &mut Pair, file: &mut Vec<u8>) -> Vec<Event> {
    while let Some((key, source, write)) = pair.connection.next_body_write() {
        file.extend_from_slice(&write.bytes);
        let made = Arc::new(std::fs::File::open("/dev/null").unwrap());
        drop(write);
        pair.connection.body_written((key, source), Ok(made), pair.now, &pair.buffers);
    }
    pair.events()
}

#[test]
fn a_disk_that_fails_fails_the_request() {
    for (error, status) in [(SpoolError::Full("full".into()), 507), (SpoolError::Io("broken".into()), 503)] {
        let mut pair = Pair::new();
        assert!(
            pair.send(
                &[post(1, "200000"), stdin(1, &[7; 65_535]), stdin(1, &[7; 65_535]), stdin(1, &[7; 20_000])]
                    .concat()
            )
            .is_empty()
        );
        let (key, source, write) = pair.connection.next_body_write().expect("a write");
        drop(write);
        pair.connection.body_written((key, source), Err(error), pair.now, &pair.buffers);
        let events = pair.events();
        let (_, got, why, _) = rejection(&events);
        assert_eq!((got, *why), (status, RejectReason::Spool));
        // A write that ends after its request has gone changes nothing.
        pair.connection.body_written((key, source), Err(SpoolError::Stalled), pair.now, &pair.buffers);
        assert!(pair.events().is_empty());
    }
}

#[test]
fn where_there_is_no_room_the_newest_goes_and_the_servers_own_requests_are_answered() {
    let mut pair = Pair::with_memory(100_000);
    assert!(pair.send(&[post(1, "60000"), stdin(1, &[1; 30_000])].concat()).is_empty());
    assert!(pair.send(&[post(2, "60000"), stdin(2, &[1; 30_000])].concat()).is_empty());
    pair.space = Space::new(0, 0, None);
    let events = pair.send(&stdin(2, &[1; 29_000]));
    let told = format!("{events:?}");
    let events = if events.is_empty() { pair.send(&stdin(1, &[1; 29_000])) } else { events };
    let (key, status, why, message) = rejection(&events);
    assert_eq!((key.id, status, *why), (2, 503, RejectReason::Memory), "{told}");
    assert_eq!(message, "no memory is left for its body");
    // Others have it all.
    let mut pair = Pair::with_memory(100_000);
    pair.memory.take(100_000);
    let events = pair.send(&post(1, "5"));
    assert_eq!(rejection(&events).1, 503);
    let health = head(2, true, Role::Responder, &[("SCRIPT_NAME", "/health"), ("PATH_INFO", "")]);
    assert!(pair.send(&health).is_empty());
    request_of(pair.send(&stdin_end(2)));
}

/// A connection beside others that take all of the memory but 110,000 bytes: 10,000 are left to new requests, and no file.
fn beside_others() -> Pair {
    let mut pair = Pair::with_memory(800_000);
    pair.space = Space::new(0, 0, None);
    pair.memory.take(690_000);
    pair
}

#[test]
fn parameters_have_less_of_the_memory_than_the_body_of_a_request_that_was_let_in() {
    let mut pair = beside_others();
    let large = head(1, true, Role::Responder, &[("HTTP_COOKIE", &"c".repeat(50_000))]);
    assert!(pair.send(&large[..40_000]).is_empty());
    let events = pair.send(&large[40_000..]);
    let (_, status, why, message) = rejection(&events);
    assert_eq!((status, *why), (503, RejectReason::Memory));
    assert_eq!(message, Refusal::NoMemory.to_string(), "they go while they arrive");

    let mut pair = beside_others();
    assert!(pair.send(&[post(1, "40000"), stdin(1, &[1; 30_000])].concat()).is_empty());
    request_of(pair.send(&stdin(1, &[1; 10_000])));
}

#[test]
fn where_files_make_room_a_small_new_request_has_as_much_of_the_memory_as_those_that_were_let_in() {
    let small = post(1, "5");
    let large = head(1, true, Role::Responder, &[("HTTP_COOKIE", &"c".repeat(6000))]);
    for (bytes, spooling, admitted) in
        [(&small, true, true), (&small, false, false), (&large, true, false), (&large, false, false)]
    {
        let mut pair = beside_others();
        pair.memory.take(9_999);
        pair.spooling = spooling;
        let events = pair.send(bytes);
        assert_eq!(events.is_empty(), admitted, "{} bytes, spooling: {spooling}: {events:?}", bytes.len());
    }
}

#[test]
fn where_there_is_no_room_the_newest_body_goes_and_no_request_without_one() {
    let mut pair = Pair::with_memory(100_000);
    pair.space = Space::new(0, 0, None);
    assert!(pair.send(&[post(1, "60000"), stdin(1, &[1; 30_000])].concat()).is_empty());
    assert!(pair.send(&[post(2, "60000"), get(3, true)[..16].to_vec()].concat()).is_empty());
    pair.memory.take(100_000);
    let events = pair.send(&stdin(1, &[1; 20_000]));
    assert_eq!((rejection(&events).0.id, rejection(&events).1), (1, 503));
}

#[test]
fn a_body_without_a_promise_has_max_body_and_no_byte_more() {
    for (last, complete) in [(20_000, true), (20_001, false)] {
        let mut pair = Pair::new();
        pair.max_body = 50_000;
        assert!(pair.send(&[post(1, ""), stdin(1, &[1; 30_000])].concat()).is_empty());
        let events = pair.send(&[stdin(1, &vec![1; last]), stdin_end(1)].concat());
        match &events[..] {
            [Event::Request { request, .. }] if complete => assert_eq!(request.len(), 50_000),
            _ => assert_eq!((rejection(&events).1, complete), (413, false)),
        }
    }
}

#[test]
fn a_body_waits_where_files_are_about_to_make_room() {
    // Two reads of 64 KiB have to fit.
    for (left, spooling, waits) in
        [(0, false, false), (0, true, true), (131_071, true, true), (131_072, true, false)]
    {
        let mut pair = Pair::with_memory(1 << 20);
        // New requests have seven eighths.
        pair.memory.take((7 << 17) - left);
        assert!(!pair.connection.waits_for_room(&pair.memory, spooling), "no body is arriving");
        pair.memory.give_back((7 << 17) - left);
        assert!(pair.send(&post(1, "60000")).is_empty());
        pair.memory.take((7 << 17) - left);
        assert_eq!(pair.connection.waits_for_room(&pair.memory, spooling), waits, "{left} bytes are left");
    }
}
