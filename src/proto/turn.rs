//! The rule of turns: how much one source may cost the event loop before the others are looked at.
//!
//! Everything that the gateway reads follows it: client connections, links of workers and zygotes, their output, the control
//! socket. A turn is counted in pieces of work, not in bytes: 64 KiB can be one body or thousands of requests.

use std::time::{Duration, Instant};

/// How long a turn may take. 64 sources that all take theirs, twice in the way of a request (to its worker and back), are
/// 26 ms: half of what a healthy client may notice of them.
const LENGTH: Duration = Duration::from_micros(200);

/// Pieces of work between two looks at the clock. Each takes ten microseconds at most: an event of the protocol, a line of the log. A
/// small request that comes alone has five of them, and its answer too, so that neither costs a look.
const LOOK: u32 = 8;

/// Bytes that are a piece of work, whatever is in them.
pub(crate) const PIECE: usize = 8 * 1024;

/// One source's turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    clock: fn() -> Instant,
    /// Pieces since the last look at the clock.
    pieces: u32,
    /// The first look, which is what the turn's length is counted from: so one that ends before costs none.
    began: Option<Instant>,
    over: bool,
}

impl Turn {
    pub(crate) fn begin(clock: fn() -> Instant) -> Self {
        Self { clock, pieces: 0, began: None, over: false }
    }

    /// A piece of work is done. Says whether the turn goes on.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.pieces += 1;
        if self.pieces >= LOOK {
            self.pieces = 0;
            let now = (self.clock)();
            self.over |= now >= *self.began.get_or_insert(now) + LENGTH;
        }
        !self.over
    }

    /// [`Self::goes_on`] for so many bytes.
    pub(crate) fn goes_on_after(&mut self, bytes: usize) -> bool {
        for _ in 0..bytes.div_ceil(PIECE) {
            self.goes_on();
        }
        !self.over
    }

    /// Whether the source has had its turn.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static NOW: Cell<Instant> = Cell::new(Instant::now());
        static LOOKS: Cell<u32> = const { Cell::new(0) };
    }

    fn clock() -> Instant {
        LOOKS.set(LOOKS.get() + 1);
        NOW.get()
    }

    /// How many pieces a turn has, each of which takes so long.
    fn pieces(each: Duration) -> u32 {
        let mut turn = Turn::begin(clock);
        let mut count = 0;
        loop {
            NOW.set(NOW.get() + each);
            count += 1;
            if !turn.goes_on() {
                return count;
            }
            assert!(count < 1_000_000, "it has no end");
        }
    }

    #[test]
    fn a_turn_is_bounded_by_what_its_work_takes() {
        for micros in [1, 3, 10] {
            let each = Duration::from_micros(micros);
            let taken = each * pieces(each);
            let overrun = each * (2 * LOOK);
            assert!((LENGTH..=LENGTH + overrun).contains(&taken), "{micros} µs each: {taken:?}");
        }
        // One piece that takes very long is one too many, and the last.
        assert_eq!(pieces(Duration::from_secs(1)), 2 * LOOK);
    }

    #[test]
    fn a_small_turn_costs_no_look_at_the_clock_and_a_large_one_few() {
        LOOKS.set(0);
        let mut turn = Turn::begin(clock);
        assert!((1..LOOK).all(|_| turn.goes_on()));
        assert_eq!(LOOKS.get(), 0);
        assert!((0..100 * LOOK).all(|_| turn.goes_on()));
        assert_eq!(LOOKS.get(), 100);
    }

    #[test]
    fn bytes_are_work_whatever_is_in_them() {
        LOOKS.set(0);
        let mut turn = Turn::begin(clock);
        assert!(turn.goes_on_after(PIECE * LOOK as usize - 1));
        assert_eq!(LOOKS.get(), 1);
        NOW.set(NOW.get() + LENGTH);
        assert!(turn.goes_on_after(0) && turn.goes_on_after(1));
        assert!(!turn.goes_on_after(1 << 20) && turn.is_over());
        // Over is over.
        assert!(!turn.goes_on());
    }
}
