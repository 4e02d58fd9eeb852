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
    settling: Cell<Settling>,
    /// Wakes the keeper when a deadline has passed.
    wanted: Notify,
    /// Wakes the waiting tasks when [`Self::settled`] has advanced.
    moved: Notify,
}

/// The clock's state. Reads no clock: the time is an argument.
#[derive(Clone, Copy, Debug)]
struct Settling {
    /// Time up to which all input has been processed.
    settled: Instant,
    /// The earliest passed deadline that may not be acted upon yet.
    passed: Option<Instant>,
}

/// The way to process pending input before a deadline is acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Two turns of the event loop: one for ready sources, one for the tasks they wake.
    Turns,
    /// A pause as long as the gateway was stopped: input in the sockets needs some milliseconds, and a worker that was stopped
    /// as well needs time to finish.
    Pause(Duration),
}

impl Settling {
    /// Notes a passed deadline that may not be acted upon yet.
    fn pass(&mut self, deadline: Instant) {
        self.passed = Some(self.passed.map_or(deadline, |passed| passed.min(deadline)));
    }

    /// The look due at `now`; `None` where no deadline has passed.
    fn look(&mut self, now: Instant) -> Option<Look> {
        let timed_out = now.saturating_duration_since(self.passed.take()?);
        Some(if timed_out < PAUSE { Look::Turns } else { Look::Pause(timed_out.min(LONGEST_PATIENCE)) })
    }
}

impl Clock {
    pub(crate) fn new(now: Instant) -> Self {
        let settling = Cell::new(Settling { settled: now, passed: None });
        Self { settling, wanted: Notify::new(), moved: Notify::new() }
    }

    /// Time up to which all input has been processed.
    pub(crate) fn settled(&self) -> Instant {
        self.settling.get().settled
    }

    /// Waits until `deadline` may be acted upon; forever without one. Ready at once if the deadline may be acted upon already,
    /// so that a peer that sends without a pause cannot postpone it.
    pub(crate) async fn passed(&self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return std::future::pending().await };
        if self.settled() >= deadline {
            return;
        }
        tokio::time::sleep_until(deadline.into()).await;
        while self.settled() < deadline {
            let moved = self.moved.notified();
            self.change(|settling| settling.pass(deadline));
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
            match self.change(|settling| settling.look(now)) {
                None => continue,
                Some(Look::Pause(pause)) => tokio::time::sleep(pause).await,
                Some(Look::Turns) => {
                    tokio::task::yield_now().await;
                    tokio::task::yield_now().await;
                }
            }
            self.change(|settling| settling.settled = now);
            self.moved.notify_waiters();
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Settling) -> T) -> T {
        let mut settling = self.settling.get();
        let changed = change(&mut settling);
        self.settling.set(settling);
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn deadlines_wait_after_a_pause_for_its_length_but_not_for_ever() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        for (delay, expected) in [
            (0, Look::Turns),
            (99, Look::Turns),
            (100, Look::Pause(ms(100))),
            (700, Look::Pause(ms(700))),
            (60_000, Look::Pause(ms(1000))),
        ] {
            let mut settling = Settling { settled: start, passed: None };
            assert_eq!(settling.look(start + ms(delay)), None, "no deadline has passed");
            // The earliest deadline counts, whatever the order.
            [5, 0, 9].into_iter().for_each(|deadline| settling.pass(start + ms(deadline)));
            assert_eq!(settling.look(start + ms(delay)), Some(expected), "{delay} ms");
            assert_eq!(settling.look(start + ms(delay)), None, "each deadline is looked at once");
        }
    }

    /// Runs `test` beside a clock with a keeper.
    fn with_clock<F: Future<Output = ()>>(test: impl FnOnce(Rc<Clock>) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
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
