//! Replacement of workers that reach their limit of memory or age. Std only; time is an argument.
//!
//! A worker that reaches a limit continues until its successor is ready.

use std::time::Instant;

use crate::proto::pool::slot::{Drain, DrainReason, Slot};
use crate::proto::pool::{Pool, Replacement};

impl Pool {
    /// Records the memory of a worker, in bytes. Returns its replacement if that is above `max_memory`.
    pub(crate) fn record_memory(&mut self, worker: u32, memory: u64, now: Instant) -> Option<Replacement> {
        let limit = self.policy.max_memory?;
        let slot = self.slots.get_mut(&worker).filter(|slot| slot.drain == Drain::No)?;
        if memory <= limit {
            return None;
        }
        slot.replace(DrainReason::Memory);
        Some(self.replacements.begin(worker, !slot.has_answered, now))
    }

    /// Begins the replacement of the oldest worker if it has reached `max_age`. One at a time, since workers may have been forked
    /// together. Returns the time of the next call, and the replacement.
    pub(crate) fn replace_aged(&mut self, now: Instant) -> (Option<Instant>, Option<Replacement>) {
        let Some(max_age) = self.policy.max_age else { return (None, None) };
        let generation = self.generation;
        let current = |slot: &Slot| slot.generation == generation && !slot.is_leaving();
        if self.slots.values().any(|slot| current(slot) && slot.awaits_successor()) {
            return (None, None);
        }
        let workers = self.slots.iter_mut().filter(|(_, slot)| current(slot));
        let Some((worker, oldest)) = workers.min_by_key(|(_, slot)| slot.forked_at) else {
            return (None, None);
        };
        let (worker, time) = (*worker, oldest.forked_at + max_age);
        if time > now {
            return (Some(time), None);
        }
        oldest.replace(DrainReason::Age);
        let at_birth = oldest.ready_at.is_none_or(|ready| ready >= time);
        (None, Some(self.replacements.begin(worker, at_birth, now)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::proto::pool::starts::FIRST_PAUSE;
    use crate::proto::pool::tests::{fill, pool, range, serve};
    use crate::proto::pool::{NextFork, Policy};

    #[test]
    fn workers_of_one_age_are_replaced_one_after_the_other() {
        let max_age = Duration::from_secs(3600);
        let (mut pool, now) = pool(Policy { max_age: Some(max_age), ..range(2, 2) });
        assert_eq!(pool.replace_aged(now), (Some(now + max_age), None));
        let later = now + max_age;
        assert_eq!(pool.replace_aged(later), (None, Some(Replacement { worker: 1, pause: None })));
        assert_eq!(pool.replace_aged(later), (None, None), "one at a time");
        assert_eq!(fill(&mut pool, later), [3]);
        assert_eq!(pool.drain_surplus(later).0, [1]);
        assert_eq!(pool.replace_aged(later), (None, Some(Replacement { worker: 2, pause: None })));
        assert_eq!(fill(&mut pool, later), [4]);
        assert_eq!(pool.drain_surplus(later).0, [2]);
        assert_eq!(pool.replace_aged(later), (Some(later + max_age), None));
    }

    #[test]
    fn a_worker_that_has_grown_is_replaced_once() {
        let (mut pool, now) = pool(Policy { max_memory: Some(1000), ..range(1, 1) });
        serve(&mut pool, now);
        assert_eq!(pool.record_memory(1, 1000, now), None);
        assert_eq!(pool.record_memory(1, 1001, now), Some(Replacement { worker: 1, pause: None }));
        assert_eq!(pool.record_memory(1, 1002, now), None);
        assert_eq!(fill(&mut pool, now), [2]);
        assert_eq!(pool.drain_surplus(now).0, [1]);
    }

    /// A limit that every worker exceeds with what the application takes once it is loaded.
    #[test]
    fn workers_that_are_too_large_at_birth_are_replaced_more_and_more_slowly_and_go_on_meanwhile() {
        let (mut pool, mut now) = pool(Policy { max_memory: Some(1000), ..range(1, 1) });
        let (mut pauses, mut worker) = (Vec::new(), 1);
        for _ in 0..8 {
            let replacement = pool.record_memory(worker, 1001, now).expect("it is too large");
            let pause = replacement.pause.expect("it has answered nothing");
            assert_eq!(pool.next_fork(now), NextFork::WaitUntil(now + pause));
            // It answers until its successor is ready, and that says nothing about its successors.
            assert_eq!(serve(&mut pool, now).0, worker);
            assert_eq!(pool.next_fork(now), NextFork::WaitUntil(now + pause));
            now += pause;
            let [next] = fill(&mut pool, now)[..] else { panic!("one successor") };
            assert_eq!(pool.drain_surplus(now).0, [worker]);
            pool.ended(worker, now);
            worker = next;
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        // One that is not too large ends it, and so does another policy.
        serve(&mut pool, now);
        assert_eq!(pool.record_memory(worker, 1001, now), Some(Replacement { worker, pause: None }));
        assert!(
            matches!(pool.next_fork(now), NextFork::Fork(_)),
            "it has grown: its successor need not wait"
        );
    }

    #[test]
    fn a_worker_that_is_missing_is_forked_at_once_also_while_others_are_too_large() {
        let (mut pool, now) = pool(Policy { max_memory: Some(1000), ..range(2, 2) });
        assert_eq!(pool.record_memory(1, 1001, now).unwrap().pause, Some(FIRST_PAUSE));
        assert_eq!(pool.record_memory(2, 1001, now).unwrap().pause, Some(FIRST_PAUSE * 2));
        assert_eq!(pool.next_fork(now), NextFork::WaitUntil(now + FIRST_PAUSE * 2));
        serve(&mut pool, now);
        pool.ended(2, now);
        assert_eq!(pool.next_fork(now), NextFork::Fork(2));
        pool.set_policy(Policy { max_memory: None, ..range(2, 2) });
        assert_eq!(pool.replacements.retry_at(), None);
    }

    /// Start hooks that take longer than a worker may live.
    #[test]
    fn workers_that_are_too_old_when_they_are_ready_are_replaced_more_and_more_slowly() {
        let max_age = Duration::from_secs(2);
        let (mut pool, now) = pool(Policy { max_age: Some(max_age), ..range(1, 1) });
        let mut now = now + max_age;
        assert_eq!(
            pool.replace_aged(now).1,
            Some(Replacement { worker: 1, pause: None }),
            "it has had its time"
        );
        let mut pauses = Vec::new();
        for _ in 0..3 {
            let NextFork::Fork(worker) = pool.next_fork(now) else { panic!("a successor") };
            pool.starting(worker, 1, 0, now);
            now += 2 * max_age;
            pool.ready(worker, now);
            pool.drain_surplus(now).0.into_iter().for_each(|gone| assert!(pool.ended(gone, now).is_some()));
            let pause =
                pool.replace_aged(now).1.expect("it is too old").pause.expect("before it has answered");
            assert_eq!(pool.next_fork(now), NextFork::WaitUntil(now + pause));
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [1, 2, 4]);
    }
}
