//! How a stop goes: nobody is let in, what is accepted is finished, then workers have a moment for their stop hooks.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Supervisor;
use crate::gateway::systemd;
use crate::ipc::message::ToWorker;

/// How long workers have to run their stop hooks once no request is left.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// Accepted requests are finished, until then.
    Finishing(Instant),
    /// Workers run their stop hooks, until then.
    Draining(Instant),
}

impl Supervisor {
    /// The first time: finish what is accepted. The second time: at once.
    pub(super) fn stop(&mut self) {
        if self.stop == Stop::No {
            info!(grace_s = self.gateway.config().grace.as_secs_f32(), "stopping");
            systemd::stopping();
            self.stop = Stop::Finishing(Instant::now() + self.gateway.config().grace);
            self.discard_next();
            self.gateway.begin_to_stop();
        } else {
            warn!("stopping now; requests that still run are broken off");
            self.gateway.kill_all();
            self.stop = Stop::Draining(Instant::now());
        }
    }

    /// No request is left: let the workers go.
    pub(super) fn drain(&mut self) {
        self.stop = Stop::Draining(Instant::now() + FAREWELL);
        let idle = self.gateway.pool.borrow_mut().close(Instant::now());
        for worker in idle {
            self.gateway.tell(worker, ToWorker::Drain);
        }
    }

    pub(super) fn is_stopped(&mut self) -> bool {
        let now = Instant::now();
        match self.stop {
            Stop::No => false,
            Stop::Finishing(until) => {
                if until <= now {
                    warn!("the grace is over; requests that still run are broken off (--grace)");
                    self.gateway.kill_all();
                    self.drain();
                }
                false
            }
            Stop::Draining(until) => {
                if until <= now {
                    self.gateway.kill_all();
                }
                self.gateway.pool.borrow().is_empty() || until <= now
            }
        }
    }
}
