//! When a connection's client, or the disk, has had its time, and for what.
//!
//! Only says so; `intake` and `spill` do what is due.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::gateway::frontend::connection::state::{Ending, FIRST_REQUEST_WAIT, LINGER_SILENCE, Phase, State};
use crate::proto::rate::Pace;

/// How long a kept connection may wait for its next request. Proxies close theirs after a minute (nginx's
/// `keepalive_timeout`), or after an hour at most (`keepalive_time`); closing first could cost a request that is
/// on its way, so this is for those whose client is lost.
const KEPT_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);

/// How long an answer that broke off beside others has no end, which would look complete. A proxy that reads nothing of an answer
/// for so long has given it up (60 s is the habit: nginx's `fastcgi_read_timeout`, HAProxy's `timeout server` in `deploy/`);
/// the id must be free again one day.
const BROKEN_TIMEOUT: Duration = Duration::from_secs(120);

/// How long nothing else may have happened on a connection that requests have shared before it breaks with the answers that
/// did: the close costs a request that its client is just sending, so it waits for one that sends none.
const BROKEN_QUIET: Duration = Duration::from_secs(1);

/// A client is slow when in such a time, within which no more of its answer could be made, it has taken less than
/// [`SLOW_RATE`]: what is made from then on goes to a file. A proxy that is merely held up for a moment, as any process
/// is on a busy machine, never makes the disk write.
const SLOW_READER: Duration = Duration::from_millis(250);

/// The same while other requests wait for a worker. Clients that read nothing would else hold up all workers in turn, each for
/// a quarter of a second.
const SLOW_READER_WHILE_OTHERS_WAIT: Duration = Duration::from_millis(20);

/// Bytes a second. What a gigabit network carries takes a worker along for a moment; what a mobile phone takes would hold
/// it for minutes. A proxy that keeps the answer itself takes ten times as much.
const SLOW_RATE: u64 = 16 << 20;

/// How long a request whose promised body is larger than `--max-body` waits for its first byte, or for the end of STDIN. A
/// proxy that keeps the body to itself sends that end with the head, so this covers no more than a pause within one write.
const TOO_LARGE_WAIT: Duration = Duration::from_secs(1);

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

/// How fast a client makes room since more of its answer could have been made.
#[derive(Debug)]
pub(super) struct Blocked {
    pub(super) pace: Pace,
    /// When to look at it.
    look: Instant,
}

impl Blocked {
    pub(super) fn new(now: Instant) -> Self {
        Self { pace: Pace::new(now), look: now + SLOW_READER_WHILE_OTHERS_WAIT }
    }

    /// Whether the client is slow; sets when to look again.
    fn is_slow(&mut self, others_wait: bool, now: Instant) -> bool {
        self.look = now + SLOW_READER_WHILE_OTHERS_WAIT;
        // A copy, since the longer span goes on.
        let mut pace = self.pace;
        let in_the_way = others_wait && pace.is_slower_than(SLOW_RATE, SLOW_READER_WHILE_OTHERS_WAIT, now);
        if now < self.pace.deadline(SLOW_READER) {
            return in_the_way;
        }
        let slow = self.pace.is_slower_than(SLOW_RATE, SLOW_READER, now);
        self.pace = Pace::new(now);
        slow || in_the_way
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
    /// The body of a request is too large, and its client waits to be told so.
    TooLarge(u16),
    /// The disk does not take the body of a request.
    Spool(u16),
    /// Nobody can be waiting any more for an answer that broke off.
    Broken(u16),
    /// Nothing happens but that clients wait for answers that broke off.
    Break,
    /// The client holds up whoever makes its answer.
    Slow,
    /// The disk does not give back what waits for the client.
    Lost,
}

impl State {
    /// When something is due next, if nothing happens before.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Option<Instant> {
        if let Ending::Lingering { until, .. } = self.ending {
            return Some(until.min(self.last_read + LINGER_SILENCE));
        }
        let requests = self.requests.iter().filter_map(|(_, phase)| self.deadline_of(phase, timeouts));
        let send = (!self.out.unwritten().is_empty()).then(|| self.taking.deadline(timeouts.send));
        let disk = self.reading_spilled_since().map(|since| since + timeouts.send);
        let stray = self.owes_since().map(|since| since + timeouts.header);
        let silent = self.requests.is_empty().then(|| match self.used {
            // One that still takes its answer has been silent for a reason.
            true => self.out.is_empty().then(|| self.last_read + KEPT_TIMEOUT),
            // The look at which it is let go. One that has sent a part, or is on its way out, would be looked at again and again.
            false if self.stopping && self.ending == Ending::No && self.server.is_idle() => {
                Some(self.opened + FIRST_REQUEST_WAIT)
            }
            false => Some(self.opened + timeouts.header),
        });
        let silent = silent.flatten();
        requests.chain(send).chain(disk).chain(stray).chain(silent).min()
    }

    /// When to look whether the client is slow. Nobody loses anything by that, so it waits for nothing.
    pub(super) fn look(&self) -> Option<Instant> {
        self.blocked.as_ref().map(|blocked| blocked.look)
    }

    fn deadline_of(&self, phase: &Phase, timeouts: &Timeouts) -> Option<Instant> {
        match phase {
            Phase::Begun(since, _) => self.reading.then(|| *since + timeouts.header),
            Phase::Arriving(arriving) => match arriving.writing_since() {
                Some(since) => Some(since + timeouts.body),
                None if arriving.too_large => Some(arriving.since + TOO_LARGE_WAIT),
                None => self.reading.then(|| arriving.pace.deadline(timeouts.body)),
            },
            Phase::Submitted(_) => None,
            Phase::Broken(_) if self.has_only_broken() => {
                Some(self.last_read.max(self.last_end) + BROKEN_QUIET)
            }
            Phase::Broken(since) => Some(*since + BROKEN_TIMEOUT),
        }
    }

    /// What is due; one thing at a time. `others_wait`: for a worker. `settled`: see [`Clock`](crate::gateway::clock::Clock).
    pub(super) fn due(
        &mut self,
        timeouts: &Timeouts,
        others_wait: bool,
        settled: Instant,
        now: Instant,
    ) -> Option<Due> {
        if let Some(blocked) = &mut self.blocked
            && now >= blocked.look
        {
            let slow = blocked.is_slow(others_wait, now);
            // Looked at again: it may become slow, or there may be room in the spool by then.
            if !self.out.is_full() {
                self.blocked = None;
            } else if slow && !self.out.is_spilling() {
                return Some(Due::Slow);
            }
        }
        let now = settled;
        let past = |since: Instant, limit: Duration| now >= since + limit;
        if let Ending::Lingering { until, .. } = self.ending {
            if now >= until {
                return Some(Due::Close("the client went on sending after its answer"));
            }
            return past(self.last_read, LINGER_SILENCE)
                .then_some(Due::Close("the client did not close it after its answer, nor end its request"));
        }
        if !self.out.unwritten().is_empty() && self.taking.is_too_slow(timeouts.send, now) {
            return Some(Due::Close("the client took its answer too slowly (--send-timeout)"));
        }
        if self.reading_spilled_since().is_some_and(|since| past(since, timeouts.send)) {
            return Some(Due::Lost);
        }
        if self.owes_since().is_some_and(|since| past(since, timeouts.header)) {
            return Some(Due::Close("the client took too long for a record (--header-timeout)"));
        }
        if self.requests.is_empty() {
            return if self.used {
                (self.out.is_empty() && past(self.last_read, KEPT_TIMEOUT))
                    .then_some(Due::Close("the client sent nothing for two hours"))
            } else {
                past(self.opened, timeouts.header)
                    .then_some(Due::Close("the client sent no request (--header-timeout)"))
            };
        }
        let reading = self.reading;
        if self.has_only_broken() && past(self.last_read.max(self.last_end), BROKEN_QUIET) {
            return Some(Due::Break);
        }
        self.requests.iter_mut().find_map(|(id, phase)| match phase {
            Phase::Begun(since, _) => (reading && past(*since, timeouts.header)).then_some(Due::Params(*id)),
            Phase::Arriving(arriving) => match arriving.writing_since() {
                Some(since) => past(since, timeouts.body).then_some(Due::Spool(*id)),
                None if arriving.too_large => {
                    past(arriving.since, TOO_LARGE_WAIT).then_some(Due::TooLarge(*id))
                }
                None if reading && arriving.pace.is_too_slow(timeouts.body, now) => Some(Due::Body(*id)),
                None => None,
            },
            Phase::Submitted(_) => None,
            Phase::Broken(since) => past(*since, BROKEN_TIMEOUT).then_some(Due::Broken(*id)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many milliseconds a client that takes so many bytes in each is found slow, within a second.
    fn found_slow(bytes: usize, others_wait: bool) -> Option<u32> {
        let start = Instant::now();
        let mut blocked = Blocked::new(start);
        (1..1000).find(|milliseconds| {
            let now = start + Duration::from_millis(1) * *milliseconds;
            if bytes > 0 {
                blocked.pace.moved(bytes, now);
            }
            now >= blocked.look && blocked.is_slow(others_wait, now)
        })
    }

    #[test]
    fn a_client_that_takes_little_is_slow_and_sooner_where_others_wait() {
        for bytes in [0, 1, 10_000] {
            assert_eq!(found_slow(bytes, true), Some(20), "{bytes} bytes");
            assert_eq!(found_slow(bytes, false), Some(260), "{bytes} bytes");
        }
        for others_wait in [false, true] {
            assert_eq!(found_slow(20_000, others_wait), None);
        }
    }
}
