//! Keeps the pool as the books want it: launches zygotes, has workers forked, swaps generations, stops.
//!
//! One task, one loop over [`Notice`]s. Never touches a request: those are the links' and the queue's.

use std::collections::HashMap;
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use super::pool::Want;
use super::worker_link::{Fate, WorkerLink};
use super::zygote_link::{Birth, ZygoteEvent, ZygoteLink};
use super::{Code, Command, Error, Gateway, Load, output};
use crate::ipc::launch::Launch;
use crate::ipc::message::{Exit, LogLevel, ToWorker};

/// How long after a try that failed the next one waits: to fork, or to launch a zygote whose
/// predecessor ended by itself.
const RETRY: Duration = Duration::from_millis(500);

/// How long workers have to run their stop hooks once no request is left.
const FAREWELL: Duration = Duration::from_secs(2);

/// Something the supervisor has to know.
#[derive(Debug)]
pub(super) enum Notice {
    Command(Command),
    /// From the zygote of that launch.
    Zygote {
        launch: u64,
        event: ZygoteEvent,
    },
    /// A worker of a generation that does not answer yet is ready.
    FirstReady {
        generation: u32,
    },
    /// A worker ended; the books know.
    WorkerEnded {
        generation: u32,
    },
    /// The application or a start hook failed in a worker.
    StartFailed {
        generation: u32,
        message: String,
    },
    /// While stopping: the last connection has closed.
    ConnectionsGone,
}

/// Sends notices; never fails, since a stopped supervisor has nothing more to know.
#[derive(Clone, Debug)]
pub(super) struct Notices(mpsc::UnboundedSender<Notice>);

impl Notices {
    pub(super) fn channel() -> (Self, mpsc::UnboundedReceiver<Notice>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    pub(super) fn send(&self, notice: Notice) {
        let _ = self.0.send(notice);
    }
}

/// The outcome of the very first load.
pub(super) type Started = oneshot::Sender<Result<(), Error>>;

#[derive(Debug)]
pub(super) struct Supervisor {
    gateway: Rc<Gateway>,
    notices: mpsc::UnboundedReceiver<Notice>,
    /// Until the first generation has loaded, or has not.
    started: Option<Started>,
    /// The zygote of the generation that answers.
    current: Option<Zygote>,
    /// The zygote of the generation that is to follow.
    next: Option<Zygote>,
    /// Workers that are being forked, with the generation of each.
    births: HashMap<u32, (u32, Birth)>,
    launches: u64,
    last_generation: u32,
    /// When a zygote that ended by itself is replaced.
    relaunch: Option<Instant>,
    stop: Stop,
}

#[derive(Debug)]
struct Zygote {
    link: ZygoteLink,
    loaded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// Accepted requests are finished, until then.
    Finishing(Instant),
    /// Workers run their stop hooks, until then.
    Draining(Instant),
}

impl Supervisor {
    pub(super) fn new(
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
            relaunch: None,
            stop: Stop::No,
        }
    }

    /// Runs until a stop is complete.
    pub(super) async fn run(mut self) {
        self.reload();
        loop {
            let wake = self.act();
            if self.stop != Stop::No && self.is_stopped() {
                break;
            }
            let notice = tokio::select! {
                notice = self.notices.recv() => notice,
                () = super::sleep_until(wake) => None,
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

    /// Does what is due; gives when to look again if nothing happens before.
    fn act(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if self.relaunch.is_some_and(|time| time <= now) {
            self.relaunch = None;
            let generation = self.gateway.pool.borrow().generation();
            self.current = self.launch(generation);
        }
        let stop = match self.stop {
            Stop::No => None,
            Stop::Finishing(until) | Stop::Draining(until) => Some(until),
        };
        [self.fill(now), self.relaunch, stop].into_iter().flatten().min()
    }

    /// Has every missing worker forked; gives when the next one may be.
    fn fill(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let zygote = self.current.as_ref().filter(|zygote| zygote.loaded)?;
            let want = self.gateway.pool.borrow().want(now);
            match want {
                Want::Nothing => return None,
                Want::Wait(time) => return Some(time),
                Want::Spawn(worker) => {
                    if let Err(cause) = Self::spawn(&self.gateway, &mut self.births, worker, &zygote.link) {
                        warn!(worker, cause = %crate::log::cause(&cause), "cannot fork a worker");
                        return Some(now + RETRY);
                    }
                }
            }
        }
    }

    fn spawn(
        gateway: &Gateway,
        births: &mut HashMap<u32, (u32, Birth)>,
        worker: u32,
        zygote: &ZygoteLink,
    ) -> std::io::Result<()> {
        let birth = Birth::of(worker, zygote)?;
        births.insert(worker, (zygote.generation, birth));
        gateway.pool.borrow_mut().starting(worker, zygote.generation);
        Ok(())
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Command(Command::Reload) if self.stop == Stop::No => self.reload(),
            Notice::Command(Command::Reload) => {}
            Notice::WorkerEnded { generation } => {
                if self.next.as_ref().is_some_and(|next| next.link.generation == generation) {
                    self.load_failed(generation, "the first worker ended before it was ready".to_owned());
                }
            }
            Notice::Command(Command::Stop) => self.stop(),
            Notice::ConnectionsGone => {
                if matches!(self.stop, Stop::Finishing(_)) {
                    self.drain();
                }
            }
            Notice::FirstReady { generation } => self.swap(generation),
            Notice::StartFailed { generation, message } => self.load_failed(generation, message),
            Notice::Zygote { launch, event } => self.zygote_event(launch, event),
        }
    }

    // Generations.

    /// Launches the zygote of the next generation. It takes over when its first worker is ready.
    fn reload(&mut self) {
        if let Some(overtaken) = self.next.take() {
            overtaken.link.kill();
        }
        self.last_generation += 1;
        let generation = self.last_generation;
        self.gateway.mode.code.send_replace(Code { generation, load: Load::Running });
        if self.started.is_none() {
            info!(r#gen = generation, "reloading");
        }
        self.next = self.launch(generation);
        if self.next.is_none() {
            self.load_failed(generation, "cannot execute the zygote".to_owned());
        }
    }

    fn launch(&mut self, generation: u32) -> Option<Zygote> {
        self.launches += 1;
        let (launch, notices) = (self.launches, self.gateway.notices.clone());
        let settings = Launch::new(&self.gateway.config, generation);
        match ZygoteLink::launch(&settings, launch, move |event| {
            notices.send(Notice::Zygote { launch, event })
        }) {
            Ok(link) => Some(Zygote { link, loaded: false }),
            Err(cause) => {
                error!(cause = %crate::log::cause(&cause), "cannot execute the zygote");
                None
            }
        }
    }

    /// The first worker of a generation is ready: it answers from now on, and the one before it leaves.
    fn swap(&mut self, generation: u32) {
        if self.next.as_ref().is_none_or(|next| next.link.generation != generation) {
            return;
        }
        let before = std::mem::replace(&mut self.current, self.next.take());
        let old = {
            let mut pool = self.gateway.pool.borrow_mut();
            pool.switch(generation);
            pool.retire(|other| other != generation)
        };
        for worker in old {
            self.gateway.tell(worker, ToWorker::Drain);
        }
        if let Some(before) = before {
            before.link.shut_down();
        }
        self.relaunch = None;
        self.gateway.mode.code.send_replace(Code { generation, load: Load::Done });
        if let Some(started) = self.started.take() {
            let _ = started.send(Ok(()));
        } else {
            info!(r#gen = generation, "reloaded");
        }
        self.gateway.dispatch();
    }

    /// A generation does not load. The first one ends the gateway (but not in development); a later one
    /// leaves its predecessor serving.
    fn load_failed(&mut self, generation: u32, message: String) {
        if self.next.as_ref().is_some_and(|next| next.link.generation == generation) {
            if let Some(next) = self.next.take() {
                next.link.kill();
            }
        } else if generation != self.last_generation {
            return;
        }
        let development = self.gateway.mode.development;
        self.gateway.mode.code.send_replace(Code { generation, load: Load::Failed(message.clone()) });
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
            self.gateway.load_failed();
        } else if self.current.is_some() {
            warn!(r#gen = self.gateway.pool.borrow().generation(), "the generation before goes on serving");
        }
    }

    fn zygote_event(&mut self, launch: u64, event: ZygoteEvent) {
        let zygote = [&mut self.current, &mut self.next]
            .into_iter()
            .flatten()
            .find(|zygote| zygote.link.launch == launch);
        match event {
            ZygoteEvent::Loaded { preloaded, took } => {
                let Some(zygote) = zygote else { return };
                zygote.loaded = true;
                let r#gen = zygote.link.generation;
                info!(r#gen, preloaded, took_ms = took.as_millis(), app = self.gateway.config.app, "loaded");
                self.spawn_first_of_next();
            }
            ZygoteEvent::LoadFailed(message) => {
                let Some(zygote) = zygote else { return };
                let generation = zygote.link.generation;
                self.load_failed(generation, message);
            }
            ZygoteEvent::Spawned { worker, pid, pidfd } => self.born(worker, pid, pidfd),
            ZygoteEvent::SpawnFailed { worker, cause } => {
                warn!(worker, cause = %crate::log::cause(&cause), "cannot fork a worker");
                self.births.remove(&worker);
                self.gateway.pool.borrow_mut().ended(worker, Instant::now());
            }
            ZygoteEvent::Exited { worker, pid, exit: Exit::Status(0) } => {
                debug!(worker, pid, "worker exited");
            }
            ZygoteEvent::Exited { worker, pid, exit } => warn!(worker, pid, %exit, "worker ended"),
            ZygoteEvent::Gone(status) => self.zygote_gone(launch, status),
        }
    }

    /// The next generation proves itself with one worker before it gets traffic.
    fn spawn_first_of_next(&mut self) {
        let Some(next) = self.next.as_ref().filter(|next| next.loaded) else { return };
        let worker = self.gateway.pool.borrow().free_number();
        if let Err(cause) = Self::spawn(&self.gateway, &mut self.births, worker, &next.link) {
            let generation = next.link.generation;
            self.load_failed(generation, format!("cannot fork a worker: {}", crate::log::cause(&cause)));
        }
    }

    /// The zygote has forked a worker: attend to it.
    fn born(&mut self, worker: u32, pid: u32, pidfd: std::os::fd::OwnedFd) {
        let Some((generation, birth)) = self.births.remove(&worker) else { return };
        let Birth { link, output, lifeline } = birth;
        let link = match WorkerLink::new((worker, generation, pid), link, pidfd, lifeline) {
            Ok(link) => link,
            Err(cause) => {
                warn!(worker, pid, cause = %crate::log::cause(&cause), "cannot attend to a worker");
                self.gateway.pool.borrow_mut().ended(worker, Instant::now());
                return;
            }
        };
        debug!(worker, r#gen = generation, pid, "worker forked");
        self.gateway.workers.borrow_mut().insert(worker, Rc::clone(&link));
        let printed = Rc::clone(&link);
        tokio::task::spawn_local(output::each_line(output, move |line| {
            printed.log_line(LogLevel::Info, line);
        }));
        tokio::task::spawn_local(attend(Rc::clone(&self.gateway), link));
    }

    /// A zygote has ended. Its workers go on.
    fn zygote_gone(&mut self, launch: u64, status: Option<ExitStatus>) {
        let is_it = |zygote: &Option<Zygote>| zygote.as_ref().is_some_and(|z| z.link.launch == launch);
        let how = status.map_or_else(|| "unknown".to_owned(), |status| status.to_string());
        let generation = if is_it(&self.next) {
            let generation = self.next.as_ref().map_or(0, |next| next.link.generation);
            self.load_failed(
                generation,
                format!("the application ended its process while it was loaded: {how}"),
            );
            generation
        } else if is_it(&self.current) {
            let was_loaded = self.current.take().is_some_and(|zygote| zygote.loaded);
            let generation = self.gateway.pool.borrow().generation();
            if self.stop == Stop::No || matches!(self.stop, Stop::Finishing(_)) {
                warn!(r#gen = generation, status = how, "zygote ended; launching another");
                // At once, unless this one never got as far as to be of use.
                self.relaunch = Some(Instant::now() + if was_loaded { Duration::ZERO } else { RETRY });
            }
            generation
        } else {
            return;
        };
        // Workers it was asked for and never announced will not come.
        let lost: Vec<u32> =
            self.births.iter().filter(|(_, (of, _))| *of == generation).map(|(worker, _)| *worker).collect();
        for worker in lost {
            self.births.remove(&worker);
            self.gateway.pool.borrow_mut().ended(worker, Instant::now());
        }
    }

    // Stopping.

    /// The first time: finish what is accepted. The second time: at once.
    fn stop(&mut self) {
        if self.stop == Stop::No {
            info!(grace_s = self.gateway.config.grace.as_secs_f32(), "stopping");
            self.stop = Stop::Finishing(Instant::now() + self.gateway.config.grace);
            if let Some(next) = self.next.take() {
                next.link.kill();
            }
            self.gateway.begin_to_stop();
        } else {
            warn!("stopping now; requests that still run are broken off");
            self.gateway.kill_workers();
            self.stop = Stop::Draining(Instant::now());
        }
    }

    /// No request is left: let the workers go.
    fn drain(&mut self) {
        self.stop = Stop::Draining(Instant::now() + FAREWELL);
        let idle = {
            let mut pool = self.gateway.pool.borrow_mut();
            pool.resize(0);
            pool.retire(|_| true)
        };
        for worker in idle {
            self.gateway.tell(worker, ToWorker::Drain);
        }
    }

    fn is_stopped(&mut self) -> bool {
        let now = Instant::now();
        match self.stop {
            Stop::No => false,
            Stop::Finishing(until) => {
                if until <= now {
                    warn!("the grace is over; requests that still run are broken off (--grace)");
                    self.gateway.kill_workers();
                    self.drain();
                }
                false
            }
            Stop::Draining(until) => {
                if until <= now {
                    self.gateway.kill_workers();
                }
                self.gateway.pool.borrow().is_empty() || until <= now
            }
        }
    }
}

/// Attends to one worker from its birth to its end.
async fn attend(gateway: Rc<Gateway>, link: Rc<WorkerLink>) {
    let fate = link.relay(&gateway).await;
    if let Fate::Misbehaved(what) = &fate {
        error!(
            worker = link.number,
            r#gen = link.generation,
            pid = link.pid,
            "worker sent {what}; killing it"
        );
        link.kill();
    }
    gateway.worker_ended(&link, &fate);
    if let Fate::StartFailed(message) = fate {
        gateway.notices.send(Notice::StartFailed { generation: link.generation, message });
    }
    gateway.notices.send(Notice::WorkerEnded { generation: link.generation });
}
