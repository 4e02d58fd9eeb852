//! Where a connection is: its requests, what waits to be written, how it ends.
//!
//! Decides; reads and writes nothing.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::Interest;

use crate::fastcgi::{self, Role, Server};
use crate::gateway::frontend::client_socket::Stream;
use crate::gateway::frontend::connection::arriving::Arriving;
use crate::gateway::frontend::connection::due::Blocked;
use crate::gateway::frontend::response_writer::Ticket;
use crate::gateway::request::Request;
use crate::gateway::spool::Overflow;
use crate::proto::memory::{Memory, Share};
use crate::proto::rate::Pace;
use crate::proto::send_buffer::Outgoing;

/// How long, while the gateway stops, a client that has just connected may take to send its first request. It
/// found the way in, so it is served.
pub(super) const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// How long, and for how many bytes, a client may go on sending after its request was answered early, and how long it may
/// be silent, or go on at all where it was too slow before. Closing on unread bytes would make the kernel drop the answer. nginx's
/// `lingering_time` and `lingering_timeout`.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const LINGER_SILENCE: Duration = Duration::from_secs(5);
const LINGER_BYTES: u64 = 256 << 20;

#[derive(Debug)]
pub(super) struct State {
    pub(super) server: Server,
    pub(super) out: Outgoing,
    /// The file behind it, while the client is slow.
    pub(super) overflow: Option<Overflow>,
    /// Those whose answers wait in a file.
    pub(super) undelivered: Vec<Undelivered>,
    /// How fast the client takes what waits for it.
    pub(super) taking: Pace,
    /// The same since there was no room for more of an answer.
    pub(super) blocked: Option<Blocked>,
    /// Few, so a scan beats a map.
    pub(super) requests: Vec<(u16, Phase)>,
    /// What was read and has not had its turn yet: less than a read.
    pub(super) held: Vec<u8>,
    /// What incomplete requests take of the memory.
    pub(super) incoming: Share,
    /// What answers take of it that wait to be written.
    pub(super) outgoing: Share,
    /// A body is on its way to us, and not read before there is memory for it.
    pub(super) waits_for_room: bool,
    /// What was read is being looked at, and nothing is written meanwhile.
    pub(super) in_turn: bool,
    pub(super) ending: Ending,
    pub(super) opened: Instant,
    /// When something was last read.
    pub(super) last_read: Instant,
    /// Since when a record that belongs to no request has been arriving.
    stray_since: Option<Instant>,
    /// Records that had come whole with the last read.
    finished_records: u64,
    /// Whether the last look found that more may be read.
    pub(super) reading: bool,
    /// Whether a request has begun on it.
    pub(super) used: bool,
    /// Whether one has begun while another had not ended.
    pub(super) shared: bool,
    /// When an answer last ended beside, or as, one that broke off.
    pub(super) last_end: Instant,
    /// Whether the client may still be sending a request that has ended: one that was refused, or complete before its end
    /// came.
    pub(super) unread: bool,
    /// Whether the client was answered because it had had its time.
    pub(super) late: bool,
    /// The connection is cut, and the log says why.
    pub(super) cut: bool,
    /// The gateway stops: closes once nothing is left to answer.
    pub(super) stopping: bool,
    /// How far the client's side is shut, by us.
    pub(super) receiving: Receiving,
    /// The client has shut its writing side and can still read.
    pub(super) half_closed: bool,
}

/// Whether more is taken from the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Open,
    /// The kernel takes nothing more; what it took before is still to be read.
    Shut,
    /// All of that is read.
    Done,
}

/// Where a request of this connection is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Its parameters have been on their way since then.
    Begun(Instant, Role),
    /// Its body is on its way, to us or to its file.
    Arriving(Box<Arriving>),
    /// In the queue or with a worker.
    Submitted(Rc<Ticket>),
    /// Its answer broke off then, and its client must not take what came for all.
    Broken(Instant),
}

/// A request whose answer is complete, and not written yet.
#[derive(Debug)]
pub(super) struct Undelivered {
    /// How many bytes the connection will have written by then.
    pub(super) end: u64,
    pub(super) request: Box<Request>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The connection lives.
    No,
    /// Close once everything is written.
    WhenWritten,
    /// Everything is written; what still comes is read and dropped.
    Lingering { until: Instant, bytes: u64 },
    /// Close now.
    Now,
}

impl State {
    /// The state of a connection that has just been accepted.
    pub(super) fn new(limits: fastcgi::Limits, memory: &Arc<Memory>, now: Instant) -> Self {
        Self {
            server: Server::new(limits),
            out: Outgoing::default(),
            overflow: None,
            undelivered: Vec::new(),
            taking: Pace::new(now),
            blocked: None,
            requests: Vec::new(),
            held: Vec::new(),
            incoming: Share::new(memory),
            outgoing: Share::new(memory),
            waits_for_room: false,
            in_turn: false,
            ending: Ending::No,
            opened: now,
            last_read: now,
            stray_since: None,
            finished_records: 0,
            reading: true,
            used: false,
            shared: false,
            last_end: now,
            unread: false,
            late: false,
            cut: false,
            stopping: false,
            receiving: Receiving::Open,
            half_closed: false,
        }
    }

    /// What to wait for. A client that does not read its answers is not read from either, nor one that sends faster
    /// than its body can be kept.
    pub(super) fn interest(&self) -> Option<Interest> {
        let closed = self.receiving == Receiving::Done || self.waits_for_room || self.has_full_body();
        match (self.out.unwritten().is_empty(), self.out.is_behind() || closed) {
            (true, true) => None,
            (true, false) => Some(Interest::READABLE),
            (false, false) => Some(Interest::READABLE | Interest::WRITABLE),
            (false, true) => Some(Interest::WRITABLE),
        }
    }

    /// Notes whether the client is read from. Once it is again, its time begins anew: it was not the client that paused.
    pub(super) fn note_reading(&mut self, reading: bool, now: Instant) {
        if reading && !self.reading {
            self.stray_since = self.stray_since.map(|_| now);
            for (_, phase) in &mut self.requests {
                match phase {
                    Phase::Begun(since, _) => *since = now,
                    Phase::Arriving(arriving) => arriving.pace = Pace::new(now),
                    Phase::Submitted(_) | Phase::Broken(_) => {}
                }
            }
        }
        self.reading = reading;
    }

    /// Notes what a read has brought.
    pub(super) fn note_read(&mut self, now: Instant) {
        self.last_read = now;
        self.unread &= self.server.has_unfinished();
        let stray = !self.is_arriving() && !self.server.is_between_records();
        // A busy connection may end each of its reads within a record, so each record that has come whole starts the time anew.
        let finished = self.server.finished_records();
        let same = std::mem::replace(&mut self.finished_records, finished) == finished;
        self.stray_since = stray.then(|| self.stray_since.filter(|_| same).unwrap_or(now));
    }

    /// Whether a request has come in part.
    pub(super) fn is_arriving(&self) -> bool {
        self.requests.iter().any(|(_, phase)| matches!(phase, Phase::Begun(..) | Phase::Arriving(_)))
    }

    /// Whether a body is on its way to us.
    pub(super) fn has_arriving_body(&self) -> bool {
        self.requests.iter().any(|(_, phase)| matches!(phase, Phase::Arriving(_)))
    }

    /// Requests with bodies on their way to their files.
    pub(super) fn spooling(&mut self) -> impl Iterator<Item = (u16, &mut Arriving)> {
        self.requests.iter_mut().filter_map(|(id, phase)| match phase {
            Phase::Arriving(arriving) if arriving.writing_since().is_some() => Some((*id, &mut **arriving)),
            _ => None,
        })
    }

    pub(super) fn reading_spilled_since(&self) -> Option<Instant> {
        self.overflow.as_ref().and_then(Overflow::reading_since)
    }

    /// Since when the client has owed us the rest of a record that belongs to no request. It owes none while it is not read from.
    pub(super) fn owes_since(&self) -> Option<Instant> {
        self.stray_since.filter(|_| self.reading)
    }

    pub(super) fn has_full_body(&self) -> bool {
        self.requests.iter().any(|(_, phase)| match phase {
            Phase::Arriving(arriving) => arriving.is_full(),
            _ => false,
        })
    }

    /// The client sends nothing more. Unless that is our own doing, or the client has only shut its writing side, nobody is
    /// left to read an answer.
    pub(super) fn no_more_comes(&mut self, half_closed: bool) {
        let lingers = matches!(self.ending, Ending::Lingering { .. });
        match self.receiving {
            Receiving::Open if half_closed => self.half_closed = true,
            Receiving::Open => self.ending = Ending::Now,
            Receiving::Shut | Receiving::Done if self.awaits_more() => self.ending = Ending::Now,
            Receiving::Shut | Receiving::Done => {}
        }
        if lingers {
            self.ending = Ending::Now;
        }
        self.receiving = Receiving::Done;
        self.unread = false;
        self.close_if_half_closed();
    }

    /// Closes the connection of a client that has shut its writing side once nothing is left to answer.
    pub(super) fn close_if_half_closed(&mut self) {
        if self.half_closed && self.requests.is_empty() {
            self.close_when_written();
        }
    }

    /// Whether something has come in part that can never become whole.
    fn awaits_more(&self) -> bool {
        self.incomplete().next().is_some() || (self.requests.is_empty() && !self.server.is_idle())
    }

    /// Requests of which more has to come.
    pub(super) fn incomplete(&self) -> impl Iterator<Item = u16> {
        let incomplete = |phase: &Phase| match phase {
            Phase::Begun(..) => true,
            Phase::Arriving(arriving) => !arriving.is_complete(),
            Phase::Submitted(_) | Phase::Broken(_) => false,
        };
        self.requests.iter().filter(move |(_, phase)| incomplete(phase)).map(|(id, _)| *id)
    }

    /// While the gateway stops: closes the connection when there is nothing left to answer.
    ///
    /// A kept connection can have its next request sent at any moment. So the client's side is shut first, which
    /// makes its next write fail; what it wrote before that is here, and is answered. (A TCP client's kernel
    /// hears of it too late.) Closing at once would lose a request that comes between the look and the close.
    pub(super) fn leave_if_idle(&mut self, stream: &Stream) {
        let idle = |this: &Self| this.server.is_idle() && this.held.is_empty() && !stream.has_unread();
        if !self.stopping || self.in_turn || self.ending != Ending::No || !idle(self) {
            return;
        }
        let expected = !self.used && Instant::now() < self.opened + FIRST_REQUEST_WAIT;
        if expected {
            return;
        }
        // A client that still sends a refused body is to get its answer, not a write that fails. A client that has been silent
        // since its last read sends no more of it: HAProxy leaves the end of an empty body out.
        let sends = self.unread && Instant::now() < self.last_read + LINGER_SILENCE;
        if self.receiving == Receiving::Open && !sends {
            self.unread = false;
            stream.take_no_more();
            self.receiving = Receiving::Shut;
        }
        if idle(self) {
            self.close_when_written();
        }
    }

    /// Whether the connection is to be closed now.
    pub(super) fn is_over(&mut self, stream: &Stream) -> bool {
        self.leave_if_idle(stream);
        if self.ending == Ending::WhenWritten && self.out.is_empty() {
            self.ending = if self.unread {
                stream.shut_down_write();
                let time = if self.late { LINGER_SILENCE } else { LINGER_TIMEOUT };
                Ending::Lingering { until: Instant::now() + time, bytes: LINGER_BYTES }
            } else {
                Ending::Now
            };
        }
        matches!(self.ending, Ending::Now | Ending::Lingering { bytes: 0, .. })
    }

    /// Breaks the transfer off, and the connection with it. A client that has still to end its request, as Caddy has after its
    /// GET, is read to that end: were its write to fail, it would not look at what came before.
    pub(super) fn break_transfer(&mut self) {
        self.requests.clear();
        self.server.break_off(self.out.tail());
        self.unread |= self.server.has_unfinished();
        self.close_when_written();
    }

    /// Whether any answer has broken off and has no end yet.
    pub(super) fn has_broken(&self) -> bool {
        self.requests.iter().any(|(_, phase)| matches!(phase, Phase::Broken(_)))
    }

    pub(super) fn has_only_broken(&self) -> bool {
        !self.requests.is_empty() && self.requests.iter().all(|(_, phase)| matches!(phase, Phase::Broken(_)))
    }

    pub(super) fn close_when_written(&mut self) {
        if self.ending == Ending::No {
            self.ending = Ending::WhenWritten;
        }
    }

    pub(super) fn phase(&mut self, id: u16) -> Option<&mut Phase> {
        self.requests.iter_mut().find(|(request, _)| *request == id).map(|(_, phase)| phase)
    }

    /// Moves a request on; gives where it was.
    pub(super) fn set_phase(&mut self, id: u16, phase: Phase) -> Option<Phase> {
        self.phase(id).map(|old| std::mem::replace(old, phase))
    }

    pub(super) fn take_phase(&mut self, id: u16) -> Option<Phase> {
        let position = self.requests.iter().position(|(request, _)| *request == id)?;
        Some(self.requests.swap_remove(position).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::frontend::connection::due::{Due, Timeouts};

    const SECOND: Duration = Duration::from_secs(1);
    const TIMEOUTS: Timeouts = Timeouts {
        header: Duration::from_secs(10),
        body: Duration::from_secs(60),
        send: Duration::from_secs(60),
    };
    const TOO_SLOW: Due = Due::Close("the client took too long for a record (--header-timeout)");

    /// A record of a request that has ended: it is ignored.
    const STRAY: [u8; 16] = [1, 5, 0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    /// A kept connection, and the time.
    fn kept() -> (State, Instant) {
        let now = Instant::now();
        let mut state = State::new(fastcgi::Limits::default(), &Memory::new(1 << 20), now);
        state.used = true;
        (state, now)
    }

    /// Reads bytes that make no event.
    fn read(state: &mut State, mut bytes: &[u8], now: Instant) {
        let event = state.server.receive(&mut bytes, state.out.tail());
        assert!(matches!(event, Ok(None)), "{event:?}");
        state.note_read(now);
    }

    fn due(state: &mut State, now: Instant) -> Option<Due> {
        state.due(&TIMEOUTS, false, now, now)
    }

    #[test]
    fn a_busy_connection_is_not_cut_though_each_of_its_reads_ends_within_a_record() {
        let (mut state, mut now) = kept();
        read(&mut state, &STRAY[..5], now);
        for piece in STRAY.repeat(100)[5..].chunks_exact(STRAY.len()) {
            read(&mut state, piece, now);
            now += SECOND;
            assert_eq!(due(&mut state, now), None);
            assert!(state.deadline(&TIMEOUTS).is_some_and(|deadline| deadline > now));
        }
    }

    #[test]
    fn a_record_that_does_not_come_whole_in_time_ends_the_connection_however_many_pieces_it_comes_in() {
        let (mut state, mut now) = kept();
        let deadline = now + TIMEOUTS.header;
        for byte in &STRAY[..10] {
            assert_eq!(due(&mut state, now), None);
            read(&mut state, &[*byte], now);
            assert_eq!(state.deadline(&TIMEOUTS), Some(deadline));
            now += SECOND;
        }
        assert_eq!(due(&mut state, now), Some(TOO_SLOW));
    }

    #[test]
    fn the_time_for_a_record_does_not_run_while_its_client_is_not_read_from() {
        let (mut state, mut now) = kept();
        read(&mut state, &STRAY[..10], now);
        state.note_reading(false, now);
        now += 100 * SECOND;
        assert_eq!(due(&mut state, now), None);
        state.note_reading(true, now);
        assert_eq!(state.deadline(&TIMEOUTS), Some(now + TIMEOUTS.header));
        assert_eq!(due(&mut state, now), None);
        assert_eq!(due(&mut state, now + TIMEOUTS.header), Some(TOO_SLOW));
    }
}
