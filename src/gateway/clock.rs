//! The time by which deadlines are judged: nothing has timed out before what came by its deadline has been looked at.
//!
//! A gateway that was stopped (SIGSTOP, a frozen cgroup or virtual machine) wakes up to deadlines that have passed, and to what
//! clients and workers did in time meanwhile. The event loop gives both at once, in any order. So a task with a deadline waits for
//! [`Clock::passed`], and compares the deadline with [`Clock::settled`] instead of the time.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The delay of a timer from which on the gateway counts as having been stopped, and perhaps others with it. The turns of other
/// tasks delay a timer by less.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest that deadlines wait after a pause.
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);

/// The deadlines' clock. Behind the time, but for the moment after a deadline.
#[derive(Debug)]
pub(crate) struct Clock {
    settling: Cell<Settling>,
    /// Wakes the keeper: a deadline has passed.
    wanted: Notify,
    /// Wakes those that wait: [`Self::settled`] has moved on.
    moved: Notify,
}

/// The clock's state. Told the time.
#[derive(Clone, Copy, Debug)]
struct Settling {
    /// All that had come by then has been looked at.
    settled: Instant,
    /// The earliest deadline that has passed and may not be acted upon yet.
    passed: Option<Instant>,
}

/// The way in which what has come is looked at before a deadline is acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Turns of the event loop: a turn for what is ready now, and a turn for the tasks that this wakes.
    Turns,
    /// A pause as long as the gateway was stopped: what was in the sockets needs a few milliseconds, and a worker that was stopped
    /// as well needs time to finish.
    Pause(Duration),
}

impl Settling {
    /// A deadline has passed that may not be acted upon yet.
    fn pass(&mut self, deadline: Instant) {
        self.passed = Some(self.passed.map_or(deadline, |passed| passed.min(deadline)));
    }

    /// The look that is due at `now`; `None` where no deadline has passed.
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

    /// The moment by which all that had come has been looked at.
    pub(crate) fn settled(&self) -> Instant {
        self.settling.get().settled
    }

    /// Waits until `deadline` may be acted upon; for ever where there is none. Ready at once where the deadline may be acted upon
    /// already, so that a peer that sends without a pause does not put it off.
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

    /// Lets what has come be looked at whenever a deadline has passed. Runs for ever, as a task of its own, since the tasks that
    /// wait give up and begin anew with all that comes.
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
    fn deadlines_wait_after_a_pause_for_as_long_as_that_was_but_not_for_ever() {
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
            // The earliest deadline counts, whichever is told first.
            [5, 0, 9].into_iter().for_each(|deadline| settling.pass(start + ms(deadline)));
            assert_eq!(settling.look(start + ms(delay)), Some(expected), "{delay} ms");
            assert_eq!(settling.look(start + ms(delay)), None, "each deadline is looked at once");
        }
    }

    /// Has `test` run beside a clock that is kept.
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
    fn what_was_ready_at_a_deadline_is_looked_at_before_it() {
        with_clock(async |clock| {
            let (deadline, looked) = (Instant::now(), Rc::new(Cell::new(false)));
            let other = Rc::clone(&looked);
            tokio::task::spawn_local(async move { other.set(true) });
            clock.passed(Some(deadline)).await;
            assert!(looked.get() && clock.settled() >= deadline);
        });
    }

    #[test]
    fn who_gives_up_waiting_again_and_again_gets_there_all_the_same() {
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
