//! Draining: which workers are told to exit, and their deadlines. Std only; time is an argument.
//!
//! Every worker that is told to exit has a deadline, and their number is bounded by [`max_exiting`].

use std::time::{Duration, Instant};

use crate::proto::pool::slot::{DrainReason, EXIT_TIME, Slot};
use crate::proto::pool::{Pool, State};

/// The greatest number of workers that exit at the same time in a pool of at most `max`. With long stop hooks, further workers
/// wait.
pub(crate) fn max_exiting(max: u32) -> usize {
    // With `max_requests` 1 a small pool needs several.
    max.max(4) as usize
}

impl Pool {
    /// Drains surplus workers: workers whose successor is ready, workers above `max`, workers above `min` that were idle for
    /// `idle_timeout`. Returns the workers to tell to exit now, and the time of the next call. Busy workers of the first two kinds
    /// follow when their request is over.
    pub(crate) fn drain_surplus(&mut self, now: Instant) -> (Vec<u32>, Option<Instant>) {
        let mut exiting = Vec::new();
        loop {
            let ready = self.current().filter(|slot| slot.state != State::Starting).count();
            let surplus = ready > self.growth.target() as usize;
            let Some(worker) = surplus.then(|| self.least_needed()).flatten() else { break };
            exiting.extend(self.leave(worker, DrainReason::Surplus, now));
        }
        let mut again = None;
        while let Some(worker) = self.idle.first().copied()
            && self.current().count() > self.policy.min as usize
        {
            let Some(slot) = self.slots.get(&worker) else { break };
            let time = slot.since + self.policy.idle_timeout;
            if time > now {
                again = Some(time);
                break;
            }
            self.growth.shrink(self.policy.min, self.present());
            exiting.extend(self.leave(worker, DrainReason::Idle, now));
        }
        (exiting, again)
    }

    /// The first surplus worker to drain: a worker that awaits its successor, or any worker of a pool above `max`; idle workers before
    /// busy ones.
    fn least_needed(&self) -> Option<u32> {
        let over = self.current().count()
            > self.policy.max as usize + self.current().filter(|slot| slot.awaits_successor()).count();
        let candidates = self.slots.iter().filter(|(_, slot)| {
            slot.generation == self.generation && !slot.is_leaving() && slot.state != State::Starting
        });
        candidates
            .filter(|(_, slot)| slot.awaits_successor() || over)
            .min_by_key(|(number, slot)| (!slot.awaits_successor(), slot.state != State::Idle, **number))
            .map(|(number, _)| *number)
    }

    /// Drains a worker of this generation. Returns its number if it is to be told to exit now.
    fn leave(&mut self, worker: u32, reason: DrainReason, now: Instant) -> Option<u32> {
        let slot = self.slots.get_mut(&worker)?;
        slot.leave(reason);
        if slot.state == State::Busy {
            return None;
        }
        slot.told_to_exit(now);
        self.idle.retain(|idle| *idle != worker);
        Some(worker)
    }

    /// Drains every worker, for a stop. Returns the idle ones, to tell to exit now.
    pub(crate) fn close(&mut self, now: Instant) -> Vec<u32> {
        self.resize(0, 0);
        self.drain(DrainReason::Stop, now, EXIT_TIME, |_| true)
    }

    /// Drains the workers of the generations that `which` selects. Returns the idle ones, to tell to exit now; busy ones follow when
    /// their request is over. The deadline is `patience`, or [`EXIT_TIME`] for a worker that was told to exit before and only runs its
    /// stop hooks.
    pub(crate) fn drain_generations(
        &mut self,
        now: Instant,
        patience: Duration,
        which: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        self.drain(DrainReason::Generation, now, patience, which)
    }

    fn drain(
        &mut self,
        reason: DrainReason,
        now: Instant,
        patience: Duration,
        which: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        let mut exiting = Vec::new();
        for (worker, slot) in self.slots.iter_mut().filter(|(_, slot)| which(slot.generation)) {
            let until = now + if slot.state == State::Draining { EXIT_TIME } else { patience };
            if slot.is_leaving() && slot.state != State::Draining {
                // It has a request. A deadline that an earlier drain has set stays.
                slot.exit_by.get_or_insert(until);
                continue;
            }
            slot.exit_by = Some(slot.exit_by.map_or(until, |by| by.min(until)));
            slot.leave(reason);
            if matches!(slot.state, State::Idle | State::Proved) {
                slot.told_to_exit(now);
                exiting.push(*worker);
            }
        }
        self.idle.retain(|worker| !exiting.contains(worker));
        exiting
    }

    /// The numbers of a generation's draining workers.
    pub(crate) fn leaving(&self, generation: u32) -> Vec<u32> {
        let leaves = |slot: &Slot| slot.generation == generation && slot.is_leaving();
        self.slots.iter().filter(|(_, slot)| leaves(slot)).map(|(worker, _)| *worker).collect()
    }

    /// The workers whose exit is overdue, to be killed, each once; and the time of the next call.
    pub(crate) fn take_overdue(&mut self, now: Instant) -> (Vec<u32>, Option<Instant>) {
        let mut overdue = Vec::new();
        for (worker, slot) in &mut self.slots {
            if slot.exit_by.take_if(|by| *by <= now).is_some() {
                overdue.push(*worker);
            }
        }
        (overdue, self.slots.values().filter_map(|slot| slot.exit_by).min())
    }

    /// The workers of the serving generation that were told to exit.
    pub(super) fn exiting(&self) -> impl Iterator<Item = &Slot> {
        let told = |slot: &&Slot| slot.generation == self.generation && slot.state == State::Draining;
        self.slots.values().filter(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::pool::tests::{POLICY, fill, pool, range, serve};
    use crate::proto::pool::{NextFork, Policy, Ready};

    #[test]
    fn waiting_requests_raise_the_number_of_workers_and_idleness_lowers_it() {
        let (mut pool, now) = pool(range(0, 4));
        assert_eq!(pool.next_fork(now), NextFork::NotNeeded, "nothing to do, nobody there");
        pool.grow_for(3);
        assert_eq!(fill(&mut pool, now), [1, 2, 3]);
        pool.grow_for(9);
        assert_eq!(fill(&mut pool, now), [4], "never more than the most");
        assert!(!pool.can_grow());
        // Worker 4 goes on working; the others are never needed again.
        let later = now + POLICY.idle_timeout;
        assert_eq!(pool.drain_surplus(later - Duration::from_nanos(1)), (vec![], Some(later)));
        serve(&mut pool, later);
        assert_eq!(pool.drain_surplus(later), (vec![1, 2, 3], Some(later + POLICY.idle_timeout)));
        assert_eq!(pool.next_fork(later), NextFork::NotNeeded);
        assert_eq!(pool.drain_surplus(later + POLICY.idle_timeout), (vec![4], None));
    }

    #[test]
    fn fewer_workers_leave_as_they_become_idle() {
        let (mut pool, now) = pool(range(3, 3));
        assert_eq!(pool.assign(now), Some(3));
        pool.resize(1, 1);
        assert_eq!(pool.drain_surplus(now).0, [1, 2]);
        assert_eq!(pool.next_fork(now), NextFork::NotNeeded);
        pool.resize(2, 2);
        assert_eq!(pool.next_fork(now), NextFork::Fork(4));
        assert_eq!(pool.ready(3, now), Ready::Work);
    }

    #[test]
    fn of_too_many_workers_those_that_await_a_successor_leave_first_then_idle_ones_then_busy_ones() {
        let (mut pool, now) = pool(Policy { max_requests: Some(2), ..range(3, 3) });
        assert_eq!(serve(&mut pool, now), (3, Ready::Work));
        assert_eq!(serve(&mut pool, now), (3, Ready::Work));
        assert_eq!(fill(&mut pool, now), [4]);
        assert_eq!(pool.assign(now), Some(4));
        pool.resize(2, 2);
        assert_eq!(pool.drain_surplus(now).0, [3, 1]);
        // Two are left, of which worker 4 is busy.
        assert_eq!(pool.assign(now), Some(2));
        pool.resize(1, 1);
        assert_eq!(pool.drain_surplus(now).0, [0; 0], "busy ones finish their request");
        pool.resize(0, 0);
        assert_eq!(pool.drain_surplus(now).0, [0; 0]);
        assert_eq!((pool.ready(2, now), pool.ready(4, now)), (Ready::Drain, Ready::Drain));
    }

    #[test]
    fn a_stop_tells_the_idle_workers_to_exit_and_the_busy_ones_when_their_request_is_over() {
        let (mut pool, now) = pool(range(3, 3));
        assert_eq!(pool.assign(now), Some(3));
        assert_eq!(pool.close(now), [1, 2]);
        assert_eq!((pool.next_fork(now), pool.assign(now)), (NextFork::NotNeeded, None));
        assert_eq!(pool.take_overdue(now), (vec![], Some(now + EXIT_TIME)));
        assert_eq!(pool.ready(3, now), Ready::Drain);
        assert_eq!(pool.take_overdue(now + EXIT_TIME).0, [1, 2, 3]);
    }

    #[test]
    fn the_leaving_workers_are_told_apart_by_generation() {
        let (mut pool, now) = pool(range(2, 2));
        pool.starting(3, 2, 0, now);
        pool.ready(3, now);
        pool.switch(2, true, now);
        pool.drain_generations(now, EXIT_TIME, |generation| generation < 2);
        assert_eq!((pool.leaving(1), pool.leaving(2)), (vec![1, 2], vec![]));
    }

    #[test]
    fn a_worker_goes_on_after_its_last_request_until_its_successor_is_ready() {
        let (mut pool, now) = pool(Policy { max_requests: Some(2), ..range(1, 1) });
        assert_eq!(serve(&mut pool, now), (1, Ready::Work));
        assert_eq!(pool.next_fork(now), NextFork::NotNeeded);
        assert_eq!(pool.assign(now), Some(1));
        assert!(pool.take_changed() && !pool.take_changed());
        assert_eq!(pool.next_fork(now), NextFork::Fork(2), "while the last request runs");
        pool.starting(2, 1, 0, now);
        assert_eq!(pool.ready(1, now), Ready::Work);
        assert_eq!(serve(&mut pool, now), (1, Ready::Work), "its successor is not ready");
        assert_eq!(pool.drain_surplus(now).0, [0; 0]);
        pool.ready(2, now);
        assert_eq!(pool.drain_surplus(now).0, [1]);
        assert_eq!(pool.assign(now), Some(2));
    }

    /// Stop hooks that never return, with a worker for each request.
    #[test]
    fn those_that_leave_have_a_deadline_and_are_never_many() {
        let (mut pool, now) = pool(Policy { max_requests: Some(1), ..range(1, 1) });
        for _ in 0..4 {
            let worker = pool.assign(now).expect("a fresh one");
            fill(&mut pool, now);
            assert_eq!(pool.ready(worker, now), Ready::Drain);
        }
        assert_eq!(pool.workers().count(), 4 + 1);
        let worker = pool.assign(now).expect("the last one");
        assert_eq!(pool.next_fork(now), NextFork::WaitUntil(now + EXIT_TIME), "four leave");
        assert_eq!(pool.take_overdue(now), (vec![], Some(now + EXIT_TIME)));
        let later = now + EXIT_TIME;
        assert_eq!(pool.ready(worker, later), Ready::Drain);
        let (overdue, again) = pool.take_overdue(later);
        assert_eq!((overdue.len(), again), (4, Some(later + EXIT_TIME)));
        assert_eq!(pool.take_overdue(later).0, [0; 0], "once");
        assert_eq!(pool.next_fork(later), NextFork::WaitUntil(later + EXIT_TIME), "not before they are gone");
        overdue.into_iter().for_each(|worker| assert_eq!(pool.ended(worker, later), Some(State::Draining)));
        assert!(matches!(pool.next_fork(later), NextFork::Fork(_)));
    }

    /// Processes that even SIGKILL does not end, such as those that wait for a file system.
    #[test]
    fn while_those_that_are_killed_do_not_go_nobody_is_forked_for_them() {
        let (mut pool, now) = pool(Policy { max_requests: Some(1), ..range(1, 1) });
        for _ in 0..4 {
            let worker = pool.assign(now).expect("a fresh one");
            fill(&mut pool, now);
            assert_eq!(pool.ready(worker, now), Ready::Drain);
        }
        let overdue = pool.take_overdue(now + EXIT_TIME).0;
        assert!(pool.assign(now).is_some());
        assert_eq!(pool.next_fork(now + EXIT_TIME), NextFork::NotNeeded);
        pool.ended(overdue[0], now);
        assert!(matches!(pool.next_fork(now + EXIT_TIME), NextFork::Fork(_)));
    }

    #[test]
    fn idle_ones_that_are_not_needed_have_a_deadline_too() {
        let (mut pool, now) = pool(range(2, 2));
        pool.resize(1, 1);
        assert_eq!(pool.drain_surplus(now).0, [1]);
        assert_eq!(pool.take_overdue(now + EXIT_TIME), (vec![1], None));
    }

    #[test]
    fn a_reload_gives_its_workers_the_grace_and_the_next_reload_no_second_one() {
        let grace = Duration::from_secs(30);
        let (mut pool, now) = pool(range(2, 2));
        let reload = |pool: &mut Pool, to: u32, now: Instant| {
            let first = pool.free_number();
            pool.starting(first, to, 0, now);
            assert_eq!(pool.ready(first, now), Ready::Proved);
            pool.switch(to, true, now);
            pool.drain_generations(now, grace, |generation| generation != to)
        };
        assert_eq!(pool.assign(now), Some(2));
        assert_eq!(reload(&mut pool, 2, now), [1]);
        assert_eq!(pool.take_overdue(now), (vec![], Some(now + grace)));
        assert!(matches!(pool.next_fork(now), NextFork::Fork(_)), "older generations do not count");
        // The idle one has nothing left but its stop hooks; the busy one has its request.
        let later = now + Duration::from_secs(1);
        assert_eq!(reload(&mut pool, 3, later), [3]);
        assert_eq!(pool.take_overdue(later + EXIT_TIME), (vec![1], Some(now + grace)));
        assert_eq!(pool.take_overdue(now + grace), (vec![2], Some(later + grace)));
        assert_eq!(pool.take_overdue(later + grace), (vec![3], None));
    }

    #[test]
    fn one_that_was_never_born_leaves_its_place_and_is_no_failed_start() {
        let (mut pool, now) = pool(range(1, 1));
        pool.ended(1, now);
        pool.starting(1, 1, 0, now);
        assert_eq!(pool.next_fork(now), NextFork::NotNeeded);
        assert_eq!((pool.never_announced(1), pool.never_announced(1)), (Some(1), None));
        assert_eq!(pool.next_fork(now), NextFork::Fork(1));
    }
}
