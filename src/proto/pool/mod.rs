//! The worker pool: which worker gets a request, which is forked next, which are told to exit, and when. Std only, no I/O; time and
//! random numbers are arguments.
//!
//! Decides; never forks, kills or sends. The transitions of a worker:
//!
//! ```text
//!                          ready                    assign             ready
//! (fork) ──► Starting ──────────────► Idle ────────────────► Busy ──────────────► Idle
//!                │ ready, of a generation ▲                    │ ready, and leaving
//!                │ that does not answer   │ switch             ▼
//!                └──────────────► Proved ─┘        Idle ──► Draining ──► (exit)
//! ```
//!
//! A worker may end in every state. [`slot`] has the state of one worker, [`growth`] the target size of the pool, [`starts`] the
//! failures of starts, [`replacement`] the limits of a worker's life, [`measurement`] the schedule of memory measurements,
//! [`draining`] the workers that are told to exit, with their deadlines.

mod draining;
mod growth;
mod measurement;
mod replacement;
mod slot;
mod starts;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::proto::backoff::Backoff;
use crate::proto::pool::growth::Growth;
use crate::proto::pool::slot::{Drain, DrainReason, Slot};
use crate::proto::pool::starts::{Replacements, Starts};

pub(crate) use crate::proto::pool::draining::max_exiting;
pub(crate) use crate::proto::pool::measurement::{Measure, Measurements};
pub(crate) use crate::proto::pool::slot::{EXIT_TIME, State, Worker};
pub(crate) use crate::proto::pool::starts::Replacement;

/// The delay after a fork that the system refused for want of descriptors or processes. The delay does not grow: an attempt is
/// cheap, and descriptors may be free again at any time.
const REFUSED_FORK_PAUSE: Duration = Duration::from_millis(500);

/// The pool's settings.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// Least number of workers, also without requests.
    pub(crate) min: u32,
    /// Greatest number of workers, and of requests that run at the same time.
    pub(crate) max: u32,
    /// The idle time after which a worker above `min` ends.
    pub(crate) idle_timeout: Duration,
    /// Requests after which a worker is replaced, and the greatest random addition to them.
    pub(crate) max_requests: Option<u32>,
    pub(crate) max_requests_jitter: u32,
    /// Age at which a worker is replaced.
    pub(crate) max_age: Option<Duration>,
    /// Bytes of memory beyond which a worker is replaced.
    pub(crate) max_memory: Option<u64>,
}

/// The answer to a worker's message `Ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// It is idle, and may get a request.
    Work,
    /// It goes on with the next request in its lane.
    Next,
    /// It is the first worker of a generation that does not serve yet.
    Proved,
    /// It is to be told to exit.
    Drain,
    /// It was ready already, or is not in the pool: it breaks the protocol.
    Unexpected,
}

/// The next fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextFork {
    /// Fork the worker with this number now, and call [`Pool::starting`].
    Fork(u32),
    /// No fork before this time.
    WaitUntil(Instant),
    /// No worker is missing, or the next step follows the start or the exit of one.
    NotNeeded,
}

/// The pool of workers.
#[derive(Debug)]
pub(crate) struct Pool {
    policy: Policy,
    growth: Growth,
    /// The serving generation, of which workers are forked.
    generation: u32,
    /// Slots by worker number. A new worker gets the lowest free number.
    slots: BTreeMap<u32, Slot>,
    /// The idle workers, as a stack: the worker that became idle last has warm caches, and the others may be told to exit.
    idle: Vec<u32>,
    /// Workers of this generation that run a request, including those that drain.
    busy: u32,
    /// Whether a worker has reached `max_requests` since [`Self::take_changed`].
    changed: bool,
    starts: Starts,
    /// Forks in a row that the system refused.
    refused_forks: Backoff,
    replacements: Replacements,
    /// The time at which a worker last became ready, or ended while busy.
    freed_at: Option<Instant>,
}

impl Pool {
    /// A pool in which no worker exists yet.
    pub(crate) fn new(policy: Policy, generation: u32) -> Self {
        Self {
            growth: Growth::new(policy.min),
            policy,
            generation,
            slots: BTreeMap::new(),
            idle: Vec::new(),
            busy: 0,
            changed: false,
            starts: Starts::new(),
            refused_forks: Backoff::new(REFUSED_FORK_PAUSE, REFUSED_FORK_PAUSE),
            replacements: Replacements::new(),
            freed_at: None,
        }
    }

    /// The serving generation, of which workers are forked.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// The least and the most workers.
    pub(crate) fn bounds(&self) -> (u32, u32) {
        (self.policy.min, self.policy.max)
    }

    /// Whether no worker is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The time at which a worker last became ready, or ended in the middle of a request; none where that has never happened.
    pub(crate) fn freed_at(&self) -> Option<Instant> {
        self.freed_at
    }

    /// The workers of the serving generation that run a request, including those that drain.
    pub(crate) fn busy(&self) -> usize {
        self.busy as usize
    }

    /// The numbers of idle and of busy workers of the serving generation.
    pub(crate) fn at_hand(&self) -> (u32, u32) {
        self.current().fold((0, 0), |(idle, busy), slot| match slot.state {
            State::Idle => (idle + 1, busy),
            State::Busy => (idle, busy + 1),
            State::Starting | State::Proved | State::Draining => (idle, busy),
        })
    }

    /// Every worker, by number.
    pub(crate) fn workers(&self) -> impl Iterator<Item = Worker> + '_ {
        self.slots.iter().map(|(number, slot)| Worker {
            number: *number,
            generation: slot.generation,
            state: slot.state,
            forked_at: slot.forked_at,
            requests: slot.requests,
            draining: slot.awaits_successor() || slot.is_leaving(),
        })
    }

    // Growth.

    /// The next fork: now, later, or none.
    pub(crate) fn next_fork(&self, now: Instant) -> NextFork {
        let (mut present, mut lasting, mut starting) = (0, 0, false);
        for slot in self.current() {
            present += 1;
            lasting += usize::from(!slot.awaits_successor());
            starting |= slot.state == State::Starting;
        }
        let target = self.growth.target() as usize;
        if lasting >= target {
            return NextFork::NotNeeded;
        }
        // No worker is missing; the successors of draining workers are.
        let replaces = present >= target;
        let retries = [
            self.starts.retry_at(),
            self.refused_forks.until(),
            self.replacements.retry_at().filter(|_| replaces),
        ];
        match retries.into_iter().flatten().max() {
            Some(time) if time > now => NextFork::WaitUntil(time),
            // Every exiting worker has a deadline, or is being killed.
            _ if self.exiting().count() >= max_exiting(self.policy.max) => self
                .exiting()
                .filter_map(|slot| slot.exit_by)
                .min()
                .map_or(NextFork::NotNeeded, NextFork::WaitUntil),
            // While starts fail, one worker starts at a time.
            _ if self.starts.are_single() && starting => NextFork::NotNeeded,
            _ => NextFork::Fork(self.free_number()),
        }
    }

    /// Raises the target by one worker for each waiting request. Workers that are starting already count.
    pub(crate) fn grow_for(&mut self, waiting: usize) {
        let at_work =
            self.current().filter(|slot| !slot.awaits_successor() && slot.state != State::Starting).count();
        let needed = u32::try_from(at_work + waiting).unwrap_or(u32::MAX).min(self.policy.max);
        self.growth.grow_to(needed, self.present());
    }

    /// Whether waiting requests could still raise the number of workers.
    pub(crate) fn can_grow(&self) -> bool {
        self.growth.target() < self.policy.max
    }

    /// Whether the pool has not reached its target yet: after a start, a reload, growth, the death of all workers. False while starts
    /// fail. Successors of draining workers do not count.
    pub(crate) fn is_growing(&self) -> bool {
        !self.growth.is_reached() && !self.is_failing()
    }

    /// The number of idle and busy workers of the serving generation, for [`Growth`].
    fn present(&self) -> u32 {
        let (idle, busy) = self.at_hand();
        idle + busy
    }

    /// Whether the serving generation has no worker at all, so that waiting for a free one is in vain.
    pub(crate) fn has_nobody(&self) -> bool {
        self.current().next().is_none()
    }

    /// The lowest free worker number.
    pub(crate) fn free_number(&self) -> u32 {
        (1..).find(|number| !self.slots.contains_key(number)).expect("fewer workers than numbers")
    }

    /// Replaces the policy. Existing workers keep the `max_requests` that they were forked with.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        let target = self.growth.target().clamp(policy.min, policy.max);
        self.growth.set_target(target, self.present());
        self.policy = policy;
        // The new limits may be ones that workers can keep.
        self.replacements.reset();
    }

    /// Sets the least and the most workers.
    pub(crate) fn resize(&mut self, min: u32, max: u32) {
        self.set_policy(Policy { min, max, ..self.policy.clone() });
    }

    // A worker's life.

    /// Records that the system refused a fork. No worker was added.
    pub(crate) fn fork_refused(&mut self, now: Instant) {
        self.refused_forks.failed(now);
    }

    /// Adds a worker that is being forked. `chance` is a random number, for `max_requests_jitter`.
    pub(crate) fn starting(&mut self, worker: u32, generation: u32, chance: u32, now: Instant) {
        self.refused_forks.reset();
        let limit = match self.policy.max_requests {
            // 1 means a fresh state for each request, so nothing is added.
            Some(1) => Some(1),
            limit => limit.map(|limit| {
                let jitter = u64::from(chance) % (u64::from(self.policy.max_requests_jitter) + 1);
                limit.saturating_add(u32::try_from(jitter).unwrap_or(0))
            }),
        };
        self.slots.insert(worker, Slot::new(generation, limit, now));
    }

    /// Records that a worker is ready for a request.
    pub(crate) fn ready(&mut self, worker: u32, now: Instant) -> Ready {
        let generation = self.generation;
        let Some(slot) = self.slots.get_mut(&worker) else { return Ready::Unexpected };
        if !matches!(slot.state, State::Starting | State::Busy) {
            return Ready::Unexpected;
        }
        self.freed_at = Some(now);
        let was_busy = slot.state == State::Busy && slot.generation == generation;
        slot.ready_at.get_or_insert(now);
        // With `max_requests` 1 a worker never gets a second request, also without a successor.
        if slot.max_requests == Some(1) && slot.requests >= 1 {
            slot.leave(DrainReason::Requests);
        }
        let ready = if slot.ahead > 0 && slot.state == State::Busy {
            // Also where it leaves: it has claimed the request, or the gateway would have taken it back.
            slot.ahead -= 1;
            self.changed |= slot.count_request();
            slot.enter(State::Busy, now);
            return Ready::Next;
        } else if slot.is_leaving() {
            slot.told_to_exit(now);
            Ready::Drain
        } else if slot.generation != generation {
            slot.enter(State::Proved, now);
            Ready::Proved
        } else {
            slot.enter(State::Idle, now);
            self.idle.push(worker);
            Ready::Work
        };
        self.busy -= u32::from(was_busy);
        if !self.growth.is_reached() {
            self.growth.record_present(self.present());
        }
        ready
    }

    /// Assigns a request to an idle worker. At most `max` requests run at a time, also while workers are being replaced.
    pub(crate) fn assign(&mut self, now: Instant) -> Option<u32> {
        if self.busy >= self.policy.max {
            return None;
        }
        let worker = self.idle.pop()?;
        let slot = self.slots.get_mut(&worker)?;
        slot.enter(State::Busy, now);
        self.changed |= slot.count_request();
        self.busy += 1;
        Some(worker)
    }

    /// Whether a further request may be assigned to a worker that runs one: not to a worker that may end before.
    pub(crate) fn may_assign_ahead(&self, worker: u32) -> bool {
        self.slots.get(&worker).is_some_and(|slot| {
            slot.state == State::Busy
                && slot.generation == self.generation
                && slot.drain == Drain::No
                && slot.max_requests.is_none_or(|limit| slot.requests.saturating_add(slot.ahead) < limit)
        })
    }

    /// Assigns a further request to a worker that runs one: the request waits in the worker's lane. Returns whether it may.
    pub(crate) fn assign_ahead(&mut self, worker: u32) -> bool {
        let may = self.may_assign_ahead(worker);
        if let Some(slot) = self.slots.get_mut(&worker) {
            slot.ahead += u32::from(may);
        }
        may
    }

    /// Undoes [`Self::assign_ahead`] for a request that was taken back.
    pub(crate) fn unassign_ahead(&mut self, worker: u32) {
        if let Some(slot) = self.slots.get_mut(&worker) {
            slot.ahead = slot.ahead.saturating_sub(1);
        }
    }

    /// Whether a worker is to be told to exit or replaced, so that no request should wait in its lane.
    pub(crate) fn is_draining(&self, worker: u32) -> bool {
        self.slots.get(&worker).is_none_or(|slot| slot.drain != Drain::No)
    }

    /// Undoes an assignment whose request was not sent.
    pub(crate) fn unassign(&mut self, worker: u32, now: Instant) {
        if let Some(slot) = self.slots.get_mut(&worker)
            && slot.state == State::Busy
        {
            self.busy -= u32::from(slot.generation == self.generation);
            slot.enter(State::Idle, now);
            slot.requests -= 1;
            self.idle.push(worker);
        }
    }

    /// Records that a worker has answered a request, which ends a row of failed starts.
    pub(crate) fn record_answer(&mut self, worker: u32) {
        if let Some(slot) = self.slots.get_mut(&worker) {
            slot.has_answered = true;
            if !slot.has_reached_a_limit() {
                self.replacements.reset();
            }
        }
        self.starts.reset();
    }

    /// Removes a worker that has ended, and returns its last state. An end before the first answer counts as a failed start; from
    /// the second failure in a row on, the next fork is delayed, longer each time.
    pub(crate) fn ended(&mut self, worker: u32, now: Instant) -> Option<State> {
        let slot = self.slots.remove(&worker)?;
        self.idle.retain(|idle| *idle != worker);
        if slot.state == State::Busy {
            self.freed_at = Some(now);
            self.busy -= u32::from(slot.generation == self.generation);
        }
        if !slot.has_answered && !slot.is_leaving() {
            self.starts.record_failure(slot.generation, now);
        }
        // With `max_requests` 1 the pool may be empty for a moment.
        if !slot.is_leaving() && self.present() == 0 {
            self.growth.record_loss_of_all();
        }
        Some(slot.state)
    }

    /// Removes a worker that its zygote never announced, because the zygote has ended or is killed. Returns the worker's generation,
    /// unless it was to exit. Counts no failure: all workers of one zygote are one failed start, see [`Self::start_failed`].
    pub(crate) fn never_announced(&mut self, worker: u32) -> Option<u32> {
        let slot = self.slots.remove(&worker)?;
        (!slot.is_leaving()).then_some(slot.generation)
    }

    /// Records a failed start.
    pub(crate) fn start_failed(&mut self, generation: u32, now: Instant) {
        self.starts.record_failure(generation, now);
    }

    /// Whether workers of the serving generation end again and again before their first answer.
    pub(crate) fn is_failing(&self) -> bool {
        self.starts.are_failing(self.generation)
    }

    /// The time until the next start, if there is no worker and none is starting.
    pub(crate) fn down_for(&self, now: Instant) -> Option<Duration> {
        let attempt = self.starts.retry_at().filter(|time| *time > now && self.has_nobody())?;
        Some(attempt - now)
    }

    /// Whether a worker has reached `max_requests` since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    // Generations.

    /// Switches to a generation whose first worker is ready. `afresh`: earlier failures do not concern it, and are forgotten.
    pub(crate) fn switch(&mut self, generation: u32, afresh: bool, now: Instant) {
        self.generation = generation;
        if afresh {
            self.starts.reset();
        } else {
            self.starts.lift_delay();
        }
        self.idle.clear();
        self.busy = 0;
        for (worker, slot) in &mut self.slots {
            if slot.generation == generation && slot.state == State::Proved {
                slot.enter(State::Idle, now);
                self.idle.push(*worker);
            }
        }
        self.growth.restart(self.present());
    }

    /// The slots of the serving generation that are not draining.
    fn current(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().filter(|slot| slot.generation == self.generation && !slot.is_leaving())
    }
}
