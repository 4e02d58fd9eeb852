//! Keeps the pool as the books want it: launches zygotes, has workers forked, swaps generations, stops.
//!
//! One task, one loop over [`Notice`]s. Never touches a request: those are the links' and the queue's.

mod generations;
mod stop;
mod upkeep;
mod zygotes;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use crate::config::{Config, MAX_WORKERS, Workers};
use crate::gateway::Command;
use crate::gateway::Error;
use crate::gateway::Gateway;
use crate::gateway::Scale;
use crate::gateway::events::Notice;
use crate::gateway::pool::log_pipe::Line;
use crate::gateway::pool::process_log::More;
use crate::gateway::pool::relay;
use crate::gateway::pool::supervisor::stop::Stop;
use crate::gateway::pool::supervisor::zygotes::RetiredZygote;
use crate::gateway::pool::worker::WorkerHandle;
use crate::gateway::pool::zygote::{Birth, ZygoteEvent, ZygoteLink};
use crate::link::launch::Launch;
use crate::link::message::Exit;
use crate::proto::backoff::Backoff;

/// How long after a try that failed the next one waits: to fork, or to launch a zygote in the place of one that
/// ended by itself. A launch that fails again waits twice as long each time, up to [`MAX_RETRY`].
const RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(10);

/// The outcome of the very first load.
pub(crate) type Started = oneshot::Sender<Result<(), Error>>;

#[derive(Debug)]
pub(crate) struct Supervisor {
    gateway: Rc<Gateway>,
    notices: mpsc::UnboundedReceiver<Notice>,
    /// Until the first generation has loaded, or has not.
    started: Option<Started>,
    /// The zygote of the generation that answers.
    current: Option<Zygote>,
    /// The zygote of the generation that is to follow.
    next: Option<Zygote>,
    /// Workers that are being forked, by the launch of their zygote and by number.
    births: HashMap<(u64, u32), Birth>,
    launches: u64,
    last_generation: u32,
    /// The settings that come into force with the next generation.
    next_config: Option<Rc<Config>>,
    /// The next generation is loaded because workers of this one fail again and again, not because anyone asked.
    recovering: bool,
    /// When a zygote that ended by itself is replaced.
    relaunch: Option<Instant>,
    /// Launches in a row, in the place of one that ended, that came to nothing.
    failed_launches: Backoff,
    /// Those of generations that have been replaced, which reap their last workers.
    retired: Vec<RetiredZygote>,
    stop: Stop,
}

#[derive(Debug)]
struct Zygote {
    link: ZygoteLink,
    /// Tells it from its predecessors of the same generation.
    launch: u64,
    loaded: bool,
    /// Whether it forks copies of what it has loaded, and not processes that load for themselves.
    preloaded: bool,
    launched: Instant,
    /// The time-out that it, or its first worker, has exceeded. It has been interrupted, and may give its stack.
    late: Option<String>,
    /// It has taken no notice, and is killed.
    given_up: bool,
}

impl Supervisor {
    pub(crate) fn new(
        gateway: Rc<Gateway>,
        notices: mpsc::UnboundedReceiver<Notice>,
        started: Started,
    ) -> Self {
        Self {
            gateway,
            notices,
            started: Some(started),
            current: None,
            next: None,
            births: HashMap::new(),
            launches: 0,
            last_generation: 0,
            next_config: None,
            recovering: false,
            relaunch: None,
            failed_launches: Backoff::new(RETRY, MAX_RETRY),
            retired: Vec::new(),
            stop: Stop::No,
        }
    }

    /// Runs until a stop is complete.
    pub(crate) async fn run(mut self) {
        let gateway = Rc::clone(&self.gateway);
        tokio::task::spawn_local(async move { gateway.clock.keep().await });
        let config = self.gateway.config();
        self.load_next(config, Vec::new());
        loop {
            let (look, deadline) = self.act();
            if self.stop != Stop::No && self.is_stopped() {
                break;
            }
            let notice = tokio::select! {
                notice = self.notices.recv() => notice,
                () = crate::gateway::sleep_until(look) => None,
                () = self.gateway.clock.passed(deadline) => None,
            };
            if let Some(notice) = notice {
                self.notice(notice);
            }
        }
        if let Some(zygote) = self.current.take() {
            zygote.link.shut_down();
        }
        info!("stopped");
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Command(Command::Reload) if self.stop == Stop::No => self.reload(),
            Notice::Command(Command::Scale(change)) => self.scale(change),
            Notice::Command(Command::Reload) => warn!("not reloaded: the server is stopping"),
            Notice::PoolChanged | Notice::Demand => {}
            Notice::Command(Command::ReopenLogs) => {
                crate::log::reopen();
                self.gateway.journal.access_log().inspect(|log| log.reopen());
            }
            Notice::Command(Command::Stop) => self.stop(),
            Notice::Command(Command::StopSoon) => self.stop_soon(),
            Notice::ConnectionsGone => {
                if matches!(self.stop, Stop::Finishing(_)) {
                    self.drain();
                }
            }
            Notice::FirstReady { generation } => self.swap(generation),
            Notice::WorkerEnded { generation, start_failed } => {
                if self.is_next(generation) {
                    let limited =
                        self.next_config.as_ref().is_some_and(|config| config.memory_limit.is_some());
                    let hint = if limited { "; is --memory-limit too low for it?" } else { "" };
                    let silent = || format!("the first worker ended before it was ready{hint}");
                    self.next_failed(self.after_lateness(start_failed.unwrap_or_else(silent)));
                } else if let Some(message) = start_failed {
                    self.gateway.in_trouble(|left_out| {
                        error!(r#gen = generation, left_out, "worker does not start: {message}");
                    });
                }
            }
            Notice::Zygote { launch, event } => self.zygote_event(launch, event),
        }
    }

    /// More or fewer workers, until the next reload.
    fn scale(&mut self, change: Scale) {
        let (min, max) = {
            let mut pool = self.gateway.pool.borrow_mut();
            let (min, max) = pool.bounds();
            let (min, max) = match change {
                Scale::To(workers) => (workers.min, workers.max),
                Scale::Up => (min + 1, max + 1),
                // One worker stays.
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

    fn launch(&mut self, generation: u32, config: &Config) -> Option<Zygote> {
        self.launches += 1;
        let (launch, notices) = (self.launches, self.gateway.notices.clone());
        let settings = Launch::new(config, generation, self.gateway.open_files);
        let hear = move |event| notices.send(Notice::Zygote { launch, event });
        match ZygoteLink::launch(&settings, &self.gateway.output, hear) {
            Ok(link) => Some(Zygote {
                link,
                launch,
                loaded: false,
                preloaded: false,
                launched: Instant::now(),
                late: None,
                given_up: false,
            }),
            Err(cause) => {
                error!(cause = %crate::log::cause(&cause), "cannot execute the zygote");
                None
            }
        }
    }

    fn zygote_event(&mut self, launch: u64, event: ZygoteEvent) {
        let is_it = |zygote: &Option<Zygote>| zygote.as_ref().is_some_and(|zygote| zygote.launch == launch);
        let (is_current, is_next) = (is_it(&self.current), is_it(&self.next));
        match event {
            ZygoteEvent::Loaded { preloaded, took } => {
                let zygote = if is_next { &mut self.next } else { &mut self.current };
                let Some(zygote) = zygote.as_mut().filter(|zygote| zygote.launch == launch) else { return };
                (zygote.loaded, zygote.preloaded, zygote.late) = (true, preloaded, None);
                let r#gen = zygote.link.generation;
                let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                if self.recovering {
                    debug!(r#gen, preloaded, took_ms, "loaded");
                } else if !is_next {
                    // This zygote takes the place of one that has ended, which may happen again and again.
                    self.gateway
                        .in_trouble(|left_out| info!(r#gen, preloaded, took_ms, left_out, "loaded again"));
                } else {
                    let app = &self.next_config.clone().unwrap_or_else(|| self.gateway.config()).app;
                    info!(r#gen, preloaded, took_ms, app, "loaded");
                }
                if is_next {
                    self.spawn_first_of_next();
                } else {
                    self.failed_launches.reset();
                    self.gateway.note(|course| course.cannot_fork = false);
                }
            }
            ZygoteEvent::LoadFailed(message) if is_next => self.next_failed(self.after_lateness(message)),
            ZygoteEvent::LoadFailed(message) if is_current => {
                self.gateway.note(|course| course.cannot_fork = true);
                let r#gen = self.gateway.pool.borrow().generation();
                error!(
                    r#gen,
                    "application does not load any more, so ended workers are not replaced: {message}"
                );
            }
            ZygoteEvent::LoadFailed(_) => {}
            ZygoteEvent::Spawned { worker, pid, pidfd } => self.born(launch, worker, pid, pidfd),
            ZygoteEvent::SpawnFailed { worker, cause } => {
                let cause = crate::log::cause(&cause);
                self.births.remove(&(launch, worker));
                self.gateway.pool.borrow_mut().ended(worker, Instant::now());
                if is_next {
                    self.next_failed(format!("cannot fork a worker: {cause}"));
                } else {
                    self.gateway
                        .in_trouble(|left_out| warn!(worker, cause, left_out, "cannot fork a worker"));
                }
            }
            ZygoteEvent::Exited { worker, pid, exit: Exit::Status(0) } => {
                debug!(worker, pid, "worker exited");
            }
            ZygoteEvent::Exited { worker, pid, exit } => {
                self.gateway.in_trouble(|left_out| warn!(worker, pid, %exit, left_out, "worker exited"));
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
                self.retired.retain(|zygote| zygote.launch != launch);
                self.forget_births(launch);
            }
        }
    }

    /// The next generation proves itself with one worker before it gets traffic.
    fn spawn_first_of_next(&mut self) {
        let Some(next) = &self.next else { return };
        let worker = self.gateway.pool.borrow().free_number();
        if let Err(cause) = Self::spawn(&self.gateway, &mut self.births, worker, next) {
            self.next_failed(format!("cannot fork a worker: {}", crate::log::cause(&cause)));
        }
    }

    /// The zygote of the generation that answers has ended. Its workers go on.
    fn current_gone(&mut self, status: &str) {
        let was_loaded = self.current.take().is_some_and(|zygote| zygote.loaded);
        if matches!(self.stop, Stop::Draining(_)) {
            return;
        }
        let r#gen = self.gateway.pool.borrow().generation();
        if was_loaded {
            self.gateway
                .in_trouble(|left_out| warn!(r#gen, status, left_out, "zygote ended; launching another"));
            self.relaunch = Some(Instant::now());
        } else {
            self.put_off_relaunch();
        }
    }

    fn put_off_relaunch(&mut self) {
        self.gateway.note(|course| course.cannot_fork = true);
        let now = Instant::now();
        self.relaunch = Some(now + self.failed_launches.failed(now));
    }

    /// A zygote has forked a worker: attend to it.
    fn born(&mut self, launch: u64, worker: u32, pid: u32, pidfd: Option<OwnedFd>) {
        // Where its generation was given up meanwhile, its lifeline is closed and it dies.
        let Some(birth) = self.births.remove(&(launch, worker)) else { return };
        let Birth { generation, link, output, lifeline, .. } = birth;
        // Without a descriptor to spare there is no pidfd, and without a pidfd no attending to it.
        let attended = pidfd
            .ok_or_else(|| std::io::Error::other("no descriptor is left for its pidfd"))
            .and_then(|pidfd| WorkerHandle::new((worker, generation, pid), link, pidfd, lifeline));
        let link = match attended {
            Ok(link) => link,
            Err(cause) => {
                let cause = crate::log::cause(&cause);
                self.gateway
                    .in_trouble(|left_out| warn!(worker, pid, cause, left_out, "cannot attend to a worker"));
                self.gateway.pool.borrow_mut().ended(worker, Instant::now());
                if self.is_next(generation) {
                    self.next_failed("no descriptor is left for its first worker".to_owned());
                }
                return;
            }
        };
        debug!(worker, r#gen = generation, pid, "worker forked");
        self.gateway.journal.worker_started();
        self.gateway.workers.insert(Rc::clone(&link));
        // Weak: what the worker has started may keep the pipe open long after it.
        let (name, link_of) = (link.name(), Rc::downgrade(&link));
        link.keep_output(output.log(
            &self.gateway.output,
            name.process(),
            move |Line { level, text, part }| {
                let link = link_of.upgrade();
                let running = link.as_ref().and_then(|link| link.running());
                let request = running.as_ref().map(|request| request.named());
                name.log(level, request, More { part, ..More::default() }, text);
            },
        ));
        tokio::task::spawn_local(relay::attend(Rc::clone(&self.gateway), link));
    }
}
