//! Requests that wait in the lanes of busy workers ([`crate::proto::lookahead`]): which lane gets one, and which are taken back.

use std::rc::Rc;
use std::time::Instant;

use crate::gateway::Gateway;
use crate::gateway::pool::worker::WorkerHandle;
use crate::link::lane::MAX_REQUESTS;
use crate::proto::lookahead::{PATIENCE, lane_limit};

/// The busy worker whose lane gets the next request: the one with the fewest. It is charged with the request in the pool.
pub(super) fn assign(gateway: &Gateway, now: Instant) -> Option<Rc<WorkerHandle>> {
    let worker = choose(gateway, now)?;
    gateway.pool.borrow_mut().assign_ahead(worker.name().worker).then_some(worker)
}

/// Whether [`assign`] would find a worker.
pub(super) fn is_possible(gateway: &Gateway, now: Instant) -> bool {
    choose(gateway, now).is_some()
}

fn choose(gateway: &Gateway, now: Instant) -> Option<Rc<WorkerHandle>> {
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
