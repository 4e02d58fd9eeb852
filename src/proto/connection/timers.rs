//! The timers of a connection: one table of when each expires, computed from the state, and so never out of step with it.

use std::time::{Duration, Instant};

use super::stream::StreamState;
use super::{Connection, Ending, Event};
use crate::fastcgi::ProtocolStatus;
use crate::proto::connection::StreamKey;
use crate::proto::rate::MinRate;
use crate::proto::space::SpoolError;

/// How long a kept connection may wait for its next request. Proxies close theirs after a minute (nginx's
/// `keepalive_timeout`), or after an hour at most (`keepalive_time`); closing first could cost a request that is
/// on its way, so this limit is for connections whose client is lost.
const KEPT_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);

/// How long a response that broke off beside others has no end, which would look complete. A proxy that reads nothing of a response
/// for so long has given it up (60 s is the habit: nginx's `fastcgi_read_timeout`, HAProxy's `timeout server` in `deploy/`);
/// the id must be free again one day.
const BROKEN_TIMEOUT: Duration = Duration::from_secs(120);

/// How long nothing else may have happened on a connection that requests have shared before it breaks with the responses that
/// did: the close costs a request that its client is just sending, so the break waits for a client that sends none.
const BROKEN_QUIET: Duration = Duration::from_secs(1);

/// The span in which a client that takes less than [`SLOW_RATE`] of a response that waits is slow: from then on the response goes
/// to a file. A proxy that is merely held up for a moment, as any process is on a busy machine, never makes the disk write.
const SLOW_READER: Duration = Duration::from_millis(250);

/// [`SLOW_READER`] while other requests wait for a worker. Clients that read nothing would else hold up all workers in turn, each for
/// a quarter of a second.
const SLOW_READER_WHILE_OTHERS_WAIT: Duration = Duration::from_millis(20);

/// Bytes a second. A gigabit network's rate takes a worker along for a moment; a mobile phone's would hold it for minutes. A
/// proxy that buffers the response takes ten times as much.
const SLOW_RATE: u64 = 16 << 20;

/// How long a request whose promised body is larger than `--max-body` waits for its first byte, or for the end of STDIN. A
/// proxy that keeps the body to itself sends that end with the head, so this covers no more than a pause within one write.
const TOO_LARGE_WAIT: Duration = Duration::from_secs(1);

/// How long, while the gateway stops, a client that has just connected may take to send its first request. The client
/// was accepted, so it is served.
pub(super) const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// How long a client may be silent that goes on sending after its request was answered early.
pub(super) const LINGER_SILENCE: Duration = Duration::from_secs(5);

/// The time limits from the settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// `--header-timeout`
    pub(crate) header: Duration,
    /// `--body-timeout`
    pub(crate) body: Duration,
    /// `--send-timeout`
    pub(crate) send: Duration,
}

/// How fast a client makes room since a response had none.
#[derive(Debug)]
pub(super) struct Backpressure {
    pub(super) rate: MinRate,
    /// When to look at the rate.
    look: Instant,
}

impl Backpressure {
    pub(super) fn new(now: Instant) -> Self {
        Self { rate: MinRate::new(now), look: now + SLOW_READER_WHILE_OTHERS_WAIT }
    }

    /// Judges whether the client is slow, and sets the time of the next look.
    fn judge(&mut self, others_wait: bool, now: Instant) -> bool {
        self.look = now + SLOW_READER_WHILE_OTHERS_WAIT;
        // A copy, since the longer span goes on.
        let mut rate = self.rate;
        let in_the_way = others_wait && rate.is_slower_than(SLOW_RATE, SLOW_READER_WHILE_OTHERS_WAIT, now);
        if now < self.rate.deadline(SLOW_READER) {
            return in_the_way;
        }
        let slow = self.rate.is_slower_than(SLOW_RATE, SLOW_READER, now);
        self.rate = MinRate::new(now);
        slow || in_the_way
    }
}

/// A timer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// The client has sent for long enough after its response.
    Linger,
    /// The client is silent after its response, and neither closes nor ends its request.
    LingerSilence,
    /// The span in which the client must take its response at the least rate.
    Send,
    /// The disk must have given back what waits for the client.
    SpoolRead,
    /// A record that belongs to no request must be whole.
    Record,
    /// The next request of a kept connection must begin.
    Kept,
    /// The first request must begin.
    FirstRequest,
    /// While stopping: a client that has just connected has had the time for its first request.
    FirstRequestWhileStopping,
    /// Nothing has happened but that clients wait for responses that broke off.
    BrokenQuiet,
    /// The parameters of a request must be complete.
    Params(StreamKey),
    /// The span in which a body must come at the least rate.
    Body(StreamKey),
    /// A body that is too large must have begun.
    TooLarge(StreamKey),
    /// The disk must have taken a part of a body.
    SpoolWrite(StreamKey),
    /// Nobody waits any more for a response that broke off.
    Broken(StreamKey),
}

impl Connection {
    /// The timers that are set, each with its expiry.
    fn timers(&self, timeouts: Timeouts) -> impl Iterator<Item = (Instant, Timer)> {
        let lingering = match self.ending {
            Ending::Lingering { until, .. } => {
                Some([(until, Timer::Linger), (self.last_read + LINGER_SILENCE, Timer::LingerSilence)])
            }
            _ => None,
        };
        let lives = lingering.is_none();
        let send = self.send_rate.as_ref().filter(|_| !self.out.unwritten().is_empty());
        let send = send.map(|rate| (rate.deadline(timeouts.send), Timer::Send));
        let read = self.out.reading_since().map(|since| (since + timeouts.send, Timer::SpoolRead));
        let record = self.owes_since().map(|since| (since + timeouts.header, Timer::Record));
        let silent = self.streams.is_empty().then(|| self.silence(timeouts)).flatten();
        let quiet = self.has_only_broken();
        let quiet = quiet.then(|| (self.last_read.max(self.last_end) + BROKEN_QUIET, Timer::BrokenQuiet));
        let of_connection = [send, read, record, silent, quiet].into_iter().flatten();
        let of_streams =
            self.streams.iter().filter_map(move |stream| self.timer_of(stream.key, &stream.state, timeouts));
        let living = of_connection.chain(of_streams).filter(move |_| lives);
        lingering.into_iter().flatten().chain(living)
    }

    /// The timer of a connection without a request.
    fn silence(&self, timeouts: Timeouts) -> Option<(Instant, Timer)> {
        if self.used {
            // A client that still takes its response has been silent for a reason.
            return self.out.is_empty().then(|| (self.last_read + KEPT_TIMEOUT, Timer::Kept));
        }
        // Set once, and not once bytes have arrived: the timer would expire again and again.
        let waits = self.stopping && !self.waited && self.ending == Ending::No && self.server.is_idle();
        Some(if waits {
            (self.opened + FIRST_REQUEST_WAIT, Timer::FirstRequestWhileStopping)
        } else {
            (self.opened + timeouts.header, Timer::FirstRequest)
        })
    }

    fn timer_of(&self, key: StreamKey, state: &StreamState, timeouts: Timeouts) -> Option<(Instant, Timer)> {
        match state {
            StreamState::Begun { since, .. } => {
                self.reading.then(|| (*since + timeouts.header, Timer::Params(key)))
            }
            StreamState::Arriving(request) => match request.writing_since() {
                Some(since) => Some((since + timeouts.body, Timer::SpoolWrite(key))),
                None if request.too_large => Some((request.since + TOO_LARGE_WAIT, Timer::TooLarge(key))),
                None => self.reading.then(|| (request.rate.deadline(timeouts.body), Timer::Body(key))),
            },
            StreamState::Submitted(_) => None,
            StreamState::Broken { since } => Some((*since + BROKEN_TIMEOUT, Timer::Broken(key))),
        }
    }

    /// When [`Self::handle_timeout`] is to be called next, if nothing happens before.
    pub(crate) fn next_timeout(&self, timeouts: Timeouts) -> Option<Instant> {
        self.timers(timeouts).map(|(expiry, _)| expiry).min()
    }

    /// When [`Self::handle_look`] is to be called next. A look costs nobody anything, so it waits for nothing.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.backpressure.as_ref().map(|backpressure| backpressure.look)
    }

    /// Judges a client that makes no room for its response; [`Event::Slow`] asks for a file. `others_wait`: requests wait for a
    /// worker.
    pub(crate) fn handle_look(&mut self, others_wait: bool, now: Instant) {
        let Some(backpressure) = self.backpressure.as_mut().filter(|backpressure| now >= backpressure.look)
        else {
            return;
        };
        let slow = backpressure.judge(others_wait, now);
        // Judged again later: the client may become slow, or there may be room in the spool by then.
        if !self.out.is_full() {
            self.backpressure = None;
        } else if slow && !self.out.is_spilling() {
            self.events.push_back(Event::Slow);
        }
    }

    /// Does what the timers that have expired by `settled` ask for. `settled`: everything that had come by then has been handled.
    /// `now`: the time.
    pub(crate) fn handle_timeout(
        &mut self,
        timeouts: Timeouts,
        max_body: u64,
        settled: Instant,
        now: Instant,
    ) {
        while let Some(timer) = self.expired(timeouts, settled) {
            match timer {
                Timer::Linger => return self.close_late("the client went on sending after its answer"),
                Timer::LingerSilence => {
                    return self
                        .close_late("the client did not close it after its answer, nor end its request");
                }
                Timer::Send => {
                    return self.close_late("the client took its answer too slowly (--send-timeout)");
                }
                Timer::SpoolRead => {
                    self.lose_spilled("the disk did not give it back in time (--send-timeout)".to_owned());
                }
                Timer::Record => {
                    return self.close_late("the client took too long for a record (--header-timeout)");
                }
                Timer::Kept => return self.close_late("the client sent nothing for two hours"),
                Timer::FirstRequest => {
                    return self.close_late("the client sent no request (--header-timeout)");
                }
                Timer::FirstRequestWhileStopping => self.waited = true,
                Timer::BrokenQuiet => self.break_transfer(),
                Timer::Params(key) => {
                    // §3.3: there can be no output before the end of PARAMS. A request that is alone ends with its connection.
                    if self.streams.len() == 1 {
                        return self.close_late("the parameters took too long (--header-timeout)");
                    }
                    self.events.push_back(Event::ParamsLate);
                    self.end_stream(key, 1, ProtocolStatus::RequestComplete, now);
                }
                Timer::Body(key) => {
                    if self.streams.len() == 1 {
                        // RFC 9110 §15.5.9: 408 closes the connection, on which the rest may still come.
                        self.timed_out = true;
                    }
                    self.reject_slow_body(key);
                }
                Timer::TooLarge(key) => self.reject_too_large(key, max_body),
                Timer::SpoolWrite(key) => self.reject_arriving(key, |_| SpoolError::Stalled.into()),
                Timer::Broken(key) => self.end_stream(key, 1, ProtocolStatus::RequestComplete, now),
            }
        }
    }

    /// The first timer that has expired. A span that was long enough begins anew.
    fn expired(&mut self, timeouts: Timeouts, settled: Instant) -> Option<Timer> {
        loop {
            let timer = self.timers(timeouts).find(|(expiry, _)| *expiry <= settled)?.1;
            let too_slow = match timer {
                Timer::Send => {
                    let rate = self.send_rate.as_mut();
                    rate.is_some_and(|rate| rate.is_too_slow(timeouts.send, settled))
                }
                Timer::Body(key) => match self.stream(key).map(|stream| &mut stream.state) {
                    Some(StreamState::Arriving(request)) => request.rate.is_too_slow(timeouts.body, settled),
                    _ => true,
                },
                _ => true,
            };
            if too_slow {
                return Some(timer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many milliseconds a client that takes so many bytes in each is found slow, within a second.
    fn found_slow(bytes: usize, others_wait: bool) -> Option<u32> {
        let start = Instant::now();
        let mut backpressure = Backpressure::new(start);
        (1..1000).find(|milliseconds| {
            let now = start + Duration::from_millis(1) * *milliseconds;
            if bytes > 0 {
                backpressure.rate.moved(bytes, now);
            }
            now >= backpressure.look && backpressure.judge(others_wait, now)
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
