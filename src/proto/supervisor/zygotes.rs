//! The zygotes: the current one, the next one, those that have to exit, and the deadlines of each. Std only; time is an argument.
//!
//! A zygote hangs if it does not announce a requested worker in time, or does not exit in time. The number of its launch identifies a
//! zygote, since one generation may have several in succession.
//!
//! ```text
//!                 loaded, first worker ready              successor's first worker ready
//! launch ──► Next ──────────────────────────► Current ──────────────────────────────────► Retired
//!             │ fails, is replaced, hangs        │ ends, hangs: another is launched           │ exits, is overdue, hangs
//!             ▼                                  ▼                                            ▼
//!            gone                               gone                                         gone
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::proto::backoff::Backoff;
use crate::proto::supervisor::start_deadline::{StartAction, StartDeadline};

/// The delay after a failed relaunch. It doubles with each further failure.
const FIRST_RELAUNCH: Duration = Duration::from_millis(500);

/// The longest such delay.
const MAX_RELAUNCH: Duration = Duration::from_secs(10);

/// The time that a retired zygote may outlive the last of its workers, which it reaps.
const REAP: Duration = Duration::from_secs(1);

/// The role of a zygote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The zygote of the generation that is loading.
    Next,
    /// The zygote of the serving generation.
    Current,
    /// Its generation has been replaced; it reaps its last workers.
    Retired,
    /// The launch is unknown: the zygote has ended, or was killed.
    Gone,
}

/// The end of the current zygote's process, which ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It had loaded the application: another is launched at once.
    Loaded,
    /// It had not: another is launched after a pause.
    Loading,
}

/// The current or next zygote.
#[derive(Clone, Copy, Debug)]
struct Zygote {
    launch: u64,
    generation: u32,
    /// Whether it has loaded the application, and whether it forks copies of that.
    loaded: bool,
    preloaded: bool,
    load: StartDeadline,
}

/// A zygote that is to exit.
#[derive(Clone, Copy, Debug)]
struct Retired {
    launch: u64,
    generation: u32,
    /// The time at which it is killed.
    exit_by: Instant,
}

/// All zygotes, with the workers that were requested of them.
#[derive(Debug)]
pub(crate) struct Zygotes {
    launches: u64,
    current: Option<Zygote>,
    next: Option<Zygote>,
    retired: Vec<Retired>,
    /// The times of fork requests without an announcement yet, by launch and worker number.
    pending: BTreeMap<(u64, u32), Instant>,
    /// The time of the relaunch after the current zygote's end.
    relaunch_at: Option<Instant>,
    /// Failed relaunches in a row.
    failed_launches: Backoff,
}

impl Zygotes {
    /// No zygote has been launched.
    pub(crate) fn new() -> Self {
        Self {
            launches: 0,
            current: None,
            next: None,
            retired: Vec::new(),
            pending: BTreeMap::new(),
            relaunch_at: None,
            failed_launches: Backoff::new(FIRST_RELAUNCH, MAX_RELAUNCH),
        }
    }

    /// The number of the next launch.
    pub(crate) fn begin_launch(&mut self) -> u64 {
        self.launches += 1;
        self.launches
    }

    /// Records the launch of the next generation's zygote.
    pub(crate) fn launched_next(&mut self, launch: u64, generation: u32, now: Instant) {
        self.next = Some(Zygote::new(launch, generation, now));
    }

    /// Records the relaunch of the current generation's zygote.
    pub(crate) fn launched_current(&mut self, launch: u64, generation: u32, now: Instant) {
        self.current = Some(Zygote::new(launch, generation, now));
    }

    /// Records that a relaunch, or its load, has failed. The next attempt is delayed.
    pub(crate) fn put_off_relaunch(&mut self, now: Instant) {
        self.relaunch_at = Some(now + self.failed_launches.failed(now));
    }

    /// Whether the relaunch is due. Returns true once.
    pub(crate) fn take_relaunch(&mut self, now: Instant) -> bool {
        self.relaunch_at.take_if(|time| *time <= now).is_some()
    }

    /// The time of the relaunch.
    pub(crate) fn relaunch_at(&self) -> Option<Instant> {
        self.relaunch_at
    }

    /// The role of a launch.
    pub(crate) fn role(&self, launch: u64) -> Role {
        let is_it = |zygote: &Option<Zygote>| zygote.is_some_and(|zygote| zygote.launch == launch);
        if is_it(&self.next) {
            Role::Next
        } else if is_it(&self.current) {
            Role::Current
        } else if self.retired.iter().any(|zygote| zygote.launch == launch) {
            Role::Retired
        } else {
            Role::Gone
        }
    }

    /// The launch and the generation of the next zygote.
    pub(crate) fn next(&self) -> Option<(u64, u32)> {
        self.next.map(|zygote| (zygote.launch, zygote.generation))
    }

    /// Whether this generation is loading.
    pub(crate) fn is_next(&self, generation: u32) -> bool {
        self.next.is_some_and(|next| next.generation == generation)
    }

    /// The launch of the current zygote that can fork, and whether it forks copies of what it has loaded.
    pub(crate) fn forking(&self) -> Option<(u64, bool)> {
        let current = self.current.filter(|zygote| zygote.loaded)?;
        Some((current.launch, current.preloaded))
    }

    /// The launch of the current zygote.
    pub(crate) fn current(&self) -> Option<u64> {
        self.current.map(|zygote| zygote.launch)
    }

    /// Records that a zygote has loaded the application. Gives its role, and its generation.
    pub(crate) fn loaded(&mut self, launch: u64, preloaded: bool) -> Option<(Role, u32)> {
        let role = self.role(launch);
        let zygote = match role {
            Role::Next => self.next.as_mut()?,
            Role::Current => {
                self.failed_launches.reset();
                self.current.as_mut()?
            }
            Role::Retired | Role::Gone => return None,
        };
        (zygote.loaded, zygote.preloaded) = (true, preloaded);
        Some((role, zygote.generation))
    }

    /// Discards the next zygote. Returns its launch and its generation.
    pub(crate) fn discard_next(&mut self) -> Option<(u64, u32)> {
        self.next.take().map(|zygote| (zygote.launch, zygote.generation))
    }

    /// Makes the next zygote the current one. Retires the old one, whose last worker has to exit by `workers_until`, and returns its
    /// launch.
    pub(crate) fn switch(&mut self, workers_until: Instant) -> Option<u64> {
        let before = std::mem::replace(&mut self.current, self.next.take());
        self.relaunch_at = None;
        self.failed_launches.reset();
        let Zygote { launch, generation, .. } = before?;
        self.retired.push(Retired { launch, generation, exit_by: workers_until + REAP });
        Some(launch)
    }

    /// Records that the current zygote's process has ended by itself; its workers continue. `replace`: it is relaunched.
    pub(crate) fn current_ended(&mut self, replace: bool, now: Instant) -> Option<Ended> {
        let ended = if self.current.take()?.loaded { Ended::Loaded } else { Ended::Loading };
        if !replace {
            return None;
        }
        match ended {
            Ended::Loaded => self.relaunch_at = Some(now),
            Ended::Loading => self.put_off_relaunch(now),
        }
        Some(ended)
    }

    /// Records that a retired zygote's process has ended.
    pub(crate) fn retired_ended(&mut self, launch: u64) {
        self.retired.retain(|zygote| zygote.launch != launch);
    }

    // Fork requests.

    /// Records that a worker was requested of a zygote.
    pub(crate) fn requested(&mut self, launch: u64, worker: u32, now: Instant) {
        self.pending.insert((launch, worker), now);
    }

    /// Records that a zygote has announced a worker, or that it could not fork it.
    pub(crate) fn settled(&mut self, launch: u64, worker: u32) {
        self.pending.remove(&(launch, worker));
    }

    /// Forgets the workers that a zygote has not announced. Returns their numbers.
    pub(crate) fn forget_pending(&mut self, launch: u64) -> Vec<u32> {
        let lost: Vec<_> =
            self.pending.range((launch, 0)..=(launch, u32::MAX)).map(|(key, _)| key.1).collect();
        lost.iter().for_each(|worker| {
            self.pending.remove(&(launch, *worker));
        });
        lost
    }

    // Deadlines.

    /// A zygote that has not announced a worker within `timeout`, to be condemned.
    pub(crate) fn stuck(&self, settled: Instant, timeout: Duration) -> Option<u64> {
        let stuck = |requested: Instant| requested + timeout <= settled;
        self.pending.iter().find(|(_, requested)| stuck(**requested)).map(|((launch, _), _)| *launch)
    }

    /// Removes the current or a retired zygote, which hangs. Returns its role and generation. `replace`: the current one is relaunched
    /// at once.
    pub(crate) fn condemn(&mut self, launch: u64, replace: bool, now: Instant) -> Option<(Role, u32)> {
        if let Some(zygote) = self.current.take_if(|zygote| zygote.launch == launch) {
            if replace {
                self.relaunch_at = Some(now);
            }
            return Some((Role::Current, zygote.generation));
        }
        let at = self.retired.iter().position(|zygote| zygote.launch == launch)?;
        Some((Role::Retired, self.retired.swap_remove(at).generation))
    }

    /// Removes a retired zygote that should have exited by `settled`; gives its launch and generation. To be called until there
    /// is none.
    pub(crate) fn take_overdue(&mut self, settled: Instant) -> Option<(u64, u32)> {
        let at = self.retired.iter().position(|zygote| zygote.exit_by <= settled)?;
        let Retired { launch, generation, .. } = self.retired.remove(at);
        Some((launch, generation))
    }

    /// The next action on a zygote that takes too long to load, that was due by `settled`: its role, launch and generation. To be
    /// called until there is none.
    pub(crate) fn handle_load_timeout(
        &mut self,
        settled: Instant,
        timeout: Duration,
    ) -> Option<(StartAction, Role, u64, u32)> {
        let both = [(Role::Next, &mut self.next), (Role::Current, &mut self.current)];
        both.into_iter().find_map(|(role, zygote)| {
            let zygote = zygote.as_mut().filter(|zygote| !zygote.loaded)?;
            let action = zygote.load.handle_timeout(settled, timeout)?;
            Some((action, role, zygote.launch, zygote.generation))
        })
    }

    /// The time of the next deadline. `start_timeout` is that of loads, and `fork_timeout` that of announcements.
    pub(crate) fn next_deadline(
        &self,
        start_timeout: Option<Duration>,
        fork_timeout: Duration,
    ) -> Option<Instant> {
        let loading = [&self.next, &self.current].into_iter().flatten().filter(|zygote| !zygote.loaded);
        let loads = start_timeout
            .into_iter()
            .flat_map(|timeout| loading.clone().filter_map(move |zygote| zygote.load.next_deadline(timeout)));
        let pending = self.pending.values().map(|requested| *requested + fork_timeout);
        loads.chain(pending).chain(self.retired.iter().map(|zygote| zygote.exit_by)).min()
    }
}

impl Zygote {
    fn new(launch: u64, generation: u32, now: Instant) -> Self {
        Self { launch, generation, loaded: false, preloaded: false, load: StartDeadline::new(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::supervisor::start_deadline::LAST_WORDS;

    const TIMEOUT: Duration = Duration::from_secs(5);
    const FORK: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    /// Zygotes of which the current one, of generation 1, has loaded. Gives its launch.
    fn serving(now: Instant) -> (Zygotes, u64) {
        let mut zygotes = Zygotes::new();
        let launch = next(&mut zygotes, 1, now);
        assert_eq!(zygotes.loaded(launch, true), Some((Role::Next, 1)));
        assert_eq!(zygotes.switch(now), None);
        (zygotes, launch)
    }

    fn next(zygotes: &mut Zygotes, generation: u32, now: Instant) -> u64 {
        let launch = zygotes.begin_launch();
        zygotes.launched_next(launch, generation, now);
        launch
    }

    #[test]
    fn a_generation_follows_and_the_zygote_before_is_retired() {
        let now = Instant::now();
        let (mut zygotes, first) = serving(now);
        assert_eq!((zygotes.role(first), zygotes.forking()), (Role::Current, Some((first, true))));
        assert_eq!(zygotes.current(), Some(first));
        let second = next(&mut zygotes, 2, now);
        assert!(zygotes.is_next(2) && !zygotes.is_next(1));
        assert_eq!((zygotes.role(second), zygotes.next()), (Role::Next, Some((second, 2))));
        assert_eq!(zygotes.forking(), Some((first, true)), "the old one forks until the switch");
        assert_eq!(zygotes.loaded(second, false), Some((Role::Next, 2)));
        assert_eq!(zygotes.switch(now + SECOND), Some(first));
        assert_eq!((zygotes.role(first), zygotes.role(second)), (Role::Retired, Role::Current));
        assert_eq!(zygotes.current(), Some(second));
        assert_eq!(zygotes.forking(), Some((second, false)));
        assert_eq!(zygotes.loaded(first, true), None, "it says so late");

        let exit_by = now + SECOND + REAP;
        assert_eq!(zygotes.next_deadline(None, FORK), Some(exit_by));
        assert_eq!(zygotes.take_overdue(exit_by - Duration::from_nanos(1)), None);
        assert_eq!(zygotes.take_overdue(exit_by), Some((first, 1)));
        assert_eq!((zygotes.take_overdue(exit_by), zygotes.role(first)), (None, Role::Gone));
    }

    #[test]
    fn a_retired_zygote_that_exits_is_not_overdue() {
        let now = Instant::now();
        let (mut zygotes, first) = serving(now);
        next(&mut zygotes, 2, now);
        zygotes.switch(now);
        zygotes.retired_ended(first);
        assert_eq!((zygotes.role(first), zygotes.take_overdue(now + FORK)), (Role::Gone, None));
    }

    #[test]
    fn a_current_zygote_that_ends_is_replaced_at_once_and_more_and_more_slowly_while_its_code_does_not_load()
    {
        let now = Instant::now();
        let (mut zygotes, _) = serving(now);
        assert_eq!(zygotes.current_ended(true, now), Some(Ended::Loaded));
        assert_eq!(zygotes.relaunch_at(), Some(now));
        for seconds in [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0] {
            assert!(zygotes.take_relaunch(now + MAX_RELAUNCH) && !zygotes.take_relaunch(now + MAX_RELAUNCH));
            let launch = zygotes.begin_launch();
            zygotes.launched_current(launch, 1, now);
            assert_eq!(zygotes.forking(), None, "it loads");
            assert_eq!(zygotes.current_ended(true, now), Some(Ended::Loading));
            let pause = Duration::from_secs_f64(seconds);
            assert_eq!(zygotes.relaunch_at(), Some(now + pause));
            assert!(!zygotes.take_relaunch(now + pause - Duration::from_nanos(1)), "too early");
        }
        let launch = zygotes.begin_launch();
        zygotes.launched_current(launch, 1, now);
        assert_eq!(zygotes.loaded(launch, true), Some((Role::Current, 1)));
        zygotes.put_off_relaunch(now);
        assert_eq!(zygotes.relaunch_at(), Some(now + FIRST_RELAUNCH), "a load ends the row");
    }

    #[test]
    fn while_workers_are_let_go_no_zygote_is_launched() {
        let now = Instant::now();
        let (mut zygotes, launch) = serving(now);
        assert_eq!(zygotes.current_ended(false, now), None);
        assert_eq!((zygotes.relaunch_at(), zygotes.role(launch)), (None, Role::Gone));
        let (mut zygotes, launch) = serving(now);
        assert_eq!(zygotes.condemn(launch, false, now), Some((Role::Current, 1)));
        assert_eq!(zygotes.relaunch_at(), None);
    }

    #[test]
    fn a_zygote_that_does_not_announce_its_worker_is_stuck() {
        let now = Instant::now();
        let (mut zygotes, first) = serving(now);
        zygotes.requested(first, 1, now);
        zygotes.requested(first, 2, now + SECOND);
        zygotes.settled(first, 1);
        assert_eq!(zygotes.next_deadline(Some(TIMEOUT), TIMEOUT), Some(now + SECOND + TIMEOUT));
        assert_eq!(zygotes.stuck(now + TIMEOUT, TIMEOUT), None, "the first worker is there");
        let later = now + SECOND + TIMEOUT;
        assert_eq!(zygotes.stuck(later, TIMEOUT), Some(first));
        assert_eq!(zygotes.condemn(first, true, later), Some((Role::Current, 1)));
        assert_eq!(zygotes.forget_pending(first), [2]);
        assert_eq!((zygotes.stuck(later, TIMEOUT), zygotes.relaunch_at()), (None, Some(later)));
        assert_eq!(zygotes.condemn(first, true, later), None, "once");
    }

    #[test]
    fn a_retired_zygote_that_is_stuck_is_condemned_and_not_replaced() {
        let now = Instant::now();
        let (mut zygotes, first) = serving(now);
        zygotes.requested(first, 7, now);
        let second = next(&mut zygotes, 2, now);
        zygotes.requested(second, 8, now);
        zygotes.switch(now + FORK);
        assert_eq!(zygotes.condemn(first, true, now), Some((Role::Retired, 1)));
        assert_eq!((zygotes.relaunch_at(), zygotes.forget_pending(first)), (None, vec![7]));
        assert_eq!(zygotes.forget_pending(second), [8], "each has its own");
    }

    #[test]
    fn a_load_that_takes_too_long_is_interrupted_then_given_up() {
        let now = Instant::now();
        let (mut zygotes, first) = serving(now);
        let second = next(&mut zygotes, 2, now);
        assert_eq!(zygotes.next_deadline(None, FORK), None);
        for (due, action) in [(TIMEOUT, StartAction::Interrupt), (TIMEOUT + LAST_WORDS, StartAction::GiveUp)]
        {
            assert_eq!(zygotes.next_deadline(Some(TIMEOUT), FORK), Some(now + due));
            let early = now + due - Duration::from_nanos(1);
            assert_eq!(zygotes.handle_load_timeout(early, TIMEOUT), None);
            assert_eq!(
                zygotes.handle_load_timeout(now + due, TIMEOUT),
                Some((action, Role::Next, second, 2))
            );
        }
        assert_eq!(zygotes.handle_load_timeout(now + FORK, TIMEOUT), None);
        assert_eq!(zygotes.discard_next(), Some((second, 2)));
        assert_eq!(zygotes.discard_next(), None);

        // The one that takes the place of a zygote that has ended loads, too.
        zygotes.current_ended(true, now);
        let third = zygotes.begin_launch();
        zygotes.launched_current(third, 1, now);
        let interrupt = (StartAction::Interrupt, Role::Current, third, 1);
        assert_eq!(zygotes.handle_load_timeout(now + TIMEOUT, TIMEOUT), Some(interrupt));
        zygotes.loaded(third, true);
        assert_eq!(zygotes.handle_load_timeout(now + FORK, TIMEOUT), None, "it has loaded");
        assert_eq!(zygotes.role(first), Role::Gone);
    }
}
