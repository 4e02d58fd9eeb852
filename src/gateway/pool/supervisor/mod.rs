//! The supervisor: launches zygotes, has workers forked, switches generations, stops. [`crate::proto::supervisor`] and
//! [`crate::proto::pool`] decide; this is their driver.
//!
//! One task, one loop over [`SupervisorEvent`]s. Never touches a request: those are the relays' and the queue's.

mod generations;
mod stop;
mod upkeep;
mod zygotes;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use crate::config::{Config, MAX_WORKERS, Workers};
use crate::gateway::Command;
use crate::gateway::Error;
use crate::gateway::Gateway;
use crate::gateway::Scale;
use crate::gateway::events::SupervisorEvent;
use crate::gateway::pool::log_pipe::Line;
use crate::gateway::pool::process_log::LineMetadata;
use crate::gateway::pool::relay;
use crate::gateway::pool::worker::WorkerHandle;
use crate::gateway::pool::zygote::{PendingWorker, ZygoteEvent, ZygoteLink};
use crate::link::launch::Launch;
use crate::link::message::Exit;
use crate::proto::supervisor::{Ended, Reason, Reload, Role, Stop, StopEvent, Zygotes};

/// The receiver of the first load's outcome.
pub(crate) type Started = oneshot::Sender<Result<(), Error>>;

#[derive(Debug)]
pub(crate) struct Supervisor {
    gateway: Rc<Gateway>,
    supervisor_events: mpsc::UnboundedReceiver<SupervisorEvent>,
    /// `None` once the outcome of the first load is sent.
    started: Option<Started>,
    zygotes: Zygotes,
    /// The links of the zygotes, by launch.
    links: HashMap<u64, ZygoteLink>,
    /// The workers that zygotes were told to fork and have not announced, by launch and worker number.
    pending: HashMap<(u64, u32), PendingWorker>,
    reload: Reload<Rc<Config>>,
    stop: Stop,
}

impl Supervisor {
    pub(crate) fn new(
        gateway: Rc<Gateway>,
        supervisor_events: mpsc::UnboundedReceiver<SupervisorEvent>,
        started: Started,
    ) -> Self {
        Self {
            reload: Reload::new(gateway.mode.development),
            gateway,
            supervisor_events,
            started: Some(started),
            zygotes: Zygotes::new(),
            links: HashMap::new(),
            pending: HashMap::new(),
            stop: Stop::new(),
        }
    }

    /// Runs until a stop is complete.
    pub(crate) async fn run(mut self) {
        let gateway = Rc::clone(&self.gateway);
        tokio::task::spawn_local(async move { gateway.clock.keep().await });
        let config = self.gateway.config();
        self.load_next(Reason::Start, config, Vec::new());
        loop {
            let (look, deadline) = self.act();
            if !self.stop.is_idle() && self.advance_stop() {
                break;
            }
            let notice = tokio::select! {
                notice = self.supervisor_events.recv() => notice,
                () = crate::gateway::sleep_until(look) => None,
                () = self.gateway.clock.passed(deadline) => None,
            };
            if let Some(notice) = notice {
                self.notice(notice);
            }
        }
        if let Some(link) = self.zygotes.current().and_then(|launch| self.links.get(&launch)) {
            link.shut_down();
        }
        info!("stopped");
    }

    fn notice(&mut self, notice: SupervisorEvent) {
        match notice {
            SupervisorEvent::Command(Command::Reload) if self.stop.is_idle() => self.reload(),
            SupervisorEvent::Command(Command::Scale(change)) => self.scale(change),
            SupervisorEvent::Command(Command::Reload) => warn!("not reloaded: the server is stopping"),
            SupervisorEvent::PoolChanged | SupervisorEvent::Demand => {}
            SupervisorEvent::Command(Command::ReopenLogs) => {
                crate::log::reopen();
                self.gateway.metrics.access_log().inspect(|log| log.reopen());
            }
            SupervisorEvent::Command(Command::Stop) => self.handle_stop(StopEvent::Requested),
            SupervisorEvent::Command(Command::StopSoon) => self.handle_stop(StopEvent::RequestedSoon),
            SupervisorEvent::ConnectionsGone => self.handle_stop(StopEvent::ConnectionsGone),
            SupervisorEvent::FirstReady { generation } => self.swap(generation),
            SupervisorEvent::WorkerEnded { generation, start_failed } => {
                if self.zygotes.is_next(generation) {
                    let limited = self.reload.config().is_some_and(|config| config.memory_limit.is_some());
                    let hint = if limited { "; is --memory-limit too low for it?" } else { "" };
                    let silent = || format!("the first worker ended before it was ready{hint}");
                    self.next_failed(self.reload.explain(start_failed.unwrap_or_else(silent)));
                } else if let Some(message) = start_failed {
                    self.gateway.log_process_event(|left_out| {
                        error!(r#gen = generation, left_out, "worker does not start: {message}");
                    });
                }
            }
            SupervisorEvent::Zygote { launch, event } => self.zygote_event(launch, event),
        }
    }

    /// Changes the bounds of the pool, until the next reload.
    fn scale(&mut self, change: Scale) {
        let (min, max) = {
            let mut pool = self.gateway.pool.borrow_mut();
            let (min, max) = pool.bounds();
            let (min, max) = match change {
                Scale::To(workers) => (workers.min, workers.max),
                Scale::Up => (min + 1, max + 1),
                // A fixed pool keeps one worker.
                Scale::Down => {
                    (min.saturating_sub(1).max(u32::from(min == max)), max.saturating_sub(1).max(1))
                }
            };
            let (min, max) = (min.min(MAX_WORKERS), max.min(MAX_WORKERS));
            pool.resize(min, max);
            (min, max)
        };
        info!(workers = %Workers { min, max }, "scaled");
    }

    // Zygotes.

    /// Executes a zygote. Returns its launch number, or `None` where the system refused.
    fn launch(&mut self, generation: u32, config: &Config) -> Option<u64> {
        let (launch, supervisor_events) =
            (self.zygotes.begin_launch(), self.gateway.supervisor_events.clone());
        let settings = Launch::new(config, generation, self.gateway.open_files);
        let on_event = move |event| supervisor_events.send(SupervisorEvent::Zygote { launch, event });
        match ZygoteLink::launch(&settings, &self.gateway.log_pipes, on_event) {
            Ok(link) => {
                self.links.insert(launch, link);
                Some(launch)
            }
            Err(cause) => {
                error!(cause = %crate::log::cause(&cause), "cannot execute the zygote");
                None
            }
        }
    }

    fn zygote_event(&mut self, launch: u64, event: ZygoteEvent) {
        let role = self.zygotes.role(launch);
        let (is_current, is_next) = (role == Role::Current, role == Role::Next);
        match event {
            ZygoteEvent::Loaded { preloaded, took } => {
                let Some((_, r#gen)) = self.zygotes.loaded(launch, preloaded) else { return };
                let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                if self.reload.reason() == Some(Reason::Recovery) {
                    debug!(r#gen, preloaded, took_ms, "loaded");
                } else if !is_next {
                    // The successor of a zygote that ended, which may repeat.
                    self.gateway.log_process_event(|left_out| {
                        info!(r#gen, preloaded, took_ms, left_out, "loaded again")
                    });
                } else {
                    let app = self.reload.config().map(|config| &config.app);
                    info!(r#gen, preloaded, took_ms, app, "loaded");
                }
                if is_next {
                    self.reload.loaded();
                    self.spawn_first_of_next(launch);
                } else {
                    self.gateway.update_server_state(|state| state.cannot_fork = false);
                }
            }
            ZygoteEvent::LoadFailed(message) if is_next => self.next_failed(self.reload.explain(message)),
            ZygoteEvent::LoadFailed(message) if is_current => {
                self.gateway.update_server_state(|state| state.cannot_fork = true);
                let r#gen = self.gateway.pool.borrow().generation();
                error!(
                    r#gen,
                    "application does not load any more, so ended workers are not replaced: {message}"
                );
            }
            ZygoteEvent::LoadFailed(_) => {}
            ZygoteEvent::Spawned { worker, pid, pidfd } => self.forked(launch, worker, pid, pidfd),
            ZygoteEvent::SpawnFailed { worker, cause } => {
                let cause = crate::log::cause(&cause);
                self.zygotes.settled(launch, worker);
                self.pending.remove(&(launch, worker));
                self.gateway.pool.borrow_mut().ended(worker, Instant::now());
                if is_next {
                    self.next_failed(format!("cannot fork a worker: {cause}"));
                } else {
                    self.gateway
                        .log_process_event(|left_out| warn!(worker, cause, left_out, "cannot fork a worker"));
                }
            }
            ZygoteEvent::Exited { worker, pid, exit: Exit::Status(0) } => {
                debug!(worker, pid, "worker exited");
            }
            ZygoteEvent::Exited { worker, pid, exit } => {
                self.gateway
                    .log_process_event(|left_out| warn!(worker, pid, %exit, left_out, "worker exited"));
            }
            ZygoteEvent::Gone(status) => {
                let status = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
                if is_next {
                    self.next_failed(format!(
                        "the application ended its process while it was loaded: {status}"
                    ));
                } else if is_current {
                    self.current_gone(&status);
                }
                self.zygotes.retired_ended(launch);
                self.links.remove(&launch);
                self.forget_pending(launch);
            }
        }
    }

    /// Forks the first worker of the next generation, which gets traffic only when that worker is ready.
    fn spawn_first_of_next(&mut self, launch: u64) {
        let worker = self.gateway.pool.borrow().free_number();
        if let Err(cause) = self.spawn(launch, worker) {
            self.next_failed(format!("cannot fork a worker: {}", crate::log::cause(&cause)));
        }
    }

    /// Handles the end of the serving generation's zygote. The workers continue.
    fn current_gone(&mut self, status: &str) {
        let r#gen = self.gateway.pool.borrow().generation();
        match self.zygotes.current_ended(!self.stop.is_draining(), Instant::now()) {
            Some(Ended::Loaded) => self.gateway.log_process_event(|left_out| {
                warn!(r#gen, status, left_out, "zygote ended; launching another")
            }),
            Some(Ended::Loading) => self.gateway.update_server_state(|state| state.cannot_fork = true),
            None => {}
        }
    }

    fn put_off_relaunch(&mut self) {
        self.gateway.update_server_state(|state| state.cannot_fork = true);
        self.zygotes.put_off_relaunch(Instant::now());
    }

    /// Handles the announcement of a forked worker: starts its relay.
    fn forked(&mut self, launch: u64, worker: u32, pid: u32, pidfd: Option<OwnedFd>) {
        // If its generation was discarded meanwhile, the worker is not pending any more; its lifeline is closed, so it dies.
        self.zygotes.settled(launch, worker);
        let Some(pending) = self.pending.remove(&(launch, worker)) else { return };
        let PendingWorker { generation, link, output, lifeline, lane } = pending;
        let forked_at = self.gateway.pool.borrow().workers().find(|known| known.number == worker);
        let forked_at = forked_at.map_or_else(Instant::now, |known| known.forked_at);
        // Without a free descriptor there is no pidfd, and a worker without a pidfd cannot be supervised.
        let attended = pidfd
            .ok_or_else(|| std::io::Error::other("no descriptor is left for its pidfd"))
            .and_then(|pidfd| {
                WorkerHandle::new((worker, generation, pid), (link, lane), pidfd, lifeline, forked_at)
            });
        let link = match attended {
            Ok(link) => link,
            Err(cause) => {
                let cause = crate::log::cause(&cause);
                self.gateway.log_process_event(|left_out| {
                    warn!(worker, pid, cause, left_out, "cannot attend to a worker")
                });
                self.gateway.pool.borrow_mut().ended(worker, Instant::now());
                if self.zygotes.is_next(generation) {
                    self.next_failed("no descriptor is left for its first worker".to_owned());
                }
                return;
            }
        };
        if let Some(lane) = link.lane() {
            lane.set_batch(self.gateway.lanes.is_batch());
        }
        debug!(worker, r#gen = generation, pid, "worker forked");
        self.gateway.metrics.worker_started();
        self.gateway.workers.insert(Rc::clone(&link));
        // Weak: a child of the worker may keep the pipe open long after the worker's end.
        let (name, link_of) = (link.name(), Rc::downgrade(&link));
        link.keep_output(output.log(
            &self.gateway.log_pipes,
            name.process(),
            move |Line { level, text, part }| {
                let link = link_of.upgrade();
                let running = link.as_ref().and_then(|link| link.running());
                let request = running.as_ref().map(|request| request.ids());
                name.log(level, request, LineMetadata { part, ..LineMetadata::default() }, text);
            },
        ));
        tokio::task::spawn_local(relay::attend(Rc::clone(&self.gateway), link));
    }
}
