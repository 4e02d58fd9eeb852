//! The driver of a stop: no client is let in, accepted requests are finished, then workers have a moment for their stop hooks.
//! [`Stop`] has the order.
//!
//! [`Stop`]: crate::proto::supervisor::Stop

use std::time::Instant;

use tracing::{info, warn};

use crate::gateway::frontend::systemd;
use crate::gateway::pool::dispatch;
use crate::gateway::pool::supervisor::Supervisor;
use crate::link::message::ToWorker;
use crate::proto::supervisor::{StopAction, StopEvent, StopTimes};

impl Supervisor {
    /// Handles an event of a stop.
    pub(super) fn handle_stop(&mut self, event: StopEvent) {
        let (times, has_served) = (self.stop_times(), self.gateway.has_served());
        if let Some(action) = self.stop.handle_event(event, &times, has_served, Instant::now()) {
            self.act_on_stop(action);
        }
    }

    /// Takes the action of the stop that is due. Returns whether the stop is complete.
    pub(super) fn advance_stop(&mut self) -> bool {
        let (settled, times) = (self.gateway.clock.settled(), self.stop_times());
        if let Some(action) = self.stop.handle_timeout(settled, Instant::now(), &times) {
            self.act_on_stop(action);
        }
        self.stop.is_complete(self.gateway.pool.borrow().is_empty(), settled)
    }

    fn stop_times(&self) -> StopTimes {
        let config = self.gateway.config();
        StopTimes { drain_delay: config.drain_delay, grace: config.grace }
    }

    fn act_on_stop(&mut self, action: StopAction) {
        match action {
            StopAction::Announce(delay) => {
                info!(
                    delay_s = delay.as_secs_f32(),
                    "stop announced; requests are still served (--drain-delay)"
                );
                systemd::stop_announced();
                self.gateway.update_server_state(|state| state.stop_announced = true);
            }
            StopAction::Begin => self.begin_to_stop(),
            StopAction::Drain => self.drain(),
            StopAction::EndGrace => {
                warn!("the grace is over; requests that still run are broken off (--grace)");
                self.gateway.workers.kill_all();
                self.drain();
            }
            StopAction::BreakOff => {
                warn!("stopping now; requests that still run are broken off");
                self.gateway.workers.kill_all();
            }
            StopAction::Kill => self.gateway.workers.kill_all(),
        }
    }

    fn begin_to_stop(&mut self) {
        info!(grace_s = self.gateway.config().grace.as_secs_f32(), "stopping");
        if !self.gateway.mode.trial {
            systemd::stopping();
        }
        self.discard_next();
        if !self.gateway.has_served() {
            dispatch::refuse_for_good(&self.gateway, "the server is stopping");
        }
        self.gateway.begin_to_stop();
    }

    /// Tells all workers to exit, once no request is left.
    fn drain(&mut self) {
        let idle = self.gateway.pool.borrow_mut().close(Instant::now());
        for worker in idle {
            self.gateway.workers.send(worker, ToWorker::Drain);
        }
    }
}
