//! The places in a lane's memory.

/// Most requests that are in a lane: the running one and those that wait.
pub const MAX_REQUESTS: usize = 16;

/// Most bytes of a request in a lane. A longer one goes over the socket.
pub const MAX_LANE_REQUEST: usize = 16 * 1024;

/// Most bytes of a packet in a lane. A longer one goes over the socket.
pub const MAX_LANE_PACKET: usize = 16 * 1024;

/// The words before the bytes of a packet.
pub(super) const PACKET_HEAD: usize = 2;

/// The words of a lane's memory.
pub const WORDS: usize = SIZES.words();

/// The sizes of a lane.
pub(super) const SIZES: Sizes =
    Sizes { requests: MAX_REQUESTS, request_words: 4 * 1024, response_words: 8 * 1024 };

/// The words between two that different sides write: two lines of the cache, since processors fetch lines in pairs.
const APART: usize = 16;

/// The number of words that control a lane, each apart from the others.
const CONTROLS: usize = 7;

/// The sizes of the parts of a lane's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Requests in the lane, at most.
    pub(super) requests: usize,
    /// Words of the ring of requests.
    pub(super) request_words: usize,
    /// Words of the ring of packets.
    pub(super) response_words: usize,
}

impl Sizes {
    /// The words of the whole memory.
    pub(super) const fn words(self) -> usize {
        CONTROLS * APART + self.requests + self.request_words + self.response_words
    }
}

/// The parts of a lane's memory. "Gateway" and "worker" say who writes.
pub(super) struct Parts<'m, W> {
    /// [`Window`](super::window::Window). Gateway and worker.
    pub(super) window: &'m W,
    /// 1 while the worker sleeps or is about to. The gateway swaps it for 0 before it sends a wake-up, the worker when it is awake. Gateway and
    /// worker.
    pub(super) worker_sleeps: &'m W,
    /// The number of orders that were sent over the socket. Gateway.
    pub(super) orders: &'m W,
    /// 1 while the server is loaded, and its processes are scheduled in batches. Gateway.
    pub(super) batch: &'m W,
    /// Words of packets written since the lane was made. Worker.
    pub(super) written: &'m W,
    /// Words of packets read since the lane was made. Gateway.
    pub(super) read: &'m W,
    /// 1 while the gateway sleeps or is about to, like `worker_sleeps`.
    pub(super) gateway_sleeps: &'m W,
    /// The place of each request: its first word in the upper half, its length in bytes in the lower half. Gateway.
    pub(super) places: &'m [W],
    /// The ring of requests. Gateway.
    pub(super) requests: &'m [W],
    /// The ring of packets, each led by two words: the number of packets that were sent over the socket before it in the upper half of the
    /// first, its length in bytes in the lower half; the time at which it was sent. Worker.
    pub(super) responses: &'m [W],
}

impl<'m, W> Parts<'m, W> {
    /// Divides a memory of [`Sizes::words`] words.
    pub(super) fn new(memory: &'m [W], sizes: Sizes) -> Self {
        let (controls, rest) = memory.split_at(CONTROLS * APART);
        let (places, rest) = rest.split_at(sizes.requests);
        let (requests, rest) = rest.split_at(sizes.request_words);
        let responses = &rest[..sizes.response_words];
        let control = |number: usize| &controls[number * APART];
        Self {
            window: control(0),
            worker_sleeps: control(1),
            orders: control(2),
            batch: control(3),
            written: control(4),
            read: control(5),
            gateway_sleeps: control(6),
            places,
            requests,
            responses,
        }
    }
}

/// A word of two halves: the upper one, the lower one.
pub(super) fn halves(upper: u32, lower: u32) -> u64 {
    u64::from(upper) << 32 | u64::from(lower)
}

/// The halves of a word: the upper one, the lower one.
#[allow(clippy::cast_possible_truncation, reason = "a half is what remains")]
pub(super) fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// A place or a length in a lane, as half a word.
pub(super) fn half(number: usize) -> u32 {
    u32::try_from(number).expect("a lane has less than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_request_and_packet_fit_an_empty_lane_twice() {
        const { assert!(2 * MAX_LANE_REQUEST <= SIZES.request_words * 8) }
        const { assert!(2 * (MAX_LANE_PACKET + 8 * PACKET_HEAD) <= SIZES.response_words * 8) }
        // The numbers of requests wrap around, and their places with them.
        const { assert!(MAX_REQUESTS.is_power_of_two()) }
        assert_eq!(split(halves(7, u32::MAX)), (7, u32::MAX));
    }
}
