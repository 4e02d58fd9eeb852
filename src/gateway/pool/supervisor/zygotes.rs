//! The deadlines of zygotes: of loads, of forks that are not announced, of exits. [`Zygotes`] decides; this kills, and logs it.
//!
//! [`Zygotes`]: crate::proto::supervisor::Zygotes

use std::time::{Duration, Instant};

use tracing::{error, warn};

use crate::gateway::pool::supervisor::Supervisor;
use crate::log::Span;
use crate::proto::supervisor::{Role, StartAction};

/// The timeout of a fork where `--start-timeout` is off. The fork of a large application takes some 100 ms.
const FORK_TIMEOUT: Duration = Duration::from_secs(60);

impl Supervisor {
    /// The timeout of loads and starts, by the newest settings.
    pub(super) fn start_timeout(&self) -> Option<Duration> {
        match self.reload.config() {
            Some(config) => config.start_timeout,
            None => self.gateway.config().start_timeout,
        }
    }

    /// The next deadline of a zygote.
    pub(super) fn zygote_deadline(&self) -> Option<Instant> {
        let timeout = self.start_timeout();
        self.zygotes.next_deadline(timeout, timeout.unwrap_or(FORK_TIMEOUT))
    }

    /// Interrupts zygotes whose load has timed out, and kills them if they go on.
    pub(super) fn end_late_loads(&mut self, settled: Instant) {
        let Some(timeout) = self.start_timeout() else { return };
        let limit = Span::from(timeout);
        let loading = format!("loading takes longer than {limit} (--start-timeout)");
        while let Some((action, role, launch, r#gen)) = self.zygotes.handle_load_timeout(settled, timeout) {
            match (action, role) {
                (StartAction::GiveUp, Role::Next) => self.next_failed(loading.clone()),
                (StartAction::GiveUp, _) => {
                    if let Some(link) = self.links.get(&launch) {
                        link.kill();
                    }
                }
                (StartAction::Interrupt, role) => {
                    if role == Role::Next {
                        self.reload.interrupted(loading.clone());
                    } else {
                        error!(r#gen, "{loading}");
                    }
                    if let Some(link) = self.links.get(&launch) {
                        link.interrupt();
                    }
                }
            }
        }
    }

    /// Kills zygotes that have not announced a requested worker in time, and retired zygotes whose exit is overdue.
    pub(super) fn end_stuck_zygotes(&mut self, now: Instant) {
        let timeout = self.start_timeout().unwrap_or(FORK_TIMEOUT);
        while let Some(launch) = self.zygotes.stuck(now, timeout) {
            self.condemn(launch, timeout, now);
        }
        while let Some((launch, r#gen)) = self.zygotes.take_overdue(now) {
            warn!(r#gen, "zygote does not end; killing it");
            self.kill_zygote(launch);
        }
    }

    /// Kills a hanging zygote. Another replaces the current one.
    fn condemn(&mut self, launch: u64, timeout: Duration, now: Instant) {
        let why = format!("has not forked a worker for {} (--start-timeout)", Span::from(timeout));
        if self.zygotes.role(launch) == Role::Next {
            self.next_failed(format!("its zygote {why}"));
        } else if let Some((role, r#gen)) = self.zygotes.condemn(launch, !self.stop.is_draining(), now) {
            if role == Role::Current {
                error!(r#gen, "zygote {why}; killing it and launching another");
            } else {
                warn!(r#gen, "zygote {why}; killing it");
            }
            self.kill_zygote(launch);
        }
        self.forget_pending(launch);
    }

    /// Kills a zygote, and forgets its link.
    pub(super) fn kill_zygote(&mut self, launch: u64) {
        if let Some(link) = self.links.remove(&launch) {
            link.kill();
        }
    }

    /// Forgets the workers that a zygote has not announced. The gateway's ends of their lifelines close, so a worker that was forked
    /// all the same dies. All of them together count as one failed start.
    pub(super) fn forget_pending(&mut self, launch: u64) {
        let mut pool = self.gateway.pool.borrow_mut();
        let mut missed = None;
        for worker in self.zygotes.forget_pending(launch) {
            self.pending.remove(&(launch, worker));
            missed = pool.never_announced(worker).or(missed);
        }
        if let Some(generation) = missed {
            pool.start_failed(generation, Instant::now());
        }
    }
}
