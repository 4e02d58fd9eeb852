//! The gateway's side of a lane.

use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::atomic::Ordering;

use super::Corrupt;
use super::layout::{
    MAX_LANE_PACKET, MAX_LANE_REQUEST, PACKET_HEAD, Parts, SIZES, Sizes, half, halves, split,
};
use super::window::Window;
use super::word::{Word, position, read, words_for, write};

/// The word of claims as none may write it.
const CLAIMS: Corrupt = Corrupt("claims of requests that it does not have");

/// The gateway's side of a lane, over memory of [`WORDS`](super::WORDS) words that are all 0 at first.
#[derive(Debug)]
pub struct GatewayLane<M> {
    memory: M,
    sizes: Sizes,
    /// The words of each request in the lane, the oldest first. The oldest may be answered in part.
    requests: VecDeque<u64>,
    /// Requests pushed, without those taken back.
    pushed: u32,
    /// The word after the last request, counted over all rounds of the ring.
    end: u64,
    /// The word of the next packet, counted over all rounds of the ring.
    next_packet: u64,
    /// The words of packets written since the lane was made, once the worker is gone. Until then the memory says it.
    closed_at: Option<u64>,
    /// Packets received over the socket.
    socket_packets: u32,
    /// Orders sent over the socket.
    orders: u64,
}

impl<M: Deref<Target = [W]>, W: Word> GatewayLane<M> {
    /// A lane without requests. The gateway counts as asleep at first.
    pub fn new(memory: M) -> Self {
        Self::with_sizes(memory, SIZES)
    }

    pub(super) fn with_sizes(memory: M, sizes: Sizes) -> Self {
        let lane = Self {
            memory,
            sizes,
            requests: VecDeque::with_capacity(sizes.requests),
            pushed: 0,
            end: 0,
            next_packet: 0,
            closed_at: None,
            socket_packets: 0,
            orders: 0,
        };
        lane.sleep();
        lane
    }

    fn parts(&self) -> Parts<'_, W> {
        Parts::new(&self.memory, self.sizes)
    }

    // Requests.

    /// The number of requests in the lane: the running request and the waiting ones.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether no request is in the lane.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Pushes a request. False where it has no room. The worker is not woken: see [`Self::take_sleeper`].
    ///
    /// # Errors
    /// If the worker has changed the word of claims as none may.
    pub fn push(&mut self, request: &[u8]) -> Result<bool, Corrupt> {
        let words = words_for(request.len());
        let used: u64 = self.requests.iter().sum();
        if request.len() > MAX_LANE_REQUEST
            || self.requests.len() == self.sizes.requests
            || used + words > self.sizes.request_words as u64
        {
            return Ok(false);
        }
        if self.requests.is_empty() {
            // Few requests use the first pages of the ring alone.
            self.end = 0;
        }
        let parts = self.parts();
        write(parts.requests, self.end, request);
        let place = half(position(parts.requests, self.end));
        let index = position(parts.places, u64::from(self.pushed));
        parts.places[index].store(halves(place, half(request.len())), Ordering::Relaxed);
        self.change(|window, word| window.push(word).then_some(true))?;
        self.requests.push_back(words);
        self.pushed = self.pushed.wrapping_add(1);
        self.end += words;
        Ok(true)
    }

    /// Takes back the request that was pushed last. False where the worker has claimed it, or none is there.
    ///
    /// # Errors
    /// If the worker has changed the word of claims as none may.
    pub fn take_back(&mut self) -> Result<bool, Corrupt> {
        let taken = self.change(|window, word| match window.waiting() {
            0 => Some(false),
            _ => window.take_back(word).then_some(true),
        })?;
        if taken {
            self.pushed = self.pushed.wrapping_sub(1);
            self.end -= self.requests.pop_back().unwrap_or(0);
        }
        Ok(taken)
    }

    /// Whether the worker has claimed the oldest request in the lane, so that it may have reached Lua. False without a request.
    ///
    /// # Errors
    /// If the worker has changed the word of claims as none may.
    pub fn is_claimed(&self) -> Result<bool, Corrupt> {
        Ok((self.window()?.waiting() as usize) < self.requests.len())
    }

    /// Records that the worker is done with the oldest request.
    pub fn finish(&mut self) {
        self.requests.pop_front();
    }

    /// Changes the word of claims. `attempt` returns `None` where the worker has changed it at the same time, and is called again. An intact
    /// worker does so for each request at most.
    fn change(&self, attempt: impl Fn(Window, &W) -> Option<bool>) -> Result<bool, Corrupt> {
        for _ in 0..=self.requests.len() {
            if let Some(done) = attempt(self.window()?, self.parts().window) {
                return Ok(done);
            }
        }
        Err(CLAIMS)
    }

    /// The word of claims, checked.
    fn window(&self) -> Result<Window, Corrupt> {
        let window = Window::load(self.parts().window);
        if window.pushed == self.pushed && window.waiting() as usize <= self.requests.len() {
            Ok(window)
        } else {
            Err(CLAIMS)
        }
    }

    // Packets.

    /// Receives the next packet into `buffer` ([`MAX_LANE_PACKET`] bytes), and returns its length and the time at which the worker says that
    /// it sent it. `None` without a packet, and where a packet on the socket comes first.
    ///
    /// # Errors
    /// If an intact worker would not have written such a packet.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<(usize, u64)>, Corrupt> {
        let Some((length, available)) = self.next_packet()? else { return Ok(None) };
        let words = PACKET_HEAD as u64 + words_for(length);
        if length == 0 {
            return Err(Corrupt("an empty packet"));
        }
        if length > MAX_LANE_PACKET || words > available {
            return Err(Corrupt("a packet that is longer than its lane"));
        }
        let parts = self.parts();
        let sent_at =
            parts.responses[position(parts.responses, self.next_packet + 1)].load(Ordering::Relaxed);
        read(parts.responses, self.next_packet + PACKET_HEAD as u64, &mut buffer[..length]);
        parts.read.store(self.next_packet + words, Ordering::Release);
        self.next_packet += words;
        Ok(Some((length, sent_at)))
    }

    /// Whether [`Self::receive`] would return a packet or an error.
    pub fn has_packet(&self) -> bool {
        !matches!(self.next_packet(), Ok(None))
    }

    /// The words of packets that are received, and of those that are written, since the lane was made.
    pub fn progress(&self) -> (u64, u64) {
        (self.next_packet, self.written())
    }

    fn written(&self) -> u64 {
        self.closed_at.unwrap_or_else(|| self.parts().written.load(Ordering::Acquire))
    }

    /// The length of the next packet in bytes, and the words that are written; `None` without a packet, and where a packet on the socket
    /// comes first.
    fn next_packet(&self) -> Result<Option<(usize, u64)>, Corrupt> {
        let parts = self.parts();
        let available = self.written().wrapping_sub(self.next_packet);
        if available == 0 {
            return Ok(None);
        }
        if available > self.sizes.response_words as u64 {
            return Err(Corrupt("more packets than its lane holds"));
        }
        let head = &parts.responses[position(parts.responses, self.next_packet)];
        let (before, length) = split(head.load(Ordering::Relaxed));
        match before.wrapping_sub(self.socket_packets).cast_signed() {
            0 => Ok(Some((length as usize, available))),
            1.. => Ok(None),
            ..0 => Err(Corrupt("packets in the wrong order")),
        }
    }

    /// Records that the worker is gone: what is written now comes from a process that it has forked, and is not received.
    pub fn close(&mut self) {
        self.closed_at = Some(self.written());
    }

    /// Records that a packet was received over the socket.
    pub fn socket_packet_received(&mut self) {
        self.socket_packets = self.socket_packets.wrapping_add(1);
    }

    // Orders and sleep.

    /// Records that an order was sent over the socket, for a worker that does not sleep.
    pub fn order_sent(&mut self) {
        self.orders += 1;
        self.parts().orders.store(self.orders, Ordering::Release);
    }

    /// Has the worker scheduled in batches, or as usual.
    pub fn set_batch(&self, batch: bool) {
        self.parts().batch.store(batch.into(), Ordering::Relaxed);
    }

    /// Whether the worker sleeps and has a request to claim, so that the caller must wake it. To be called after a
    /// [`fence`](Self::fence) that follows the push.
    pub fn take_sleeper(&self) -> bool {
        let sleeps = self.parts().worker_sleeps;
        sleeps.load(Ordering::Relaxed) != 0 && sleeps.swap(0, Ordering::AcqRel) != 0
    }

    /// Says that the gateway is about to sleep. It may sleep if after a following [`fence`](Self::fence) there is still no
    /// [packet](Self::has_packet).
    pub fn sleep(&self) {
        self.parts().gateway_sleeps.store(1, Ordering::Relaxed);
    }

    /// Says that the gateway does not sleep: it looks at the lane again before it does.
    pub fn wake(&self) {
        self.parts().gateway_sleeps.store(0, Ordering::Relaxed);
    }

    /// The fence between a write to lanes and a look at them, for all lanes at once.
    pub fn fence() {
        W::fence();
    }
}
