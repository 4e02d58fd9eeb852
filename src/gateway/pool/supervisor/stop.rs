//! How a stop goes: nobody is let in, what is accepted is finished, then workers have a moment for their stop hooks.

use std::time::Instant;

use tracing::{info, warn};

use crate::gateway::frontend::systemd;
use crate::gateway::pool::dispatch;
use crate::gateway::pool::supervisor::Supervisor;
use crate::link::message::ToWorker;
use crate::proto::pool::EXIT_TIME;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// Everything is served as before, until then; only the health says otherwise.
    Announced(Instant),
    /// Accepted requests are finished, until then.
    Finishing(Instant),
    /// Workers run their stop hooks, until then.
    Draining(Instant),
}

impl Supervisor {
    /// Somebody asks for a stop. The first time: finish what is accepted, after `--drain-delay`. The second time: at once.
    pub(super) fn stop(&mut self) {
        match (self.stop, self.gateway.config().drain_delay) {
            // Before the first load there is nothing to serve meanwhile.
            (Stop::No, Some(delay)) if self.gateway.has_served() => {
                info!(
                    delay_s = delay.as_secs_f32(),
                    "stop announced; requests are still served (--drain-delay)"
                );
                systemd::stop_announced();
                self.stop = Stop::Announced(Instant::now() + delay);
                self.gateway.note(|course| course.stop_announced = true);
            }
            (Stop::No, _) => self.begin_to_stop(),
            (Stop::Announced(_) | Stop::Finishing(_) | Stop::Draining(_), _) => {
                warn!("stopping now; requests that still run are broken off");
                self.gateway.workers.kill_all();
                self.stop = Stop::Draining(Instant::now());
            }
        }
    }

    /// Nobody has to be warned: another server has taken over, or nobody is connected. A stop that was only announced begins,
    /// and running requests are finished all the same.
    pub(super) fn stop_soon(&mut self) {
        match self.stop {
            Stop::No | Stop::Announced(_) => self.begin_to_stop(),
            Stop::Finishing(_) | Stop::Draining(_) => {}
        }
    }

    fn begin_to_stop(&mut self) {
        info!(grace_s = self.gateway.config().grace.as_secs_f32(), "stopping");
        if !self.gateway.mode.trial {
            systemd::stopping();
        }
        self.stop = Stop::Finishing(Instant::now() + self.gateway.config().grace);
        self.discard_next();
        if !self.gateway.has_served() {
            dispatch::refuse_for_good(&self.gateway, "the server is stopping");
        }
        self.gateway.begin_to_stop();
    }

    /// Whether requests are taken, and workers forked and replaced for them.
    pub(super) fn is_serving(&self) -> bool {
        matches!(self.stop, Stop::No | Stop::Announced(_))
    }

    /// No request is left: let the workers go.
    pub(super) fn drain(&mut self) {
        let now = Instant::now();
        self.stop = Stop::Draining(now + EXIT_TIME);
        let idle = self.gateway.pool.borrow_mut().close(now);
        for worker in idle {
            self.gateway.workers.send(worker, ToWorker::Drain);
        }
    }

    pub(super) fn is_stopped(&mut self) -> bool {
        let now = self.gateway.clock.settled();
        match self.stop {
            Stop::No => false,
            Stop::Announced(until) => {
                if until <= now {
                    self.begin_to_stop();
                }
                false
            }
            Stop::Finishing(until) => {
                if until <= now {
                    warn!("the grace is over; requests that still run are broken off (--grace)");
                    self.gateway.workers.kill_all();
                    self.drain();
                }
                false
            }
            Stop::Draining(until) => {
                if until <= now {
                    self.gateway.workers.kill_all();
                }
                self.gateway.pool.borrow().is_empty() || until <= now
            }
        }
    }
}
