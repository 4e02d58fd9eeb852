//! The time by which deadlines are judged: nothing is late before what has come by its deadline has been looked at.
//!
//! A gateway that was stopped (SIGSTOP, a frozen cgroup or virtual machine) wakes up to deadlines that have passed, and to what
//! clients and workers did in time meanwhile. The event loop gives both at once, in any order. So who has a deadline waits for
//! [`Clock::passed`], and compares it with [`Clock::settled`] instead of the time.

use std::cell::Cell;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A timer that is as late as this was held up by more than the turns of others: the gateway was stopped, and others with it
/// perhaps.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest that deadlines wait after a pause.
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);

/// The deadlines' clock. Behind the time, but for the moment after a deadline.
#[derive(Debug)]
pub(crate) struct Clock {
    settled: Cell<Instant>,
    /// The earliest deadline that has passed and may not be acted upon yet.
    passed: Cell<Option<Instant>>,
    /// There is one.
    wanted: Notify,
    /// [`Self::settled`] has moved on.
    moved: Notify,
}

impl Clock {
    pub(crate) fn new(now: Instant) -> Self {
        Self { settled: Cell::new(now), passed: Cell::new(None), wanted: Notify::new(), moved: Notify::new() }
    }

    /// All that had come by then has been looked at.
    pub(crate) fn settled(&self) -> Instant {
        self.settled.get()
    }

    /// Waits until `deadline` may be acted upon; for ever where there is none. Ready at once where that is so already, so that
    /// a peer that sends without a pause does not put it off.
    pub(crate) async fn passed(&self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return std::future::pending().await };
        if self.settled.get() >= deadline {
            return;
        }
        tokio::time::sleep_until(deadline.into()).await;
        while self.settled.get() < deadline {
            let moved = self.moved.notified();
            self.passed.set(Some(self.passed.get().map_or(deadline, |passed| passed.min(deadline))));
            self.wanted.notify_one();
            moved.await;
        }
    }

    /// Lets what has come be looked at whenever a deadline has passed. Runs for ever, as a task of its own, since those that wait
    /// give up and begin anew with all that comes.
    pub(crate) async fn keep(&self) {
        loop {
            self.wanted.notified().await;
            let Some(passed) = self.passed.take() else { continue };
            let now = Instant::now();
            match patience(now.saturating_duration_since(passed)) {
                Some(patience) => tokio::time::sleep(patience).await,
                // Once for what is ready now, once for whoever that wakes.
                None => {
                    tokio::task::yield_now().await;
                    tokio::task::yield_now().await;
                }
            }
            self.settled.set(now);
            self.moved.notify_waiters();
        }
    }
}

/// How long deadlines wait when a timer was so `late`; none where it was as punctual as timers are. As long as the pause was known
/// to be: what was in the sockets needs a few milliseconds, and a worker that was frozen as well needs time to finish.
fn patience(late: Duration) -> Option<Duration> {
    (late >= PAUSE).then(|| late.min(LONGEST_PATIENCE))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn deadlines_wait_after_a_pause_for_as_long_as_that_was_but_not_for_ever() {
        let ms = Duration::from_millis;
        for (late, expected) in
            [(0, None), (99, None), (100, Some(100)), (700, Some(700)), (60_000, Some(1000))]
        {
            assert_eq!(patience(ms(late)), expected.map(ms), "{late} ms");
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
