//! The lanes of the workers that the event loop polls.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use tracing::warn;

use crate::gateway::pool::worker::WorkerHandle;
use crate::gateway::pool::worker_lane::WorkerLane;
use crate::link::lane::{GatewayLane, MAX_LANE_PACKET};
use crate::os::monotonic::Moment;
use crate::os::shared_memory::SharedMemory;
use crate::proto::batching::Batching;

/// The lanes of all workers.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// The workers whose lanes the loop polls: those with a request, and those that have sent something.
    polled: RefCell<Vec<Rc<WorkerHandle>>>,
    /// Room for a packet.
    pub(super) packet: RefCell<Vec<u8>>,
    /// Translates the times of packets.
    moment: Moment,
    batching: RefCell<Batching>,
    /// Whether the kernel has refused to schedule a process in batches, which is logged once.
    refused: Cell<bool>,
    /// Whether a lane could not be made, which is logged once.
    lacking: Cell<bool>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Self {
            polled: RefCell::default(),
            packet: RefCell::new(vec![0; MAX_LANE_PACKET]),
            moment: Moment::now(),
            batching: RefCell::new(Batching::new()),
            refused: Cell::new(false),
            lacking: Cell::new(false),
        }
    }

    /// Has the loop poll the lane of a worker.
    pub(super) fn poll(&self, worker: &Rc<WorkerHandle>) {
        if worker.lane().is_some_and(|lane| lane.begin_polling()) {
            self.polled.borrow_mut().push(Rc::clone(worker));
        }
    }

    /// The polled worker with the fewest waiting requests among those that `fits` selects.
    pub(super) fn least_busy(&self, fits: impl Fn(&WorkerHandle) -> bool) -> Option<Rc<WorkerHandle>> {
        let polled = self.polled.borrow();
        polled.iter().filter(|worker| fits(worker)).min_by_key(|worker| worker.ahead()).map(Rc::clone)
    }

    /// The number of polled workers that `fits` selects.
    pub(super) fn count(&self, fits: impl Fn(&WorkerHandle) -> bool) -> usize {
        self.polled.borrow().iter().filter(|worker| fits(worker)).count()
    }

    /// The workers whose lanes the loop polls: all that have a request in their lane, and some that have none.
    pub(super) fn polled(&self) -> Vec<Rc<WorkerHandle>> {
        self.polled.borrow().iter().map(Rc::clone).collect()
    }

    /// Whether processes are scheduled in batches now.
    pub(super) fn is_batch(&self) -> bool {
        self.batching.borrow().is_on()
    }

    /// Logs, once, that a worker has no lane.
    pub(super) fn log_lacking(&self, error: &std::io::Error) {
        if !self.lacking.replace(true) {
            let cause = crate::log::cause(error);
            warn!(%cause, "workers get no shared memory, and every request goes over a socket, which is slower");
        }
    }

    /// The time at which a worker says that it sent a packet. Never later than `now`.
    pub(super) fn sent_at(&self, nanos: u64, now: Instant) -> Instant {
        let sent_at = self.moment.instant_of(nanos).map_or(now, |sent_at| sent_at.min(now));
        self.batching.borrow_mut().observe_delay(now - sent_at);
        sent_at
    }

    /// Ends the polling of a worker that is gone.
    pub(super) fn forget(&self, worker: &WorkerHandle) {
        self.polled.borrow_mut().retain(|polled| !std::ptr::eq(&**polled, worker));
    }

    /// Calls `act` for each polled worker, also for those that are added meanwhile.
    pub(super) fn each(&self, mut act: impl FnMut(&Rc<WorkerHandle>)) {
        let mut index = 0;
        loop {
            let worker = self.polled.borrow().get(index).map(Rc::clone);
            let Some(worker) = worker else { return };
            act(&worker);
            index += 1;
        }
    }

    /// Wakes the workers that sleep and have a request.
    pub(super) fn wake_workers(&self) {
        let polled = self.polled.borrow();
        let lanes = || polled.iter().filter_map(|worker| Some((worker, worker.lane()?)));
        if lanes().any(|(_, lane)| lane.is_pushed()) {
            GatewayLane::<SharedMemory>::fence();
            lanes().filter(|(_, lane)| lane.take_sleeper()).for_each(|(worker, _)| worker.wake());
        }
    }

    /// Says that the loop does not sleep.
    pub(super) fn wake(&self) {
        self.polled.borrow().iter().filter_map(|worker| worker.lane()).for_each(WorkerLane::wake);
    }

    /// Says that the loop sleeps. Returns whether it may.
    pub(super) fn sleep(&self) -> bool {
        let mut polled = self.polled.borrow_mut();
        polled.iter().filter_map(|worker| worker.lane()).for_each(WorkerLane::sleep);
        GatewayLane::<SharedMemory>::fence();
        if polled.iter().filter_map(|worker| worker.lane()).any(|lane| lane.is_ready()) {
            return false;
        }
        polled.retain(|worker| worker.lane().is_some_and(|lane| !lane.end_polling()));
        true
    }

    /// Takes the load into account when the loop is about to sleep. Returns whether processes are to be scheduled in batches, if that
    /// changes.
    pub(super) fn observe_load(&self, queued: usize) -> Option<bool> {
        let running =
            self.polled.borrow().iter().filter_map(|worker| worker.lane()).map(WorkerLane::len).sum();
        self.batching.borrow_mut().observe(running, queued, Instant::now()).filter(|_| !self.refused.get())
    }

    /// Logs, once, that the kernel refuses to schedule processes in batches. It is not asked again.
    pub(super) fn log_refused(&self, error: &std::io::Error) {
        self.refused.set(true);
        let cause = crate::log::cause(error);
        warn!(%cause, "processes are not scheduled in batches, so that they interrupt each other under load");
    }
}
