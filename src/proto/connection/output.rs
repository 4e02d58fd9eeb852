//! The sending side of a connection: the framing of responses, their ends and breaks, and the spool file of a slow client.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use super::backpressure::Backpressure;
use super::event::Event;
use super::state::{Connection, Ending, Receiving, Undelivered};
use super::stream::{Stream, StreamKey, StreamState};
use crate::fastcgi::{AfterEnd, ProtocolStatus, RECORD_PIECES};
use crate::proto::rate::MinRate;
use crate::proto::request_end::EndedRequest;
use crate::proto::response_writer::{EndPosition, FilePart, ResponseEnd, Sink};
use crate::proto::send_buffer::Piece;

/// The sending side of one stream. Drops all bytes for a removed stream, even if its id is in use again.
pub(crate) struct StreamSink<'c> {
    pub(crate) connection: &'c mut Connection,
    pub(crate) key: StreamKey,
    /// The socket; `None` while nothing is to be written.
    pub(crate) socket: Option<Socket<'c>>,
}

/// The driver's socket of the client, for bytes that are written without a copy.
#[derive(Clone, Copy)]
pub(crate) struct Socket<'c> {
    /// Writes as much of the slices as the socket takes.
    pub(crate) write: &'c dyn Fn(&[IoSlice<'_>]) -> io::Result<usize>,
    /// The time.
    pub(crate) now: fn() -> Instant,
}

/// The least length, in bytes, of a piece of a body that is written without a copy in the send buffer.
pub(crate) const WRITTEN_THROUGH: usize = 8 * 1024;

impl Sink for StreamSink<'_> {
    fn is_open(&self) -> bool {
        self.connection.is_open(self.key)
    }

    fn stdout(&mut self, bytes: &[u8]) {
        if !self.is_open() {
            return;
        }
        if !self.write_through(bytes, None) {
            let Connection { server, out, .. } = &mut *self.connection;
            server.stdout(self.key.id, bytes, out.tail());
        }
    }

    fn stdout_and_end(&mut self, bytes: &[u8], now: Instant) -> Option<ResponseEnd> {
        if self.is_open() && self.write_through(bytes, Some(now)) {
            return None;
        }
        self.stdout(bytes);
        self.end(now)
    }

    fn stderr(&mut self, bytes: &[u8]) {
        if !self.is_open() {
            return;
        }
        let Connection { server, out, .. } = &mut *self.connection;
        server.stderr(self.key.id, bytes, out.tail());
    }

    fn file(&mut self, part: FilePart) {
        if self.is_open() {
            self.connection.transfers.add(self.key, part);
        }
    }

    fn end(&mut self, now: Instant) -> Option<ResponseEnd> {
        if !self.is_open() {
            return None;
        }
        if self.connection.transfers.end(self.key) {
            if let Some(stream) = self.connection.stream(self.key) {
                stream.state = StreamState::Sending;
            }
            return Some(ResponseEnd(EndPosition::AfterFile(self.key.serial)));
        }
        let end_in_file = self.connection.end_in_file();
        self.connection.end_stream(self.key, 0, ProtocolStatus::RequestComplete, now);
        end_in_file
    }

    fn break_off(&mut self, message: &str, now: Instant) {
        if self.is_open() {
            self.connection.break_off(self.key, message, now);
        }
    }
}

impl StreamSink<'_> {
    /// Writes bytes of a body, and the end of its response where `end` is the time, together with what waits for the client. What the
    /// socket does not take is kept. Returns false where the bytes have to take the usual way.
    fn write_through(&mut self, bytes: &[u8], end: Option<Instant>) -> bool {
        let Some(socket) = self.socket.filter(|_| bytes.len() >= WRITTEN_THROUGH) else { return false };
        let connection = &mut *self.connection;
        if !connection.keeps_up() {
            return false;
        }
        let Some(records) = connection.server.stdout_records(self.key.id, bytes) else { return false };
        let at = connection.out.unwritten().len();
        if let Some(now) = end {
            connection.end_stream(self.key, 0, ProtocolStatus::RequestComplete, now);
        }
        let pieces = records.pieces();
        let written = {
            let (before, after) = connection.out.unwritten().split_at(at);
            let mut slices = [IoSlice::new(&[]); RECORD_PIECES + 2];
            slices[0] = IoSlice::new(before);
            for (slice, piece) in slices[1..].iter_mut().zip(pieces) {
                *slice = IoSlice::new(piece);
            }
            slices[RECORD_PIECES + 1] = IoSlice::new(after);
            (socket.write)(&slices)
        };
        match written {
            Ok(written) => {
                connection.out.wrote_with(at, &pieces, written);
                connection.progressed(written, socket.now);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.out.wrote_with(at, &pieces, 0);
                connection.blocked(socket.now);
            }
            Err(_) => connection.transmit_failed(),
        }
        true
    }
}

impl Connection {
    /// Whether nothing but the bytes that were appended last waits for the client.
    fn keeps_up(&self) -> bool {
        self.send_rate.is_none() && self.transfers.is_empty() && !self.out.is_spooling()
    }

    /// Ends a stream, and sends END_REQUEST.
    pub(super) fn end_stream(
        &mut self,
        key: StreamKey,
        app_status: u32,
        protocol_status: ProtocolStatus,
        now: Instant,
    ) {
        self.take_stream(key);
        self.end_on_wire(key.id, app_status, protocol_status, now);
    }

    pub(super) fn end_on_wire(
        &mut self,
        id: u16,
        app_status: u32,
        protocol_status: ProtocolStatus,
        now: Instant,
    ) {
        self.discarding_input |= self.server.is_sending(id);
        let after = self.server.end(id, app_status, protocol_status, self.out.tail());
        if after == AfterEnd::Close {
            self.close_when_written();
        }
        if self.has_broken() {
            self.last_end = now;
        }
        self.close_if_half_closed();
    }

    /// Breaks off a response whose head is sent and whose body cannot be completed.
    ///
    /// A record header with a bad version and the close of the connection tell the client that the transfer broke. END_REQUEST
    /// with any status, or a clean close, would look complete. On a connection that requests share, both wait until the connection
    /// is quiet, or until the client gives up.
    fn break_off(&mut self, key: StreamKey, message: &str, now: Instant) {
        if self.multiplexed {
            self.server.stderr(key.id, message.as_bytes(), self.out.tail());
            if let Some(stream) = self.stream(key) {
                stream.state = StreamState::Broken { since: now };
            }
            self.last_end = now;
        } else {
            self.break_transfer();
        }
    }

    /// Breaks off the transfer and the connection. A client that has not ended its request yet, such as Caddy after a GET, is read
    /// until that end: a client whose write fails ignores the response that came before.
    pub(super) fn break_transfer(&mut self) {
        self.streams.clear();
        self.server.break_off(self.out.tail());
        self.discarding_input |= self.server.has_unfinished();
        self.close_when_written();
    }

    // Writing.

    /// The bytes to be written to the client now.
    pub(crate) fn transmit(&self) -> &[u8] {
        if self.transfers.holds_output() { &[] } else { self.out.unwritten() }
    }

    /// Records that the first `length` bytes of [`Self::transmit`] are written. A partial write starts the measurement of the
    /// client's rate.
    pub(crate) fn transmitted(&mut self, length: usize, now: impl FnOnce() -> Instant) {
        self.out.wrote(length);
        self.progressed(length, now);
    }

    /// Records that the client has taken so many bytes.
    fn progressed(&mut self, length: usize, now: impl FnOnce() -> Instant) {
        if self.out.is_empty() {
            self.backpressure = None;
        }
        if self.out.unwritten().is_empty() {
            // The client is not slow while the gateway waits for its own disk.
            self.send_rate = None;
        } else {
            let now = now();
            self.send_rate.get_or_insert(MinRate::new(now)).moved(length, now);
            if let Some(backpressure) = &mut self.backpressure {
                backpressure.rate.moved(length, now);
            }
        }
    }

    /// Records that a write would block. Starts the measurement of the client's rate.
    pub(crate) fn blocked(&mut self, now: impl FnOnce() -> Instant) {
        if self.send_rate.is_none() {
            self.send_rate = Some(MinRate::new(now()));
        }
    }

    /// Records that writes to the socket fail.
    pub(crate) fn transmit_failed(&mut self) {
        self.ending = Ending::Now;
        self.out.clear();
    }

    /// Updates the share of unwritten responses. Returns the requests whose responses are written by now.
    pub(crate) fn flushed(&mut self) -> Vec<EndedRequest> {
        self.account_for_responses();
        let sent = self.out.sent();
        // Mostly none, and then nothing is allocated.
        let delivered = self
            .undelivered
            .extract_if(.., |undelivered| matches!(undelivered.end, EndPosition::At(end) if end <= sent));
        delivered.map(|undelivered| undelivered.ended).collect()
    }

    /// Whether all bytes for the client are written.
    pub(crate) fn is_written(&self) -> bool {
        self.out.is_empty() && self.transfers.is_empty()
    }

    /// Whether the send buffer is full, so that no more of a response is taken.
    pub(crate) fn is_full(&self) -> bool {
        self.out.is_full()
    }

    /// Records that a response has no room, which starts the measurement of [`Backpressure`]. Returns whether it was not running.
    pub(crate) fn hold_up(&mut self, now: impl FnOnce() -> Instant) -> bool {
        let new = self.backpressure.is_none();
        if new {
            self.backpressure = Some(Backpressure::new(now()));
        }
        new
    }

    // The spool file.

    /// Directs further bytes for the client to a file.
    pub(crate) fn start_spooling(&mut self) {
        self.out.start_spooling();
    }

    /// Whether bytes for the client go to a file.
    pub(crate) fn is_spooling(&self) -> bool {
        self.out.is_spooling()
    }

    /// The next piece of the file to read.
    pub(crate) fn next_spool_read(&mut self, now: impl FnOnce() -> Instant) -> Option<Piece> {
        self.out.next_read(now)
    }

    /// The next write to the file, with its place. `grow` returns whether the file may have one more place.
    pub(crate) fn next_spool_write(&mut self, grow: impl FnOnce() -> bool) -> Option<(u32, Arc<Vec<u8>>)> {
        self.out.next_write(grow)
    }

    /// Records the end of a write to the file. `kept`: it succeeded.
    pub(crate) fn spool_written(&mut self, kept: bool) {
        self.out.kept(kept);
    }

    /// Takes the bytes of a finished read.
    pub(crate) fn spool_read(&mut self, bytes: Vec<u8>) {
        self.send_rate = None;
        self.out.read(bytes);
    }

    /// Handles the loss of the file. Its bytes may belong to several requests, and no byte can follow, so the transfer breaks off.
    pub(crate) fn spool_failed(&mut self, cause: String) {
        self.events.push_back(Event::SpoolLost(cause));
        self.lose_output();
    }

    /// Breaks off all responses, because bytes for the client are lost.
    pub(super) fn lose_output(&mut self) {
        self.out.drop_spooled();
        self.server.break_off(self.out.tail());
        (self.receiving, self.cut) = (Receiving::Done, true);
        self.close_when_written();
        for Stream { key, state } in std::mem::take(&mut self.streams) {
            self.abandoned(key, state, true);
        }
        for Undelivered { mut ended, .. } in std::mem::take(&mut self.undelivered) {
            ended.break_off();
            self.events.push_back(Event::Ended(Box::new(ended)));
        }
    }

    /// The count of bytes written on the connection once all spooled bytes are; `None` without a file.
    fn end_in_file(&self) -> Option<ResponseEnd> {
        self.out.is_spooling().then(|| ResponseEnd(EndPosition::At(self.out.appended())))
    }
}
