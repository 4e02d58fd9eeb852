//! Every timer: its start, its expiry, its action.

use super::inputs::write_bodies;
use super::*;

/// A record of a request that has ended: it is ignored.
const STRAY: [u8; 16] = [1, 5, 0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The span until the next timer, and the words it closes the connection with.
fn late(pair: &mut Pair) -> (u64, &'static str) {
    let (span, events) = pair.next_timer().expect("a timer");
    let [Event::Late(why)] = events[..] else { panic!("{events:?}") };
    assert!(pair.is_closed());
    (span.as_secs(), why)
}

#[test]
fn a_silent_client_is_let_go() {
    let mut pair = Pair::new();
    assert_eq!(late(&mut pair), (10, "the client sent no request (--header-timeout)"));
    let mut pair = Pair::new();
    let key = pair.get(1);
    assert_eq!(pair.next_timer().map(|(span, _)| span), None, "the application may take its time");
    pair.hello(key);
    assert_eq!(late(&mut pair), (7200, "the client sent nothing for two hours"));
}

#[test]
fn parameters_that_do_not_come_whole_in_time_close_the_connection_wherever_they_stop() {
    let head = head(1, true, Role::Responder, &[]);
    let params = "the parameters took too long (--header-timeout)";
    let record = "the client took too long for a record (--header-timeout)";
    // BEGIN_REQUEST alone has 16 bytes.
    for (length, why) in [(15, record), (16, params), (head.len() - 1, params)] {
        let mut pair = Pair::new();
        assert!(pair.send(&head[..length]).is_empty());
        assert_eq!(late(&mut pair), (10, why), "{length} bytes");
    }
    // A byte now and then is no reprieve.
    let mut pair = Pair::new();
    assert!(pair.send(&head[..16]).is_empty());
    for byte in &head[16..25] {
        pair.wait(SECOND);
        assert!(pair.send(&[*byte]).is_empty() && pair.time_out().is_empty());
    }
    assert_eq!(late(&mut pair), (1, params));
}

#[test]
fn parameters_that_do_not_come_end_their_request_and_alone_the_connection() {
    let mut pair = Pair::new();
    assert!(pair.send(&get(1, true)[..30]).is_empty());
    pair.wait(4 * SECOND);
    assert!(pair.send(&get(1, true)[30..40]).is_empty());
    assert_eq!(late(&mut pair), (6, "the parameters took too long (--header-timeout)"));

    let mut pair = Pair::new();
    let key = pair.get(1);
    assert!(pair.send(&get(2, true)[..30]).is_empty());
    let (span, events) = pair.next_timer().unwrap();
    assert!(span == 10 * SECOND && matches!(events[..], [Event::ParamsLate]), "{events:?}");
    assert_eq!(pair.got(2).unwrap().end, Some(1));
    pair.hello(key);
    assert!(!pair.is_closed());
}

#[test]
fn a_body_that_comes_too_slowly_is_408_and_closes() {
    let mut pair = Pair::new();
    assert!(pair.send(&post(1, "100000")).is_empty());
    // Fast enough for one span, then silent.
    pair.wait(30 * SECOND);
    assert!(pair.send(&stdin(1, &[7; 40_000])).is_empty());
    let (span, events) = pair.next_timer().unwrap();
    assert!(span == 30 * SECOND && events.is_empty(), "the span was long enough: {events:?}");
    let (span, events) = pair.next_timer().unwrap();
    let (key, status, why, message) = rejection(&events);
    assert_eq!((span, status, *why), (30 * SECOND, 408, RejectReason::BodyTimeout));
    assert!(message.contains("40000 bytes so far"), "{message}");
    pair.respond(key, |writer, sink, now| writer.fail(408, "slow", None, sink, now));
    // The rest may still come: for a moment it is dropped.
    assert_eq!(pair.connection.poll_close(|| pair.now), Close::ShutDownWrite);
    assert!(pair.send(&stdin(1, &[7; 1000])).is_empty());
    assert_eq!(late(&mut pair), (5, "the client went on sending after its answer"));

    // Beside another request the connection goes on.
    let mut pair = Pair::new();
    let other = pair.get(2);
    assert!(pair.send(&post(1, "100000")).is_empty());
    let (_, events) = pair.next_timer().unwrap();
    let (key, ..) = rejection(&events);
    pair.respond(key, |writer, sink, now| writer.fail(408, "slow", None, sink, now));
    assert!(!pair.is_closed());
    pair.hello(other);
    assert!(pair.got(2).unwrap().end.is_some() && !pair.is_closed());
}

#[test]
fn a_body_that_stops_is_408_wherever_it_does_also_when_a_part_is_in_its_file() {
    for length in [0, 1, 65_536, 300_000] {
        let mut pair = Pair::new();
        assert!(pair.send(&post(1, "400000")).is_empty());
        for piece in vec![7; length].chunks(60_000) {
            assert!(pair.send(&stdin(1, piece)).is_empty());
            assert!(write_bodies(&mut pair, &mut Vec::new()).is_empty());
        }
        let (span, events) = pair.next_timer().unwrap();
        let (_, status, why, message) = rejection(&events);
        assert_eq!((span, status, *why), (60 * SECOND, 408, RejectReason::BodyTimeout));
        assert!(message.ends_with(&format!(": {length} bytes so far (--body-timeout)")), "{message}");
    }
}

#[test]
fn a_body_that_trickles_is_408_and_one_that_is_merely_slow_is_not() {
    for (bytes, slow) in [(1, true), (500, false)] {
        let mut pair = Pair::new();
        assert!(pair.send(&post(1, "100000")).is_empty());
        // Two spans, and less than goes to a file.
        let rejected = (1..130).find_map(|second| {
            pair.wait(SECOND);
            assert!(pair.send(&stdin(1, &vec![7; bytes])).is_empty());
            let events = pair.time_out();
            (!events.is_empty()).then(|| (second, rejection(&events).1))
        });
        assert_eq!(rejected, slow.then_some((60, 408)), "{bytes} bytes a second");
    }
}

#[test]
fn a_filter_whose_streams_never_end_is_408() {
    let params = head(1, true, Role::Filter, &[("REQUEST_METHOD", "POST")]);
    let (mut data, mut part) = (Vec::new(), Vec::new());
    client::data(1, b"data", &mut data);
    client::data_end(1, &mut data);
    client::data(1, b"da", &mut part);
    for streams in [data, [stdin(1, b"body"), stdin_end(1), part].concat()] {
        let mut pair = Pair::new();
        assert!(pair.send(&[&params[..], &streams].concat()).is_empty());
        let (span, events) = pair.next_timer().unwrap();
        assert_eq!((span, rejection(&events).1), (60 * SECOND, 408));
    }
}

#[test]
fn a_body_that_is_too_large_and_does_not_begin_is_413_soon() {
    let mut pair = Pair::new();
    assert!(pair.send(&post(1, "1048577")).is_empty());
    let (span, events) = pair.next_timer().unwrap();
    assert_eq!((span, rejection(&events).1), (SECOND, 413));
}

#[test]
fn a_disk_that_takes_nothing_fails_the_request() {
    let mut pair = Pair::new();
    assert!(
        pair.send(
            &[post(1, "200000"), stdin(1, &[7; 65_535]), stdin(1, &[7; 65_535]), stdin(1, &[7; 20_000])]
                .concat()
        )
        .is_empty()
    );
    assert!(pair.connection.next_body_write().is_some());
    let (span, events) = pair.next_timer().unwrap();
    let (_, status, why, message) = rejection(&events);
    assert_eq!((span, status, *why), (60 * SECOND, 503, RejectReason::Spool), "{message}");
}

#[test]
fn a_client_that_takes_its_response_too_slowly_is_cut() {
    let mut pair = Pair::new();
    let key = pair.get(1);
    pair.room = 0;
    pair.hello(key);
    // A client that reads enough in a span gets another span.
    pair.wait(SECOND);
    assert_eq!(late(&mut pair), (59, "the client took its answer too slowly (--send-timeout)"));

    let mut pair = Pair::new();
    let key = pair.get(1);
    let mut writer = ResponseWriter::new(false);
    pair.room = 0;
    pair.respond_with(&mut writer, key, |writer, sink, now| {
        writer.head(b"Status: 200 OK\r\n\r\n", &ProxyHeaders::default(), sink, || now).unwrap();
        writer.body(&[b'x'; 100_000], sink).unwrap();
    });
    pair.wait(30 * SECOND);
    pair.room = 40_000;
    pair.flush();
    let (span, events) = pair.next_timer().unwrap();
    assert!(span == 30 * SECOND && events.is_empty(), "{events:?}");
    assert_eq!(late(&mut pair).0, 30);

    // A client that reads a byte now and then.
    let mut pair = Pair::new();
    let key = pair.get(1);
    pair.room = 0;
    pair.hello(key);
    for _ in 0..19 {
        pair.wait(3 * SECOND);
        pair.room = 1;
        pair.flush();
        assert!(pair.time_out().is_empty());
    }
    assert_eq!(late(&mut pair), (3, "the client took its answer too slowly (--send-timeout)"));
}

#[test]
fn a_busy_connection_is_not_cut_though_each_of_its_reads_ends_within_a_record() {
    let mut pair = Pair::new();
    let key = pair.get(1);
    pair.hello(key);
    assert!(pair.send(&STRAY[..5]).is_empty());
    for piece in STRAY.repeat(100)[5..].chunks_exact(STRAY.len()) {
        assert!(pair.send(piece).is_empty());
        pair.wait(SECOND);
        assert!(pair.time_out().is_empty());
        assert!(pair.connection.next_timeout(TIMEOUTS).is_some_and(|due| due > pair.now));
    }
}

#[test]
fn a_record_that_does_not_come_whole_in_time_ends_the_connection_however_many_pieces_it_comes_in() {
    let mut pair = Pair::new();
    let key = pair.get(1);
    pair.hello(key);
    let due = pair.now + TIMEOUTS.header;
    for byte in &STRAY[..9] {
        assert!(pair.send(&[*byte]).is_empty());
        assert_eq!(pair.connection.next_timeout(TIMEOUTS), Some(due));
        pair.wait(SECOND);
        assert!(pair.time_out().is_empty());
    }
    assert_eq!(late(&mut pair), (1, "the client took too long for a record (--header-timeout)"));
}

#[test]
fn no_time_runs_while_the_client_is_not_read_from() {
    for bytes in [STRAY[..10].to_vec(), get(2, true)[..30].to_vec(), post(2, "5")] {
        let mut pair = Pair::new();
        let key = pair.get(1);
        pair.hello(key);
        assert!(pair.send(&bytes).is_empty());
        pair.connection.set_reading(false, || pair.now);
        pair.wait(100 * SECOND);
        assert!(pair.time_out().is_empty(), "{bytes:?}");
        pair.connection.set_reading(true, || pair.now);
        let due = pair.connection.next_timeout(TIMEOUTS).unwrap();
        assert!(due >= pair.now + TIMEOUTS.header, "{bytes:?}");
        assert!(pair.time_out().is_empty());
        pair.wait(due - pair.now);
        assert!(!pair.time_out().is_empty(), "{bytes:?}");
    }
}

#[test]
fn a_lingering_client_has_its_time_in_all_and_in_silence() {
    let lingering = || {
        let mut pair = Pair::new();
        let events = pair.send(
            &[
                head(1, false, Role::Responder, &[("CONTENT_LENGTH", "2000000"), ("REQUEST_METHOD", "POST")]),
                stdin(1, b"x"),
            ]
            .concat(),
        );
        let (key, ..) = rejection(&events);
        pair.respond(key, |writer, sink, now| writer.fail(413, "large", None, sink, now));
        assert_eq!(pair.connection.poll_close(|| pair.now), Close::ShutDownWrite);
        assert_eq!(pair.connection.poll_close(|| pair.now), Close::No);
        pair
    };
    let silent = "the client did not close it after its answer, nor end its request";
    assert_eq!(late(&mut lingering()), (5, silent));
    let mut pair = lingering();
    for _ in 0..9 {
        pair.wait(3 * SECOND);
        assert!(pair.send(&stdin(1, &[7; 1000])).is_empty() && pair.time_out().is_empty());
    }
    assert_eq!(late(&mut pair), (3, "the client went on sending after its answer"));
    // And so many bytes.
    let mut pair = lingering();
    let piece = vec![0; 1 << 20];
    for _ in 0..256 {
        assert!(!pair.is_closed());
        pair.send(&piece);
    }
    assert!(pair.is_closed());
    // The client has closed.
    let mut pair = lingering();
    pair.connection.end_of_input(false, pair.now);
    assert!(pair.is_closed());
}

#[test]
fn a_slow_reader_is_found_after_a_quarter_of_a_second_and_sooner_where_others_wait() {
    for (others_wait, expected) in [(false, 260), (true, 20)] {
        let mut pair = Pair::new();
        let key = pair.get(1);
        pair.room = 0;
        pair.respond(key, |writer, sink, now| {
            writer.head(b"Status: 200 OK\r\n\r\n", &ProxyHeaders::default(), sink, || now).unwrap();
            writer.body(&[b'x'; 200_000], sink).unwrap();
        });
        assert!(pair.connection.is_full());
        assert!(pair.connection.hold_up(|| pair.now) && !pair.connection.hold_up(|| pair.now));
        let start = pair.now;
        let events = loop {
            let look = pair.connection.next_rate_check().expect("a look");
            pair.connection.check_client_rate(others_wait, look - Duration::from_nanos(1));
            assert!(pair.events().is_empty());
            pair.now = look;
            pair.connection.check_client_rate(others_wait, look);
            let events = pair.events();
            if !events.is_empty() {
                break events;
            }
        };
        assert!(matches!(events[..], [Event::Slow]) && pair.now - start == Duration::from_millis(expected));
        // A client that makes room is not judged any more.
        pair.room = usize::MAX;
        pair.flush();
        assert_eq!(pair.connection.next_rate_check(), None);
    }
}
