//! Who leaves the pool, and when: workers that are due by age, size or requests, and workers that are not needed any
//! more. Std only.
//!
//! Whoever leaves has a deadline, and there are never many who do.

use std::time::{Duration, Instant};

use crate::proto::pool::{FAREWELL, Pool, Seat, State};

/// A worker that has become due by the policy's age or memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) worker: u32,
    /// How long its successor waits, where it was due before it could have answered anything.
    pub(crate) pause: Option<Duration>,
}

/// Workers that may be about to exit at a time in a pool of at most so many: where their stop hooks take long, those that are
/// to follow wait.
pub(crate) fn most_leaving(max: u32) -> usize {
    // A small pool whose workers serve one request each needs some all the same.
    max.max(4) as usize
}

impl Pool {
    /// What a worker takes, in bytes. Says whether it has become due by that.
    pub(crate) fn measured(&mut self, worker: u32, memory: u64, now: Instant) -> Option<Due> {
        let limit = self.policy.max_memory?;
        let seat = self.seats.get_mut(&worker).filter(|seat| !seat.due && !seat.retired)?;
        if memory <= limit {
            return None;
        }
        seat.due = true;
        let at_birth = !seat.answered;
        Some(Due { worker, pause: at_birth.then(|| self.replacements.failed(now)) })
    }

    /// Marks the oldest worker that has reached its age. One at a time: those that were forked together are not
    /// all replaced together. Gives when to look again, and the worker that it marked.
    pub(crate) fn age(&mut self, now: Instant) -> (Option<Instant>, Option<Due>) {
        let Some(max_age) = self.policy.max_age else { return (None, None) };
        let generation = self.generation;
        let of_it = |seat: &Seat| seat.generation == generation && !seat.retired;
        if self.seats.values().any(|seat| of_it(seat) && seat.due) {
            return (None, None);
        }
        let oldest = self.seats.iter_mut().filter(|(_, seat)| of_it(seat)).min_by_key(|(_, seat)| seat.born);
        let Some((worker, oldest)) = oldest else { return (None, None) };
        let (worker, time) = (*worker, oldest.born + max_age);
        if time > now {
            return (Some(time), None);
        }
        oldest.due = true;
        let at_birth = oldest.ready.is_none_or(|ready| ready >= time);
        (None, Some(Due { worker, pause: at_birth.then(|| self.replacements.failed(now)) }))
    }

    /// Workers that are no longer needed, to be told to exit at once: those whose successors are ready, those
    /// beyond the most there may be, those above the least that have been idle for too long. Busy ones among the
    /// first two follow when their request is over. Also gives when to look again.
    pub(crate) fn surplus(&mut self, now: Instant) -> (Vec<u32>, Option<Instant>) {
        let mut leaving = Vec::new();
        loop {
            let ready = self.current().filter(|seat| seat.state != State::Starting).count();
            let Some(worker) = (ready > self.level as usize).then(|| self.least_needed()).flatten() else {
                break;
            };
            leaving.extend(self.let_go(worker, now));
        }
        let mut again = None;
        while let Some(worker) = self.idle.first().copied()
            && self.current().count() > self.policy.min as usize
        {
            let Some(seat) = self.seats.get(&worker) else { break };
            let time = seat.since + self.policy.idle_timeout;
            if time > now {
                again = Some(time);
                break;
            }
            self.set_level(self.level.saturating_sub(1).max(self.policy.min));
            leaving.extend(self.let_go(worker, now));
        }
        (leaving, again)
    }

    /// A worker that may go first, of more than are wanted: one that is due, or any where there are more than
    /// there may be; an idle one before a busy one.
    fn least_needed(&self) -> Option<u32> {
        let over = self.current().count()
            > self.policy.max as usize + self.current().filter(|seat| seat.due).count();
        let candidates = self.seats.iter().filter(|(_, seat)| {
            seat.generation == self.generation && !seat.retired && seat.state != State::Starting
        });
        candidates
            .filter(|(_, seat)| seat.due || over)
            .min_by_key(|(number, seat)| (!seat.due, seat.state != State::Idle, **number))
            .map(|(number, _)| *number)
    }

    /// Retires a worker of this generation; gives it back where it is to be told to exit now.
    fn let_go(&mut self, worker: u32, now: Instant) -> Option<u32> {
        let seat = self.seats.get_mut(&worker)?;
        seat.retired = true;
        if seat.state == State::Busy {
            return None;
        }
        seat.drain(now);
        self.idle.retain(|idle| *idle != worker);
        Some(worker)
    }

    /// No worker is wanted any more; gives the idle ones, which are to be told to exit at once.
    pub(crate) fn close(&mut self, now: Instant) -> Vec<u32> {
        self.resize(0, 0);
        self.retire(now, FAREWELL, |_| true)
    }

    /// Numbers of the workers of a generation that are to leave.
    pub(crate) fn retired(&self, generation: u32) -> Vec<u32> {
        let of_it = |seat: &Seat| seat.generation == generation && seat.retired;
        self.seats.iter().filter(|(_, seat)| of_it(seat)).map(|(worker, _)| *worker).collect()
    }

    /// Retires every worker that `which` (given its generation) picks; gives the idle ones, which are to
    /// be told to exit at once. The busy ones follow when their request is over. All have to be gone after `patience`; one that
    /// was told to exit before, and so has nothing left but its stop hooks, after [`FAREWELL`].
    pub(crate) fn retire(
        &mut self,
        now: Instant,
        patience: Duration,
        which: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        let mut leaving = Vec::new();
        for (worker, seat) in self.seats.iter_mut().filter(|(_, seat)| which(seat.generation)) {
            let until = now + if seat.state == State::Draining { FAREWELL } else { patience };
            if seat.retired && seat.state != State::Draining {
                // It has a request. Those that other generations have retired keep their deadline.
                seat.leave_by.get_or_insert(until);
                continue;
            }
            seat.leave_by = Some(seat.leave_by.map_or(until, |by| by.min(until)));
            seat.retired = true;
            if matches!(seat.state, State::Idle | State::Proved) {
                seat.drain(now);
                leaving.push(*worker);
            }
        }
        self.idle.retain(|worker| !leaving.contains(worker));
        leaving
    }

    /// Workers that should be gone by now, to be killed. Also gives when to look again.
    pub(crate) fn overdue(&mut self, now: Instant) -> (Vec<u32>, Option<Instant>) {
        let mut overdue = Vec::new();
        for (worker, seat) in &mut self.seats {
            if seat.leave_by.take_if(|by| *by <= now).is_some() {
                overdue.push(*worker);
            }
        }
        (overdue, self.seats.values().filter_map(|seat| seat.leave_by).min())
    }

    /// Those of the generation that answers which were told to exit.
    pub(super) fn leaving(&self) -> impl Iterator<Item = &Seat> {
        let of_it = |seat: &&Seat| seat.generation == self.generation && seat.state == State::Draining;
        self.seats.values().filter(of_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::pool::tests::{POLICY, fill, pool, range, serve};
    use crate::proto::pool::{FIRST_PAUSE, Policy, Ready, Want};

    #[test]
    fn waiting_requests_raise_the_number_of_workers_and_idleness_lowers_it() {
        let (mut pool, now) = pool(range(0, 4));
        assert_eq!(pool.want(now), Want::Nothing, "nothing to do, nobody there");
        pool.demand(3);
        assert_eq!(fill(&mut pool, now), [1, 2, 3]);
        pool.demand(9);
        assert_eq!(fill(&mut pool, now), [4], "never more than the most");
        assert!(!pool.can_grow());
        // Worker 4 goes on working; the others are never needed again.
        let later = now + POLICY.idle_timeout;
        assert_eq!(pool.surplus(later - Duration::from_nanos(1)), (vec![], Some(later)));
        serve(&mut pool, later);
        assert_eq!(pool.surplus(later), (vec![1, 2, 3], Some(later + POLICY.idle_timeout)));
        assert_eq!(pool.want(later), Want::Nothing);
        assert_eq!(pool.surplus(later + POLICY.idle_timeout), (vec![4], None));
    }

    #[test]
    fn workers_of_one_age_are_replaced_one_after_the_other() {
        let max_age = Duration::from_secs(3600);
        let (mut pool, now) = pool(Policy { max_age: Some(max_age), ..range(2, 2) });
        assert_eq!(pool.age(now), (Some(now + max_age), None));
        let later = now + max_age;
        assert_eq!(pool.age(later), (None, Some(Due { worker: 1, pause: None })));
        assert_eq!(pool.age(later), (None, None), "one at a time");
        assert_eq!(fill(&mut pool, later), [3]);
        assert_eq!(pool.surplus(later).0, [1]);
        assert_eq!(pool.age(later), (None, Some(Due { worker: 2, pause: None })));
        assert_eq!(fill(&mut pool, later), [4]);
        assert_eq!(pool.surplus(later).0, [2]);
        assert_eq!(pool.age(later), (Some(later + max_age), None));
    }

    #[test]
    fn a_worker_that_has_grown_is_replaced_once() {
        let (mut pool, now) = pool(Policy { max_memory: Some(1000), ..range(1, 1) });
        serve(&mut pool, now);
        assert_eq!(pool.measured(1, 1000, now), None);
        assert_eq!(pool.measured(1, 1001, now), Some(Due { worker: 1, pause: None }));
        assert_eq!(pool.measured(1, 1002, now), None);
        assert_eq!(fill(&mut pool, now), [2]);
        assert_eq!(pool.surplus(now).0, [1]);
    }

    /// A limit that every worker exceeds with what the application takes once it is loaded.
    #[test]
    fn workers_that_are_too_large_at_birth_are_replaced_more_and_more_slowly_and_go_on_meanwhile() {
        let (mut pool, mut now) = pool(Policy { max_memory: Some(1000), ..range(1, 1) });
        let (mut pauses, mut worker) = (Vec::new(), 1);
        for _ in 0..8 {
            let due = pool.measured(worker, 1001, now).expect("it is too large");
            let pause = due.pause.expect("it has answered nothing");
            assert_eq!(pool.want(now), Want::Wait(now + pause));
            // It answers until its successor is ready, and that says nothing about its successors.
            assert_eq!(serve(&mut pool, now).0, worker);
            assert_eq!(pool.want(now), Want::Wait(now + pause));
            now += pause;
            let [next] = fill(&mut pool, now)[..] else { panic!("one successor") };
            assert_eq!(pool.surplus(now).0, [worker]);
            pool.ended(worker, now);
            worker = next;
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        // One that is not too large ends it, and so does another policy.
        serve(&mut pool, now);
        assert_eq!(pool.measured(worker, 1001, now), Some(Due { worker, pause: None }));
        assert!(matches!(pool.want(now), Want::Spawn(_)), "it has grown: its successor need not wait");
    }

    #[test]
    fn a_worker_that_is_missing_is_forked_at_once_also_while_others_are_too_large() {
        let (mut pool, now) = pool(Policy { max_memory: Some(1000), ..range(2, 2) });
        assert_eq!(pool.measured(1, 1001, now).unwrap().pause, Some(FIRST_PAUSE));
        assert_eq!(pool.measured(2, 1001, now).unwrap().pause, Some(FIRST_PAUSE * 2));
        assert_eq!(pool.want(now), Want::Wait(now + FIRST_PAUSE * 2));
        serve(&mut pool, now);
        pool.ended(2, now);
        assert_eq!(pool.want(now), Want::Spawn(2));
        pool.set_policy(Policy { max_memory: None, ..range(2, 2) });
        assert_eq!(pool.replacements.until(), None);
    }

    /// Start hooks that take longer than a worker may live.
    #[test]
    fn workers_that_are_too_old_when_they_are_ready_are_replaced_more_and_more_slowly() {
        let max_age = Duration::from_secs(2);
        let (mut pool, now) = pool(Policy { max_age: Some(max_age), ..range(1, 1) });
        let mut now = now + max_age;
        assert_eq!(pool.age(now).1, Some(Due { worker: 1, pause: None }), "it has had its time");
        let mut pauses = Vec::new();
        for _ in 0..3 {
            let Want::Spawn(worker) = pool.want(now) else { panic!("a successor") };
            pool.starting(worker, 1, 0, now);
            now += 2 * max_age;
            pool.ready(worker, now);
            pool.surplus(now).0.into_iter().for_each(|gone| assert!(pool.ended(gone, now).is_some()));
            let pause = pool.age(now).1.expect("it is too old").pause.expect("before it has answered");
            assert_eq!(pool.want(now), Want::Wait(now + pause));
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [1, 2, 4]);
    }

    #[test]
    fn fewer_workers_leave_as_they_become_idle() {
        let (mut pool, now) = pool(range(3, 3));
        assert_eq!(pool.assign(now), Some(3));
        pool.resize(1, 1);
        assert_eq!(pool.surplus(now).0, [1, 2]);
        assert_eq!(pool.want(now), Want::Nothing);
        pool.resize(2, 2);
        assert_eq!(pool.want(now), Want::Spawn(4));
        assert_eq!(pool.ready(3, now), Ready::Work);
    }

    #[test]
    fn a_worker_goes_on_after_its_last_request_until_its_successor_is_ready() {
        let (mut pool, now) = pool(Policy { max_requests: Some(2), ..range(1, 1) });
        assert_eq!(serve(&mut pool, now), (1, Ready::Work));
        assert_eq!(pool.want(now), Want::Nothing);
        assert_eq!(pool.assign(now), Some(1));
        assert!(pool.take_changed() && !pool.take_changed());
        assert_eq!(pool.want(now), Want::Spawn(2), "while the last request runs");
        pool.starting(2, 1, 0, now);
        assert_eq!(pool.ready(1, now), Ready::Work);
        assert_eq!(serve(&mut pool, now), (1, Ready::Work), "its successor is not ready");
        assert_eq!(pool.surplus(now).0, [0; 0]);
        pool.ready(2, now);
        assert_eq!(pool.surplus(now).0, [1]);
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
        assert_eq!(pool.want(now), Want::Wait(now + FAREWELL), "four leave");
        assert_eq!(pool.overdue(now), (vec![], Some(now + FAREWELL)));
        let later = now + FAREWELL;
        assert_eq!(pool.ready(worker, later), Ready::Drain);
        let (overdue, again) = pool.overdue(later);
        assert_eq!((overdue.len(), again), (4, Some(later + FAREWELL)));
        assert_eq!(pool.overdue(later).0, [0; 0], "once");
        assert_eq!(pool.want(later), Want::Wait(later + FAREWELL), "not before they are gone");
        overdue.into_iter().for_each(|worker| assert_eq!(pool.ended(worker, later), Some(State::Draining)));
        assert!(matches!(pool.want(later), Want::Spawn(_)));
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
        let overdue = pool.overdue(now + FAREWELL).0;
        assert!(pool.assign(now).is_some());
        assert_eq!(pool.want(now + FAREWELL), Want::Nothing);
        pool.ended(overdue[0], now);
        assert!(matches!(pool.want(now + FAREWELL), Want::Spawn(_)));
    }

    #[test]
    fn idle_ones_that_are_not_needed_have_a_deadline_too() {
        let (mut pool, now) = pool(range(2, 2));
        pool.resize(1, 1);
        assert_eq!(pool.surplus(now).0, [1]);
        assert_eq!(pool.overdue(now + FAREWELL), (vec![1], None));
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
            pool.retire(now, grace, |generation| generation != to)
        };
        assert_eq!(pool.assign(now), Some(2));
        assert_eq!(reload(&mut pool, 2, now), [1]);
        assert_eq!(pool.overdue(now), (vec![], Some(now + grace)));
        assert!(matches!(pool.want(now), Want::Spawn(_)), "older generations do not count");
        // The idle one has nothing left but its stop hooks; the busy one has its request.
        let later = now + Duration::from_secs(1);
        assert_eq!(reload(&mut pool, 3, later), [3]);
        assert_eq!(pool.overdue(later + FAREWELL), (vec![1], Some(now + grace)));
        assert_eq!(pool.overdue(now + grace), (vec![2], Some(later + grace)));
        assert_eq!(pool.overdue(later + grace), (vec![3], None));
    }

    #[test]
    fn one_that_was_never_born_leaves_its_place_and_is_no_failed_start() {
        let (mut pool, now) = pool(range(1, 1));
        pool.ended(1, now);
        pool.starting(1, 1, 0, now);
        assert_eq!(pool.want(now), Want::Nothing);
        assert_eq!((pool.unborn(1), pool.unborn(1)), (Some(1), None));
        assert_eq!(pool.want(now), Want::Spawn(1));
    }
}
