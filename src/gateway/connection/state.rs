//! Where a connection is: its requests, what waits to be written, when its client has had its time, how it ends.
//!
//! Decides; reads and writes nothing.

use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::Interest;

use crate::cgi::request::{ContentLength, Head};
use crate::config::Config;
use crate::fastcgi::{Role, Server};
use crate::gateway::outgoing::Outgoing;
use crate::gateway::pace::Pace;
use crate::gateway::reply::Ticket;
use crate::gateway::spool::Body;
use crate::gateway::stream::Stream;

/// How long a kept connection may wait for its next request. Proxies close theirs after a minute (nginx's
/// `keepalive_timeout`), or after an hour at most (`keepalive_time`); closing first could cost a request that is
/// on its way, so this is for those whose client is lost.
const KEPT_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);

/// How long, while the gateway stops, a client that has just connected may take to send its first request. It
/// found the way in, so it is served.
const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// How long, and for how many bytes, a client may go on sending after its request was answered early, and how long it may
/// be silent, or go on at all where it was too slow before. Closing on unread bytes would make the kernel drop the answer. nginx's `lingering_time` and
/// `lingering_timeout`.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);
const LINGER_SILENCE: Duration = Duration::from_secs(5);
const LINGER_BYTES: u64 = 256 << 20;

#[derive(Debug)]
pub(super) struct State {
    pub(super) server: Server,
    pub(super) out: Outgoing,
    /// How fast the client takes what waits for it.
    pub(super) taking: Pace,
    /// Few, so a scan beats a map.
    pub(super) requests: Vec<(u16, Phase)>,
    pub(super) ending: Ending,
    pub(super) opened: Instant,
    /// When something was last read.
    pub(super) last_read: Instant,
    /// Since when a record that belongs to no request has been arriving.
    pub(super) stray_since: Option<Instant>,
    /// Whether the last look found that more may be read.
    pub(super) reading: bool,
    /// Whether a request has begun on it.
    pub(super) used: bool,
    /// Whether the client may still be sending something that nobody waits for.
    pub(super) unread: bool,
    /// Whether the client was answered because it had had its time.
    pub(super) late: bool,
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

/// How long a client may take for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) header: Duration,
    pub(super) body: Duration,
    pub(super) send: Duration,
}

impl Timeouts {
    pub(super) fn of(config: &Config) -> Self {
        Self { header: config.header_timeout, body: config.body_timeout, send: config.send_timeout }
    }
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
}

#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) head: Head,
    pub(super) role: Role,
    pub(super) stdin: Incoming,
    /// Of a Filter.
    pub(super) data: Option<Box<Incoming>>,
    pub(super) pace: Pace,
}

/// STDIN or DATA.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) promised: ContentLength,
    pub(super) body: Body,
    /// All of it has come; a part may still be written.
    pub(super) ended: bool,
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stdin,
    Data,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdin => "the body",
            Self::Data => "the data to filter",
        })
    }
}

impl Arriving {
    pub(super) fn from(&mut self, source: Source) -> Option<&mut Incoming> {
        match source {
            Source::Stdin => Some(&mut self.stdin),
            Source::Data => self.data.as_deref_mut(),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Incoming> {
        std::iter::once(&self.stdin).chain(self.data.as_deref())
    }

    /// The bodies that are on their way to their files.
    pub(super) fn writing(&mut self) -> impl Iterator<Item = &mut Body> {
        let all = std::iter::once(&mut self.stdin).chain(self.data.as_deref_mut());
        all.map(|incoming| &mut incoming.body).filter(|body| body.writing_since().is_some())
    }

    /// Since when a thread has had something to write.
    fn writing_since(&self) -> Option<Instant> {
        self.all().filter_map(|incoming| incoming.body.writing_since()).min()
    }

    fn is_full(&self) -> bool {
        self.all().any(|incoming| incoming.body.is_full())
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.all().map(|incoming| incoming.body.len()).sum()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.all().all(|incoming| incoming.ended)
    }

    /// Whether all has come and is where it stays.
    pub(super) fn is_kept(&self) -> bool {
        self.all().all(|incoming| incoming.body.is_kept())
    }
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The client has had its time for the whole connection.
    Close(&'static str),
    /// The parameters of a request have not come in time.
    Params(u16),
    /// The body of a request does not come fast enough.
    Body(u16),
    /// The disk does not take the body of a request.
    Spool(u16),
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
    /// What to wait for. A client that does not read its answers is not read from either, nor one that sends faster
    /// than its body can be kept.
    pub(super) fn interest(&self) -> Option<Interest> {
        let closed = self.receiving == Receiving::Done || self.has_full_body();
        match (self.out.is_empty(), self.out.is_full() || closed) {
            (true, _) => (!closed).then_some(Interest::READABLE),
            (false, false) => Some(Interest::READABLE | Interest::WRITABLE),
            (false, true) => Some(Interest::WRITABLE),
        }
    }

    /// Notes whether the client is read from. Once it is again, its time begins anew: it was not the client that paused.
    pub(super) fn note_reading(&mut self, reading: bool, now: Instant) {
        if reading && !self.reading {
            for (_, phase) in &mut self.requests {
                match phase {
                    Phase::Begun(since, _) => *since = now,
                    Phase::Arriving(arriving) => arriving.pace = Pace::new(now),
                    Phase::Submitted(_) => {}
                }
            }
        }
        self.reading = reading;
    }

    /// Notes what a read has brought.
    pub(super) fn note_read(&mut self, now: Instant) {
        self.last_read = now;
        let stray = !self.is_arriving() && !self.server.is_between_records();
        self.stray_since = if stray { self.stray_since.or(Some(now)) } else { None };
    }

    /// Whether a request has come in part.
    pub(super) fn is_arriving(&self) -> bool {
        self.requests.iter().any(|(_, phase)| !matches!(phase, Phase::Submitted(_)))
    }

    /// Requests with bodies on their way to their files.
    pub(super) fn spooling(&mut self) -> impl Iterator<Item = (u16, &mut Arriving)> {
        self.requests.iter_mut().filter_map(|(id, phase)| match phase {
            Phase::Arriving(arriving) if arriving.writing_since().is_some() => Some((*id, &mut **arriving)),
            _ => None,
        })
    }

    fn has_full_body(&self) -> bool {
        self.requests.iter().any(|(_, phase)| match phase {
            Phase::Arriving(arriving) => arriving.is_full(),
            _ => false,
        })
    }

    /// When to look at the connection again, if nothing happens before.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Option<Instant> {
        if let Ending::Lingering { until, .. } = self.ending {
            return Some(until.min(self.last_read + LINGER_SILENCE));
        }
        let requests = self.requests.iter().filter_map(|(_, phase)| self.deadline_of(phase, timeouts));
        let send = (!self.out.is_empty()).then(|| self.taking.deadline(timeouts.send));
        let stray = self.stray_since.map(|since| since + timeouts.header);
        let silent = self.requests.is_empty().then(|| match self.used {
            true => self.last_read + KEPT_TIMEOUT,
            false if self.stopping => self.opened + FIRST_REQUEST_WAIT,
            false => self.opened + timeouts.header,
        });
        requests.chain(send).chain(stray).chain(silent).min()
    }

    fn deadline_of(&self, phase: &Phase, timeouts: &Timeouts) -> Option<Instant> {
        match phase {
            Phase::Begun(since, _) => self.reading.then(|| *since + timeouts.header),
            Phase::Arriving(arriving) => match arriving.writing_since() {
                Some(since) => Some(since + timeouts.body),
                None => self.reading.then(|| arriving.pace.deadline(timeouts.body)),
            },
            Phase::Submitted(_) => None,
        }
    }

    /// What is due by now; one thing at a time.
    pub(super) fn due(&mut self, timeouts: &Timeouts, now: Instant) -> Option<Due> {
        let past = |since: Instant, limit: Duration| now >= since + limit;
        if let Ending::Lingering { until, .. } = self.ending {
            let over = now >= until || past(self.last_read, LINGER_SILENCE);
            return over.then_some(Due::Close("the client went on sending after its answer"));
        }
        if !self.out.is_empty() && self.taking.is_too_slow(timeouts.send, now) {
            return Some(Due::Close("the client took its answer too slowly (--send-timeout)"));
        }
        if self.stray_since.is_some_and(|since| past(since, timeouts.header)) {
            return Some(Due::Close("the client took too long for a record (--header-timeout)"));
        }
        if self.requests.is_empty() {
            return if self.used {
                past(self.last_read, KEPT_TIMEOUT)
                    .then_some(Due::Close("the client sent nothing for two hours"))
            } else {
                past(self.opened, timeouts.header)
                    .then_some(Due::Close("the client sent no request (--header-timeout)"))
            };
        }
        let reading = self.reading;
        self.requests.iter_mut().find_map(|(id, phase)| match phase {
            Phase::Begun(since, _) => (reading && past(*since, timeouts.header)).then_some(Due::Params(*id)),
            Phase::Arriving(arriving) => match arriving.writing_since() {
                Some(since) => past(since, timeouts.body).then_some(Due::Spool(*id)),
                None if reading && arriving.pace.is_too_slow(timeouts.body, now) => Some(Due::Body(*id)),
                None => None,
            },
            Phase::Submitted(_) => None,
        })
    }

    /// The client's side has ended. Unless that is our own doing, nobody is left to read an answer.
    pub(super) fn no_more_comes(&mut self) {
        let lingers = matches!(self.ending, Ending::Lingering { .. });
        if self.receiving == Receiving::Open || self.awaits_more() || lingers {
            self.ending = Ending::Now;
        }
        self.receiving = Receiving::Done;
    }

    /// Whether something has come in part that can never become whole.
    fn awaits_more(&self) -> bool {
        let awaited = |phase: &Phase| match phase {
            Phase::Begun(..) => true,
            Phase::Arriving(arriving) => !arriving.has_ended(),
            Phase::Submitted(_) => false,
        };
        self.requests.iter().any(|(_, phase)| awaited(phase))
            || (self.requests.is_empty() && !self.server.is_idle())
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
                let time = if self.late { LINGER_SILENCE } else { LINGER_TIMEOUT };
                Ending::Lingering { until: Instant::now() + time, bytes: LINGER_BYTES }
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
