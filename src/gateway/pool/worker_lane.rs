//! The gateway's end of one worker's lane, with what the event loop must know of it.

use std::cell::{Cell, RefCell};

use crate::link::lane::{Corrupt, GatewayLane};
use crate::os::shared_memory::SharedMemory;

/// The end of a lane.
#[derive(Debug)]
pub(super) struct WorkerLane {
    lane: RefCell<GatewayLane<SharedMemory>>,
    /// Whether the lane is in the list of those that the event loop polls.
    polled: Cell<bool>,
    /// Whether a request was pushed for which the worker may have to be woken.
    pushed: Cell<bool>,
    /// Whether the relay waits for the client before it receives more.
    held_up: Cell<bool>,
}

impl WorkerLane {
    pub(super) fn new(lane: GatewayLane<SharedMemory>) -> Self {
        Self {
            lane: RefCell::new(lane),
            polled: Cell::new(false),
            pushed: Cell::new(false),
            held_up: Cell::new(false),
        }
    }

    /// Pushes a request. False where it has no room.
    pub(super) fn push(&self, request: &[u8]) -> Result<bool, Corrupt> {
        let pushed = self.lane.borrow_mut().push(request)?;
        self.pushed.set(self.pushed.get() || pushed);
        Ok(pushed)
    }

    /// Takes back the request that was pushed last, unless the worker has claimed it.
    pub(super) fn take_back(&self) -> Result<bool, Corrupt> {
        self.lane.borrow_mut().take_back()
    }

    /// Whether the worker has claimed the oldest request in the lane.
    pub(super) fn is_claimed(&self) -> Result<bool, Corrupt> {
        self.lane.borrow().is_claimed()
    }

    /// Records that the worker is done with the oldest request in the lane.
    pub(super) fn finish(&self) {
        self.lane.borrow_mut().finish();
    }

    /// The requests in the lane, the running one included.
    pub(super) fn len(&self) -> usize {
        self.lane.borrow().len()
    }

    /// Receives the next packet: its length, and the time at which it was sent.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<Option<(usize, u64)>, Corrupt> {
        self.lane.borrow_mut().receive(buffer)
    }

    /// Records that the worker is gone.
    pub(super) fn close(&self) {
        self.lane.borrow_mut().close();
    }

    /// Records that a packet was received over the socket.
    pub(super) fn socket_packet_received(&self) {
        self.lane.borrow_mut().socket_packet_received();
    }

    /// Records that an order was sent over the socket.
    pub(super) fn order_sent(&self) {
        self.lane.borrow_mut().order_sent();
    }

    pub(super) fn set_batch(&self, batch: bool) {
        self.lane.borrow().set_batch(batch);
    }

    /// Whether the loop is to poll the lane and does not yet.
    pub(super) fn begin_polling(&self) -> bool {
        let begins = !self.polled.replace(true);
        if begins {
            self.lane.borrow().wake();
        }
        begins
    }

    /// Notes whether the relay waits for the client before it receives more.
    pub(super) fn hold_up(&self, held_up: bool) {
        self.held_up.set(held_up);
    }

    /// Whether the event loop may receive packets.
    pub(super) fn is_open(&self) -> bool {
        !self.held_up.get()
    }

    /// Whether a worker that sleeps has to be woken for a request. To be called after a fence that follows the push.
    pub(super) fn take_sleeper(&self) -> bool {
        self.pushed.take() && self.lane.borrow().take_sleeper()
    }

    /// Whether a request was pushed since [`Self::take_sleeper`].
    pub(super) fn is_pushed(&self) -> bool {
        self.pushed.get()
    }

    /// Says that the event loop sleeps. Not for a lane that is held up: its relay looks at it before anything else.
    pub(super) fn sleep(&self) {
        if self.is_open() {
            self.lane.borrow().sleep();
        }
    }

    pub(super) fn wake(&self) {
        self.lane.borrow().wake();
    }

    /// Whether [`Self::receive`] would return a packet or an error.
    pub(super) fn has_packet(&self) -> bool {
        self.lane.borrow().has_packet()
    }

    /// The words of packets that are received, and of those that are written.
    pub(super) fn progress(&self) -> (u64, u64) {
        self.lane.borrow().progress()
    }

    /// Whether there is a packet that the event loop may receive.
    pub(super) fn is_ready(&self) -> bool {
        self.is_open() && self.has_packet()
    }

    /// Ends the polling of a lane without requests, after [`Self::sleep`] and a look for packets. Whether it ended.
    pub(super) fn end_polling(&self) -> bool {
        let ends = self.len() == 0 && self.is_open();
        if ends {
            self.polled.set(false);
        }
        ends
    }
}
