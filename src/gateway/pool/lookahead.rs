//! Requests that wait in the lanes of busy workers ([`crate::proto::lookahead`]): which lane gets one, and which are taken back.

use std::rc::Rc;
use std::time::Instant;

use crate::gateway::Gateway;
use crate::gateway::pool::worker::WorkerHandle;
use crate::link::lane::MAX_REQUESTS;
use crate::proto::lookahead::{PATIENCE, lane_limit};

/// The worker that gets a request. It is charged with the request in the pool.
#[derive(Debug)]
pub(super) enum Assigned {
    /// An idle worker.
    Idle(u32),
    /// A busy worker, in whose lane the request waits.
    Busy(Rc<WorkerHandle>),
}

/// Assigns the next request: to an idle worker, or else to a busy one whose lane may hold it. Where each processor has a worker with a short
/// request, an idle worker could only run in turns with these, so a busy one comes first, which need not be woken.
pub(super) fn assign(gateway: &Gateway, now: Instant) -> Option<Assigned> {
    let is_crowded = gateway.pool.borrow().busy() >= gateway.processors
        && gateway.lanes.count(|worker| is_prompt(worker, now)) >= gateway.processors;
    if is_crowded && let Some(busy) = assign_ahead(gateway, now) {
        return Some(busy);
    }
    let idle = gateway.pool.borrow_mut().assign(now).map(Assigned::Idle);
    if is_crowded { idle } else { idle.or_else(|| assign_ahead(gateway, now)) }
}

/// Undoes [`assign`] for a request that is not sent.
pub(super) fn unassign(gateway: &Gateway, assigned: &Assigned, now: Instant) {
    let mut pool = gateway.pool.borrow_mut();
    match assigned {
        Assigned::Idle(worker) => pool.unassign(*worker, now),
        Assigned::Busy(worker) => pool.unassign_ahead(worker.name().worker),
    }
}

/// Assigns the next request to the busy worker with the fewest waiting ones.
fn assign_ahead(gateway: &Gateway, now: Instant) -> Option<Assigned> {
    let worker = least_busy(gateway, now)?;
    gateway.pool.borrow_mut().assign_ahead(worker.name().worker).then_some(Assigned::Busy(worker))
}

fn least_busy(gateway: &Gateway, now: Instant) -> Option<Rc<WorkerHandle>> {
    // In development one worker runs one request at a time, which is easier to follow.
    if gateway.mode.development || gateway.queue.borrow().is_overloaded() {
        return None;
    }
    let limit = lane_limit(gateway.metrics.median_service(), MAX_REQUESTS);
    let pool = gateway.pool.borrow();
    gateway.lanes.least_busy(|worker| {
        worker.ahead() + 1 < limit
            && worker.runs_from_lane()
            && !worker.is_ending()
            && is_prompt(worker, now)
            && pool.may_assign_ahead(worker.name().worker)
    })
}

/// Whether the worker's request has not run for long.
pub(super) fn is_prompt(worker: &WorkerHandle, now: Instant) -> bool {
    worker.run().is_some_and(|run| now.saturating_duration_since(run.dispatched_at()) < PATIENCE)
}

/// Takes back the requests that wait in a worker's lane. They go to the queue, each at its old place.
pub(super) fn take_back(gateway: &Gateway, worker: &WorkerHandle) {
    while let Some((place, request)) = worker.take_back() {
        gateway.pool.borrow_mut().unassign_ahead(worker.name().worker);
        request.response.assign(|assignment| assignment.worker = None);
        gateway.requeue(place, request);
    }
}
