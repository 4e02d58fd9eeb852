//! Generations of the code: a generation is loaded, forks one worker, and takes over once that worker is ready.
//! [`crate::proto::supervisor::Reload`] has the order; this acts on it.

use std::rc::Rc;
use std::time::Instant;

use tracing::{debug, error, info, warn};

use crate::config::Config;
use crate::gateway::Error;
use crate::gateway::Load;
use crate::gateway::NewestGeneration;
use crate::gateway::frontend::systemd;
use crate::gateway::pool::dispatch;
use crate::gateway::pool::supervisor::Supervisor;
use crate::link::message::ToWorker;
use crate::proto::pool::EXIT_TIME;
use crate::proto::supervisor::{Consequence, Reason};

impl Supervisor {
    /// Reads the settings again and launches the zygote of the next generation. It takes over when its first worker is
    /// ready.
    pub(super) fn reload(&mut self) {
        match self.gateway.read_config_again() {
            Ok((config, needs_restart)) => self.load_next(Reason::Reload, config, needs_restart),
            Err(message) => {
                let generation = self.reload.refuse();
                error!(r#gen = generation, "cannot reload: {message}");
                self.publish(generation, Load::Failed(message));
                self.gateway.metrics.reloaded(false);
                if self.reload.reason() == Some(Reason::Start) {
                    warn!("the start goes on, with the settings before");
                    return;
                }
                self.discard_next();
                self.gateway.update_server_state(|state| state.load_failed = true);
                self.predecessor_goes_on();
            }
        }
    }

    /// Launches the zygote of the next generation. `needs_restart`: see [`NewestGeneration`].
    pub(super) fn load_next(&mut self, reason: Reason, config: Rc<Config>, needs_restart: Vec<&'static str>) {
        self.discard_next();
        let (generation, reason) = self.reload.begin(reason, Rc::clone(&config));
        self.gateway.mode.code.send_replace(NewestGeneration {
            generation,
            load: Load::Running,
            needs_restart,
        });
        match reason {
            Reason::Start => {}
            Reason::Reload => {
                info!(r#gen = generation, "reloading");
                systemd::reloading(generation);
            }
            Reason::Recovery => {
                debug!(r#gen = generation, "loading the application afresh, since its workers fail");
            }
        }
        match self.launch(generation, &config) {
            Some(launch) => self.zygotes.launched_next(launch, generation, Instant::now()),
            None => self.next_failed("cannot execute the zygote".to_owned()),
        }
    }

    /// Discards the generation that is loading, with its zygote and its first worker.
    pub(super) fn discard_next(&mut self) {
        self.reload.discard();
        let Some((launch, generation)) = self.zygotes.discard_next() else { return };
        self.kill_zygote(launch);
        let all = {
            let mut pool = self.gateway.pool.borrow_mut();
            pool.drain_generations(Instant::now(), EXIT_TIME, |of| of == generation);
            pool.leaving(generation)
        };
        self.gateway.workers.kill(&all);
        self.forget_pending(launch);
    }

    /// Switches to the generation whose first worker is ready. The old generation drains.
    pub(super) fn swap(&mut self, generation: u32) {
        if !self.zygotes.is_next(generation) {
            return;
        }
        let Some((reason, config)) = self.reload.succeeded() else { return };
        self.gateway.apply_config(config);
        let (now, patience) = (Instant::now(), self.gateway.config().grace + EXIT_TIME);
        let idle = {
            let mut pool = self.gateway.pool.borrow_mut();
            pool.switch(generation, reason != Reason::Recovery, now);
            pool.drain_generations(now, patience, |other| other != generation)
        };
        for worker in idle {
            self.gateway.workers.send(worker, ToWorker::Drain);
        }
        let retired = self.zygotes.switch(now + patience);
        if let Some(link) = retired.and_then(|launch| self.links.get(&launch)) {
            link.shut_down();
        }
        self.gateway.metrics.reloaded(true);
        self.publish(generation, Load::Done);
        self.gateway.update_server_state(|state| (state.load_failed, state.cannot_fork) = (false, false));
        match reason {
            Reason::Start => self.start_is_over(Ok(())),
            Reason::Reload => {
                info!(r#gen = generation, "reloaded");
                systemd::ready(generation, &self.gateway.config().workers.to_string());
            }
            Reason::Recovery => debug!(r#gen = generation, "loaded afresh"),
        }
        dispatch::dispatch(&self.gateway);
        dispatch::clear_wanting(&self.gateway);
    }

    /// Handles a failed load, or a failed start of the next generation's first worker.
    pub(super) fn next_failed(&mut self, message: String) {
        let Some((generation, consequence)) = self.reload.failed() else { return };
        self.discard_next();
        self.gateway.metrics.reloaded(false);
        self.gateway.update_server_state(|state| state.load_failed = true);
        self.publish(generation, Load::Failed(message.clone()));
        match consequence {
            Consequence::EndServer => return self.start_is_over(Err(Error::Load(message))),
            Consequence::DelayStarts => {
                let serving = self.gateway.pool.borrow().generation();
                self.gateway.pool.borrow_mut().start_failed(serving, Instant::now());
                self.gateway.log_process_event(|left_out| {
                    error!(r#gen = generation, left_out, "application does not load: {message}");
                });
            }
            Consequence::KeepServing => {
                error!(r#gen = generation, "application does not load: {message}");
                self.predecessor_goes_on();
            }
            Consequence::ServeFailure => {
                self.start_is_over(Ok(()));
                error!(r#gen = generation, "application does not load: {message}");
            }
        }
        if self.gateway.mode.development {
            dispatch::resubmit_all(&self.gateway);
        }
    }

    /// Sends the outcome of the start, once.
    fn start_is_over(&mut self, outcome: Result<(), Error>) {
        if let Some(started) = self.started.take() {
            let _ = started.send(outcome);
        }
    }

    /// Publishes the progress of a load.
    fn publish(&self, generation: u32, load: Load) {
        self.gateway.mode.code.send_modify(|code| {
            if code.generation != generation {
                *code = NewestGeneration { generation, ..NewestGeneration::default() };
            }
            code.load = load;
        });
    }

    fn predecessor_goes_on(&self) {
        let serving = self.gateway.pool.borrow().generation();
        systemd::not_reloaded(serving, &self.gateway.config().workers.to_string());
        warn!(r#gen = serving, "the generation before goes on serving");
    }
}
