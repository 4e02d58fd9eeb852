//! The state of a connection: its streams, its send buffer, its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backpressure::Backpressure;
use super::event::{Close, Event};
use super::stream::{Assignment, Stream, StreamKey, StreamState};
use super::transfers::Transfers;
use crate::fastcgi::{self, Server};
use crate::proto::memory::{Memory, Purpose, Share, UNCOUNTED_PER_CONNECTION};
use crate::proto::rate::MinRate;
use crate::proto::request_end::EndedRequest;
use crate::proto::response_writer::EndPosition;
use crate::proto::send_buffer::{KEPT_BUFFER, SendBuffer};

/// Time for the first request of a client that has just connected while the gateway stops. The client was accepted, so it is
/// served.
pub(super) const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// Longest silence of a client that still sends a request that was answered early.
pub(super) const LINGER_SILENCE: Duration = Duration::from_secs(5);

/// Most bytes of one read from a client.
pub(crate) const READ_SIZE: usize = 64 * 1024;

/// Limits, in time and bytes, for a client that still sends a request that was answered early. A close with unread bytes would
/// make the kernel drop the response. nginx's `lingering_time`.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER_BYTES: u64 = 256 << 20;

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The connection stays open.
    No,
    /// Close once everything is written.
    WhenWritten,
    /// Everything is written. Bytes that still arrive are read and dropped.
    Lingering { until: Instant, bytes: u64 },
    /// Close now.
    Now,
}

/// The receiving side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Open,
    /// Shut. Bytes that the kernel received before are still to be read.
    Shut,
    /// The last byte has been read.
    Done,
}

/// A request whose complete response is not written yet.
#[derive(Debug)]
pub(super) struct Undelivered {
    /// The position at which the response is written.
    pub(super) end: EndPosition,
    pub(super) ended: EndedRequest,
}

/// The state of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) server: Server,
    pub(super) out: SendBuffer,
    /// Files that are sent, after and between the bytes of `out`.
    pub(super) transfers: Transfers,
    /// The open streams. Few, so a scan beats a map.
    pub(super) streams: Vec<Stream>,
    /// Number of streams so far.
    pub(super) serial: u64,
    pub(super) events: VecDeque<Event>,
    /// Requests whose responses wait in a file.
    pub(super) undelivered: Vec<Undelivered>,
    /// Rate at which the client reads, measured from the first partial write.
    pub(super) send_rate: Option<MinRate>,
    /// Rate at which the client reads, measured from the time at which the send buffer was full.
    pub(super) backpressure: Option<Backpressure>,
    /// Bytes that were read and wait for the next turn: less than one read.
    pub(super) held: Vec<u8>,
    /// Share of incomplete requests in the memory budget.
    pub(super) incoming: Share,
    /// Share of unwritten responses in the memory budget.
    pub(super) outgoing: Share,
    pub(super) ending: Ending,
    pub(super) opened: Instant,
    /// Time of the last read.
    pub(super) last_read: Instant,
    /// Start of an incomplete record that belongs to no request.
    pub(super) stray_since: Option<Instant>,
    /// Number of complete records at the last read.
    pub(super) finished_records: u64,
    /// Whether the client is read from.
    pub(super) reading: bool,
    /// Whether a request has begun.
    pub(super) used: bool,
    /// Whether a request has begun while another had not ended.
    pub(super) multiplexed: bool,
    /// Time at which a response last ended on a connection with a broken stream.
    pub(super) last_end: Instant,
    /// Whether the client may still be sending an ended request, which was refused, or complete before its streams ended.
    pub(super) discarding_input: bool,
    /// Whether a request was answered because of a timeout.
    pub(super) timed_out: bool,
    /// Whether the connection is cut for a logged reason.
    pub(super) cut: bool,
    /// Whether the gateway stops. The connection then closes when nothing is left to answer.
    pub(super) stopping: bool,
    /// Whether [`FIRST_REQUEST_WAIT`] has passed.
    pub(super) waited: bool,
    pub(super) receiving: Receiving,
    /// Whether the client has shut its writing side and can still read.
    pub(super) half_closed: bool,
}

impl Connection {
    /// The state of a connection that has just been accepted.
    pub(crate) fn new(limits: fastcgi::Limits, memory: &Arc<Memory>, now: Instant) -> Self {
        Self {
            server: Server::new(limits),
            out: SendBuffer::default(),
            transfers: Transfers::default(),
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

    /// The next event for the driver.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // Streams.

    pub(super) fn stream(&mut self, key: StreamKey) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.key == key)
    }

    /// The open stream with this id.
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

    /// Updates the assignment of a submitted request, for [`Event::Abandoned`].
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

    // Readiness.

    /// Whether to read from the client, unless [`Self::waits_for_room`]. Reading pauses while the client does not read its
    /// responses, and while its body arrives faster than it can be written to a file.
    pub(crate) fn is_readable(&self) -> bool {
        self.receiving != Receiving::Done && !self.has_full_body() && !self.out.is_behind()
    }

    /// Whether reading a body pauses until memory is free. `spooling`: the body of any connection is being written to a file, which
    /// will free memory. The growth of a buffer may double the bytes of a read.
    pub(crate) fn waits_for_room(&self, memory: &Memory, spooling: bool) -> bool {
        let relieved = spooling && !memory.has_room(2 * READ_SIZE as u64, Purpose::NewRequest);
        relieved && self.streams.iter().any(|stream| matches!(stream.state, StreamState::Arriving(_)))
    }

    /// Whether to write to the client.
    pub(crate) fn wants_write(&self) -> bool {
        !self.transmit().is_empty() || self.transfers.is_blocked()
    }

    /// Records whether the client is read from. Its timeouts restart when reading resumes, because the gateway paused, and not the
    /// client.
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
                StreamState::Submitted(_) | StreamState::Sending | StreamState::Broken { .. } => {}
            }
        }
    }

    pub(super) fn has_full_body(&self) -> bool {
        self.streams.iter().any(|stream| match &stream.state {
            StreamState::Arriving(request) => request.is_full(),
            _ => false,
        })
    }

    /// Start of an incomplete record that belongs to no request. `None` while the client is not read from.
    pub(super) fn owes_since(&self) -> Option<Instant> {
        self.stray_since.filter(|_| self.reading)
    }

    // The end of the connection.

    /// Notes that the gateway stops.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether the gateway stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether the gateway stops and nothing is left to answer here. If the socket has no unread bytes, the driver then calls
    /// [`Self::leave`].
    ///
    /// The client of a kept connection may send its next request at any moment. So the receiving side is shut first, and the next
    /// write of the client fails. A request that was written before is read and answered. (On TCP the client learns of the
    /// shutdown too late.) An immediate close would lose a request that arrives between the check and the close.
    pub(crate) fn may_leave(&self, now: Instant) -> bool {
        let expected = !self.used && now < self.opened + FIRST_REQUEST_WAIT;
        self.stopping
            && self.ending == Ending::No
            && self.server.is_idle()
            && self.held.is_empty()
            && !expected
    }

    /// Whether the driver shuts the receiving side of the socket now, before [`Self::close_when_written`].
    pub(crate) fn leave(&mut self, now: Instant) -> bool {
        // A client that still sends a refused body should get the response, not a failed write. A silent client sends no more of it:
        // HAProxy omits the end of an empty body.
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

    /// The next step with the socket.
    pub(crate) fn poll_close(&mut self, now: impl FnOnce() -> Instant) -> Close {
        if self.ending == Ending::WhenWritten && self.is_written() {
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

    /// Whether the last response is written while the gateway stops. The driver then shuts the sending side at once, so that a proxy
    /// does not keep the connection.
    pub(crate) fn has_written_last_response(&self) -> bool {
        self.stopping && self.ending == Ending::WhenWritten && self.is_written()
    }

    /// Drops all state of a connection that is gone, and abandons its requests.
    pub(crate) fn abandon_all(&mut self) {
        self.ending = Ending::Now;
        self.out.clear();
        self.held = Vec::new();
        for Stream { key, state } in std::mem::take(&mut self.streams) {
            self.abandoned(key, state, false);
        }
        for Undelivered { mut ended, .. } in std::mem::take(&mut self.undelivered) {
            ended.abort();
            self.events.push_back(Event::Ended(Box::new(ended)));
        }
        self.transfers.clear();
        self.account_for_responses();
        self.account_for_less();
    }

    /// Reports a removed stream to the driver. `lost`: the gateway lost a part of its response.
    pub(super) fn abandoned(&mut self, key: StreamKey, state: StreamState, lost: bool) {
        self.give_up_file(key, &state, lost);
        let event = match state {
            StreamState::Begun { .. } if !self.cut => Event::AbortedBeforeParams,
            StreamState::Arriving(request) => Event::AbortedWhileArriving { key, request },
            StreamState::Submitted(assignment) => Event::Abandoned { assignment, lost },
            // Its end is logged already.
            StreamState::Begun { .. } | StreamState::Sending | StreamState::Broken { .. } => return,
        };
        self.events.push_back(event);
    }

    // Memory.

    /// Updates the share of incomplete requests, after their bytes have shrunk.
    pub(super) fn account_for_less(&mut self) {
        let bytes = self.incoming_bytes();
        self.incoming.set(bytes);
    }

    /// Bytes of incomplete requests that count in the memory budget.
    pub(super) fn incoming_bytes(&self) -> usize {
        let arriving: usize = self.streams.iter().map(|stream| stream.state.bytes()).sum();
        (arriving + self.server.held() + self.held.capacity()).saturating_sub(UNCOUNTED_PER_CONNECTION)
    }

    /// Updates the share of unwritten responses.
    pub(super) fn account_for_responses(&mut self) {
        self.outgoing.set(self.out.held().saturating_sub(KEPT_BUFFER));
    }
}
