//! The slot of one worker in the pool: its state, and whether and why it drains. Std only; time is an argument.

use std::time::{Duration, Instant};

/// The time that a worker has for its stop hooks once it is told to exit.
pub(crate) const EXIT_TIME: Duration = Duration::from_secs(2);

/// The state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The worker is being forked, or runs its start hooks.
    Starting,
    /// The worker is ready, and of a generation that does not answer yet.
    Proved,
    /// The worker waits for a request.
    Idle,
    /// The worker runs a request.
    Busy,
    /// The worker was told to exit.
    Draining,
}

/// The reason why a worker drains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DrainReason {
    /// It has had its requests (`--max-requests`).
    Requests,
    /// It has reached its age (`--max-age`).
    Age,
    /// It has grown beyond its memory (`--max-memory`).
    Memory,
    /// There are more workers than there may be.
    Surplus,
    /// It was idle for too long.
    Idle,
    /// Its generation is given up, or another answers in its place.
    Generation,
    /// The server stops.
    Stop,
}

impl DrainReason {
    /// Whether the worker has reached a limit of its own, so that it is replaced.
    fn is_own_limit(self) -> bool {
        matches!(self, Self::Requests | Self::Age | Self::Memory)
    }
}

/// Whether a worker drains, and what it waits for before it is told to exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drain {
    No,
    /// It goes on until its successor is ready.
    OnceReplaced(DrainReason),
    /// It goes on until its request is over.
    OnceIdle(DrainReason),
}

/// A place in the pool, from the fork of its worker until the worker's end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) state: State,
    /// The time at which it came into its state.
    pub(super) since: Instant,
    /// The time of its fork.
    pub(super) forked_at: Instant,
    /// The time at which it was first ready.
    pub(super) ready_at: Option<Instant>,
    /// The requests that it was given.
    pub(super) requests: u32,
    /// Further requests that wait in its lane.
    pub(super) ahead: u32,
    /// The requests after which it is replaced.
    pub(super) max_requests: Option<u32>,
    pub(super) drain: Drain,
    /// The time at which it is killed if it has not ended. Taken when it is.
    pub(super) exit_by: Option<Instant>,
    /// Whether it has answered a request.
    pub(super) has_answered: bool,
}

/// A worker, as the status shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worker {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) state: State,
    /// The time of its fork.
    pub(crate) forked_at: Instant,
    /// The requests that it was given.
    pub(crate) requests: u32,
    /// Whether it is told to exit when its request is over or its successor ready.
    pub(crate) draining: bool,
}

impl Slot {
    /// The slot of a worker that is being forked.
    pub(super) fn new(generation: u32, max_requests: Option<u32>, now: Instant) -> Self {
        Self {
            generation,
            state: State::Starting,
            since: now,
            forked_at: now,
            ready_at: None,
            requests: 0,
            ahead: 0,
            max_requests,
            drain: Drain::No,
            exit_by: None,
            has_answered: false,
        }
    }

    /// Whether it waits for its successor to be ready.
    pub(super) fn awaits_successor(&self) -> bool {
        matches!(self.drain, Drain::OnceReplaced(_))
    }

    /// Whether it is told to exit as soon as it has no request.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.drain, Drain::OnceIdle(_))
    }

    /// Whether it was to be replaced because of a limit of its own.
    pub(super) fn has_reached_a_limit(&self) -> bool {
        match self.drain {
            Drain::No => false,
            Drain::OnceReplaced(reason) | Drain::OnceIdle(reason) => reason.is_own_limit(),
        }
    }

    pub(super) fn enter(&mut self, state: State, now: Instant) {
        (self.state, self.since) = (state, now);
    }

    /// Counts a request that it is given. Whether the worker has reached its limit with it, and is replaced: now and not when the request
    /// has ended, so that the successor is forked while it runs.
    pub(super) fn count_request(&mut self) -> bool {
        self.requests = self.requests.saturating_add(1);
        self.max_requests.is_some_and(|limit| self.requests >= limit) && self.replace(DrainReason::Requests)
    }

    /// Has it replaced, unless it drains already. Whether it did not.
    pub(super) fn replace(&mut self, reason: DrainReason) -> bool {
        let stays = self.drain == Drain::No;
        if stays {
            self.drain = Drain::OnceReplaced(reason);
        }
        stays
    }

    /// Has it leave as soon as it has no request. A reason that it has already stays.
    pub(super) fn leave(&mut self, reason: DrainReason) {
        self.drain = match self.drain {
            Drain::No => Drain::OnceIdle(reason),
            Drain::OnceReplaced(reason) | Drain::OnceIdle(reason) => Drain::OnceIdle(reason),
        };
    }

    /// Records that it is told to exit. It has until its deadline, or for [`EXIT_TIME`] where it has none yet.
    pub(super) fn told_to_exit(&mut self, now: Instant) {
        self.enter(State::Draining, now);
        self.exit_by.get_or_insert(now + EXIT_TIME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_transitions() {
        use DrainReason::{Generation, Memory, Surplus};
        enum Act {
            Replace(DrainReason),
            Leave(DrainReason),
        }
        use Act::{Leave, Replace};
        let table = [
            (Drain::No, Replace(Memory), Drain::OnceReplaced(Memory)),
            (Drain::No, Leave(Surplus), Drain::OnceIdle(Surplus)),
            (Drain::OnceReplaced(Memory), Replace(DrainReason::Age), Drain::OnceReplaced(Memory)),
            (Drain::OnceReplaced(Memory), Leave(Generation), Drain::OnceIdle(Memory)),
            (Drain::OnceIdle(Surplus), Replace(Memory), Drain::OnceIdle(Surplus)),
            (Drain::OnceIdle(Surplus), Leave(Generation), Drain::OnceIdle(Surplus)),
        ];
        for (row, (before, act, after)) in table.into_iter().enumerate() {
            let mut slot = Slot { drain: before, ..Slot::new(1, None, Instant::now()) };
            match act {
                Replace(reason) => assert_eq!(slot.replace(reason), before == Drain::No, "row {row}"),
                Leave(reason) => slot.leave(reason),
            }
            assert_eq!(slot.drain, after, "row {row}");
            assert_eq!(
                (slot.awaits_successor(), slot.is_leaving()),
                (matches!(after, Drain::OnceReplaced(_)), matches!(after, Drain::OnceIdle(_)))
            );
            assert_eq!(slot.has_reached_a_limit(), !matches!(after, Drain::OnceIdle(Surplus)), "row {row}");
        }
    }

    #[test]
    fn a_worker_that_is_told_to_exit_keeps_the_deadline_it_has() {
        let now = Instant::now();
        for (before, after) in [(None, now + EXIT_TIME), (Some(now), now)] {
            let mut slot = Slot { exit_by: before, ..Slot::new(1, None, now) };
            slot.told_to_exit(now);
            assert_eq!((slot.state, slot.exit_by), (State::Draining, Some(after)));
        }
    }
}
