//! The rule of turns: a bound on the work for one source before the event loop serves the others.
//!
//! Everything that the gateway reads follows it: client connections, links of workers and zygotes, their output, the control
//! socket. A turn is counted in pieces of work, not in bytes: 64 KiB can be one body or thousands of requests.

use std::time::{Duration, Instant};

/// Longest turn. If 64 sources take full turns twice in the way of a request (to its worker and back), the request is delayed by
/// 26 ms: half of the delay that a healthy client may see.
const LENGTH: Duration = Duration::from_micros(200);

/// Pieces of work between two readings of the clock. A piece takes ten microseconds at most: an event of the protocol, a line of the
/// log. A small request that comes alone has five pieces, and so has its response, so neither reads the clock.
const CLOCK_INTERVAL: u32 = 8;

/// Most bytes of one piece of work.
pub(crate) const PIECE: usize = 8 * 1024;

/// One source's turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    clock: fn() -> Instant,
    /// Pieces since the last reading of the clock.
    pieces: u32,
    /// The first reading of the clock, from which the length counts; `None` for a turn that is still short.
    began: Option<Instant>,
    over: bool,
}

impl Turn {
    pub(crate) fn begin(clock: fn() -> Instant) -> Self {
        Self { clock, pieces: 0, began: None, over: false }
    }

    /// Counts a piece of work. Returns whether the turn goes on.
    pub(crate) fn goes_on(&mut self) -> bool {
        self.pieces += 1;
        if self.pieces >= CLOCK_INTERVAL {
            self.pieces = 0;
            let now = (self.clock)();
            self.over |= now >= *self.began.get_or_insert(now) + LENGTH;
        }
        !self.over
    }

    /// Counts the pieces of `bytes` bytes. Returns whether the turn goes on.
    pub(crate) fn goes_on_after(&mut self, bytes: usize) -> bool {
        for _ in 0..bytes.div_ceil(PIECE) {
            self.goes_on();
        }
        !self.over
    }

    /// Whether the turn is over.
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
            let overrun = each * (2 * CLOCK_INTERVAL);
            assert!((LENGTH..=LENGTH + overrun).contains(&taken), "{micros} µs each: {taken:?}");
        }
        // One piece that takes very long is one too many, and the last.
        assert_eq!(pieces(Duration::from_secs(1)), 2 * CLOCK_INTERVAL);
    }

    #[test]
    fn a_small_turn_costs_no_look_at_the_clock_and_a_large_one_few() {
        LOOKS.set(0);
        let mut turn = Turn::begin(clock);
        assert!((1..CLOCK_INTERVAL).all(|_| turn.goes_on()));
        assert_eq!(LOOKS.get(), 0);
        assert!((0..100 * CLOCK_INTERVAL).all(|_| turn.goes_on()));
        assert_eq!(LOOKS.get(), 100);
    }

    #[test]
    fn bytes_are_work_whatever_is_in_them() {
        LOOKS.set(0);
        let mut turn = Turn::begin(clock);
        assert!(turn.goes_on_after(PIECE * CLOCK_INTERVAL as usize - 1));
        assert_eq!(LOOKS.get(), 1);
        NOW.set(NOW.get() + LENGTH);
        assert!(turn.goes_on_after(0) && turn.goes_on_after(1));
        assert!(!turn.goes_on_after(1 << 20) && turn.is_over());
        // Over is over.
        assert!(!turn.goes_on());
    }
}
