//! How connections end: by the client, by a stop, by a fault.

use super::inputs::write_bodies;
use super::*;

#[test]
fn a_client_that_closes_aborts_everything() {
    let mut pair = Pair::new();
    let key = pair.get(1);
    pair.connection.assign(key, |assignment| assignment.worker = Some(2));
    assert!(pair.send(&post(2, "5")).is_empty());
    assert!(pair.send(&get(3, true)[..20]).is_empty());
    pair.connection.end_of_input(false, pair.now);
    assert!(pair.is_closed() && !pair.connection.is_cut());
    assert!(pair.events().is_empty(), "nothing is said of them before all are");
    pair.connection.abandon_all();
    let events = format!("{:?}", pair.events());
    for part in ["Abandoned", "AbortedWhileArriving", "AbortedBeforeParams"] {
        assert!(events.contains(part), "{events}");
    }
}

#[test]
fn a_client_that_shuts_its_side_gets_the_responses_to_what_is_complete() {
    let mut pair = Pair::new();
    let key = pair.get(1);
    assert!(pair.send(&post(2, "5")).is_empty());
    pair.connection.end_of_input(true, pair.now);
    let events = pair.events();
    assert!(matches!(events[..], [Event::AbortedWhileArriving { .. }]), "{events:?}");
    assert!(pair.connection.is_half_closed() && !pair.is_closed() && !pair.connection.is_readable());
    pair.hello(key);
    assert!(pair.got(1).unwrap().end.is_some() && pair.is_closed());
    // A client that has sent nothing is closed at once.
    let mut pair = Pair::new();
    pair.connection.end_of_input(true, pair.now);
    assert!(pair.is_closed());
}

#[test]
fn a_request_whose_body_is_on_its_way_to_its_file_is_complete_when_its_client_shuts_its_side() {
    let mut pair = Pair::new();
    let body = [stdin(1, &[7; 60_000]), stdin(1, &[7; 10_000])].concat();
    assert!(pair.send(&[post(1, "70000"), body].concat()).is_empty());
    pair.connection.end_of_input(true, pair.now);
    assert!(pair.events().is_empty());
    request_of(write_bodies(&mut pair, &mut Vec::new()));
}

#[test]
fn a_stop_lets_a_connection_go_once_nothing_is_left_to_answer() {
    let leave = |pair: &mut Pair| pair.connection.may_leave(pair.now) && pair.connection.leave(pair.now);
    let mut pair = Pair::new();
    assert!(!pair.connection.may_leave(pair.now), "nobody stops");
    assert!(!pair.connection.is_stopping());
    pair.connection.stop();
    assert!(pair.connection.is_stopping());
    // A client that has just connected has a second.
    assert!(!pair.connection.may_leave(pair.now));
    assert_eq!(pair.next_timer().map(|(span, events)| (span, events.len())), Some((SECOND, 0)));
    assert!(leave(&mut pair));
    pair.connection.close_when_written();
    assert!(pair.is_closed());
    // The timer is not set again.
    assert!(pair.connection.next_timeout(TIMEOUTS).is_none_or(|due| due > pair.now));

    let mut pair = Pair::new();
    let key = pair.get(1);
    pair.connection.stop();
    assert!(!pair.connection.may_leave(pair.now));
    pair.room = 0;
    pair.hello(key);
    assert!(leave(&mut pair) && pair.connection.may_leave(pair.now));
    // A request written before the shutdown is still answered.
    let again = pair.get(1);
    assert!(!pair.connection.may_leave(pair.now));
    pair.room = usize::MAX;
    pair.hello(again);
    assert!(pair.connection.may_leave(pair.now) && !leave(&mut pair), "the side is shut once");
    pair.connection.close_when_written();
    assert!(pair.connection.has_written_last_response() && pair.is_closed());
}

#[test]
fn a_stop_that_meets_half_a_request_closes_at_the_end_of_the_input() {
    // The second length is a part of the first record.
    for length in [20, 10] {
        let mut pair = Pair::new();
        let key = pair.get(1);
        pair.connection.stop();
        pair.hello(key);
        assert!(pair.connection.leave(pair.now));
        assert!(pair.send(&get(2, true)[..length]).is_empty());
        pair.connection.end_of_input(false, pair.now);
        assert!(pair.is_closed());
    }
    // Nothing has come: the driver closes.
    let mut pair = Pair::new();
    let key = pair.get(1);
    pair.connection.stop();
    pair.hello(key);
    assert!(pair.connection.leave(pair.now));
    pair.connection.end_of_input(false, pair.now);
    assert!(!pair.is_closed());
    // Where everything is complete the responses are waited for.
    let mut pair = Pair::new();
    let key = pair.get(1);
    pair.hello(key);
    pair.connection.stop();
    assert!(pair.connection.leave(pair.now));
    let key = pair.get(2);
    pair.connection.end_of_input(false, pair.now);
    assert!(!pair.is_closed());
    pair.hello(key);
    pair.connection.close_when_written();
    assert!(pair.is_closed());
}

#[test]
fn a_client_that_sends_a_refused_body_is_read_before_a_stop_shuts_its_side() {
    let mut pair = Pair::new();
    let events = pair.send(&[post(1, "2000000"), stdin(1, b"x")].concat());
    let (key, ..) = rejection(&events);
    pair.respond(key, |writer, sink, now| writer.fail(413, "large", None, sink, now));
    pair.connection.stop();
    assert!(pair.connection.may_leave(pair.now) && !pair.connection.leave(pair.now));
    pair.wait(5 * SECOND);
    assert!(pair.connection.leave(pair.now), "it was silent for long enough");
}

#[test]
fn a_client_that_ends_its_request_after_the_response_is_let_go_by_a_stop_then() {
    let mut pair = Pair::new();
    let key = request_of(pair.send(&[post(1, "5"), stdin(1, b"hello")].concat()));
    pair.hello(key);
    pair.connection.stop();
    assert!(!pair.connection.leave(pair.now), "the end of its request is still to come");
    assert!(pair.send(&stdin_end(1)).is_empty());
    assert!(pair.connection.leave(pair.now));
}

#[test]
fn a_fault_cuts_the_connection_and_its_requests_are_not_logged_again() {
    let mut pair = Pair::new();
    assert!(pair.send(&get(1, true)[..20]).is_empty());
    pair.connection.close(true);
    assert!(pair.connection.is_cut() && pair.connection.is_closing() && pair.connection.is_ending());
    pair.connection.abandon_all();
    assert!(pair.events().is_empty());
}

#[test]
fn the_socket_is_shut_early_only_when_the_last_response_of_a_stop_is_written() {
    let mut pair = Pair::new();
    let connection = &pair.connection;
    assert!(!connection.is_ending() && !connection.is_closing() && !connection.is_half_closed());
    assert!(!connection.has_written_last_response());
    pair.connection.stop();
    assert!(!pair.connection.has_written_last_response(), "it is still to end");

    for stops in [false, true] {
        let mut pair = Pair::new();
        let key = pair.get(1);
        if stops {
            pair.connection.stop();
        }
        pair.room = 0;
        pair.hello(key);
        pair.connection.close_when_written();
        assert!(pair.connection.is_ending() && !pair.connection.is_closing());
        assert!(!pair.connection.has_written_last_response(), "a response is to be written");
        pair.room = usize::MAX;
        pair.flush();
        assert_eq!(pair.connection.has_written_last_response(), stops);
    }
}

#[test]
fn the_bytes_of_requests_and_responses_count_until_they_are_gone() {
    let mut pair = Pair::new();
    assert!(pair.send(&[post(1, "60000"), stdin(1, &[7; 30_000])].concat()).is_empty());
    let counted = pair.memory.used();
    assert!(counted > 25_000, "{counted}");
    pair.connection.abandon_all();
    assert_eq!(pair.memory.used(), 0);

    let mut pair = Pair::new();
    let key = pair.get(1);
    pair.room = 0;
    pair.respond(key, |writer, sink, now| {
        writer.head(b"Status: 200 OK\r\n\r\n", &ProxyHeaders::default(), sink, || now).unwrap();
        writer.body(&[b'x'; 200_000], sink).unwrap();
    });
    let counted = pair.memory.used();
    assert!(counted > 100_000, "{counted}");
    pair.room = usize::MAX;
    pair.flush();
    assert_eq!(pair.memory.used(), 0);
}

#[test]
fn a_socket_that_takes_nothing_any_more_ends_the_connection() {
    let mut pair = Pair::new();
    let key = pair.get(1);
    pair.room = 0;
    pair.hello(key);
    assert!(!pair.connection.is_written() && pair.connection.wants_write());
    pair.connection.transmit_failed();
    assert!(pair.connection.is_written() && !pair.connection.wants_write() && pair.is_closed());
}

#[test]
fn a_client_that_encodes_wrongly_gets_its_answer_and_is_closed() {
    let mut pair = Pair::new();
    let mut bytes = Vec::new();
    client::begin(1, Role::Responder, true, &mut bytes);
    // A name of five bytes, of which one is there.
    bytes.extend([1, 4, 0, 1, 0, 3, 0, 0, 5, 0, b'A', 1, 4, 0, 1, 0, 0, 0, 0]);
    let events = pair.send(&bytes);
    let (key, status, why, _) = rejection(&events);
    assert_eq!((status, *why), (400, RejectReason::Params));
    pair.respond(key, |writer, sink, now| writer.fail(400, "bad", None, sink, now));
    assert!(pair.got(1).unwrap().stdout.starts_with("Status: 400"));
    assert_eq!(pair.got(1).unwrap().end, Some(0));
    assert!(matches!(pair.connection.poll_close(|| pair.now), Close::Now | Close::ShutDownWrite));
}
