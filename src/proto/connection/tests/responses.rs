//! Responses reach their clients whole, or are seen to be broken; those of slow clients by way of a file.

use std::collections::VecDeque;

use super::*;
use crate::proto::response_writer::Sink as _;
use crate::proto::response_writer::{EndPosition, ResponseEnd};

fn head_of(writer: &mut ResponseWriter, sink: &mut StreamSink<'_>, now: Instant, block: &[u8]) {
    writer.head(block, &ProxyHeaders::default(), sink, || now).unwrap();
}

#[test]
fn a_response_is_framed_and_its_connection_kept_or_closed_as_the_client_asked() {
    for keep in [true, false] {
        let mut pair = Pair::new();
        let key = request_of(pair.send(&get(1, keep)));
        let mut writer = ResponseWriter::new(false);
        pair.respond_with(&mut writer, key, |writer, sink, now| {
            head_of(writer, sink, now, HELLO[0]);
            writer.body(HELLO[1], sink).unwrap();
            assert!(!writer.is_over() && !writer.is_end_sent());
            writer.end(sink, now).unwrap();
            assert!(writer.is_over() && writer.is_end_sent());
        });
        assert_eq!(
            (writer.status(), writer.sent(), writer.request_end()),
            (Some(200), 5, RequestEnd::Complete)
        );
        let got = pair.got(1).unwrap();
        assert_eq!(
            got,
            Got {
                stdout: HELLO.concat().iter().map(|byte| char::from(*byte)).collect(),
                end: Some(0),
                stderr: String::new()
            }
        );
        assert_eq!(pair.is_closed(), !keep);
    }
}

#[test]
fn a_failure_before_the_head_is_whole_and_after_it_never_looks_complete() {
    for (before, expected, end) in [
        (&[][..], "Status: 500 ", RequestEnd::Complete),
        (&[HELLO[0]][..], "", RequestEnd::Broken),
        (&[HELLO[0], b"hel"][..], "", RequestEnd::Broken),
        // All that was promised is there.
        (HELLO, "Status: 200 ", RequestEnd::Complete),
    ] {
        let mut pair = Pair::new();
        let key = pair.get(1);
        let mut writer = ResponseWriter::new(false);
        pair.respond_with(&mut writer, key, |writer, sink, now| {
            if let Some(head) = before.first() {
                head_of(writer, sink, now, head);
            }
            for piece in before.iter().skip(1) {
                writer.body(piece, sink).unwrap();
            }
            writer.fail(500, "failed", None, sink, now);
            // Later bytes are dropped.
            writer.body(b"more", sink).ok();
            writer.fail(502, "again", None, sink, now);
        });
        assert_eq!(writer.request_end(), end, "{before:?}");
        if end == RequestEnd::Broken {
            assert!(pair.got(1).is_err() && pair.is_closed());
        } else {
            let got = pair.got(1).unwrap();
            assert!(got.stdout.starts_with(expected) && got.end == Some(0), "{got:?}");
            assert!(!pair.is_closed());
        }
    }
}

#[test]
fn a_response_of_which_the_connection_has_lost_a_part_is_broken() {
    let mut writer = ResponseWriter::new(false);
    assert_eq!(writer.request_end(), RequestEnd::Aborted);
    writer.lose();
    assert_eq!(writer.request_end(), RequestEnd::Broken);
}

#[test]
fn a_response_to_head_has_no_body_whatever_fails() {
    let mut pair = Pair::new();
    let key = pair.get(1);
    pair.respond_with(&mut ResponseWriter::new(true), key, |writer, sink, now| {
        writer.fail(503, "no", Some(1), sink, now);
    });
    assert!(pair.got(1).unwrap().stdout.ends_with("\r\n\r\n"));
}

#[test]
fn an_authorizers_head_is_sent_with_what_follows_it_or_not_at_all() {
    for (act, expected) in [
        ("body", "Status: 403 Forbidden\r\n\r\nno"),
        ("end", "Status: 403 Forbidden\r\n\r\n"),
        ("fail", "Status: 502 "),
    ] {
        let mut pair = Pair::new();
        let key = pair.get(1);
        let mut writer = ResponseWriter::new(false);
        writer.hold_head();
        pair.respond_with(&mut writer, key, |writer, sink, now| {
            head_of(writer, sink, now, b"Status: 403 Forbidden\r\n\r\n");
            assert!(sink.connection.transmit().is_empty());
            match act {
                "body" => writer.body(b"no", sink).unwrap(),
                "end" => {}
                _ => return writer.fail(502, "gone", None, sink, now),
            }
            writer.end(sink, now).unwrap();
        });
        let got = pair.got(1).unwrap();
        assert!(got.stdout.starts_with(expected) && got.end == Some(0), "{act}: {got:?}");
    }
}

#[test]
fn the_head_tells_where_the_time_went() {
    let mut pair = Pair::new();
    let key = pair.get(1);
    let mut writer = ResponseWriter::new(false);
    writer.add_server_timing(pair.now);
    writer.set_assigned(Some(pair.now + Duration::from_millis(2)));
    pair.wait(Duration::from_millis(5));
    pair.respond_with(&mut writer, key, |writer, sink, now| head_of(writer, sink, now, HELLO[0]));
    let got = pair.got(1).unwrap();
    assert!(got.stdout.starts_with("Server-Timing: queue;dur=2.000, app;dur=3.000\r\n"), "{got:?}");
}

#[test]
fn messages_travel_beside_the_response_until_it_is_over() {
    let mut pair = Pair::new();
    let key = pair.get(1);
    let mut writer = ResponseWriter::new(false);
    pair.respond_with(&mut writer, key, |writer, sink, now| {
        writer.stderr(b"look", sink);
        head_of(writer, sink, now, b"Status: 204 No Content\r\n\r\n");
        writer.end(sink, now).unwrap();
        writer.stderr(b"late", sink);
    });
    assert_eq!(pair.got(1).unwrap().stderr, "look\n");
}

#[test]
fn a_connection_that_has_gone_takes_nothing() {
    let mut gone: Option<StreamSink<'_>> = None;
    let (mut writer, now) = (ResponseWriter::new(false), Instant::now());
    writer.head(HELLO[0], &ProxyHeaders::default(), &mut gone, || now).unwrap();
    writer.body(HELLO[1], &mut gone).unwrap();
    writer.stderr(b"x", &mut gone);
    writer.end(&mut gone, now).unwrap();
    assert_eq!((writer.request_end(), writer.sent(), writer.status()), (RequestEnd::Aborted, 0, None));
}

#[test]
fn a_connection_that_may_go_takes_everything_while_it_is_there() {
    for spools in [false, true] {
        let mut pair = Pair::new();
        let (key, now) = (pair.get(1), pair.now);
        if spools {
            pair.connection.start_spooling();
        }
        let mut sink = Some(StreamSink { connection: &mut pair.connection, key, socket: None });
        assert!(sink.is_open());
        sink.stdout(b"Status: 200 OK\r\n\r\n");
        sink.stderr(b"look");
        assert_eq!(matches!(sink.end(now), Some(ResponseEnd(EndPosition::At(21..)))), spools);
        assert!(!sink.is_open() && sink.end(now).is_none());
        if !spools {
            pair.flush();
            let got = pair.got(1).unwrap();
            assert_eq!((&got.stdout[..], &got.stderr[..]), ("Status: 200 OK\r\n\r\n", "look"));
            assert_eq!(got.end, Some(0));
        }
    }
    let mut pair = Pair::new();
    let (key, now) = (pair.get(1), pair.now);
    Some(StreamSink { connection: &mut pair.connection, key, socket: None }).break_off("gone", now);
    pair.flush();
    assert!(pair.got(1).is_err());
}

#[test]
fn a_break_beside_others_waits_for_quiet_or_for_patience() {
    // Alone after the others have gone.
    let mut pair = Pair::new();
    let (broken, other) = (pair.get(1), pair.get(2));
    let fail = |pair: &mut Pair, key| {
        pair.respond(key, |writer, sink, now| {
            head_of(writer, sink, now, HELLO[0]);
            writer.fail(502, "gone", None, sink, now);
        });
    };
    fail(&mut pair, broken);
    assert!(pair.got(1).unwrap().end.is_none() && pair.got(1).unwrap().stderr == "gone");
    pair.wait(SECOND / 2);
    pair.hello(other);
    assert!(pair.got(2).unwrap().end.is_some() && !pair.is_closed());
    let (span, events) = pair.next_timer().unwrap();
    assert!(span == SECOND && events.is_empty(), "a second after the last end: {span:?} {events:?}");
    assert!(pair.got(1).is_err() && pair.is_closed());

    // A broken response beside a running one, for as long as a proxy waits.
    let mut pair = Pair::new();
    let (broken, other) = (pair.get(1), pair.get(2));
    fail(&mut pair, broken);
    let (span, _) = pair.next_timer().unwrap();
    assert_eq!(span, 120 * SECOND);
    assert_eq!(pair.got(1).unwrap().end, Some(1));
    pair.hello(other);
    assert!(!pair.is_closed());

    // The client gives it up itself.
    let mut pair = Pair::new();
    let (broken, _other) = (pair.get(1), pair.get(2));
    fail(&mut pair, broken);
    assert!(pair.send(&abort(1)).is_empty());
    pair.flush();
    assert_eq!(pair.got(1).unwrap().end, Some(0));
}

#[test]
fn a_client_that_has_still_to_end_its_request_can_do_so_after_a_break() {
    let mut pair = Pair::new();
    let key = request_of(pair.send(&[post(1, "5"), stdin(1, b"hello")].concat()));
    pair.respond(key, |writer, sink, now| {
        head_of(writer, sink, now, HELLO[0]);
        writer.fail(502, "gone", None, sink, now);
    });
    assert!(pair.got(1).is_err());
    assert_eq!(pair.connection.poll_close(|| pair.now), Close::ShutDownWrite);
    assert!(pair.send(&stdin_end(1)).is_empty() && !pair.is_closed());
    pair.connection.end_of_input(false, pair.now);
    assert!(pair.is_closed());
}

/// A client that reads nothing, whose response of so many bytes goes to a file; the file, and the request that waits for it.
fn spooled(bytes: usize) -> (Pair, VecDeque<(u32, Vec<u8>)>, ResponseWriter) {
    let mut pair = Pair::new();
    let (key, mut writer, mut file) = (pair.get(1), ResponseWriter::new(false), VecDeque::new());
    pair.room = 0;
    pair.respond_with(&mut writer, key, |writer, sink, now| {
        head_of(writer, sink, now, b"Status: 200 OK\r\n\r\n");
    });
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(60_000);
        left -= piece;
        pair.respond_with(&mut writer, key, |writer, sink, _| writer.body(&vec![b'x'; piece], sink).unwrap());
        if pair.connection.is_full() && !pair.connection.is_spooling() {
            pair.connection.start_spooling();
        }
        if let Some((place, bytes)) = pair.connection.next_spool_write(|| true) {
            file.push_back((place, bytes.to_vec()));
            drop(bytes);
            pair.connection.spool_written(true);
        }
    }
    pair.respond_with(&mut writer, key, |writer, sink, now| writer.end(sink, now).unwrap());
    (pair, file, writer)
}

#[test]
fn a_slow_client_gets_its_response_from_the_file_and_its_request_ends_then() {
    let (mut pair, mut file, writer) = spooled(1_000_000);
    assert!(pair.connection.is_spooling());
    assert!(file.len() > 3 && !pair.connection.is_readable(), "nothing more is taken from it");
    let end = writer.end_in_file().expect("the end waits in the file");
    let kept = ended(&pair.connection);
    assert!(pair.connection.keep_until_written(end, kept).is_none());
    pair.room = usize::MAX;
    let mut delivered = Vec::new();
    while !pair.connection.is_written() {
        delivered.extend(pair.flush());
        if let Some(piece) = pair.connection.next_spool_read(|| pair.now) {
            let (place, bytes) = file.pop_front().unwrap();
            assert!(delivered.is_empty() && (piece.place, piece.length) == (place, bytes.len()));
            pair.connection.spool_read(bytes);
        }
    }
    delivered.extend(pair.flush());
    assert!(matches!(&delivered[..], [ended] if ended.end == RequestEnd::Complete), "{delivered:?}");
    let got = pair.got(1).unwrap();
    assert!(got.stdout.len() == 1_000_018 && got.end == Some(0));
    assert!(pair.connection.is_readable() && !pair.connection.is_spooling() && !pair.connection.is_full());
    // A request that ends after the last write is not kept.
    let kept = ended(&pair.connection);
    assert!(pair.connection.keep_until_written(end, kept).is_some());
}

#[test]
fn a_file_that_is_lost_breaks_everything_that_waits_in_it() {
    for by_timer in [false, true] {
        let (mut pair, _file, writer) = spooled(1_000_000);
        let other = ended(&pair.connection);
        assert!(pair.connection.keep_until_written(writer.end_in_file().unwrap(), other).is_none());
        pair.room = usize::MAX;
        pair.flush();
        assert!(pair.connection.next_spool_read(|| pair.now).is_some());
        assert!(pair.connection.next_spool_read(|| pair.now).is_none(), "one at a time");
        let events = if by_timer {
            let (span, events) = pair.next_timer().unwrap();
            assert_eq!(span, 60 * SECOND);
            events
        } else {
            pair.connection.spool_failed("the disk is gone".to_owned());
            pair.events()
        };
        let [Event::SpoolLost(_), Event::Ended(lost)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(lost.end, RequestEnd::Broken);
        pair.flush();
        assert!(pair.got(1).is_err() && pair.is_closed());
    }
}

#[test]
fn a_lost_file_abandons_the_requests_that_still_run() {
    let mut pair = Pair::new();
    let (one, two) = (pair.get(1), pair.get(2));
    pair.connection.assign(one, |assignment| assignment.worker = Some(3));
    pair.connection.assign(two, |assignment| assignment.worker = Some(4));
    pair.connection.spool_failed("gone".to_owned());
    let events = pair.events();
    let workers: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Abandoned { assignment, lost: true } => assignment.worker,
            _ => None,
        })
        .collect();
    assert_eq!(workers, [3, 4]);
}

#[test]
fn a_client_that_leaves_aborts_a_request_whose_response_waits_in_the_file() {
    let (mut pair, _file, writer) = spooled(1_000_000);
    let kept = ended(&pair.connection);
    assert!(pair.connection.keep_until_written(writer.end_in_file().unwrap(), kept).is_none());
    pair.connection.abandon_all();
    let events = pair.events();
    let [Event::Ended(left)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(left.end, RequestEnd::Aborted);
    // A request that ends after the connection is gone.
    let late = ended(&pair.connection);
    let late = pair.connection.keep_until_written(writer.end_in_file().unwrap(), late).unwrap();
    assert_eq!(late.end, RequestEnd::Aborted);
}

#[test]
fn a_large_response_is_one_write_and_arrives_whole_where_the_socket_takes_a_part() {
    let body = "0123456789abcdef".repeat(4096);
    let head = b"Status: 200 OK\r\nContent-Length: 65536\r\n\r\n";
    for room in [usize::MAX, 0, 1, 60, 65_000, 65_600, 65_640] {
        let mut pair = Pair::new();
        let (key, mut writer) = (pair.get(1), ResponseWriter::new(false));
        pair.room = room;
        pair.respond_with(&mut writer, key, |writer, sink, now| {
            writer.head(head, &ProxyHeaders::default(), sink, || now).unwrap();
            writer.body_and_end(body.as_bytes(), sink, now).unwrap();
        });
        assert!(writer.is_over() && writer.is_end_sent() && writer.sent() == 65_536);
        assert!(pair.writes == 1 || room != usize::MAX, "{} writes", pair.writes);
        pair.room = usize::MAX;
        pair.flush();
        let got = pair.got(1).unwrap();
        assert!(got.stdout.ends_with(&body) && got.stdout.len() == head.len() + body.len(), "{room}");
        assert_eq!(got.end, Some(0), "{room}");
        assert!(!pair.connection.is_open(key) && pair.connection.is_written());
    }
}

#[test]
fn a_last_piece_that_breaks_the_rules_ends_nothing() {
    let mut pair = Pair::new();
    let (key, mut writer) = (pair.get(1), ResponseWriter::new(false));
    pair.respond_with(&mut writer, key, |writer, sink, now| {
        writer
            .head(b"Status: 200 OK\r\nContent-Length: 20000\r\n\r\n", &ProxyHeaders::default(), sink, || now)
            .unwrap();
        assert!(writer.body_and_end(&[b'x'; 10_000], sink, now).is_err(), "it is too short");
    });
    assert!(pair.got(1).unwrap().stdout.ends_with("xxx") && pair.got(1).unwrap().end.is_none());
    pair.respond_with(&mut writer, key, |writer, sink, now| {
        assert!(writer.body_and_end(&[b'x'; 10_001], sink, now).is_err(), "it is too long");
        writer.fail(502, "no", None, sink, now);
    });
    assert!(pair.got(1).is_err());
}
