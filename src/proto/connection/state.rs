//! The state of a connection: its streams, what waits to be written, whether and how it ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backpressure::Backpressure;
use super::event::{Close, Event};
use super::stream::{Assignment, Stream, StreamKey, StreamState};
use crate::fastcgi::{self, Server};
use crate::proto::memory::{Memory, Purpose, Share, UNCOUNTED_PER_CONNECTION};
use crate::proto::rate::MinRate;
use crate::proto::request_end::EndedRequest;
use crate::proto::send_buffer::{KEPT_BUFFER, SendBuffer};

/// How long, while the gateway stops, a client that has just connected may take to send its first request. The client
/// was accepted, so it is served.
pub(super) const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// How long a client may be silent that goes on sending after its request was answered early.
pub(super) const LINGER_SILENCE: Duration = Duration::from_secs(5);

/// Bytes that are read from a client at a time.
pub(crate) const READ_SIZE: usize = 64 * 1024;

/// How long, and for how many bytes, a client may go on sending after its request was answered early. Closing on unread bytes
/// would make the kernel drop the answer. nginx's `lingering_time`.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER_BYTES: u64 = 256 << 20;

/// Whether a connection ends, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The connection lives.
    No,
    /// Close once everything is written.
    WhenWritten,
    /// Everything is written; bytes that still come are read and dropped.
    Lingering { until: Instant, bytes: u64 },
    /// Close now.
    Now,
}

/// Whether more is taken from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Open,
    /// The kernel takes nothing more; bytes that it took before are still to be read.
    Shut,
    /// The last byte has been read.
    Done,
}

/// A request whose response is complete, and not written yet.
#[derive(Debug)]
pub(super) struct Undelivered {
    /// How many bytes the connection will have written by then.
    pub(super) end: u64,
    pub(super) ended: EndedRequest,
}

/// The state of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) server: Server,
    pub(super) out: SendBuffer,
    /// Few, so a scan beats a map.
    pub(super) streams: Vec<Stream>,
    /// Streams so far.
    pub(super) serial: u64,
    pub(super) events: VecDeque<Event>,
    /// Requests whose responses wait in a file.
    pub(super) undelivered: Vec<Undelivered>,
    /// How fast the client takes the bytes that wait for it, from the first write that was not taken whole.
    pub(super) send_rate: Option<MinRate>,
    /// The same since a response had no room.
    pub(super) backpressure: Option<Backpressure>,
    /// Bytes that were read and have not had their turn yet: less than a read.
    pub(super) held: Vec<u8>,
    /// The part of the memory that incomplete requests take.
    pub(super) incoming: Share,
    /// The part of the memory that responses take which wait to be written.
    pub(super) outgoing: Share,
    pub(super) ending: Ending,
    pub(super) opened: Instant,
    /// When bytes were last read.
    pub(super) last_read: Instant,
    /// Since when a record that belongs to no request has been arriving.
    pub(super) stray_since: Option<Instant>,
    /// Records that had come whole with the last read.
    pub(super) finished_records: u64,
    /// Whether the client is read from.
    pub(super) reading: bool,
    /// Whether a request has begun.
    pub(super) used: bool,
    /// Whether a request has begun while another had not ended.
    pub(super) multiplexed: bool,
    /// When a response last ended beside, or as, one that broke off.
    pub(super) last_end: Instant,
    /// Whether the client may still be sending a request that has ended: one that was refused, or complete before its end came.
    pub(super) discarding_input: bool,
    /// Whether the client was answered because its time was over.
    pub(super) timed_out: bool,
    /// The connection is cut, and the log says why.
    pub(super) cut: bool,
    /// The gateway stops: the connection closes once nothing is left to answer.
    pub(super) stopping: bool,
    /// The client had the time for its first request while the gateway stops.
    pub(super) waited: bool,
    pub(super) receiving: Receiving,
    /// The client has shut its writing side and can still read.
    pub(super) half_closed: bool,
}

impl Connection {
    /// The state of a connection that has just been accepted.
    pub(crate) fn new(limits: fastcgi::Limits, memory: &Arc<Memory>, now: Instant) -> Self {
        Self {
            server: Server::new(limits),
            out: SendBuffer::default(),
            streams: Vec::new(),
            serial: 0,
            events: VecDeque::new(),
            undelivered: Vec::new(),
            send_rate: None,
            backpressure: None,
            held: Vec::new(),
            incoming: Share::new(memory),
            outgoing: Share::new(memory),
            ending: Ending::No,
            opened: now,
            last_read: now,
            stray_since: None,
            finished_records: 0,
            reading: true,
            used: false,
            multiplexed: false,
            last_end: now,
            discarding_input: false,
            timed_out: false,
            cut: false,
            stopping: false,
            waited: false,
            receiving: Receiving::Open,
            half_closed: false,
        }
    }

    /// The next thing for the driver to do.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // Streams.

    pub(super) fn stream(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.key == key)
    }

    /// The stream that has an id now.
    pub(super) fn key_of(&self, id: u16) -> Option<StreamKey> {
        self.streams.iter().map(|stream| stream.key).find(|key| key.id == id)
    }

    pub(super) fn take_stream(&mut self, key: StreamKey) -> Option<StreamState> {
        let position = self.streams.iter().position(|stream| stream.key == key)?;
        Some(self.streams.swap_remove(position).state)
    }

    pub(super) fn open_stream(&mut self, id: u16, state: StreamState) -> StreamKey {
        let key = StreamKey { id, serial: self.serial };
        self.serial += 1;
        self.streams.push(Stream { key, state });
        key
    }

    /// Whether the client still waits for the response of this stream.
    pub(crate) fn is_open(&self, key: StreamKey) -> bool {
        self.streams.iter().any(|stream| stream.key == key)
    }

    /// Notes where a submitted request is, for [`Event::Abandoned`].
    pub(crate) fn assign(&mut self, key: StreamKey, change: impl FnOnce(&mut Assignment)) {
        if let Some(Stream { state: StreamState::Submitted(assignment), .. }) = self.stream(key) {
            change(assignment);
        }
    }

    /// Whether a response has broken off and has no end yet.
    pub(crate) fn has_broken(&self) -> bool {
        self.streams.iter().any(|stream| matches!(stream.state, StreamState::Broken { .. }))
    }

    pub(super) fn has_only_broken(&self) -> bool {
        let broken = |stream: &Stream| matches!(stream.state, StreamState::Broken { .. });
        !self.streams.is_empty() && self.streams.iter().all(broken)
    }

    // What to wait for.

    /// Whether to read from the client, unless [`Self::waits_for_room`]. A client that does not read its responses is not read from
    /// either, nor is one that sends faster than its body can be kept.
    pub(crate) fn is_readable(&self) -> bool {
        self.receiving != Receiving::Done && !self.has_full_body() && !self.out.is_behind()
    }

    /// Whether a body is arriving that is not read before files have made room for more of it. `spooling`: bodies of some connection
    /// are on their way to files, so that `memory` is about to be free. The growth of a buffer may double the bytes of a read.
    pub(crate) fn waits_for_room(&self, memory: &Memory, spooling: bool) -> bool {
        let relieved = spooling && !memory.has_room(2 * READ_SIZE as u64, Purpose::NewRequest);
        relieved && self.streams.iter().any(|stream| matches!(stream.state, StreamState::Arriving(_)))
    }

    /// Whether to write to the client.
    pub(crate) fn wants_write(&self) -> bool {
        !self.out.unwritten().is_empty()
    }

    /// Notes whether the client is read from. When it is again, its times begin anew: it was not the client that paused.
    pub(crate) fn set_reading(&mut self, reading: bool, now: impl FnOnce() -> Instant) {
        if reading == self.reading {
            return;
        }
        self.reading = reading;
        if !reading {
            return;
        }
        let now = now();
        self.stray_since = self.stray_since.map(|_| now);
        for stream in &mut self.streams {
            match &mut stream.state {
                StreamState::Begun { since, .. } => *since = now,
                StreamState::Arriving(request) => request.rate = MinRate::new(now),
                StreamState::Submitted(_) | StreamState::Broken { .. } => {}
            }
        }
    }

    pub(super) fn has_full_body(&self) -> bool {
        self.streams.iter().any(|stream| match &stream.state {
            StreamState::Arriving(request) => request.is_full(),
            _ => false,
        })
    }

    /// Since when the client has owed the rest of a record that belongs to no request. It owes none while it is not read from.
    pub(super) fn owes_since(&self) -> Option<Instant> {
        self.stray_since.filter(|_| self.reading)
    }

    // The end of the connection.

    /// The gateway stops.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether the gateway stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether the gateway stops, and nothing is left to answer here. The driver then looks whether the socket has bytes that were
    /// not read, and if not, calls [`Self::leave`].
    ///
    /// A kept connection can have its next request sent at any moment. So the client's side is shut first, which makes its next write
    /// fail; what it wrote before that is here, and is answered. (A TCP client's kernel hears of it too late.) Closing at once
    /// would lose a request that comes between the look and the close.
    pub(crate) fn may_leave(&self, now: Instant) -> bool {
        let expected = !self.used && now < self.opened + FIRST_REQUEST_WAIT;
        self.stopping
            && self.ending == Ending::No
            && self.server.is_idle()
            && self.held.is_empty()
            && !expected
    }

    /// Whether the client's side of the socket is to be shut now, before [`Self::close_when_written`].
    pub(crate) fn leave(&mut self, now: Instant) -> bool {
        // A client that still sends a refused body is to get its answer, not a write that fails. A client that has been silent
        // since its last read sends no more of it: HAProxy leaves the end of an empty body out.
        let sends = self.discarding_input && now < self.last_read + LINGER_SILENCE;
        let shuts = self.receiving == Receiving::Open && !sends;
        if shuts {
            self.discarding_input = false;
            self.receiving = Receiving::Shut;
        }
        shuts
    }

    /// Closes the connection once everything is written.
    pub(crate) fn close_when_written(&mut self) {
        if self.ending == Ending::No {
            self.ending = Ending::WhenWritten;
        }
    }

    /// Closes the connection of a client that has shut its writing side once nothing is left to answer.
    pub(super) fn close_if_half_closed(&mut self) {
        if self.half_closed && self.streams.is_empty() {
            self.close_when_written();
        }
    }

    /// Closes the connection now. `cut`: the log says why.
    pub(crate) fn close(&mut self, cut: bool) {
        self.ending = Ending::Now;
        self.cut |= cut;
    }

    pub(super) fn close_late(&mut self, why: &'static str) {
        self.close(true);
        self.events.push_back(Event::Late(why));
    }

    /// Whether the socket is to be closed now, or shut.
    pub(crate) fn poll_close(&mut self, now: impl FnOnce() -> Instant) -> Close {
        if self.ending == Ending::WhenWritten && self.out.is_empty() {
            if self.discarding_input {
                let time = if self.timed_out { LINGER_SILENCE } else { LINGER_TIMEOUT };
                self.ending = Ending::Lingering { until: now() + time, bytes: LINGER_BYTES };
                return Close::ShutDownWrite;
            }
            self.ending = Ending::Now;
        }
        let over = matches!(self.ending, Ending::Now | Ending::Lingering { bytes: 0, .. });
        if over { Close::Now } else { Close::No }
    }

    /// Whether the connection is to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending != Ending::No
    }

    /// Whether the connection is to be closed at once.
    pub(crate) fn is_closing(&self) -> bool {
        self.ending == Ending::Now
    }

    /// Whether the client has shut its writing side and can still read.
    pub(crate) fn is_half_closed(&self) -> bool {
        self.half_closed
    }

    /// Whether the last response is written while the gateway stops. The socket's sending side is shut at once then, so that a
    /// proxy does not take the connection for one that is kept.
    pub(crate) fn has_said_goodbye(&self) -> bool {
        self.stopping && self.ending == Ending::WhenWritten && self.out.is_empty()
    }

    /// The connection has gone: everything that it has is dropped, and its requests are abandoned.
    pub(crate) fn abandon_all(&mut self) {
        self.ending = Ending::Now;
        self.out.clear();
        self.held = Vec::new();
        for Undelivered { mut ended, .. } in std::mem::take(&mut self.undelivered) {
            ended.abort();
            self.events.push_back(Event::Ended(Box::new(ended)));
        }
        for Stream { key, state } in std::mem::take(&mut self.streams) {
            self.abandoned(key, state, false);
        }
        self.account_for_responses();
        self.account_for_less();
    }

    /// A stream has gone from the connection. `lost`: since the server has lost a part of its response.
    pub(super) fn abandoned(&mut self, key: StreamKey, state: StreamState, lost: bool) {
        let event = match state {
            StreamState::Begun { .. } if !self.cut => Event::AbortedBeforeParams,
            StreamState::Arriving(request) => Event::AbortedWhileArriving { key, request },
            StreamState::Submitted(assignment) => Event::Abandoned { assignment, lost },
            // Its end is logged already.
            StreamState::Begun { .. } | StreamState::Broken { .. } => return,
        };
        self.events.push_back(event);
    }

    // Memory.

    /// Counts the bytes of incomplete requests, after some have gone.
    pub(super) fn account_for_less(&mut self) {
        let bytes = self.incoming_bytes();
        self.incoming.set(bytes);
    }

    /// Bytes of memory that incomplete requests take, but for those that do not count.
    pub(super) fn incoming_bytes(&self) -> usize {
        let arriving: usize = self.streams.iter().map(|stream| stream.state.bytes()).sum();
        (arriving + self.server.held() + self.held.capacity()).saturating_sub(UNCOUNTED_PER_CONNECTION)
    }

    /// Counts the bytes that wait to be written.
    pub(super) fn account_for_responses(&mut self) {
        self.outgoing.set(self.out.held().saturating_sub(KEPT_BUFFER));
    }
}
