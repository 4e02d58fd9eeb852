//! The worker's side of a lane.

use std::ops::Deref;
use std::sync::atomic::Ordering;

use super::layout::{MAX_LANE_PACKET, PACKET_HEAD, Parts, SIZES, Sizes, half, halves, split};
use super::window::Window;
use super::word::{Word, position, read, words_for, write};

/// The worker's side of a lane.
#[derive(Debug)]
pub struct WorkerLane<M> {
    memory: M,
    sizes: Sizes,
    /// The words of packets written since the lane was made.
    written: u64,
    /// The words of them that the gateway is known to have read.
    read: u64,
    /// Packets sent over the socket.
    socket_packets: u32,
}

impl<M: Deref<Target = [W]>, W: Word> WorkerLane<M> {
    /// The worker's side of a lane that is new.
    pub fn new(memory: M) -> Self {
        Self::with_sizes(memory, SIZES)
    }

    pub(super) fn with_sizes(memory: M, sizes: Sizes) -> Self {
        Self { memory, sizes, written: 0, read: 0, socket_packets: 0 }
    }

    fn parts(&self) -> Parts<'_, W> {
        Parts::new(&self.memory, self.sizes)
    }

    // Requests.

    /// Whether a request waits.
    pub fn has_request(&self) -> bool {
        Window::load(self.parts().window).waiting() > 0
    }

    /// Claims the oldest waiting request, and copies it into `request`. False without one.
    pub fn claim(&self, request: &mut Vec<u8>) -> bool {
        let parts = self.parts();
        let claimed = loop {
            let window = Window::load(parts.window);
            if window.waiting() == 0 {
                return false;
            }
            if window.claim(parts.window) {
                break window.claimed;
            }
        };
        let place = &parts.places[position(parts.places, u64::from(claimed))];
        let (start, length) = split(place.load(Ordering::Relaxed));
        request.resize(length as usize, 0);
        read(parts.requests, u64::from(start), request);
        true
    }

    // Packets.

    /// Writes a packet, with the time now: nanoseconds of a clock that both processes read. False where it has no room, and is to be sent
    /// over the socket. The gateway is not woken: see [`Self::take_sleeper`].
    pub fn send(&mut self, packet: &[u8], now: impl FnOnce() -> u64) -> bool {
        let parts = Parts::new(&self.memory, self.sizes);
        let words = PACKET_HEAD as u64 + words_for(packet.len());
        let room = |read: u64| self.sizes.response_words as u64 - (self.written - read);
        if packet.len() > MAX_LANE_PACKET {
            return false;
        }
        if room(self.read) < words {
            self.read = parts.read.load(Ordering::Acquire);
            if room(self.read) < words {
                return false;
            }
        }
        let head = &parts.responses[position(parts.responses, self.written)];
        head.store(halves(self.socket_packets, half(packet.len())), Ordering::Relaxed);
        parts.responses[position(parts.responses, self.written + 1)].store(now(), Ordering::Relaxed);
        write(parts.responses, self.written + PACKET_HEAD as u64, packet);
        self.written += words;
        parts.written.store(self.written, Ordering::Release);
        true
    }

    /// Whether the gateway sleeps, so that the caller must wake it. To be called after a packet was written.
    pub fn take_sleeper(&self) -> bool {
        W::fence();
        let sleeps = self.parts().gateway_sleeps;
        sleeps.load(Ordering::Relaxed) != 0 && sleeps.swap(0, Ordering::AcqRel) != 0
    }

    /// Records that a packet was sent over the socket.
    pub fn socket_packet_sent(&mut self) {
        self.socket_packets = self.socket_packets.wrapping_add(1);
    }

    // Orders and sleep.

    /// The number of orders that the gateway has sent over the socket.
    pub fn orders(&self) -> u64 {
        self.parts().orders.load(Ordering::Acquire)
    }

    /// Whether the worker is to be scheduled in batches.
    pub fn wants_batch(&self) -> bool {
        self.parts().batch.load(Ordering::Relaxed) != 0
    }

    /// Says that the worker is about to sleep. False where a request has come meanwhile, and it must not.
    pub fn sleep(&self) -> bool {
        self.parts().worker_sleeps.store(1, Ordering::Relaxed);
        W::fence();
        if self.has_request() {
            self.wake();
            return false;
        }
        true
    }

    /// Says that the worker does not sleep.
    pub fn wake(&self) {
        self.parts().worker_sleeps.swap(0, Ordering::AcqRel);
    }
}
