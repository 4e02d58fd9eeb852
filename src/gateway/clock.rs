//! The clock for deadlines: input that arrived by a deadline is processed before the deadline counts.
//!
//! A gateway that was stopped (SIGSTOP, a frozen cgroup or virtual machine) wakes up to expired deadlines, and to input that
//! clients and workers sent in time. The event loop delivers both at once, in any order. A task with a deadline therefore
//! awaits [`Clock::passed`], and compares the deadline with [`Clock::settled`] instead of the time.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Least delay of a timer by which the gateway counts as stopped, and other processes perhaps with it. The turns of other tasks
/// delay a timer by less.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest extension of deadlines after a pause.
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);

/// The clock for deadlines. Behind the time, except in the moment after a deadline.
#[derive(Debug)]
pub(crate) struct Clock {
    state: Cell<ClockState>,
    /// Wakes the keeper when a deadline has passed.
    wanted: Notify,
    /// Wakes the waiting tasks when [`Self::settled`] has advanced.
    moved: Notify,
}

/// The clock's state. Reads no clock: the time is an argument.
#[derive(Clone, Copy, Debug)]
struct ClockState {
    /// Time up to which all input has been processed.
    settled: Instant,
    /// The earliest passed deadline that may not be acted upon yet.
    passed: Option<Instant>,
}

/// The wait in which pending input is processed before a deadline is acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputWait {
    /// Two turns of the event loop: one for ready sources, one for the tasks they wake.
    Turns,
    /// A pause as long as the gateway was stopped: input in the sockets needs some milliseconds, and a worker that was stopped
    /// as well needs time to finish.
    Pause(Duration),
}

impl ClockState {
    /// Notes a passed deadline that may not be acted upon yet.
    fn pass(&mut self, deadline: Instant) {
        self.passed = Some(self.passed.map_or(deadline, |passed| passed.min(deadline)));
    }

    /// The wait due at `now`; `None` if no deadline has passed.
    fn next_wait(&mut self, now: Instant) -> Option<InputWait> {
        let timed_out = now.saturating_duration_since(self.passed.take()?);
        Some(if timed_out < PAUSE {
            InputWait::Turns
        } else {
            InputWait::Pause(timed_out.min(LONGEST_PATIENCE))
        })
    }
}

impl Clock {
    pub(crate) fn new(now: Instant) -> Self {
        let state = Cell::new(ClockState { settled: now, passed: None });
        Self { state, wanted: Notify::new(), moved: Notify::new() }
    }

    /// Time up to which all input has been processed.
    pub(crate) fn settled(&self) -> Instant {
        self.state.get().settled
    }

    /// Waits until `deadline` may be acted upon; forever without one. Ready at once if the deadline may be acted upon already,
    /// so that a peer that sends without a pause cannot postpone it.
    pub(crate) async fn passed(&self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return std::future::pending().await };
        if self.settled() >= deadline {
            return;
        }
        tokio::time::sleep_until(deadline.into()).await;
        self.settles(deadline).await;
    }

    /// Waits until a deadline that has passed may be acted upon.
    pub(crate) async fn settles(&self, deadline: Instant) {
        while self.settled() < deadline {
            let moved = self.moved.notified();
            self.change(|state| state.pass(deadline));
            self.wanted.notify_one();
            moved.await;
        }
    }

    /// Advances the clock after each passed deadline. Runs forever in a task of its own, because the waiting tasks are
    /// cancelled and restarted by every input.
    pub(crate) async fn keep(&self) {
        loop {
            self.wanted.notified().await;
            let now = Instant::now();
            match self.change(|state| state.next_wait(now)) {
                None => continue,
                Some(InputWait::Pause(pause)) => tokio::time::sleep(pause).await,
                Some(InputWait::Turns) => {
                    tokio::task::yield_now().await;
                    tokio::task::yield_now().await;
                }
            }
            self.change(|state| state.settled = now);
            self.moved.notify_waiters();
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut ClockState) -> T) -> T {
        let mut state = self.state.get();
        let changed = change(&mut state);
        self.state.set(state);
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::gateway::runtime;

    #[test]
    fn deadlines_wait_after_a_pause_for_its_length_but_not_for_ever() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        for (delay, expected) in [
            (0, InputWait::Turns),
            (99, InputWait::Turns),
            (100, InputWait::Pause(ms(100))),
            (700, InputWait::Pause(ms(700))),
            (60_000, InputWait::Pause(ms(1000))),
        ] {
            let mut state = ClockState { settled: start, passed: None };
            assert_eq!(state.next_wait(start + ms(delay)), None, "no deadline has passed");
            // The earliest deadline counts, whatever the order.
            [5, 0, 9].into_iter().for_each(|deadline| state.pass(start + ms(deadline)));
            assert_eq!(state.next_wait(start + ms(delay)), Some(expected), "{delay} ms");
            assert_eq!(state.next_wait(start + ms(delay)), None, "each deadline causes one wait");
        }
    }

    /// Runs `test` beside a clock with a keeper.
    fn with_clock<F: Future<Output = ()>>(test: impl FnOnce(Rc<Clock>) -> F) {
        runtime::new().unwrap().block_on(async {
            let clock = Rc::new(Clock::new(Instant::now()));
            let kept = Rc::clone(&clock);
            tokio::task::spawn_local(async move { kept.keep().await });
            test(clock).await;
        });
    }

    #[test]
    fn input_ready_at_a_deadline_is_processed_before_it() {
        with_clock(async |clock| {
            let (deadline, looked) = (Instant::now(), Rc::new(Cell::new(false)));
            let other = Rc::clone(&looked);
            tokio::task::spawn_local(async move { other.set(true) });
            clock.passed(Some(deadline)).await;
            assert!(looked.get() && clock.settled() >= deadline);
        });
    }

    #[test]
    fn a_wait_that_is_restarted_again_and_again_ends_all_the_same() {
        with_clock(async |clock| {
            let deadline = Instant::now();
            while deadline.elapsed() < Duration::from_secs(10) {
                tokio::select! {
                    biased;
                    () = clock.passed(Some(deadline)) => return,
                    () = tokio::task::yield_now() => {}
                }
            }
            panic!("the deadline never passed");
        });
    }
}
