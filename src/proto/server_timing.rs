//! `Server-Timing` (W3C Server Timing): where a request's time went before its response began, for its client to see.
//!
//! [`super::response_writer`] puts the line into the head (`--server-timing`). Reads no clock.

use std::time::{Duration, Instant};

/// The moments that the durations are counted from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerTiming {
    /// The request was complete.
    came: Instant,
    /// A worker had it.
    assigned: Option<Instant>,
}

impl ServerTiming {
    /// For a request that was complete then.
    pub(crate) fn new(came: Instant) -> Self {
        Self { came, assigned: None }
    }

    /// A worker has the request, or does not have it any more.
    pub(crate) fn set_assigned(&mut self, at: Option<Instant>) {
        self.assigned = at;
    }

    /// The header field of a head that is sent at `now`, line end included: the time in the queue, and the application's time
    /// up to this head where a worker had the request. Milliseconds, as the specification wants.
    pub(crate) fn field(&self, now: Instant) -> String {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        let queue = milliseconds(self.assigned.unwrap_or(now).saturating_duration_since(self.came));
        match self.assigned {
            Some(assigned) => {
                let app = milliseconds(now.saturating_duration_since(assigned));
                format!("Server-Timing: queue;dur={queue:.3}, app;dur={app:.3}\r\n")
            }
            None => format!("Server-Timing: queue;dur={queue:.3}\r\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_ends_where_the_application_begins() {
        let came = Instant::now();
        let at = |micros| came + Duration::from_micros(micros);
        let mut timing = ServerTiming::new(came);
        timing.set_assigned(Some(at(1_500)));
        assert_eq!(timing.field(at(14_042)), "Server-Timing: queue;dur=1.500, app;dur=12.542\r\n");
        assert_eq!(timing.field(at(1_500)), "Server-Timing: queue;dur=1.500, app;dur=0.000\r\n");
    }

    #[test]
    fn a_request_that_no_worker_had_has_only_waited() {
        let came = Instant::now();
        let now = came + Duration::from_secs(10);
        let mut timing = ServerTiming::new(came);
        assert_eq!(timing.field(now), "Server-Timing: queue;dur=10000.000\r\n");
        timing.set_assigned(Some(came));
        timing.set_assigned(None);
        assert_eq!(timing.field(now), "Server-Timing: queue;dur=10000.000\r\n");
    }
}
