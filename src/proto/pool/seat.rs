//! What the books hold of one worker. Std only.

use std::time::{Duration, Instant};

/// How long a worker has to run its stop hooks once it is told to exit.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
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
pub(super) struct Seat {
    pub(super) generation: u32,
    pub(super) state: State,
    /// When it was forked.
    pub(super) born: Instant,
    /// When it was first ready.
    pub(super) ready: Option<Instant>,
    /// Since when it is in its state.
    pub(super) since: Instant,
    /// Requests it was given.
    pub(super) requests: u32,
    /// Requests after which it is due.
    pub(super) limit: Option<u32>,
    /// To be replaced; it leaves when its successor is ready.
    pub(super) due: bool,
    /// To be told to exit when its request is over.
    pub(super) retired: bool,
    /// When it is killed if it has not ended by then. Taken when it is.
    pub(super) leave_by: Option<Instant>,
    /// Whether it has answered a request.
    pub(super) answered: bool,
}

impl Seat {
    /// It is told to exit, and has until its deadline, or for `FAREWELL` where it has none yet.
    pub(super) fn drain(&mut self, now: Instant) {
        (self.state, self.since) = (State::Draining, now);
        self.leave_by.get_or_insert(now + FAREWELL);
    }
}

/// A worker, as the status shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worker {
    pub(crate) number: u32,
    pub(crate) generation: u32,
    pub(crate) state: State,
    /// When it was forked.
    pub(crate) born: Instant,
    /// Requests it was given.
    pub(crate) requests: u32,
    /// To leave when its request is over or its successor ready.
    pub(crate) leaving: bool,
}
