//! The timers of a connection: one table of when each expires, computed from the state, and so never out of step with it.

use std::time::{Duration, Instant};

use super::event::{Event, Timeouts};
use super::state::{Connection, Ending, FIRST_REQUEST_WAIT, LINGER_SILENCE};
use super::stream::{StreamKey, StreamState};
use crate::fastcgi::ProtocolStatus;
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

/// How long a request whose promised body is larger than `--max-body` waits for its first byte, or for the end of STDIN. A
/// proxy that keeps the body to itself sends that end with the head, so this covers no more than a pause within one write.
const TOO_LARGE_WAIT: Duration = Duration::from_secs(1);

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
        } else if slow && !self.out.is_spooling() {
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
                    self.spool_failed("the disk did not give it back in time (--send-timeout)".to_owned());
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
