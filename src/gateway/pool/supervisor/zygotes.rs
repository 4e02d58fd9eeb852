//! Zygotes that hang, which only what they do not do shows: a worker that was asked for and never comes, an exit that is due.

use std::time::{Duration, Instant};

use tracing::{error, warn};

use crate::config::Time;
use crate::gateway::pool::supervisor::stop::Stop;
use crate::gateway::pool::supervisor::{Supervisor, Zygote};
use crate::gateway::pool::zygote::ZygoteLink;

/// How long a zygote may take to fork where `--start-timeout` is off. The fork of a large application takes some 100 ms.
const FORK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a retired zygote may outlive the last of its workers, which it reaps.
const REAP: Duration = Duration::from_secs(1);

/// The zygote of a generation that has been replaced.
#[derive(Debug)]
pub(super) struct RetiredZygote {
    link: ZygoteLink,
    pub(super) launch: u64,
    /// When it is killed.
    until: Instant,
}

impl Supervisor {
    /// Lets a zygote exit whose last worker is to be gone at `workers_until`.
    pub(super) fn retire_zygote(&mut self, zygote: Zygote, workers_until: Instant) {
        let Zygote { link, launch, .. } = zygote;
        link.shut_down();
        self.retired.push(RetiredZygote { link, launch, until: workers_until + REAP });
    }

    /// Kills zygotes that were asked for a worker and have not said that they forked it, and retired ones that do not exit;
    /// gives when to look again.
    pub(super) fn end_stuck_zygotes(&mut self, now: Instant) -> Option<Instant> {
        let config = self.next_config.clone().unwrap_or_else(|| self.gateway.config());
        let timeout = config.start_timeout.unwrap_or(FORK_TIMEOUT);
        let stuck = |asked: Instant| asked + timeout <= now;
        while let Some(launch) = self.births.iter().find(|(_, it)| stuck(it.asked)).map(|(key, _)| key.0) {
            self.condemn(launch, timeout, now);
        }
        self.retired.retain(|zygote| {
            let stays = zygote.until > now;
            if !stays {
                warn!(r#gen = zygote.link.generation, "zygote does not end; killing it");
                zygote.link.kill();
            }
            stays
        });
        let births = self.births.values().map(|birth| birth.asked + timeout);
        births.chain(self.retired.iter().map(|zygote| zygote.until)).min()
    }

    /// Kills a zygote that hangs, and has another take its place.
    fn condemn(&mut self, launch: u64, timeout: Duration, now: Instant) {
        let why = format!("has not forked a worker for {} (--start-timeout)", Time(timeout));
        let is_it = |zygote: &mut Zygote| zygote.launch == launch;
        if self.next.as_mut().is_some_and(is_it) {
            self.next_failed(format!("its zygote {why}"));
        } else if let Some(Zygote { link, .. }) = self.current.take_if(is_it) {
            error!(r#gen = link.generation, "zygote {why}; killing it and launching another");
            link.kill();
            if !matches!(self.stop, Stop::Draining(_)) {
                self.relaunch = Some(now);
            }
        } else if let Some(at) = self.retired.iter().position(|zygote| zygote.launch == launch) {
            let RetiredZygote { link, .. } = self.retired.swap_remove(at);
            warn!(r#gen = link.generation, "zygote {why}; killing it");
            link.kill();
        }
        self.forget_births(launch);
    }

    /// Workers that a zygote was asked for and did not announce: their ends of the lifelines close, so one
    /// that exists all the same dies. However many they are, it is one start that failed.
    pub(super) fn forget_births(&mut self, launch: u64) {
        let lost: Vec<_> = self.births.keys().filter(|(of, _)| *of == launch).copied().collect();
        let mut pool = self.gateway.pool.borrow_mut();
        let mut missed = None;
        for key in lost {
            self.births.remove(&key);
            missed = pool.never_announced(key.1).or(missed);
        }
        if let Some(generation) = missed {
            pool.start_failed(generation, Instant::now());
        }
    }
}
