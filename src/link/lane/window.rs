//! The word of a lane that says which requests the worker has claimed: the number of claimed requests in its upper half, the number of
//! pushed requests in its lower half. Both wrap around.

use std::sync::atomic::Ordering;

use super::layout::{halves, split};
use super::word::Word;

/// The numbers in the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// Requests that the worker has claimed since the lane was made.
    pub(super) claimed: u32,
    /// Requests that the gateway has pushed, without those that it has taken back.
    pub(super) pushed: u32,
}

impl Window {
    pub(super) fn load<W: Word>(word: &W) -> Self {
        let (claimed, pushed) = split(word.load(Ordering::Acquire));
        Self { claimed, pushed }
    }

    fn value(self) -> u64 {
        halves(self.claimed, self.pushed)
    }

    /// The requests that can be claimed.
    pub(super) fn waiting(self) -> u32 {
        self.pushed.wrapping_sub(self.claimed)
    }

    /// Adds a request that is written. False where the other side has changed the word meanwhile.
    pub(super) fn push<W: Word>(self, word: &W) -> bool {
        self.change(word, Self { pushed: self.pushed.wrapping_add(1), ..self })
    }

    /// Takes back the request that was pushed last, which is not claimed. False where the other side has changed the word meanwhile.
    pub(super) fn take_back<W: Word>(self, word: &W) -> bool {
        self.change(word, Self { pushed: self.pushed.wrapping_sub(1), ..self })
    }

    /// Claims the oldest waiting request. False where the other side has changed the word meanwhile.
    pub(super) fn claim<W: Word>(self, word: &W) -> bool {
        self.change(word, Self { claimed: self.claimed.wrapping_add(1), ..self })
    }

    fn change<W: Word>(self, word: &W, to: Self) -> bool {
        word.exchange(self.value(), to.value(), Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn both_numbers_wrap_around_on_their_own() {
        let start = Window { claimed: u32::MAX, pushed: u32::MAX };
        let word = AtomicU64::new(start.value());
        assert!(start.push(&word));
        let pushed = Window::load(&word);
        assert_eq!(pushed, Window { claimed: u32::MAX, pushed: 0 });
        assert_eq!(pushed.waiting(), 1);
        assert!(!start.push(&word), "the word has changed");
        assert!(pushed.take_back(&word) && Window::load(&word) == start);
        assert!(start.push(&word) && pushed.claim(&word));
        assert_eq!(Window::load(&word), Window { claimed: 0, pushed: 0 });
    }
}
