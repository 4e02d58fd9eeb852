//! The timers of a connection. Their expiries are computed from the state, so they are never out of step with it.

use std::time::{Duration, Instant};

use super::event::{Event, Timeouts};
use super::state::{Connection, Ending, FIRST_REQUEST_WAIT, LINGER_SILENCE};
use super::stream::{StreamKey, StreamState};
use crate::fastcgi::ProtocolStatus;

/// Longest wait of a kept connection for its next request. Proxies close their connections after a minute (nginx's
/// `keepalive_timeout`), or after an hour at most (`keepalive_time`). An earlier close by the gateway could lose a request, so this
/// limit is for connections whose client is gone.
const KEPT_TIMEOUT: Duration = Duration::from_secs(2 * 60 * 60);

/// Time for which a response that broke off beside others gets no END_REQUEST, because that would look complete. A proxy that reads
/// nothing of a response for so long has given up (60 s is usual: nginx's `fastcgi_read_timeout`, HAProxy's `timeout server` in
/// `deploy/`). The id must become free at some time.
const BROKEN_TIMEOUT: Duration = Duration::from_secs(120);

/// Time without other events after which a connection that requests have shared is closed for its broken responses. The close
/// loses a request that the client is sending, so it waits for a quiet client.
const BROKEN_QUIET: Duration = Duration::from_secs(1);

/// Longest wait for the first byte, or the end of STDIN, of a request whose promised body is larger than `--max-body`. A proxy that
/// withholds the body sends that end with the head, so this only covers a pause within one write.
const TOO_LARGE_WAIT: Duration = Duration::from_secs(1);

/// A timer of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// The client still sends after its response.
    Linger,
    /// The client neither closes nor ends its request after its response.
    LingerSilence,
    /// The client must read its response at the least rate.
    Send,
    /// A read of spooled bytes must end.
    SpoolRead,
    /// A turn of a file must end.
    FileTurn,
    /// A record that belongs to no request must be complete.
    Record,
    /// The next request of a kept connection must begin.
    Kept,
    /// The first request must begin.
    FirstRequest,
    /// While stopping: the first request of a client that has just connected must begin.
    FirstRequestWhileStopping,
    /// The connection has only broken streams, and was quiet.
    BrokenQuiet,
    /// The parameters of a request must be complete.
    Params(StreamKey),
    /// A body must arrive at the least rate.
    Body(StreamKey),
    /// A body that is too large must begin.
    TooLarge(StreamKey),
    /// A write of a body to its file must end.
    SpoolWrite(StreamKey),
    /// A broken response gets its END_REQUEST.
    Broken(StreamKey),
}

impl Connection {
    /// Calls `visit` with each timer that is set, and its expiry.
    fn for_each_timer(&self, timeouts: Timeouts, mut visit: impl FnMut(Instant, Timer)) {
        if let Ending::Lingering { until, .. } = self.ending {
            visit(until, Timer::Linger);
            visit(self.last_read + LINGER_SILENCE, Timer::LingerSilence);
            return;
        }
        if let Some(rate) = self.send_rate.as_ref().filter(|_| self.wants_write()) {
            visit(rate.deadline(timeouts.send), Timer::Send);
        }
        if let Some(since) = self.out.reading_since() {
            visit(since + timeouts.send, Timer::SpoolRead);
        }
        if let Some(since) = self.transfers.turn_since() {
            visit(since + timeouts.send, Timer::FileTurn);
        }
        if let Some(since) = self.owes_since() {
            visit(since + timeouts.header, Timer::Record);
        }
        if self.streams.is_empty()
            && let Some((expiry, timer)) = self.silence(timeouts)
        {
            visit(expiry, timer);
        }
        if self.has_only_broken() {
            visit(self.last_read.max(self.last_end) + BROKEN_QUIET, Timer::BrokenQuiet);
        }
        for stream in &self.streams {
            if let Some((expiry, timer)) = self.timer_of(stream.key, &stream.state, timeouts) {
                visit(expiry, timer);
            }
        }
    }

    /// The timer of a connection without a request.
    fn silence(&self, timeouts: Timeouts) -> Option<(Instant, Timer)> {
        if self.used {
            // A client that still reads its response has a reason to be silent.
            return self.is_written().then(|| (self.last_read + KEPT_TIMEOUT, Timer::Kept));
        }
        // Set once, and only before the first byte: otherwise the timer would expire again and again.
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
            StreamState::Submitted(_) | StreamState::Sending => None,
            StreamState::Broken { since } => Some((*since + BROKEN_TIMEOUT, Timer::Broken(key))),
        }
    }

    /// Time of the next call of [`Self::handle_timeout`], unless the state changes before.
    pub(crate) fn next_timeout(&self, timeouts: Timeouts) -> Option<Instant> {
        let mut next = None;
        self.for_each_timer(timeouts, |expiry, _| {
            next = Some(next.map_or(expiry, |next: Instant| next.min(expiry)));
        });
        next
    }

    /// Time of the next call of [`Self::check_client_rate`]. The check has no effect on others, so it need not wait for pending
    /// input.
    pub(crate) fn next_rate_check(&self) -> Option<Instant> {
        self.backpressure.as_ref().map(|backpressure| backpressure.next_check)
    }

    /// Checks whether the client is slow: if so, [`Event::Slow`] requests a file. `others_wait`: requests wait for a worker.
    pub(crate) fn check_client_rate(&mut self, others_wait: bool, now: Instant) {
        let Some(backpressure) =
            self.backpressure.as_mut().filter(|backpressure| now >= backpressure.next_check)
        else {
            return;
        };
        let slow = backpressure.check(others_wait, now);
        // Checked again later: the client may become slow, or the spool may have room by then.
        if !self.out.is_full() {
            self.backpressure = None;
        } else if slow && !self.out.is_spooling() {
            self.events.push_back(Event::Slow);
        }
    }

    /// Handles the timers that expired by `settled`, the time up to which all input has been processed.
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
                Timer::FileTurn => self.file_stalled(),
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
                Timer::SpoolWrite(key) => self.reject_stalled(key),
                Timer::Broken(key) => self.end_stream(key, 1, ProtocolStatus::RequestComplete, now),
            }
        }
    }

    /// The first expired timer. The span of a rate that was high enough restarts.
    fn expired(&mut self, timeouts: Timeouts, settled: Instant) -> Option<Timer> {
        loop {
            let mut first = None;
            self.for_each_timer(timeouts, |expiry, timer| {
                if expiry <= settled {
                    first.get_or_insert(timer);
                }
            });
            let timer = first?;
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
