//! The deadline of a load in a zygote, or of a worker's start: first an interrupt, so that the code says where it is, then the
//! end. Std only; time is an argument.
//!
//! ```text
//! stage         due                                       action       next
//! in time       begin + start timeout                     Interrupt    interrupted
//! interrupted   interruption + LAST_WORDS                 GiveUp       given up
//! given up      nothing
//! ```
//!
//! A gateway that was paused interrupts late, and the code has the time for its last words all the same.

use std::time::{Duration, Instant};

/// The time that an application has to say where it is once it is interrupted at `--start-timeout`. Code that runs Lua does so
/// within milliseconds; other code, such as a connect that hangs, is killed then.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);

/// The action that a start's deadline asks of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartAction {
    /// The process is interrupted, to fail with its stack.
    Interrupt,
    /// The process is killed.
    GiveUp,
}

/// The state of one start's deadline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StartDeadline {
    began_at: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    InTime,
    Interrupted(Instant),
    GivenUp,
}

impl StartDeadline {
    /// The deadline of a start that began then.
    pub(crate) fn new(began_at: Instant) -> Self {
        Self { began_at, stage: Stage::InTime }
    }

    /// The time of the next action, where starts have a limit.
    pub(crate) fn next_deadline(&self, timeout: Duration) -> Option<Instant> {
        match self.stage {
            Stage::InTime => Some(self.began_at + timeout),
            Stage::Interrupted(at) => Some(at + LAST_WORDS),
            Stage::GivenUp => None,
        }
    }

    /// The next action that was due by `settled`. To be called until there is none.
    pub(crate) fn handle_timeout(&mut self, settled: Instant, timeout: Duration) -> Option<StartAction> {
        self.next_deadline(timeout).filter(|deadline| *deadline <= settled)?;
        let (action, stage) = match self.stage {
            Stage::InTime => (StartAction::Interrupt, Stage::Interrupted(settled)),
            Stage::Interrupted(_) | Stage::GivenUp => (StartAction::GiveUp, Stage::GivenUp),
        };
        self.stage = stage;
        Some(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions() {
        let (start, timeout) = (Instant::now(), Duration::from_secs(5));
        let mut deadline = StartDeadline::new(start);
        for (due, action) in [(timeout, StartAction::Interrupt), (timeout + LAST_WORDS, StartAction::GiveUp)]
        {
            assert_eq!(deadline.next_deadline(timeout), Some(start + due));
            let early = start + due - Duration::from_nanos(1);
            assert_eq!(deadline.handle_timeout(early, timeout), None);
            assert_eq!(deadline.handle_timeout(start + due, timeout), Some(action));
        }
        assert_eq!(deadline.next_deadline(timeout), None);
        assert_eq!(deadline.handle_timeout(start + 100 * timeout, timeout), None);
    }

    #[test]
    fn a_start_that_is_found_long_overdue_has_its_last_words_all_the_same() {
        let (start, timeout) = (Instant::now(), Duration::from_secs(5));
        let mut deadline = StartDeadline::new(start);
        let late = start + 100 * timeout;
        assert_eq!(deadline.handle_timeout(late, timeout), Some(StartAction::Interrupt));
        assert_eq!(deadline.handle_timeout(late, timeout), None);
        assert_eq!(deadline.next_deadline(timeout), Some(late + LAST_WORDS));
        assert_eq!(deadline.handle_timeout(late + LAST_WORDS, timeout), Some(StartAction::GiveUp));
    }
}
