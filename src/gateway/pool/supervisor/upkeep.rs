//! Periodic work of the pool: forks missing workers, grows and shrinks the pool, measures idle workers, kills overdue ones.
//! [`crate::proto::pool`] decides; this acts, and returns the time of the next call.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::{debug, error, warn};

use crate::gateway::pool::dispatch;
use crate::gateway::pool::lifecycle;
use crate::gateway::pool::supervisor::Supervisor;
use crate::gateway::pool::zygote::PendingWorker;
use crate::link::message::ToWorker;
use crate::log::Span;
use crate::os::random;
use crate::proto::pool::{NextFork, Replacement, State, Worker};
use crate::proto::supervisor::{Reason, Remedy, StartAction};

/// How long a request waits before another worker is forked for it. A fork takes about 2 ms, so a request that waits
/// no longer than that gains nothing; and a burst of short requests is over by then.
const SCALE_WAIT: Duration = Duration::from_millis(5);

/// Interval of the checks while requests wait for longer than [`SCALE_WAIT`].
const SCALE_CHECK: Duration = Duration::from_millis(1);

impl Supervisor {
    /// Takes the actions that are due. Returns the time of the next call, and the next deadline of a zygote, worker or stop.
    pub(super) fn act(&mut self) -> (Option<Instant>, Option<Instant>) {
        let (now, settled) = (Instant::now(), self.gateway.clock.settled());
        self.gateway.reloading.set(self.zygotes.next().is_some());
        if self.zygotes.take_relaunch(now) {
            self.launch_again();
        }
        self.end_stuck_zygotes(settled);
        let (aged, replacement) = self.gateway.pool.borrow_mut().replace_aged(now);
        if let Some(Replacement { worker, pause: Some(pause) }) = replacement {
            let max_age_s = self.gateway.config().max_age.map(|age| age.as_secs_f32());
            self.gateway.log_process_event(|left_out| {
                warn!(
                    worker,
                    max_age_s,
                    left_out,
                    "worker is too old before it is ready (--max-age); it is replaced in {}",
                    Span::from(pause)
                );
            });
        }
        let demanded = self.meet_demand(now);
        let filled = self.fill(now);
        self.end_late_loads(settled);
        let late = self.end_late_starts(settled);
        dispatch::refuse_while_down(&self.gateway);
        let (let_go, measured) = (self.let_go(now), self.measure(now));
        // Last: a worker that was told to exit above has a deadline now.
        let overdue = self.end_overdue(settled);
        let looks = [aged, demanded, filled, let_go, measured, self.zygotes.relaunch_at()];
        let deadlines = [late, overdue, self.zygote_deadline(), self.stop.next_deadline()];
        (looks.into_iter().flatten().min(), deadlines.into_iter().flatten().min())
    }

    /// Kills the workers whose exit is overdue. Returns the time of the next call.
    fn end_overdue(&self, now: Instant) -> Option<Instant> {
        let (overdue, again) = self.gateway.pool.borrow_mut().take_overdue(now);
        for worker in overdue {
            // A worker that its zygote has not announced ends with the zygote.
            lifecycle::kill_overdue(&self.gateway, worker);
        }
        again
    }

    /// Launches the successor of a zygote that has ended.
    fn launch_again(&mut self) {
        let config = self.gateway.config();
        if self.stop.is_serving() && !config.root.is_dir() {
            // The old code is gone. The link to the current release may lead to another directory now.
            self.put_off_relaunch();
            if self.zygotes.next().is_none() {
                warn!(root = %config.root.display(), "the root has been removed; reloading");
                self.reload();
            }
            return;
        }
        let generation = self.gateway.pool.borrow().generation();
        match self.launch(generation, &config) {
            Some(launch) => self.zygotes.launched_current(launch, generation, Instant::now()),
            None => self.put_off_relaunch(),
        }
    }

    /// Loads the code again, because the workers of the serving generation fail.
    fn recover(&mut self) {
        let mut config = self.gateway.config();
        if !config.root.is_dir() {
            warn!(root = %config.root.display(), "the root has been removed; looking where it is now");
            // If the settings are wrong now, the load fails, and its error names the missing root.
            config = self.gateway.read_config_again().map_or(config, |(config, _)| config);
        }
        self.load_next(Reason::Recovery, config, Vec::new());
    }

    /// Grows the pool for requests that have waited for [`SCALE_WAIT`]. Returns the time of the next call.
    fn meet_demand(&self, now: Instant) -> Option<Instant> {
        let queue = self.gateway.queue.borrow();
        let mut pool = self.gateway.pool.borrow_mut();
        let oldest = queue.oldest();
        if pool.has_nobody() {
            pool.grow_for(queue.len());
        } else if let Some(before) = now.checked_sub(SCALE_WAIT) {
            pool.grow_for(queue.came_before(before));
        }
        let again = oldest.filter(|_| pool.can_grow() && !pool.has_nobody());
        let again = again.map(|oldest| (oldest + SCALE_WAIT).max(now + SCALE_CHECK));
        // A request that comes before then sends no notice.
        self.gateway.demand.set(again.is_some());
        again
    }

    /// Forks the missing workers. Returns the time at which the next fork is allowed.
    fn fill(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let (launch, preloaded) = self.zygotes.forking()?;
            let next = self.gateway.pool.borrow().next_fork(now);
            match next {
                NextFork::NotNeeded => return None,
                NextFork::WaitUntil(time) => return Some(time),
                NextFork::Fork(_) if !self.stop.is_serving() && self.gateway.queue.borrow().is_empty() => {
                    return None;
                }
                NextFork::Fork(worker) => {
                    let is_failing = self.gateway.pool.borrow().is_failing();
                    let is_copy = preloaded || (is_failing && !self.gateway.config().root.is_dir());
                    match self.reload.remedy(is_failing, is_copy, self.stop.is_serving()) {
                        Remedy::Fork => self.fork(launch, worker, now),
                        Remedy::Load => {
                            self.recover();
                            return None;
                        }
                        Remedy::Wait => return None,
                    }
                }
            }
        }
    }

    /// Forks a worker, or delays the fork if the system refuses.
    fn fork(&mut self, launch: u64, worker: u32, now: Instant) {
        if let Err(cause) = self.spawn(launch, worker) {
            let cause = crate::log::cause(&cause);
            self.gateway.log_process_event(|left_out| warn!(worker, cause, left_out, "cannot fork a worker"));
            self.gateway.pool.borrow_mut().fork_refused(now);
        }
    }

    /// Tells surplus workers to exit. Returns the time of the next call.
    fn let_go(&self, now: Instant) -> Option<Instant> {
        let (leaving, again) = self.gateway.pool.borrow_mut().drain_surplus(now);
        for worker in leaving {
            debug!(worker, "worker is not needed any more");
            self.gateway.workers.send(worker, ToWorker::Drain);
        }
        again
    }

    /// Requests measurements of idle workers' memory. A busy worker is measured when it is ready. Returns the time of the next call.
    fn measure(&self, now: Instant) -> Option<Instant> {
        let (pool, workers) = (self.gateway.pool.borrow(), self.gateway.workers.borrow());
        let ask = |worker: Worker| {
            workers.get(&worker.number)?.request_measurement(now, worker.state == State::Idle)
        };
        let again = pool.workers().filter_map(ask).min();
        // A worker that is ready before then sends no notice.
        self.gateway.measuring.set(again.is_some());
        again
    }

    /// Interrupts workers whose start has timed out, and kills them if they go on. Returns the time of the next call.
    fn end_late_starts(&mut self, settled: Instant) -> Option<Instant> {
        let timeout = self.start_timeout()?;
        let limit = Span::from(timeout);
        // The deadline of a fork covers a worker that its zygote has not announced.
        let starting = |worker: &Worker| {
            worker.state == State::Starting && self.gateway.workers.borrow().contains_key(&worker.number)
        };
        let starting: Vec<_> = self.gateway.pool.borrow().workers().filter(starting).collect();
        let mut next = None;
        for Worker { number: worker, generation: r#gen, .. } in &starting {
            let handle = self.gateway.workers.borrow().get(worker).map(Rc::clone);
            let Some(handle) = handle else { continue };
            let late = || format!("takes longer than {limit} to start (--start-timeout)");
            let is_next = self.zygotes.is_next(*r#gen);
            match handle.start_timed_out(settled, timeout) {
                None => {}
                Some(StartAction::Interrupt) if is_next => {
                    self.reload.interrupted(format!("its first worker {}", late()));
                }
                Some(StartAction::Interrupt) => self.gateway.log_process_event(|left_out| {
                    error!(worker, r#gen, left_out, "worker {}", late());
                }),
                Some(StartAction::GiveUp) if is_next => {
                    self.next_failed(format!("its first worker {}", late()));
                }
                Some(StartAction::GiveUp) => self.gateway.workers.kill(&[*worker]),
            }
            next = next.into_iter().chain(handle.start_due(timeout)).min();
        }
        next
    }

    /// Sends a zygote the request to fork a worker.
    pub(super) fn spawn(&mut self, launch: u64, worker: u32) -> std::io::Result<()> {
        let link = self.links.get(&launch).ok_or(std::io::ErrorKind::NotFound)?;
        let (pending, now) = (
            PendingWorker::request(worker, link, |error| self.gateway.lanes.log_lacking(&error))?,
            Instant::now(),
        );
        // Workers that were forked together are to be replaced one after the other. Early at boot, before the kernel has random
        // numbers, they are replaced together.
        let chance = u32::from_ne_bytes(random::bytes_or_zeros());
        self.gateway.pool.borrow_mut().starting(worker, link.generation, chance, now);
        self.zygotes.requested(launch, worker, now);
        self.pending.insert((launch, worker), pending);
        Ok(())
    }
}
