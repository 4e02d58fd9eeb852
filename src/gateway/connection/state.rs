//! Where a connection is: its requests, what waits to be written, when its client has had its time, how it ends.
//!
//! Decides; reads and writes nothing.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tracing::info;

use crate::cgi::request::Head;
use crate::fastcgi::Server;
use crate::gateway::outgoing::Outgoing;
use crate::gateway::reply::Ticket;
use crate::gateway::spool::Body;
use crate::gateway::stream::Stream;

/// How long a request may make no progress while it arrives. nginx gives its own clients 60 s between
/// two reads (`client_body_timeout`), so a proxy that passes a body on as it comes is not cut before.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a client may take no byte of what waits for it. nginx gives its own clients as long
/// (`send_timeout`), and reads from us whether they do or not.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long, while the gateway stops, a client that has just connected may take to send its first request. It
/// found the way in, so it is served.
const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// How long, and for how many bytes, a client may go on sending after its request was answered early.
/// Closing on unread bytes would make the kernel drop the answer.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER_BYTES: u64 = 256 << 20;

#[derive(Debug)]
pub(super) struct State {
    pub(super) server: Server,
    pub(super) out: Outgoing,
    /// When the client last took a byte, or there was last nothing for it to take.
    pub(super) last_write: Instant,
    /// Few, so a scan beats a map.
    pub(super) requests: Vec<(u16, Phase)>,
    pub(super) ending: Ending,
    pub(super) opened: Instant,
    /// Whether a request has begun on it.
    pub(super) used: bool,
    /// Whether the client may still be sending something that nobody waits for.
    pub(super) unread: bool,
    /// The gateway stops: closes once nothing is left to answer.
    pub(super) stopping: bool,
    /// How far the client's side is shut, by us.
    pub(super) receiving: Receiving,
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
    /// Its parameters are on their way.
    Begun,
    /// Its body is on its way.
    Arriving(Box<Arriving>),
    /// In the queue or with a worker.
    Submitted(Rc<Ticket>),
}

#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) head: Head,
    pub(super) body: Body,
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
    /// What to wait for. A client that does not read its answers is not read from either.
    pub(super) fn interest(&self) -> Option<Interest> {
        match (self.out.is_empty(), self.out.is_full() || self.receiving == Receiving::Done) {
            (true, _) => (self.receiving != Receiving::Done).then_some(Interest::READABLE),
            (false, false) => Some(Interest::READABLE | Interest::WRITABLE),
            (false, true) => Some(Interest::WRITABLE),
        }
    }

    /// When the client must have done something.
    pub(super) fn timeout(&self, last_read: Instant) -> Option<Instant> {
        if let Ending::Lingering { until, .. } = self.ending {
            return Some(until);
        }
        let receive = self.is_arriving().then(|| last_read + RECEIVE_TIMEOUT);
        let send = (!self.out.is_empty()).then(|| self.last_write + SEND_TIMEOUT);
        receive.into_iter().chain(send).min()
    }

    /// Whether a request has come in part; a record that has counts as well.
    pub(super) fn is_arriving(&self) -> bool {
        let submitted =
            self.requests.iter().filter(|(_, phase)| matches!(phase, Phase::Submitted(_))).count();
        submitted < self.requests.len() || (self.requests.is_empty() && !self.server.is_idle())
    }

    /// When to look at the connection again, if nothing happens before.
    pub(super) fn deadline(&self, last_read: Instant) -> Option<Instant> {
        let fresh = (self.stopping && !self.used).then(|| self.opened + FIRST_REQUEST_WAIT);
        self.timeout(last_read).into_iter().chain(fresh).min()
    }

    /// Ends the connection if its client has had its time.
    pub(super) fn expire(&mut self, last_read: Instant) {
        if self.timeout(last_read).is_some_and(|time| time <= Instant::now()) {
            info!("connection closed: the client neither sent nor took a byte for too long");
            self.ending = Ending::Now;
        }
    }

    /// The client's side has ended. Unless that is our own doing, nobody is left to read an answer.
    pub(super) fn no_more_comes(&mut self) {
        let lingers = matches!(self.ending, Ending::Lingering { .. });
        if self.receiving == Receiving::Open || self.is_arriving() || lingers {
            self.ending = Ending::Now;
        }
        self.receiving = Receiving::Done;
    }

    /// While the gateway stops: closes the connection when there is nothing left to answer.
    ///
    /// A kept connection can have its next request sent at any moment. So the client's side is shut first, which
    /// makes its next write fail; what it wrote before that is here, and is answered. (A TCP client's kernel
    /// hears of it too late.) Closing at once would lose a request that comes between the look and the close.
    pub(super) fn leave_if_idle(&mut self, stream: &Stream) {
        let idle = |this: &Self| this.server.is_idle() && !stream.has_unread();
        if !self.stopping || self.ending != Ending::No || !idle(self) {
            return;
        }
        let expected = !self.used && Instant::now() < self.opened + FIRST_REQUEST_WAIT;
        if expected {
            return;
        }
        // One that still sends what was refused is to get its answer, not a write that fails.
        if self.receiving == Receiving::Open && !self.unread {
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
                Ending::Lingering { until: Instant::now() + LINGER_TIMEOUT, bytes: LINGER_BYTES }
            } else {
                Ending::Now
            };
        }
        matches!(self.ending, Ending::Now | Ending::Lingering { bytes: 0, .. })
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
