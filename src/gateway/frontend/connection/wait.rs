//! The wait of a connection's task for its next turn: what stays registered between turns, so that a turn costs little.
//!
//! A turn of a busy connection changes its deadlines, but rarely to an earlier time, and neither begins a stop nor changes the
//! task's waker. So the timer and the wait for the stop are polled only when they change, and are otherwise asked by a flag.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use tokio::io::Ready;
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::Sleep;

use crate::gateway::clock::Clock;

/// The event that ends a wait.
#[derive(Debug)]
pub(super) enum Wake {
    /// The socket is ready, or bytes are held.
    Socket(Ready),
    /// A deadline or a check of the client's rate is due.
    TimedOut,
    /// The state may have changed.
    Changed,
    /// The connection is lost.
    Lost,
}

/// A signal to the one task that waits for it. Stays given until the task takes it.
#[derive(Debug, Default)]
pub(super) struct Signal {
    given: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    pub(super) fn give(&self) {
        if !self.given.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Takes the signal, or waits for it.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.given.take() {
            return Poll::Ready(());
        }
        keep_waker(&mut self.waker.borrow_mut(), context);
        Poll::Pending
    }
}

/// Keeps the waker of `context`. Returns whether it is a new one.
fn keep_waker(kept: &mut Option<Waker>, context: &Context<'_>) -> bool {
    let new = !kept.as_ref().is_some_and(|kept| kept.will_wake(context.waker()));
    if new {
        *kept = Some(context.waker().clone());
    }
    new
}

/// The times at which a connection wants a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timers {
    /// A deadline, which counts only when all input up to it has been processed.
    pub(super) deadline: Option<Instant>,
    /// A check of the client's rate, which waits for no input.
    pub(super) rate_check: Option<Instant>,
}

/// The parts of a wait that last for the life of the task.
pub(super) struct Wait {
    alarm: Alarm,
    stopping: watch::Receiver<bool>,
    /// Has the stop wake the task. Polled once for each waker.
    stop: Pin<Box<dyn Future<Output = ()>>>,
    /// The waker with which `alarm` and `stop` are registered.
    waker: Option<Waker>,
}

impl Wait {
    pub(super) fn new(stopping: watch::Receiver<bool>) -> Self {
        let mut watched = stopping.clone();
        let stop = Box::pin(unconstrained(async move {
            // An error, the end of the gateway, drops the task as well.
            let _ = watched.wait_for(|stopping| *stopping).await;
        }));
        Self { alarm: Alarm::new(), stopping, stop, waker: None }
    }

    /// Whether the gateway stops.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Registers the task's waker where it is new, and polls for the stop. Called first in each poll.
    pub(super) fn poll_stop(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let new = keep_waker(&mut self.waker, context);
        self.alarm.unregistered |= new;
        if self.is_stopping() {
            return Poll::Ready(());
        }
        if new { self.stop.as_mut().poll(context) } else { Poll::Pending }
    }

    /// Ready with [`Wake::TimedOut`] when a timer is due, with [`Wake::Changed`] when the timers should be computed again.
    /// `settles`: the wait of [`Clock::settles`] for the deadline.
    pub(super) fn poll_timers(
        &mut self,
        timers: Timers,
        clock: &Clock,
        settles: Pin<&mut Option<impl Future<Output = ()>>>,
        context: &mut Context<'_>,
    ) -> Poll<Wake> {
        let Timers { deadline, rate_check } = timers;
        // Also where the alarm has not fired yet, so that a client that sends without a pause cannot postpone the deadline.
        if deadline.is_some_and(|deadline| deadline <= clock.settled()) {
            return Poll::Ready(Wake::TimedOut);
        }
        let fired = ready!(self.alarm.poll(deadline.into_iter().chain(rate_check).min(), context));
        let is_due = |time: Option<Instant>| time.is_some_and(|time| time <= fired);
        if is_due(rate_check) {
            return Poll::Ready(Wake::TimedOut);
        }
        let Some(settles) = settles.as_pin_mut().filter(|_| is_due(deadline)) else {
            return Poll::Ready(Wake::Changed);
        };
        if settles.poll(context).is_pending() {
            ready!(self.alarm.poll(rate_check, context));
        }
        Poll::Ready(Wake::TimedOut)
    }
}

/// A timer that is moved only to an earlier time. So it may fire early, in a connection's life about once for each of its
/// timeouts; and mostly a turn does not touch it.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    /// The time at which `sleep` fires; `None` after it has fired.
    set_for: Option<Instant>,
    /// Whether `sleep` would not wake the task.
    unregistered: bool,
}

impl Alarm {
    fn new() -> Self {
        let sleep = Box::pin(tokio::time::sleep_until(Instant::now().into()));
        Self { sleep, set_for: None, unregistered: true }
    }

    /// Fires at `wanted` or before. Ready with the time for which it was set.
    fn poll(&mut self, wanted: Option<Instant>, context: &mut Context<'_>) -> Poll<Instant> {
        if let Some(wanted) = wanted
            && self.set_for.is_none_or(|set_for| wanted < set_for)
        {
            self.sleep.as_mut().reset(wanted.into());
            (self.set_for, self.unregistered) = (Some(wanted), true);
        }
        let Some(set_for) = self.set_for else { return Poll::Pending };
        if self.unregistered {
            // Unconstrained, because a poll that tokio's budget refuses would not register the task.
            let fired = pin!(unconstrained(self.sleep.as_mut())).poll(context);
            self.unregistered = false;
            ready!(fired);
        } else if !self.sleep.is_elapsed() {
            return Poll::Pending;
        }
        self.set_for = None;
        Poll::Ready(set_for)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::gateway::runtime;

    const SOON: Duration = Duration::from_millis(20);
    /// The longest time of a test. A test whose task is not woken would never end.
    const LIMIT: Duration = Duration::from_secs(10);
    const LATE: Duration = Duration::from_secs(3600);

    /// Runs `test` beside a clock with a keeper, with the sender of the stop.
    fn run<F: Future<Output = ()>>(test: impl FnOnce(Rc<Clock>, watch::Sender<bool>) -> F) {
        runtime::new().unwrap().block_on(async {
            let clock = Rc::new(Clock::new(Instant::now()));
            let kept = Rc::clone(&clock);
            tokio::task::spawn_local(async move { kept.keep().await });
            tokio::time::timeout(LIMIT, test(clock, watch::Sender::new(false))).await.expect("woken in time");
        });
    }

    /// Whether a timer is due (`true`) or should be computed again, once one is.
    async fn due(
        wait: &mut Wait,
        clock: &Clock,
        deadline: Option<Instant>,
        rate_check: Option<Instant>,
    ) -> bool {
        let mut settles = pin!(deadline.map(|deadline| clock.settles(deadline)));
        let wake = poll_fn(|context| {
            assert!(wait.poll_stop(context).is_pending());
            wait.poll_timers(Timers { deadline, rate_check }, clock, settles.as_mut(), context)
        });
        matches!(wake.await, Wake::TimedOut)
    }

    /// Polls the timers once, and expects them not to be due.
    async fn pass_by(wait: &mut Wait, clock: &Clock, deadline: Option<Instant>, rate_check: Option<Instant>) {
        let mut due = pin!(due(wait, clock, deadline, rate_check));
        poll_fn(|context| {
            assert!(due.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
    }

    #[test]
    fn a_deadline_counts_when_its_input_is_processed_and_a_rate_check_at_once() {
        run(async |clock, stop| {
            let mut wait = Wait::new(stop.subscribe());
            let deadline = Instant::now() + SOON;
            assert!(due(&mut wait, &clock, Some(deadline), None).await);
            assert!(clock.settled() >= deadline);
            let check = Instant::now() + SOON;
            assert!(due(&mut wait, &clock, Some(check + LATE), Some(check)).await);
            assert!(Instant::now() >= check && clock.settled() < check);
        });
    }

    #[test]
    fn a_deadline_that_moves_to_a_later_time_or_away_is_computed_again_when_the_alarm_fires() {
        run(async |clock, stop| {
            for later in [Some(Instant::now() + LATE), None] {
                let mut wait = Wait::new(stop.subscribe());
                pass_by(&mut wait, &clock, Some(Instant::now() + SOON), None).await;
                assert!(!due(&mut wait, &clock, later, None).await);
                // The alarm has gone off, and is set for the time that is wanted now.
                let deadline = Instant::now() + SOON;
                pass_by(&mut wait, &clock, later, None).await;
                assert!(due(&mut wait, &clock, Some(deadline), later).await && clock.settled() >= deadline);
            }
        });
    }

    #[test]
    fn a_rate_check_does_not_wait_for_the_input_of_a_passed_deadline() {
        runtime::new().unwrap().block_on(async {
            // Without a keeper no deadline is ever settled.
            let (clock, stop) = (Clock::new(Instant::now()), watch::Sender::new(false));
            let mut wait = Wait::new(stop.subscribe());
            let deadline = Instant::now() + SOON;
            let check = deadline + SOON;
            let due = tokio::time::timeout(LIMIT, due(&mut wait, &clock, Some(deadline), Some(check)));
            assert!(due.await.unwrap() && Instant::now() >= check);
        });
    }

    #[test]
    fn a_stop_and_a_signal_wake_the_task() {
        run(async |_, stop| {
            let (mut wait, signal) = (Wait::new(stop.subscribe()), Rc::new(Signal::default()));
            // A signal that is given to nobody stays, once.
            signal.give();
            signal.give();
            poll_fn(|context| signal.poll(context)).await;
            let (given, woken) = (Rc::clone(&signal), Rc::new(Cell::new(0)));
            let counted = Rc::clone(&woken);
            // In a task of its own, which nothing else wakes.
            let waiting = tokio::task::spawn_local(async move {
                poll_fn(|context| given.poll(context)).await;
                counted.set(1);
                poll_fn(|context| wait.poll_stop(context)).await;
                assert!(wait.is_stopping());
            });
            tokio::task::yield_now().await;
            assert_eq!(woken.get(), 0);
            signal.give();
            tokio::task::yield_now().await;
            assert_eq!(woken.get(), 1);
            stop.send_replace(true);
            waiting.await.unwrap();
        });
    }
}
