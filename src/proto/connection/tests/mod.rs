//! A client and a connection in memory, under a fake clock.

mod body_files;
mod cost;
mod ends;
mod files;
mod inputs;
mod responses;
mod stories;
mod timeouts;

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::cgi::ProxyHeaders;
use crate::cgi::Variables;
use crate::fastcgi::client::{self, Decoder, Fault as ClientFault, Reply};
use crate::fastcgi::{self, Role};
use crate::fastcgi::{Fault, Refusal};
use crate::proto::body::Place;
use crate::proto::memory::{Memory, Share};
use crate::proto::request_end::RequestEnd;
use crate::proto::request_end::{EndedRequest, RejectReason};
use crate::proto::request_id::RequestId;
use crate::proto::response_writer::ResponseWriter;
use crate::proto::space::SpoolError;
use crate::proto::space::{Buffers, Space};
use crate::proto::turn::Turn;

const SECOND: Duration = Duration::from_secs(1);
const TIMEOUTS: Timeouts = Timeouts {
    header: Duration::from_secs(10),
    body: Duration::from_secs(60),
    send: Duration::from_secs(60),
};
const MAX_BODY: u64 = 1 << 20;

/// A response head with this body, complete.
const HELLO: &[&[u8]] = &[b"Status: 200 OK\r\nContent-Length: 5\r\n\r\n", b"hello"];

/// A connection, its client, and the time.
struct Pair {
    now: Instant,
    connection: Connection,
    memory: Arc<Memory>,
    space: Arc<Space>,
    buffers: Buffers,
    spooling: bool,
    max_body: u64,
    /// The client's side of the socket: bytes that were written to it.
    received: Vec<u8>,
    /// Bytes that the socket takes.
    room: usize,
    /// Writes to the socket.
    writes: usize,
    turn: fn() -> Instant,
}

/// A clock that stands still, so that a turn never ends.
fn still() -> Instant {
    thread_local!(static START: Instant = Instant::now());
    START.with(|start| *start)
}

/// A clock that runs fast, so that a turn ends soon.
fn fast() -> Instant {
    thread_local!(static NOW: Cell<Instant> = Cell::new(Instant::now()));
    NOW.set(NOW.get() + Duration::from_millis(1));
    NOW.get()
}

/// The response to one request, as received by the client.
#[derive(Debug, Default, PartialEq, Eq)]
struct Got {
    stdout: String,
    stderr: String,
    /// END_REQUEST, with the application's status.
    end: Option<u32>,
}

impl Pair {
    fn new() -> Self {
        Self::with_memory(1 << 30)
    }

    fn with_memory(bytes: u64) -> Self {
        let (now, memory) = (Instant::now(), Memory::new(bytes));
        Self {
            now,
            connection: Connection::new(fastcgi::Limits::default(), &memory, now),
            memory,
            space: Space::new(1 << 30, 64, None),
            buffers: Buffers::default(),
            spooling: false,
            max_body: MAX_BODY,
            received: Vec::new(),
            room: usize::MAX,
            writes: 0,
            turn: still,
        }
    }

    fn wait(&mut self, span: Duration) {
        self.now += span;
    }

    /// One read of the socket brings these bytes.
    fn read(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Fault> {
        let (mut events, mut input) = (Vec::new(), bytes);
        let mut turn = Turn::begin(self.turn);
        let policy = Policy {
            max_body: self.max_body,
            memory: &self.memory,
            space: &self.space,
            buffers: &self.buffers,
            spooling: self.spooling,
            body_file_param: Some(b"REQUEST_BODY_FILE"),
            is_own: &|variables, _| variables.get(b"SCRIPT_NAME") == Some(b"/health"),
        };
        while self.connection.receive(&mut input, self.now, &mut turn, &policy)? {
            let before = events.len();
            events.extend(std::iter::from_fn(|| self.connection.poll_event()));
            assert!(events.len() > before, "the driver is told of an event that is not there");
        }
        self.connection.hold(input);
        self.connection.note_read(self.now);
        self.connection.account();
        events.extend(self.events());
        Ok(events)
    }

    fn send(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.read(bytes).expect("no fault")
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.connection.poll_event()).collect()
    }

    /// A GET that is complete; gives its stream.
    fn get(&mut self, id: u16) -> StreamKey {
        request_of(self.send(&get(id, true)))
    }

    /// Has the response of a stream written.
    fn respond(
        &mut self,
        key: StreamKey,
        act: impl FnOnce(&mut ResponseWriter, &mut StreamSink<'_>, Instant),
    ) {
        self.respond_with(&mut ResponseWriter::new(false), key, act);
    }

    fn respond_with(
        &mut self,
        writer: &mut ResponseWriter,
        key: StreamKey,
        act: impl FnOnce(&mut ResponseWriter, &mut StreamSink<'_>, Instant),
    ) {
        thread_local!(static NOW: Cell<Option<Instant>> = const { Cell::new(None) });
        let client = RefCell::new((&mut self.room, &mut self.received, &mut self.writes));
        let write = |slices: &[IoSlice<'_>]| {
            let (room, received, writes) = &mut *client.borrow_mut();
            **writes += 1;
            let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let taken = bytes.len().min(**room);
            received.extend_from_slice(&bytes[..taken]);
            **room -= taken;
            if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
        };
        NOW.set(Some(self.now));
        let socket = Some(Socket { write: &write, now: || NOW.get().expect("set above") });
        let mut sink = StreamSink { connection: &mut self.connection, key, socket };
        act(writer, &mut sink, self.now);
        self.flush();
    }

    /// A complete response.
    fn hello(&mut self, key: StreamKey) {
        self.respond(key, |writer, sink, now| {
            writer.head(HELLO[0], &ProxyHeaders::default(), sink, || now).unwrap();
            writer.body(HELLO[1], sink).unwrap();
            writer.end(sink, now).unwrap();
        });
    }

    /// Writes as much as the socket takes.
    fn flush(&mut self) -> Vec<EndedRequest> {
        while !self.connection.transmit().is_empty() {
            self.writes += 1;
            let length = self.connection.transmit().len().min(self.room);
            if length == 0 {
                self.connection.blocked(|| self.now);
                break;
            }
            self.received.extend_from_slice(&self.connection.transmit()[..length]);
            self.room -= length;
            self.connection.transmitted(length, || self.now);
        }
        self.connection.flushed()
    }

    /// Advances the time to the next timer, and handles it. Returns the events.
    fn next_timer(&mut self) -> Option<(Duration, Vec<Event>)> {
        let due = self.connection.next_timeout(TIMEOUTS)?;
        let span = due.saturating_duration_since(self.now);
        self.wait(span);
        Some((span, self.time_out()))
    }

    fn time_out(&mut self) -> Vec<Event> {
        let (max_body, now) = (self.max_body, self.now);
        self.connection.handle_timeout(TIMEOUTS, max_body, now, now);
        let events = self.events();
        self.flush();
        events
    }

    fn is_closed(&mut self) -> bool {
        self.connection.poll_close(|| self.now) == Close::Now
    }

    /// The received response to a request; an error if the transfer broke.
    fn got(&self, id: u16) -> Result<Got, ClientFault> {
        let (mut decoder, mut input, mut got) = (Decoder::new(), &self.received[..], Got::default());
        while let Some(reply) = decoder.receive(&mut input)? {
            match reply {
                Reply::Stdout { id: of, bytes } if of == id => {
                    got.stdout.push_str(std::str::from_utf8(bytes).unwrap());
                }
                Reply::Stderr { id: of, bytes } if of == id => {
                    got.stderr.push_str(std::str::from_utf8(bytes).unwrap());
                }
                Reply::End { id: of, app_status, .. } if of == id => {
                    assert_eq!(got.end.replace(app_status), None);
                }
                _ => {}
            }
        }
        Ok(got)
    }
}

/// The stream of the one request that has become complete.
#[track_caller]
fn request_of(events: Vec<Event>) -> StreamKey {
    match &events[..] {
        [Event::Request { key, .. }] => *key,
        other => panic!("{other:?}"),
    }
}

/// The status and the reason of the one request that is rejected.
#[track_caller]
fn rejection(events: &[Event]) -> (StreamKey, u16, &RejectReason, &str) {
    match events {
        [Event::Rejected { key, status, why, message, .. }] => (*key, *status, why, message),
        other => panic!("{other:?}"),
    }
}

/// BEGIN_REQUEST and the parameters.
fn head(id: u16, keep: bool, role: Role, variables: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    client::begin(id, role, keep, &mut bytes);
    let usual = [("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", ""), ("PATH_INFO", "/"), ("QUERY_STRING", "")];
    let own = |name: &str| variables.iter().any(|(other, _)| *other == name);
    let usual = usual.iter().filter(|(name, _)| !own(name));
    let pairs = usual.chain(variables).map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    client::params(id, pairs, &mut bytes);
    bytes
}

fn get(id: u16, keep: bool) -> Vec<u8> {
    let mut bytes = head(id, keep, Role::Responder, &[]);
    client::stdin_end(id, &mut bytes);
    bytes
}

/// The head of a POST that promises so many bytes.
fn post(id: u16, length: &str) -> Vec<u8> {
    head(id, true, Role::Responder, &[("REQUEST_METHOD", "POST"), ("CONTENT_LENGTH", length)])
}

fn stdin(id: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    client::stdin(id, body, &mut bytes);
    bytes
}

fn stdin_end(id: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    client::stdin_end(id, &mut bytes);
    bytes
}

fn abort(id: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    client::abort(id, &mut bytes);
    bytes
}

fn ended(connection: &Connection) -> EndedRequest {
    EndedRequest {
        request_id: RequestId::of_number(1),
        trace_id: None,
        variables: Variables::new(),
        came: connection.opened,
        complete: true,
        assigned: None,
        done: None,
        status: Some(200),
        bytes: 0,
        share: Share::new(&Memory::new(1)),
        end: RequestEnd::Complete,
    }
}
