//! Responses whose rest is a file.

use std::fs::File;

use super::*;
use crate::proto::file_records::Next;
use crate::proto::response_writer::FilePart;
use crate::proto::space::{Claim, Use};

const LENGTH: usize = 150_000;

impl Pair {
    /// A part of a file, of so many bytes.
    pub(super) fn file(&self, length: usize) -> FilePart {
        let claim = Claim::new(&self.space, Use::File).unwrap();
        FilePart { file: File::open("/dev/null").unwrap(), claim, offset: 5, length: length as u64 }
    }

    /// Files that are open.
    fn open_files(&self) -> usize {
        self.space.used().1
    }

    /// A thread sends a turn of a file, of some `most` bytes, as far as the socket takes it. Every byte of the file is a `#`. Returns
    /// false where there is none to send.
    pub(super) fn send_file(&mut self, most: usize) -> bool {
        let Some(mut turn) = self.connection.next_file_turn(|| self.now) else { return false };
        assert_eq!(self.connection.transmit(), b"", "nothing is written beside the thread");
        let end = loop {
            if turn.sent >= most && turn.records.is_between_records() {
                break TurnEnd::Over;
            }
            let Some(next) = turn.records.next() else { break TurnEnd::Over };
            if self.room == 0 {
                break TurnEnd::Blocked;
            }
            let bytes = match next {
                Next::Header(header, unsent) => header[header.len() - unsent..].to_vec(),
                Next::Content { length, .. } => vec![b'#'; length],
            };
            let taken = bytes.len().min(self.room);
            self.received.extend_from_slice(&bytes[..taken]);
            self.room -= taken;
            turn.records.sent(taken);
            turn.sent += taken;
        };
        self.connection.file_turn_ended(turn, end, self.now);
        self.flush();
        drop(self.connection.take_files_to_close());
        true
    }

    /// A response that ends with a file, whose worker is done with it. Returns its stream.
    fn response_from_file(&mut self, id: u16) -> StreamKey {
        let (key, part) = (self.get(id), self.file(LENGTH));
        let mut writer = ResponseWriter::new(false);
        self.respond_with(&mut writer, key, |writer, sink, now| {
            let head = format!("Status: 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
            writer.head(head.as_bytes(), &ProxyHeaders::default(), sink, || now).unwrap();
            writer.file(part, sink).unwrap();
            writer.end(sink, now).unwrap();
        });
        let mut request = ended(&self.connection);
        request.bytes = writer.sent();
        let kept = self.connection.keep_until_written(writer.end_in_file().unwrap(), request);
        assert!(kept.is_none(), "it is counted when its file is written");
        key
    }
}

/// How the one request that has ended is counted, with its bytes.
#[track_caller]
fn counted(events: &[Event]) -> (RequestEnd, u64) {
    let found: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Ended(ended) => Some((ended.end, ended.bytes)),
            _ => None,
        })
        .collect();
    assert_eq!(found.len(), 1, "{events:?}");
    found[0]
}

#[test]
fn a_file_follows_its_head_and_the_end_follows_the_file() {
    let mut pair = Pair::new();
    let key = pair.response_from_file(1);
    assert!(pair.connection.is_open(key) && !pair.connection.is_written() && pair.open_files() == 1);
    assert_eq!(pair.got(1).unwrap().end, None);
    // The first request is counted when its response is written.
    let mut turns = 0;
    while pair.send_file(1) {
        turns += 1;
    }
    assert_eq!(turns, LENGTH.div_ceil(61_440));
    let got = pair.got(1).unwrap();
    assert!(got.stdout.ends_with(&format!("\r\n\r\n{}", "#".repeat(LENGTH))) && got.end == Some(0));
    assert!(!pair.connection.is_open(key) && pair.connection.is_written() && pair.open_files() == 0);
    // The connection is of use for the next request.
    let key = pair.get(2);
    pair.hello(key);
    assert_eq!(pair.got(2).unwrap().end, Some(0));
}

#[test]
fn a_request_is_counted_when_the_end_after_its_file_is_written() {
    let mut pair = Pair::new();
    pair.response_from_file(1);
    // The socket takes the whole file, and not the end.
    pair.room = LENGTH + 3 * 8;
    assert!(pair.send_file(usize::MAX) && !pair.send_file(1));
    assert!(pair.flush().is_empty() && !pair.connection.is_written());
    pair.room = usize::MAX;
    let counted = pair.flush();
    assert_eq!((counted.len(), counted[0].end, counted[0].bytes), (1, RequestEnd::Complete, LENGTH as u64));
}

#[test]
fn a_request_that_ends_after_its_file_is_counted_at_once() {
    let mut pair = Pair::new();
    let (key, part) = (pair.get(1), pair.file(10));
    let mut writer = ResponseWriter::new(false);
    pair.respond_with(&mut writer, key, |writer, sink, now| {
        writer.head(b"Status: 200 OK\r\n\r\n", &ProxyHeaders::default(), sink, || now).unwrap();
        writer.file(part, sink).unwrap();
        writer.end(sink, now).unwrap();
    });
    assert!(pair.send_file(1));
    let request = ended(&pair.connection);
    let counted = pair.connection.keep_until_written(writer.end_in_file().unwrap(), request);
    assert_eq!(counted.map(|ended| ended.end), Some(RequestEnd::Complete));

    let (key, part) = (pair.get(2), pair.file(10));
    pair.respond_with(&mut writer, key, |writer, sink, now| {
        *writer = ResponseWriter::new(false);
        writer.head(b"Status: 200 OK\r\n\r\n", &ProxyHeaders::default(), sink, || now).unwrap();
        writer.file(part, sink).unwrap();
        writer.end(sink, now).unwrap();
    });
    assert!(pair.send(&abort(2)).is_empty(), "the worker is not told any more");
    let mut request = ended(&pair.connection);
    request.bytes = writer.sent();
    let counted = pair.connection.keep_until_written(writer.end_in_file().unwrap(), request).unwrap();
    assert_eq!((counted.end, counted.bytes), (RequestEnd::Aborted, 0));
}

#[test]
fn where_the_worker_ends_its_response_late_the_end_follows_at_once() {
    let mut pair = Pair::new();
    let (key, part) = (pair.get(1), pair.file(10));
    let mut writer = ResponseWriter::new(false);
    pair.respond_with(&mut writer, key, |writer, sink, now| {
        writer.head(b"Status: 200 OK\r\n\r\n", &ProxyHeaders::default(), sink, || now).unwrap();
        writer.file(part, sink).unwrap();
        assert!(writer.body(b"more", sink).is_err(), "it would go before the file");
    });
    assert!(pair.send_file(1) && !pair.send_file(1));
    assert!(pair.got(1).unwrap().end.is_none() && pair.connection.is_open(key));
    pair.respond_with(&mut writer, key, |writer, sink, now| writer.end(sink, now).unwrap());
    assert_eq!(pair.got(1).unwrap().stdout, "Status: 200 OK\r\n\r\n##########");
    assert_eq!((pair.got(1).unwrap().end, writer.end_in_file()), (Some(0), None));
}

#[test]
fn responses_beside_a_file_go_between_its_records() {
    let mut pair = Pair::new();
    pair.response_from_file(1);
    let other = pair.get(2);
    // The socket takes a part of a record.
    pair.room = 1000;
    assert!(pair.send_file(usize::MAX) && pair.connection.is_file_blocked());
    pair.room = usize::MAX;
    pair.hello(other);
    assert_eq!(pair.got(2).unwrap().stdout, "", "a record is not complete");
    assert!(pair.connection.wants_write() && !pair.send_file(1), "the socket is not asked again");
    pair.connection.unblock_file();
    assert!(pair.send_file(1));
    assert_eq!(pair.got(2).unwrap().end, Some(0), "before the rest of the file");
    assert_eq!(pair.got(1).unwrap().end, None);
    while pair.send_file(1) {}
    assert_eq!(pair.got(1).unwrap().end, Some(0));
}

#[test]
fn files_of_a_connection_take_turns() {
    let mut pair = Pair::new();
    pair.response_from_file(1);
    pair.response_from_file(2);
    for _ in 0..2 {
        assert!(pair.send_file(1));
    }
    for id in [1, 2] {
        assert!(pair.got(id).unwrap().stdout.contains("###"), "{id}");
    }
    while pair.send_file(1) {}
    for id in [1, 2] {
        assert!(pair.got(id).unwrap().stdout.ends_with(&"#".repeat(LENGTH)), "{id}");
        assert_eq!(pair.got(id).unwrap().end, Some(0), "{id}");
    }
}

#[test]
fn a_client_that_gives_up_a_file_gets_whole_records_and_the_end() {
    // Between two records, within one, and while a thread sends.
    for (room, in_turn) in [(usize::MAX, false), (1000, false), (usize::MAX, true)] {
        let mut pair = Pair::new();
        let key = pair.response_from_file(1);
        pair.room = pair.room.min(room);
        assert!(pair.send_file(1));
        pair.room = usize::MAX;
        pair.connection.unblock_file();
        let turn = in_turn.then(|| pair.connection.next_file_turn(|| pair.now).unwrap());
        let events = pair.send(&abort(1));
        pair.flush();
        let (end, bytes) = counted(&events);
        assert!(end == RequestEnd::Aborted && bytes <= 61_440, "{room}: {end:?} after {bytes}");
        assert!(!pair.connection.is_open(key));
        if let Some(turn) = turn {
            pair.connection.file_turn_ended(turn, TurnEnd::Over, pair.now);
            pair.flush();
        }
        while pair.send_file(1) {}
        let got = pair.got(1).unwrap();
        assert!(got.end == Some(0) && got.stdout.len() < LENGTH, "{room}");
        drop(pair.connection.take_files_to_close());
        assert!(pair.connection.is_written() && pair.open_files() == 0);
        let key = pair.get(2);
        pair.hello(key);
        assert_eq!(pair.got(2).unwrap().end, Some(0));
    }
}

#[test]
fn a_file_that_is_lost_never_looks_complete() {
    for room in [usize::MAX, 1000] {
        let mut pair = Pair::new();
        pair.response_from_file(1);
        pair.room = room;
        assert!(pair.send_file(1));
        pair.room = usize::MAX;
        pair.connection.unblock_file();
        let turn = pair.connection.next_file_turn(|| pair.now).unwrap();
        pair.connection.file_turn_ended(turn, TurnEnd::Lost("short".to_owned()), pair.now);
        let events = pair.events();
        assert!(events.iter().any(|event| matches!(event, Event::FileLost(cause) if cause == "short")));
        let (end, bytes) = counted(&events);
        assert!(end == RequestEnd::Broken && bytes <= 61_440, "{end:?} after {bytes}");
        pair.flush();
        assert!(pair.got(1).map_or(true, |got| got.end.is_none()), "{room}");
        assert!(pair.is_closed());
    }
}

#[test]
fn a_client_that_takes_nothing_is_cut_and_a_disk_that_gives_nothing_too() {
    let mut pair = Pair::new();
    pair.response_from_file(1);
    pair.room = 1000;
    assert!(pair.send_file(usize::MAX));
    let (waited, events) = pair.next_timer().unwrap();
    assert_eq!(waited, TIMEOUTS.send);
    assert!(matches!(events[..], [Event::Late(_)]), "{events:?}");

    let mut pair = Pair::new();
    pair.response_from_file(1);
    let turn = pair.connection.next_file_turn(|| pair.now).unwrap();
    let (waited, events) = pair.next_timer().unwrap();
    assert_eq!(waited, TIMEOUTS.send);
    assert!(matches!(events[0], Event::FileLost(_)), "{events:?}");
    assert_eq!(counted(&events).0, RequestEnd::Broken);
    assert!(pair.is_closed());
    // The thread comes back after all.
    pair.connection.file_turn_ended(turn, TurnEnd::Over, pair.now);
    drop(pair.connection.take_files_to_close());
    assert_eq!((pair.open_files(), pair.connection.transmit()), (0, &b""[..]));
}

#[test]
fn a_client_that_leaves_ends_its_files() {
    for gone in [false, true] {
        let mut pair = Pair::new();
        pair.response_from_file(1);
        pair.response_from_file(2);
        let turn = pair.connection.next_file_turn(|| pair.now);
        if let Some(turn) = turn.filter(|_| gone) {
            pair.connection.file_turn_ended(turn, TurnEnd::ClientGone, pair.now);
            assert!(pair.is_closed());
        }
        pair.connection.abandon_all();
        let events = pair.events();
        assert_eq!(events.len(), 2, "{events:?}");
        for event in events {
            assert!(matches!(event, Event::Ended(ended) if ended.end == RequestEnd::Aborted));
        }
        drop(pair.connection.take_files_to_close());
        assert_eq!(pair.open_files(), 0, "{gone}");
    }
}
