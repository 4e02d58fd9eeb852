//! The books of the worker pool: who exists, who is idle, whom to fork next and when. Std only.
//!
//! Decides; never forks, kills or sends. Time comes in as an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The delay after the second worker in a row that failed to start; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest delay between two attempts: short enough that a mended application is back soon.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Being forked, or running its start hooks.
    Starting,
    /// Ready, of a generation that does not answer yet.
    Proved,
    /// Waiting for a request.
    Idle,
    /// Running one.
    Busy,
    /// Told to exit.
    Draining,
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    generation: u32,
    state: State,
    /// To be told to exit when its request is over.
    retired: bool,
    /// Whether it has answered a request.
    answered: bool,
}

/// What becomes of a worker that says it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// It may have a request.
    Work,
    /// It is the first of a generation that does not answer yet.
    Proved,
    /// It is to be told to exit.
    Drain,
    /// It was ready already, or is not in the books: it breaks the rules.
    Unexpected,
}

/// What the pool wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Fork this worker now. [`Pool::starting`] confirms.
    Spawn(u32),
    /// Ask again at this time.
    Wait(Instant),
    /// Complete.
    Nothing,
}

/// The books.
#[derive(Debug)]
pub(super) struct Pool {
    size: u32,
    /// Of the workers that count and that are forked.
    generation: u32,
    /// By worker number; numbers are as small as can be and are used again.
    seats: BTreeMap<u32, Seat>,
    /// The worker that became idle last is used first: its caches are warm, and idle ones stay swapped out.
    idle: Vec<u32>,
    /// Starts in a row that ended before the worker answered a request.
    failures: u32,
    not_before: Option<Instant>,
}

impl Pool {
    /// Books for `size` workers; none exists yet.
    pub(super) fn new(size: u32, generation: u32) -> Self {
        Self { size, generation, seats: BTreeMap::new(), idle: Vec::new(), failures: 0, not_before: None }
    }

    /// The generation that is forked and that answers.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether no worker is left.
    pub(super) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Every worker: its number, its generation, what it is doing.
    pub(super) fn workers(&self) -> impl Iterator<Item = (u32, u32, State)> {
        self.seats.iter().map(|(worker, seat)| (*worker, seat.generation, seat.state))
    }

    /// Which worker to fork, if any is missing.
    pub(super) fn want(&self, now: Instant) -> Want {
        let current =
            self.seats.values().filter(|seat| seat.generation == self.generation && !seat.retired).count();
        if current >= self.size as usize {
            return Want::Nothing;
        }
        match self.not_before {
            Some(time) if time > now => Want::Wait(time),
            _ => Want::Spawn(self.free_number()),
        }
    }

    /// The lowest number that no worker has.
    pub(super) fn free_number(&self) -> u32 {
        (1..).find(|number| !self.seats.contains_key(number)).expect("fewer workers than numbers")
    }

    /// A worker is being forked.
    pub(super) fn starting(&mut self, worker: u32, generation: u32) {
        self.seats
            .insert(worker, Seat { generation, state: State::Starting, retired: false, answered: false });
    }

    /// A worker is ready for a request.
    pub(super) fn ready(&mut self, worker: u32) -> Ready {
        let Some(seat) = self.seats.get_mut(&worker) else { return Ready::Unexpected };
        if !matches!(seat.state, State::Starting | State::Busy) {
            return Ready::Unexpected;
        }
        if seat.retired {
            seat.state = State::Draining;
            return Ready::Drain;
        }
        if seat.generation != self.generation {
            seat.state = State::Proved;
            return Ready::Proved;
        }
        seat.state = State::Idle;
        self.idle.push(worker);
        Ready::Work
    }

    /// A worker has answered a request: starts succeed.
    pub(super) fn answered(&mut self, worker: u32) {
        if let Some(seat) = self.seats.get_mut(&worker) {
            seat.answered = true;
        }
        self.failures = 0;
        self.not_before = None;
    }

    /// Gives back a worker that was assigned and got nothing after all.
    pub(super) fn unassign(&mut self, worker: u32) {
        if let Some(seat) = self.seats.get_mut(&worker) {
            seat.state = State::Idle;
            self.idle.push(worker);
        }
    }

    /// Takes an idle worker for a request.
    pub(super) fn assign(&mut self) -> Option<u32> {
        let worker = self.idle.pop()?;
        self.seats.get_mut(&worker)?.state = State::Busy;
        Some(worker)
    }

    /// A worker ended. Says what it was doing. One that ends before it answered a request counts as a failed start, and
    /// from the second in a row on the next fork is put off, longer each time.
    pub(super) fn ended(&mut self, worker: u32, now: Instant) -> Option<State> {
        let seat = self.seats.remove(&worker)?;
        self.idle.retain(|idle| *idle != worker);
        if !seat.answered && !seat.retired {
            self.failures += 1;
            self.not_before = match self.failures {
                0 | 1 => None,
                n => Some(now + (FIRST_BACKOFF * 2u32.saturating_pow(n.min(16) - 2)).min(MAX_BACKOFF)),
            };
        }
        Some(seat.state)
    }

    /// From now on `size` workers are wanted.
    pub(super) fn resize(&mut self, size: u32) {
        self.size = size;
    }

    /// Moves to a generation whose first worker is ready.
    pub(super) fn switch(&mut self, generation: u32) {
        self.generation = generation;
        self.failures = 0;
        self.not_before = None;
        for (worker, seat) in &mut self.seats {
            if seat.generation == generation && seat.state == State::Proved {
                seat.state = State::Idle;
                self.idle.push(*worker);
            }
        }
    }

    /// Numbers of the workers of a generation that are to leave.
    pub(super) fn retired(&self, generation: u32) -> Vec<u32> {
        let of_it = |seat: &Seat| seat.generation == generation && seat.retired;
        self.seats.iter().filter(|(_, seat)| of_it(seat)).map(|(worker, _)| *worker).collect()
    }

    /// Retires every worker that `which` (given its generation) picks; gives the idle ones, which are to
    /// be told to exit at once. The busy ones follow when their request is over.
    pub(super) fn retire(&mut self, which: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut now = Vec::new();
        for (worker, seat) in &mut self.seats {
            if which(seat.generation) && !seat.retired {
                seat.retired = true;
                if matches!(seat.state, State::Idle | State::Proved) {
                    seat.state = State::Draining;
                    now.push(*worker);
                }
            }
        }
        self.idle.retain(|worker| !now.contains(worker));
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_pool(size: u32) -> (Pool, Instant) {
        let (mut pool, now) = (Pool::new(size, 1), Instant::now());
        while let Want::Spawn(worker) = pool.want(now) {
            pool.starting(worker, 1);
            assert_eq!(pool.ready(worker), Ready::Work);
        }
        (pool, now)
    }

    #[test]
    fn fills_up_and_numbers_from_one() {
        let (mut pool, now) = full_pool(3);
        assert_eq!(pool.seats.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        pool.ended(2, now);
        assert_eq!(pool.want(now), Want::Spawn(2));
    }

    #[test]
    fn the_worker_that_was_idle_last_is_used_first() {
        let (mut pool, _) = full_pool(2);
        assert_eq!(pool.assign(), Some(2));
        pool.ready(2);
        assert_eq!(pool.assign(), Some(2));
        assert_eq!(pool.assign(), Some(1));
        assert_eq!(pool.assign(), None);
    }

    #[test]
    fn deaths_in_a_row_are_answered_more_and_more_slowly_until_a_request_succeeds() {
        let (mut pool, now) = full_pool(1);
        let mut delays = Vec::new();
        for _ in 0..12 {
            pool.ended(1, now);
            delays.push(match pool.want(now) {
                Want::Wait(time) => time - now,
                _ => Duration::ZERO,
            });
            pool.starting(1, 1);
        }
        assert_eq!(delays[..3], [Duration::ZERO, FIRST_BACKOFF, FIRST_BACKOFF * 2]);
        assert_eq!(*delays.last().unwrap(), MAX_BACKOFF);

        pool.ready(1);
        pool.assign();
        pool.answered(1);
        pool.ended(1, now);
        assert_eq!(pool.want(now), Want::Spawn(1));
        assert_eq!(pool.failures, 0, "an end after an answer is no failed start");
    }

    #[test]
    fn a_worker_that_is_ready_twice_is_found_out() {
        let (mut pool, _) = full_pool(1);
        assert_eq!(pool.ready(1), Ready::Unexpected);
        assert_eq!(pool.ready(7), Ready::Unexpected);
        assert_eq!(pool.assign(), Some(1));
        assert_eq!(pool.assign(), None);
    }

    #[test]
    fn a_new_generation_takes_over_and_the_old_one_finishes_its_requests() {
        let (mut pool, now) = full_pool(2);
        assert_eq!(pool.assign(), Some(2));
        let first = pool.free_number();
        pool.starting(first, 2);
        assert_eq!(pool.ready(first), Ready::Proved);
        assert_eq!(pool.assign(), Some(1), "the old generation answers until the switch");
        pool.unassign(1);
        pool.switch(2);
        assert_eq!(pool.retire(|generation| generation < 2), [1]);
        assert_eq!(pool.want(now), Want::Spawn(4));
        assert_eq!(pool.retired(1), [1, 2]);
        assert_eq!(pool.ready(2), Ready::Drain, "the busy one is told to exit when it is done");
        assert_eq!(pool.ended(2, now), Some(State::Draining));
        assert_eq!(pool.failures, 0, "an exit that was asked for is no failure");
        assert_eq!(pool.assign(), Some(3));
    }
}
