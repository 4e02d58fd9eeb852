//! The pool under a fake clock: its transitions, and stories of several workers.

use super::*;
use crate::proto::pool::starts::{FIRST_BACKOFF, MAX_BACKOFF};

pub(crate) const POLICY: Policy = Policy {
    min: 1,
    max: 1,
    idle_timeout: Duration::from_secs(60),
    max_requests: None,
    max_requests_jitter: 0,
    max_age: None,
    max_memory: None,
};

pub(crate) fn range(min: u32, max: u32) -> Policy {
    Policy { min, max, ..POLICY }
}

pub(crate) fn pool(policy: Policy) -> (Pool, Instant) {
    let (mut pool, now) = (Pool::new(policy, 1), Instant::now());
    fill(&mut pool, now);
    (pool, now)
}

/// Forks whatever is wanted; each worker is ready at once. Gives their numbers.
pub(crate) fn fill(pool: &mut Pool, now: Instant) -> Vec<u32> {
    let mut forked = Vec::new();
    while let NextFork::Fork(worker) = pool.next_fork(now) {
        pool.starting(worker, pool.generation(), 0, now);
        assert_eq!(pool.ready(worker, now), Ready::Work);
        forked.push(worker);
    }
    forked
}

/// Runs one request on the worker that is next.
pub(crate) fn serve(pool: &mut Pool, now: Instant) -> (u32, Ready) {
    let worker = pool.assign(now).expect("somebody is idle");
    pool.record_answer(worker);
    (worker, pool.ready(worker, now))
}

#[test]
fn fills_up_and_numbers_from_one() {
    let (mut pool, now) = pool(range(3, 3));
    assert_eq!(pool.workers().map(|worker| worker.number).collect::<Vec<_>>(), [1, 2, 3]);
    pool.ended(2, now);
    assert_eq!(pool.next_fork(now), NextFork::Fork(2));
}

#[test]
fn the_worker_that_was_idle_last_is_used_first() {
    let (mut pool, now) = pool(range(2, 2));
    assert_eq!(pool.assign(now), Some(2));
    pool.ready(2, now);
    assert_eq!(pool.assign(now), Some(2));
    assert_eq!(pool.assign(now), Some(1));
    assert_eq!(pool.assign(now), None);
}

#[test]
fn deaths_in_a_row_are_answered_more_and_more_slowly_until_a_request_succeeds() {
    let (mut pool, now) = pool(range(1, 1));
    let mut delays = Vec::new();
    for _ in 0..12 {
        pool.ended(1, now);
        delays.push(pool.down_for(now).unwrap_or_default());
        assert_eq!(pool.next_fork(now + MAX_BACKOFF), NextFork::Fork(1));
        pool.starting(1, 1, 0, now);
    }
    assert_eq!(delays[..3], [Duration::ZERO, FIRST_BACKOFF, FIRST_BACKOFF * 2]);
    assert_eq!(*delays.last().unwrap(), MAX_BACKOFF);
    assert!(pool.is_failing());

    pool.ready(1, now);
    serve(&mut pool, now);
    pool.ended(1, now);
    assert_eq!(pool.next_fork(now), NextFork::Fork(1));
    assert!(!pool.is_failing(), "an end after an answer is no failed start");
}

#[test]
fn the_pool_tells_its_bounds_its_generation_and_whether_it_is_empty() {
    let mut pool = Pool::new(range(2, 4), 1);
    let now = Instant::now();
    assert_eq!((pool.bounds(), pool.generation()), ((2, 4), 1));
    assert!(pool.is_empty() && pool.has_nobody());
    fill(&mut pool, now);
    assert!(!pool.is_empty() && !pool.has_nobody());
    pool.switch(2, true, now);
    assert_eq!(pool.generation(), 2);
    assert!(!pool.is_empty() && pool.has_nobody(), "the workers are of the generation before");
}

#[test]
fn a_worker_counts_as_draining_while_it_awaits_its_successor_and_while_it_leaves() {
    let (mut pool, now) = pool(Policy { max_requests: Some(2), ..range(2, 2) });
    let draining = |pool: &Pool| pool.workers().map(|worker| worker.draining).collect::<Vec<_>>();
    assert_eq!(draining(&pool), [false, false]);
    serve(&mut pool, now);
    assert_eq!(pool.assign(now), Some(2));
    assert_eq!(draining(&pool), [false, true], "its last request");
    pool.close(now);
    assert_eq!(draining(&pool), [true, true], "the server stops");
}

/// A worker that could not be sent its request is as it was before.
#[test]
fn a_worker_that_is_given_back_has_had_no_request() {
    let (mut pool, now) = pool(range(1, 1));
    for _ in 0..3 {
        assert_eq!(pool.assign(now), Some(1));
        pool.unassign(1, now);
        assert_eq!(pool.at_hand(), (1, 0));
        assert_eq!(pool.workers().next().map(|worker| worker.requests), Some(0));
    }
    // An idle worker is not given back.
    pool.unassign(1, now);
    assert_eq!((pool.assign(now), pool.assign(now)), (Some(1), None));
}

#[test]
fn a_worker_that_dies_in_a_request_leaves_room_for_another_request() {
    let (mut pool, now) = pool(range(1, 1));
    for _ in 0..3 {
        assert_eq!(pool.assign(now), Some(1));
        pool.record_answer(1);
        pool.ended(1, now);
        assert_eq!(fill(&mut pool, now), [1]);
    }
}

#[test]
fn while_starts_fail_one_worker_tries_for_all() {
    let (mut pool, now) = pool(range(4, 4));
    (1..=4).for_each(|worker| assert!(pool.ended(worker, now).is_some()));
    let later = now + MAX_BACKOFF;
    assert_eq!(pool.next_fork(later), NextFork::Fork(1));
    pool.starting(1, 1, 0, later);
    assert_eq!(pool.next_fork(later), NextFork::NotNeeded);
    pool.ready(1, later);
    serve(&mut pool, later);
    assert_eq!(fill(&mut pool, later), [2, 3, 4]);
}

#[test]
fn a_refused_fork_is_tried_again_after_the_same_pause_each_time() {
    let (mut pool, now) = pool(range(2, 2));
    pool.ended(1, now);
    for refusal in 0..3 {
        let now = now + refusal * REFUSED_FORK_PAUSE;
        assert_eq!(pool.next_fork(now), NextFork::Fork(1));
        pool.fork_refused(now);
        assert_eq!(pool.next_fork(now), NextFork::WaitUntil(now + REFUSED_FORK_PAUSE));
        assert!(!pool.is_failing(), "it says nothing about the application");
    }
    pool.starting(1, 1, 0, now);
    pool.record_answer(1);
    pool.ended(1, now);
    assert_eq!(pool.next_fork(now), NextFork::Fork(1), "the system has forked one since");
}

#[test]
fn a_worker_that_is_ready_twice_is_found_out() {
    let (mut pool, now) = pool(range(1, 1));
    assert_eq!(pool.ready(1, now), Ready::Unexpected);
    assert_eq!(pool.ready(7, now), Ready::Unexpected);
    assert_eq!(pool.assign(now), Some(1));
    assert_eq!(pool.assign(now), None);
}

#[test]
fn a_new_generation_takes_over_and_the_old_one_finishes_its_requests() {
    let (mut pool, now) = pool(range(2, 2));
    assert_eq!(pool.assign(now), Some(2));
    let first = pool.free_number();
    pool.starting(first, 2, 0, now);
    assert_eq!(pool.ready(first, now), Ready::Proved);
    assert_eq!(pool.assign(now), Some(1), "the old generation answers until the switch");
    pool.unassign(1, now);
    pool.switch(2, true, now);
    assert_eq!(pool.drain_generations(now, EXIT_TIME, |generation| generation < 2), [1]);
    assert_eq!(pool.next_fork(now), NextFork::Fork(4));
    assert_eq!(pool.leaving(1), [1, 2]);
    assert_eq!(pool.ready(2, now), Ready::Drain, "the busy one is told to exit when it is done");
    assert_eq!(pool.ended(2, now), Some(State::Draining));
    assert_eq!(pool.next_fork(now), NextFork::Fork(2), "an exit that was asked for is no failure");
    assert_eq!(pool.assign(now), Some(3));
}

#[test]
fn starts_that_come_to_nothing_count_as_workers_that_die_do() {
    let (mut pool, now) = (Pool::new(range(1, 1), 1), Instant::now());
    for _ in 0..3 {
        pool.start_failed(1, now);
    }
    let again = now + FIRST_BACKOFF * 2;
    assert!(pool.is_failing());
    assert_eq!(
        (pool.next_fork(now), pool.down_for(now)),
        (NextFork::WaitUntil(again), Some(FIRST_BACKOFF * 2))
    );
    assert_eq!((pool.next_fork(again), pool.down_for(again)), (NextFork::Fork(1), None));
}

#[test]
fn the_pool_is_not_down_while_a_worker_is_there() {
    let (mut pool, now) = pool(range(2, 2));
    for _ in 0..3 {
        pool.start_failed(1, now);
    }
    assert_eq!(pool.down_for(now), None);
    pool.ended(1, now);
    assert_eq!(pool.down_for(now), None);
    pool.ended(2, now);
    assert!(pool.down_for(now).is_some());
}

#[test]
fn only_the_proved_workers_of_the_new_generation_take_requests_from_the_switch_on() {
    let (mut pool, now) = pool(range(1, 2));
    for (worker, generation) in [(2, 2), (3, 2), (4, 3)] {
        pool.starting(worker, generation, 0, now);
    }
    assert_eq!((pool.ready(2, now), pool.ready(4, now)), (Ready::Proved, Ready::Proved));
    pool.switch(2, true, now);
    assert_eq!((pool.assign(now), pool.assign(now)), (Some(2), None));
    assert_eq!(pool.ready(3, now), Ready::Work, "it was still starting");
    assert_eq!(pool.assign(now), Some(3));
}

#[test]
fn a_worker_is_wanted_for_each_waiting_request_beside_those_at_work() {
    let (mut pool, now) = pool(Policy { max_requests: Some(2), ..range(0, 4) });
    assert!(pool.can_grow());
    pool.grow_for(1);
    assert_eq!(fill(&mut pool, now), [1]);
    serve(&mut pool, now);
    assert_eq!(pool.assign(now), Some(1), "its last request");
    pool.grow_for(1);
    assert_eq!(fill(&mut pool, now), [2], "its successor is for the one that waits");
    assert_eq!(pool.assign(now), Some(2));
    pool.grow_for(2);
    assert_eq!(fill(&mut pool, now), [3, 4], "worker 2 goes on");
    assert!(pool.can_grow());
    pool.grow_for(9);
    assert!(!pool.can_grow());
}

#[test]
fn a_worker_that_starts_already_counts_for_one_that_waits() {
    let (mut pool, now) = pool(range(0, 4));
    pool.grow_for(1);
    pool.starting(1, 1, 0, now);
    pool.grow_for(1);
    assert_eq!(pool.next_fork(now), NextFork::NotNeeded);
    pool.grow_for(2);
    assert_eq!(pool.next_fork(now), NextFork::Fork(2));
}

#[test]
fn with_one_request_each_no_state_is_used_twice_and_no_more_run_at_once() {
    let (mut pool, now) = pool(Policy { max_requests: Some(1), max_requests_jitter: 9, ..range(2, 2) });
    assert_eq!((pool.assign(now), pool.assign(now)), (Some(2), Some(1)));
    assert_eq!(fill(&mut pool, now), [3, 4]);
    assert_eq!(pool.assign(now), None, "two run already");
    assert_eq!(pool.drain_surplus(now).0, [0; 0], "the spent ones are busy");
    assert_eq!(pool.assign(now), None, "two still run");
    pool.record_answer(1);
    assert_eq!(pool.ready(1, now), Ready::Drain);
    assert_eq!(pool.assign(now), Some(4));
}

#[test]
fn chance_adds_to_the_requests_of_a_worker_up_to_the_jitter() {
    for (chance, more) in [(0, 0), (9, 9), (10, 0), (25, 5)] {
        let policy = Policy { max_requests: Some(2), max_requests_jitter: 9, ..range(1, 1) };
        let (mut pool, now) = (Pool::new(policy, 1), Instant::now());
        pool.starting(1, 1, chance, now);
        pool.ready(1, now);
        let served = (1..).find(|_| {
            serve(&mut pool, now);
            pool.next_fork(now) != NextFork::NotNeeded
        });
        assert_eq!(served, Some(2 + more), "by chance {chance}");
    }
}

/// Chance only ever adds to the number of requests, so a worker that is due has answered one at least.
#[test]
fn no_worker_is_due_by_its_requests_at_birth() {
    for chance in [0, 1, 9, u32::MAX] {
        let policy = Policy { max_requests: Some(2), max_requests_jitter: u32::MAX - 1, ..range(1, 1) };
        let (mut pool, now) = (Pool::new(policy, 1), Instant::now());
        pool.starting(1, 1, chance, now);
        pool.ready(1, now);
        assert_eq!(pool.next_fork(now), NextFork::NotNeeded);
        assert_eq!(serve(&mut pool, now), (1, Ready::Work));
        assert_eq!(pool.next_fork(now), NextFork::NotNeeded, "two at least");
    }
}

#[test]
fn a_worker_becomes_free_when_it_is_ready_or_ends_in_a_request() {
    let (mut pool, start) = pool(range(3, 3));
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!((pool.freed_at(), pool.at_hand()), (Some(start), (3, 0)));
    assert_eq!(pool.assign(at(1)), Some(3));
    assert_eq!(pool.assign(at(1)), Some(2));
    pool.ended(1, at(2));
    assert_eq!(
        (pool.freed_at(), pool.at_hand()),
        (Some(start), (0, 2)),
        "an idle one was free before it ended"
    );
    pool.ended(2, at(3));
    assert_eq!((pool.freed_at(), pool.at_hand()), (Some(at(3)), (0, 1)));
    pool.ready(3, at(4));
    assert_eq!((pool.freed_at(), pool.at_hand()), (Some(at(4)), (1, 0)));
}

#[test]
fn the_pool_grows_until_all_have_been_there_once_and_not_while_starts_fail() {
    let (mut pool, now) = (Pool::new(range(2, 4), 1), Instant::now());
    pool.starting(1, 1, 0, now);
    pool.starting(2, 1, 0, now);
    pool.ready(1, now);
    assert!(pool.is_growing());
    pool.ready(2, now);
    assert!(!pool.is_growing());
    pool.grow_for(9);
    assert!(pool.is_growing(), "more are wanted");
    fill(&mut pool, now);
    assert!(!pool.is_growing());
    pool.ended(1, now);
    assert!(!pool.is_growing(), "a place that is taken again");
    for worker in 2..=4 {
        pool.ended(worker, now);
    }
    assert!(!pool.is_growing(), "they die again and again");
    pool.record_answer(2);
    assert!(pool.is_growing(), "all have died at once");
    pool.switch(2, true, now);
    assert!(pool.is_growing());
}

#[test]
fn a_fresh_state_for_each_request_does_not_count_as_growth_for_ever() {
    let (mut pool, now) = pool(Policy { max_requests: Some(1), ..range(1, 1) });
    assert_eq!(pool.assign(now), Some(1));
    pool.record_answer(1);
    assert_eq!(pool.ready(1, now), Ready::Drain);
    pool.ended(1, now);
    assert!(!pool.is_growing());
}
