//! Generations of the code: each is loaded, proves itself with one worker, and takes over, or is given up.

use std::rc::Rc;
use std::time::Instant;

use tracing::{debug, error, info, warn};

use crate::config::Config;
use crate::gateway::Code;
use crate::gateway::Error;
use crate::gateway::Load;
use crate::gateway::frontend::systemd;
use crate::gateway::pool::dispatch;
use crate::gateway::pool::supervisor::Supervisor;
use crate::link::message::ToWorker;
use crate::proto::pool::EXIT_TIME;

impl Supervisor {
    /// Reads the settings again and launches the zygote of the next generation. It takes over when its first worker is
    /// ready.
    pub(super) fn reload(&mut self) {
        self.recovering = false;
        match self.gateway.read_config_again() {
            Ok((config, needs_restart)) => self.load_next(config, needs_restart),
            Err(message) => {
                self.discard_next();
                self.last_generation += 1;
                let generation = self.last_generation;
                error!(r#gen = generation, "cannot reload: {message}");
                let load = Load::Failed(message);
                self.gateway.mode.code.send_replace(Code { generation, load, ..Code::default() });
                self.gateway.metrics.reloaded(false);
                self.gateway.note(|course| course.load_failed = true);
                self.predecessor_goes_on();
            }
        }
    }

    /// Launches the zygote of the next generation. `needs_restart`: see [`Code`].
    pub(super) fn load_next(&mut self, config: Rc<Config>, needs_restart: Vec<&'static str>) {
        self.discard_next();
        self.last_generation += 1;
        let generation = self.last_generation;
        self.gateway.mode.code.send_replace(Code { generation, load: Load::Running, needs_restart });
        if self.recovering {
            debug!(r#gen = generation, "loading the application afresh, since its workers fail");
        } else if self.started.is_none() {
            info!(r#gen = generation, "reloading");
            systemd::reloading(generation);
        }
        let launch = self.launch(generation, &config);
        self.next_config = Some(config);
        match launch {
            Some(launch) => self.zygotes.launched_next(launch, generation, Instant::now()),
            None => self.next_failed("cannot execute the zygote".to_owned()),
        }
    }

    /// Drops a generation that is not to answer, with its zygote and the worker it may have.
    pub(super) fn discard_next(&mut self) {
        let Some((launch, generation)) = self.zygotes.discard_next() else { return };
        self.next_timed_out = None;
        self.kill_zygote(launch);
        let all = {
            let mut pool = self.gateway.pool.borrow_mut();
            pool.drain_generations(Instant::now(), EXIT_TIME, |of| of == generation);
            pool.leaving(generation)
        };
        self.gateway.workers.kill(&all);
        self.forget_pending(launch);
    }

    /// The first worker of a generation is ready: it answers from now on, and the one before it leaves.
    pub(super) fn swap(&mut self, generation: u32) {
        if !self.zygotes.is_next(generation) {
            return;
        }
        self.next_timed_out = None;
        if let Some(config) = self.next_config.take() {
            self.gateway.put_in_force(config);
        }
        let recovering = std::mem::take(&mut self.recovering);
        let (now, patience) = (Instant::now(), self.gateway.config().grace + EXIT_TIME);
        let idle = {
            let mut pool = self.gateway.pool.borrow_mut();
            pool.switch(generation, !recovering, now);
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
        self.code_is(Load::Done);
        self.gateway.note(|course| (course.load_failed, course.cannot_fork) = (false, false));
        if let Some(started) = self.started.take() {
            let _ = started.send(Ok(()));
        } else if recovering {
            debug!(r#gen = generation, "loaded afresh");
        } else {
            info!(r#gen = generation, "reloaded");
            systemd::ready(generation, &self.gateway.config().workers.to_string());
        }
        dispatch::dispatch(&self.gateway);
        dispatch::clear_wanting(&self.gateway);
    }

    /// The next generation does not load, or its first worker does not start. The very first one ends the
    /// gateway (but not in development); a later one leaves its predecessor serving.
    pub(super) fn next_failed(&mut self, message: String) {
        self.discard_next();
        self.next_config = None;
        self.gateway.metrics.reloaded(false);
        self.gateway.note(|course| course.load_failed = true);
        let generation = self.last_generation;
        self.code_is(Load::Failed(message.clone()));
        let development = self.gateway.mode.development;
        let serving = self.gateway.pool.borrow().generation();
        if std::mem::take(&mut self.recovering) {
            self.gateway.pool.borrow_mut().start_failed(serving, Instant::now());
            self.gateway.in_trouble(|left_out| {
                error!(r#gen = generation, left_out, "application does not load: {message}");
            });
            if development {
                dispatch::resubmit_all(&self.gateway);
            }
            return;
        }
        match self.started.take() {
            Some(started) if !development => {
                let _ = started.send(Err(Error::Load(message)));
                return;
            }
            Some(started) => {
                let _ = started.send(Ok(()));
            }
            None => {}
        }
        error!(r#gen = generation, "application does not load: {message}");
        if development {
            dispatch::resubmit_all(&self.gateway);
        } else {
            self.predecessor_goes_on();
        }
    }

    /// The message of the next generation's failure, behind the time-out that interrupted it, where one did.
    pub(super) fn after_time_out(&self, message: String) -> String {
        match &self.next_timed_out {
            Some(time_out) => format!("{time_out}: {message}"),
            None => message,
        }
    }

    /// Publishes how far the load of the newest generation is.
    fn code_is(&self, load: Load) {
        self.gateway.mode.code.send_modify(|code| code.load = load);
    }

    fn predecessor_goes_on(&self) {
        let serving = self.gateway.pool.borrow().generation();
        systemd::not_reloaded(serving, &self.gateway.config().workers.to_string());
        warn!(r#gen = serving, "the generation before goes on serving");
    }
}
