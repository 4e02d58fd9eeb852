//! The books of the worker pool: who exists, who is idle, whom to fork and whom to let go, and when. Std only.
//!
//! Decides; never forks, kills or sends. Time and chance come in as arguments.

mod leave;
mod seat;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::proto::backoff::Backoff;
use crate::proto::pool::seat::Seat;

pub(crate) use crate::proto::pool::leave::{Due, most_leaving};
pub(crate) use crate::proto::pool::seat::{FAREWELL, State, Worker};

/// The delay after the second worker in a row that failed to start; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest delay between two attempts: short enough that a mended application is back soon.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// From this failure in a row on, workers are forked one at a time and the code may be loaded afresh: one
/// failure is an accident, and two may be.
const FAILING: u32 = 3;

/// How long the successor of a worker waits that was due before it could have answered anything, as its successor will
/// be: settings that no worker can keep must not fork without end. It doubles with each further one in a row.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest such wait. The worker that is due goes on meanwhile, so nothing is urgent.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What the operator wants of the pool.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Workers kept also when there is nothing to do.
    pub(crate) min: u32,
    /// Workers at most, and so requests that run at the same time.
    pub(crate) max: u32,
    /// A worker above `min` that is idle for so long ends.
    pub(crate) idle_timeout: Duration,
    /// Requests after which a worker is replaced, and what chance may add.
    pub(crate) max_requests: Option<u32>,
    pub(crate) max_requests_jitter: u32,
    /// Age at which a worker is replaced.
    pub(crate) max_age: Option<Duration>,
    /// Bytes of memory beyond which a worker is replaced.
    pub(crate) max_memory: Option<u64>,
}

/// What becomes of a worker that says it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
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
pub(crate) enum Want {
    /// Fork this worker now. [`Pool::starting`] confirms.
    Spawn(u32),
    /// Ask again at this time.
    Wait(Instant),
    /// Complete.
    Nothing,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Pool {
    policy: Policy,
    /// Workers wanted now: between `min` and `max`, raised by demand and lowered by idleness.
    level: u32,
    /// Of the workers that count and that are forked.
    generation: u32,
    /// By worker number; numbers are as small as can be and are used again.
    seats: BTreeMap<u32, Seat>,
    /// The worker that became idle last is used first: its caches are warm, and the others can be let go.
    idle: Vec<u32>,
    /// Workers of this generation that run a request, those that are to leave included.
    busy: u32,
    /// A worker has become due, and nobody has looked since.
    changed: bool,
    /// Starts in a row that ended before the worker answered a request.
    starts: Backoff,
    /// The generation of the last of them.
    failed_generation: u32,
    /// Replacements of workers, in a row, that were due before they could have answered anything.
    replacements: Backoff,
    /// When a worker last became ready, or a busy one ended.
    freed: Option<Instant>,
    /// As many workers as are wanted have been there at a time, since more were wanted, the generation was new, or the last
    /// had died.
    filled: bool,
}

impl Pool {
    /// Books for a pool in which no worker exists yet.
    pub(crate) fn new(policy: Policy, generation: u32) -> Self {
        Self {
            level: policy.min,
            policy,
            generation,
            seats: BTreeMap::new(),
            idle: Vec::new(),
            busy: 0,
            changed: false,
            // One failure is an accident.
            starts: Backoff::new(FIRST_BACKOFF, MAX_BACKOFF).after(1),
            failed_generation: 0,
            replacements: Backoff::new(FIRST_PAUSE, MAX_PAUSE),
            freed: None,
            filled: false,
        }
    }

    /// The generation that is forked and that answers.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// The least and the most workers.
    pub(crate) fn bounds(&self) -> (u32, u32) {
        (self.policy.min, self.policy.max)
    }

    /// Whether no worker is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// When a worker last became ready, or ended in the middle of a request; none where that has never happened.
    pub(crate) fn freed(&self) -> Option<Instant> {
        self.freed
    }

    /// Workers of the generation that answers: those without a request, and those with one.
    pub(crate) fn at_hand(&self) -> (u32, u32) {
        self.current().fold((0, 0), |(idle, busy), seat| match seat.state {
            State::Idle => (idle + 1, busy),
            State::Busy => (idle, busy + 1),
            State::Starting | State::Proved | State::Draining => (idle, busy),
        })
    }

    /// Every worker, by number.
    pub(crate) fn workers(&self) -> impl Iterator<Item = Worker> + '_ {
        self.seats.iter().map(|(number, seat)| Worker {
            number: *number,
            generation: seat.generation,
            state: seat.state,
            born: seat.born,
            requests: seat.requests,
            leaving: seat.due || seat.retired,
        })
    }

    // Growing.

    /// Which worker to fork, if any is missing.
    pub(crate) fn want(&self, now: Instant) -> Want {
        let lasting = self.current().filter(|seat| !seat.due);
        if lasting.count() >= self.level as usize {
            return Want::Nothing;
        }
        let starting = || self.current().any(|seat| seat.state == State::Starting);
        // Nobody is missing: it is about the successors of workers that are due.
        let replaces = self.current().count() >= self.level as usize;
        match self.starts.until().max(self.replacements.until().filter(|_| replaces)) {
            Some(time) if time > now => Want::Wait(time),
            // Each of these has a deadline, or is being killed.
            _ if self.leaving().count() >= most_leaving(self.policy.max) => {
                self.leaving().filter_map(|seat| seat.leave_by).min().map_or(Want::Nothing, Want::Wait)
            }
            // One tries for all.
            _ if self.starts.failures() >= FAILING && starting() => Want::Nothing,
            _ => Want::Spawn(self.free_number()),
        }
    }

    /// So many requests wait that a worker more for each of them would be worth its fork. Those that start already
    /// count.
    pub(crate) fn demand(&mut self, waiting: usize) {
        let at_work = self.current().filter(|seat| !seat.due && seat.state != State::Starting).count();
        let needed = u32::try_from(at_work + waiting).unwrap_or(u32::MAX).min(self.policy.max);
        self.set_level(self.level.max(needed));
    }

    /// Whether demand could still raise the number of workers.
    pub(crate) fn can_grow(&self) -> bool {
        self.level < self.policy.max
    }

    /// Whether workers are on their way that have not been there yet: after a start, a reload, a wish for more, the death of all.
    /// Not where those that come die again and again; and successors of workers that leave take their places.
    pub(crate) fn births_pending(&self) -> bool {
        !self.filled && !self.is_failing()
    }

    fn has_level_at_hand(&self) -> bool {
        let (idle, busy) = self.at_hand();
        idle + busy >= self.level
    }

    fn set_level(&mut self, level: u32) {
        if level != self.level {
            self.level = level;
            self.filled = self.has_level_at_hand();
        }
    }

    /// Whether a request need not wait to see whether a worker becomes free: there is none.
    pub(crate) fn has_nobody(&self) -> bool {
        self.current().next().is_none()
    }

    /// The lowest number that no worker has.
    pub(crate) fn free_number(&self) -> u32 {
        (1..).find(|number| !self.seats.contains_key(number)).expect("fewer workers than numbers")
    }

    /// A worker is being forked. `chance` is any random number.
    pub(crate) fn starting(&mut self, worker: u32, generation: u32, chance: u32, now: Instant) {
        let limit = match self.policy.max_requests {
            // Chance has no place in "a fresh state for each request".
            Some(1) => Some(1),
            limit => limit.map(|limit| {
                let jitter = u64::from(chance) % (u64::from(self.policy.max_requests_jitter) + 1);
                limit.saturating_add(u32::try_from(jitter).unwrap_or(0))
            }),
        };
        let seat = Seat {
            generation,
            state: State::Starting,
            born: now,
            ready: None,
            since: now,
            requests: 0,
            limit,
            due: false,
            retired: false,
            leave_by: None,
            answered: false,
        };
        self.seats.insert(worker, seat);
    }

    // Work.

    /// A worker is ready for a request.
    pub(crate) fn ready(&mut self, worker: u32, now: Instant) -> Ready {
        let generation = self.generation;
        let Some(seat) = self.seats.get_mut(&worker) else { return Ready::Unexpected };
        if !matches!(seat.state, State::Starting | State::Busy) {
            return Ready::Unexpected;
        }
        self.freed = Some(now);
        let was_busy = seat.state == State::Busy && seat.generation == generation;
        seat.since = now;
        seat.ready.get_or_insert(now);
        // Whoever is to serve one request never gets a second, whether or not a successor is there.
        let spent = seat.limit == Some(1) && seat.requests >= 1;
        let ready = if seat.retired || spent {
            seat.retired = true;
            seat.drain(now);
            Ready::Drain
        } else if seat.generation != generation {
            seat.state = State::Proved;
            Ready::Proved
        } else {
            seat.state = State::Idle;
            self.idle.push(worker);
            Ready::Work
        };
        self.busy -= u32::from(was_busy);
        self.filled = self.filled || self.has_level_at_hand();
        ready
    }

    /// Takes an idle worker for a request. No more requests run at a time than there may be workers, also while
    /// some are being replaced.
    pub(crate) fn assign(&mut self, now: Instant) -> Option<u32> {
        if self.busy >= self.policy.max {
            return None;
        }
        let worker = self.idle.pop()?;
        let seat = self.seats.get_mut(&worker)?;
        (seat.state, seat.since) = (State::Busy, now);
        seat.requests = seat.requests.saturating_add(1);
        // Already now, so that its successor is forked while it runs what may be its last request.
        if !seat.due && seat.limit.is_some_and(|limit| seat.requests >= limit) {
            seat.due = true;
            self.changed = true;
        }
        self.busy += 1;
        Some(worker)
    }

    /// Gives back a worker that was assigned and got nothing after all.
    pub(crate) fn unassign(&mut self, worker: u32, now: Instant) {
        if let Some(seat) = self.seats.get_mut(&worker)
            && seat.state == State::Busy
        {
            self.busy -= u32::from(seat.generation == self.generation);
            (seat.state, seat.since) = (State::Idle, now);
            seat.requests -= 1;
            self.idle.push(worker);
        }
    }

    /// A worker has answered a request: starts succeed.
    pub(crate) fn answered(&mut self, worker: u32) {
        if let Some(seat) = self.seats.get_mut(&worker) {
            seat.answered = true;
            if !seat.due {
                self.replacements.reset();
            }
        }
        self.starts.reset();
    }

    /// A worker ended. Says what it was doing. One that ends before it answered a request counts as a failed start, and
    /// from the second in a row on the next fork is put off, longer each time.
    pub(crate) fn ended(&mut self, worker: u32, now: Instant) -> Option<State> {
        let seat = self.seats.remove(&worker)?;
        self.idle.retain(|idle| *idle != worker);
        if seat.state == State::Busy {
            self.freed = Some(now);
            self.busy -= u32::from(seat.generation == self.generation);
        }
        if !seat.answered && !seat.retired {
            self.failed(seat.generation, now);
        }
        // Where one is told to exit after each request there may be none for a moment.
        if !seat.retired && self.at_hand() == (0, 0) {
            self.filled = false;
        }
        Some(seat.state)
    }

    /// A worker that was asked for will never be: its zygote has ended, or is killed. Gives its generation where it is
    /// missed. That so many were asked of one zygote says nothing about starts: see [`Self::failed`].
    pub(crate) fn unborn(&mut self, worker: u32) -> Option<u32> {
        let seat = self.seats.remove(&worker)?;
        (!seat.retired).then_some(seat.generation)
    }

    // Failing.

    /// A start came to nothing.
    pub(crate) fn failed(&mut self, generation: u32, now: Instant) {
        self.failed_generation = generation;
        self.starts.failed(now);
    }

    /// Whether workers of the generation that answers die again and again before they have answered anything.
    pub(crate) fn is_failing(&self) -> bool {
        self.starts.failures() >= FAILING && self.failed_generation == self.generation
    }

    /// Where nobody is there to work, nor about to be: how long until the next attempt.
    pub(crate) fn down_for(&self, now: Instant) -> Option<Duration> {
        let attempt = self.starts.until().filter(|time| *time > now && self.has_nobody())?;
        Some(attempt - now)
    }

    /// Whether a worker has become due since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Another policy. Workers that exist keep the number of requests they were born with.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.set_level(self.level.clamp(policy.min, policy.max));
        self.policy = policy;
        // What was due at birth before may not be now.
        self.replacements.reset();
    }

    /// From now on between `min` and `max` workers are wanted.
    pub(crate) fn resize(&mut self, min: u32, max: u32) {
        self.set_policy(Policy { min, max, ..self.policy.clone() });
    }

    // Generations.

    /// Moves to a generation whose first worker is ready. `afresh`: what failed before says nothing about it.
    pub(crate) fn switch(&mut self, generation: u32, afresh: bool, now: Instant) {
        self.generation = generation;
        if afresh {
            self.starts.reset();
        } else {
            self.starts.lift();
        }
        self.idle.clear();
        self.busy = 0;
        for (worker, seat) in &mut self.seats {
            if seat.generation == generation && seat.state == State::Proved {
                (seat.state, seat.since) = (State::Idle, now);
                self.idle.push(*worker);
            }
        }
        self.filled = self.has_level_at_hand();
    }

    /// The seats of the generation that answers, but for those that are to leave.
    fn current(&self) -> impl Iterator<Item = &Seat> {
        self.seats.values().filter(|seat| seat.generation == self.generation && !seat.retired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        while let Want::Spawn(worker) = pool.want(now) {
            pool.starting(worker, pool.generation(), 0, now);
            assert_eq!(pool.ready(worker, now), Ready::Work);
            forked.push(worker);
        }
        forked
    }

    /// Runs one request on the worker that is next.
    pub(crate) fn serve(pool: &mut Pool, now: Instant) -> (u32, Ready) {
        let worker = pool.assign(now).expect("somebody is idle");
        pool.answered(worker);
        (worker, pool.ready(worker, now))
    }

    #[test]
    fn fills_up_and_numbers_from_one() {
        let (mut pool, now) = pool(range(3, 3));
        assert_eq!(pool.workers().map(|worker| worker.number).collect::<Vec<_>>(), [1, 2, 3]);
        pool.ended(2, now);
        assert_eq!(pool.want(now), Want::Spawn(2));
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
            assert_eq!(pool.want(now + MAX_BACKOFF), Want::Spawn(1));
            pool.starting(1, 1, 0, now);
        }
        assert_eq!(delays[..3], [Duration::ZERO, FIRST_BACKOFF, FIRST_BACKOFF * 2]);
        assert_eq!(*delays.last().unwrap(), MAX_BACKOFF);
        assert!(pool.is_failing());

        pool.ready(1, now);
        serve(&mut pool, now);
        pool.ended(1, now);
        assert_eq!(pool.want(now), Want::Spawn(1));
        assert!(!pool.is_failing(), "an end after an answer is no failed start");
    }

    #[test]
    fn while_starts_fail_one_worker_tries_for_all() {
        let (mut pool, now) = pool(range(4, 4));
        (1..=4).for_each(|worker| assert!(pool.ended(worker, now).is_some()));
        let later = now + MAX_BACKOFF;
        assert_eq!(pool.want(later), Want::Spawn(1));
        pool.starting(1, 1, 0, later);
        assert_eq!(pool.want(later), Want::Nothing);
        pool.ready(1, later);
        serve(&mut pool, later);
        assert_eq!(fill(&mut pool, later), [2, 3, 4]);
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
        assert_eq!(pool.retire(now, FAREWELL, |generation| generation < 2), [1]);
        assert_eq!(pool.want(now), Want::Spawn(4));
        assert_eq!(pool.retired(1), [1, 2]);
        assert_eq!(pool.ready(2, now), Ready::Drain, "the busy one is told to exit when it is done");
        assert_eq!(pool.ended(2, now), Some(State::Draining));
        assert_eq!(pool.want(now), Want::Spawn(2), "an exit that was asked for is no failure");
        assert_eq!(pool.assign(now), Some(3));
    }

    #[test]
    fn a_worker_that_starts_already_counts_for_one_that_waits() {
        let (mut pool, now) = pool(range(0, 4));
        pool.demand(1);
        pool.starting(1, 1, 0, now);
        pool.demand(1);
        assert_eq!(pool.want(now), Want::Nothing);
        pool.demand(2);
        assert_eq!(pool.want(now), Want::Spawn(2));
    }

    #[test]
    fn with_one_request_each_no_state_is_used_twice_and_no_more_run_at_once() {
        let (mut pool, now) = pool(Policy { max_requests: Some(1), max_requests_jitter: 9, ..range(2, 2) });
        assert_eq!((pool.assign(now), pool.assign(now)), (Some(2), Some(1)));
        assert_eq!(fill(&mut pool, now), [3, 4]);
        assert_eq!(pool.assign(now), None, "two run already");
        assert_eq!(pool.surplus(now).0, [0; 0], "the spent ones are busy");
        assert_eq!(pool.assign(now), None, "two still run");
        pool.answered(1);
        assert_eq!(pool.ready(1, now), Ready::Drain);
        assert_eq!(pool.assign(now), Some(4));
    }

    /// Chance only ever adds to the number of requests, so a worker that is due has answered one at least.
    #[test]
    fn no_worker_is_due_by_its_requests_at_birth() {
        for chance in [0, 1, 9, u32::MAX] {
            let policy = Policy { max_requests: Some(2), max_requests_jitter: u32::MAX - 1, ..range(1, 1) };
            let (mut pool, now) = (Pool::new(policy, 1), Instant::now());
            pool.starting(1, 1, chance, now);
            pool.ready(1, now);
            assert_eq!(pool.want(now), Want::Nothing);
            assert_eq!(serve(&mut pool, now), (1, Ready::Work));
            assert_eq!(pool.want(now), Want::Nothing, "two at least");
        }
    }

    #[test]
    fn a_worker_becomes_free_when_it_is_ready_or_ends_in_a_request() {
        let (mut pool, start) = pool(range(3, 3));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((pool.freed(), pool.at_hand()), (Some(start), (3, 0)));
        assert_eq!(pool.assign(at(1)), Some(3));
        assert_eq!(pool.assign(at(1)), Some(2));
        pool.ended(1, at(2));
        assert_eq!(
            (pool.freed(), pool.at_hand()),
            (Some(start), (0, 2)),
            "an idle one was free before it ended"
        );
        pool.ended(2, at(3));
        assert_eq!((pool.freed(), pool.at_hand()), (Some(at(3)), (0, 1)));
        pool.ready(3, at(4));
        assert_eq!((pool.freed(), pool.at_hand()), (Some(at(4)), (1, 0)));
    }

    #[test]
    fn births_are_pending_until_all_have_been_there_once_and_not_while_they_fail() {
        let (mut pool, now) = (Pool::new(range(2, 4), 1), Instant::now());
        pool.starting(1, 1, 0, now);
        pool.starting(2, 1, 0, now);
        pool.ready(1, now);
        assert!(pool.births_pending());
        pool.ready(2, now);
        assert!(!pool.births_pending());
        pool.demand(9);
        assert!(pool.births_pending(), "more are wanted");
        fill(&mut pool, now);
        assert!(!pool.births_pending());
        pool.ended(1, now);
        assert!(!pool.births_pending(), "a place that is taken again");
        for worker in 2..=4 {
            pool.ended(worker, now);
        }
        assert!(!pool.births_pending(), "they die again and again");
        pool.answered(2);
        assert!(pool.births_pending(), "all have died at once");
        pool.switch(2, true, now);
        assert!(pool.births_pending());
    }

    #[test]
    fn a_fresh_state_for_each_request_leaves_no_birth_pending_for_ever() {
        let (mut pool, now) = pool(Policy { max_requests: Some(1), ..range(1, 1) });
        assert_eq!(pool.assign(now), Some(1));
        pool.answered(1);
        assert_eq!(pool.ready(1, now), Ready::Drain);
        pool.ended(1, now);
        assert!(!pool.births_pending());
    }
}
