//! The dispatch of complete requests: to an idle worker at once, from the queue, or with a refusal.
//!
//! Connections submit requests, and the pool dispatches them whenever a worker may have become idle. Never waits. Of the pool, calls
//! only the handles of workers.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::warn;

use crate::cgi::{Variables, request_start};
use crate::config::{ParamName, PriorityParam};
use crate::fastcgi::Role;
use crate::gateway::Gateway;
use crate::gateway::Load;
use crate::gateway::events::SupervisorEvent;
use crate::gateway::pool::lookahead::{self, Assigned};
use crate::gateway::pool::worker::DispatchError;
use crate::gateway::request::Request;
use crate::gateway::sleep_until;
use crate::proto::connection::Assignment;
use crate::proto::queue::{Place, Rejected};
use crate::proto::request_end::{RejectReason, RequestIds};

/// Submits a complete request: an idle worker gets it, or it is queued, or refused.
pub(crate) fn submit(gateway: &Gateway, mut request: Box<Request>) {
    if !request.take_share() {
        return request.reject(RejectReason::Memory, 503, "no memory is left for it");
    }
    if gateway.mode.development
        && let Load::Failed(message) = &gateway.mode.code.borrow().load
    {
        request.response.stderr(message.as_bytes());
        return request.fail(500, "the application does not load", None);
    }
    let came = request.came;
    if gateway.config.borrow().server_timing && request.role != Role::Authorizer {
        request.response.writer.add_server_timing(came);
    }
    let place = gateway.queue.borrow_mut().place(came, request.head_start, is_marked(gateway, &request));
    request.response.assign(|assignment| assignment.place = Some(place));
    let assigned = if gateway.queue.borrow().is_empty() { lookahead::assign(gateway, came) } else { None };
    let request = match assigned {
        Some(assigned) => match send_to(gateway, &assigned, place, request, came) {
            None => return,
            Some(request) => request,
        },
        None => request,
    };
    if let Some(wait) = gateway.pool.borrow().down_for(came) {
        return request.reject_for(RejectReason::Down, 503, "the application does not start", wait);
    }
    if let Some(why) = gateway.given_up.get() {
        return request.reject(RejectReason::Down, 503, why);
    }
    let turned = gateway.queue.borrow_mut().push(place, request, came);
    gateway.queued.notify_one();
    want_worker(gateway, came);
    match turned {
        None => {}
        Some(Rejected { item: request, overload: None }) => {
            request.reject(RejectReason::QueueFull, 503, "the queue is full");
        }
        Some(Rejected { item, overload: Some(wait) }) => refuse_overloaded(item, wait),
    }
}

/// Whether the proxy has marked a request for priority (`--queue-priority`).
fn is_marked(gateway: &Gateway, request: &Request) -> bool {
    let config = gateway.config.borrow();
    let Some(PriorityParam(name)) = &config.queue_priority else { return false };
    let value = request.variables.get(name.as_bytes());
    value.is_some_and(|value| !matches!(value, b"" | b"0"))
}

/// The time that a request spent at the proxy before `since`, when its parameters were complete (`--request-start`).
pub(crate) fn head_start(gateway: &Gateway, variables: &Variables, since: Instant) -> Duration {
    let config = gateway.config.borrow();
    let Some(ParamName(name)) = &config.request_start else { return Duration::ZERO };
    let Some(value) = variables.get(name.as_bytes()) else { return Duration::ZERO };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    request_start::time_before(value, now.saturating_sub(since.elapsed()))
}

/// Whether a generation is loading or the pool is growing, so that more workers will be ready soon.
fn pool_grows(gateway: &Gateway) -> bool {
    gateway.reloading.get() || gateway.pool.borrow().is_growing()
}

/// Records that no request waits for a worker any more, if the queue is empty. Called when a worker is free.
pub(super) fn clear_wanting(gateway: &Gateway) {
    if gateway.queue.borrow().is_empty() && gateway.server_state.get().wanting_since.is_some() {
        gateway.update_server_state(|state| state.wanting_since = None);
    }
}

/// Refuses the requests in the queue and all later ones for this reason. No request gets a worker any more.
pub(crate) fn refuse_for_good(gateway: &Gateway, why: &'static str) {
    gateway.given_up.set(Some(why));
    while let Some(request) = pop(gateway) {
        request.reject(RejectReason::Down, 503, why);
    }
}

/// Records that requests wait in the queue, and notifies the supervisor.
fn want_worker(gateway: &Gateway, now: Instant) {
    gateway.update_server_state(|state| state.wanting_since = state.wanting_since.or(Some(now)));
    request_growth(gateway);
}

/// Dispatches requests that were taken back from a lane. Those that no worker takes wait in the queue like new ones.
pub(super) fn dispatch_again(gateway: &Gateway) {
    dispatch(gateway);
    if !gateway.queue.borrow().is_empty() {
        want_worker(gateway, Instant::now());
    }
}

/// Notifies the supervisor of waiting requests, once for all of them.
fn request_growth(gateway: &Gateway) {
    let helps = {
        let pool = gateway.pool.borrow();
        pool.can_grow() || pool.has_nobody()
    };
    if helps && !gateway.demand.replace(true) {
        gateway.supervisor_events.send(SupervisorEvent::Demand);
    }
}

/// Refuses every request in the queue while there is no worker and the next fork is delayed.
pub(super) fn refuse_while_down(gateway: &Gateway) {
    while let Some(wait) = gateway.pool.borrow().down_for(Instant::now())
        && let Some(request) = pop(gateway)
    {
        request.reject_for(RejectReason::Down, 503, "the application does not start", wait);
    }
}

/// Dispatches waiting requests to idle workers until one of them runs out.
pub(super) fn dispatch(gateway: &Gateway) {
    while !gateway.queue.borrow().is_empty() {
        let now = Instant::now();
        let Some(assigned) = lookahead::assign(gateway, now) else { return };
        let Some((place, request)) = next_request(gateway, now) else {
            return lookahead::unassign(gateway, &assigned, now);
        };
        if let Some(request) = send_to(gateway, &assigned, place, request, now) {
            return gateway.requeue(place, request);
        }
    }
}

/// Sends a request to its assigned worker. Returns it if it has to wait in the queue, since the lane of the busy worker has no room.
fn send_to(
    gateway: &Gateway,
    assigned: &Assigned,
    place: Place,
    mut request: Box<Request>,
    now: Instant,
) -> Option<Box<Request>> {
    // An Authorizer's body is held back with its head, and a Filter's is made anew.
    request.takes_file =
        request.role == Role::Responder && gateway.spool.takes_files(gateway.workers.count());
    match assigned {
        Assigned::Idle(worker) => {
            send_to_idle(gateway, *worker, place, request, now);
            None
        }
        Assigned::Busy(worker) => {
            let refused = worker.dispatch_ahead(place, request, &mut gateway.request_packet.borrow_mut());
            match &refused {
                Some(_) => lookahead::unassign(gateway, assigned, now),
                None => gateway.looked_ahead.notify_one(),
            }
            refused
        }
    }
}

/// Sends a request to its assigned worker, which is idle.
fn send_to_idle(gateway: &Gateway, worker: u32, place: Place, request: Box<Request>, now: Instant) {
    let dispatched = match gateway.workers.get(worker) {
        Some(handle) => {
            let dispatched = handle.dispatch(request, &mut gateway.request_packet.borrow_mut(), now);
            gateway.lanes.poll(&handle);
            dispatched
        }
        None => Err(DispatchError::Ended(request)),
    };
    match dispatched {
        Ok(()) => {
            if gateway.pool.borrow_mut().take_changed() {
                gateway.supervisor_events.send(SupervisorEvent::PoolChanged);
            }
        }
        // The relay will notice the exit. The worker counts as busy until then, so another worker is next.
        Err(DispatchError::Ended(request)) => {
            gateway.requeue(place, request);
            dispatch(gateway);
        }
        Err(DispatchError::Refused(request, cause)) => {
            gateway.pool.borrow_mut().unassign(worker, Instant::now());
            let RequestIds { request: id, trace_id } = request.ids();
            let cause = crate::log::cause(&cause);
            gateway.log_process_event(|left_out| {
                warn!(worker, request = id, trace_id, cause, left_out, "cannot hand over a request");
            });
            request.reject(RejectReason::NotAssigned, 503, "no worker could take the request");
        }
    }
}

/// The next request of the queue, for a worker.
fn next_request(gateway: &Gateway, now: Instant) -> Option<(Place, Box<Request>)> {
    let was_overloaded = gateway.queue.borrow().is_overloaded();
    let median = gateway.metrics.median_service();
    let next = loop {
        let next = gateway.queue.borrow_mut().take(now, median, || pool_grows(gateway));
        match next {
            // A connection removes the request of a client that leaves. This is the last check before the request runs.
            Some((_, request)) if request.response.is_abandoned() => request.finish(),
            next => break next,
        }
    };
    if !was_overloaded && gateway.queue.borrow().is_overloaded() {
        gateway.queued.notify_one();
        gateway.log_process_event(|left_out| {
            warn!(
                left_out,
                "overloaded: requests wait for longer than --queue-target; the newest go first, and the oldest are refused"
            );
        });
    }
    next
}

/// Removes the next request of the queue, to be refused.
fn pop(gateway: &Gateway) -> Option<Box<Request>> {
    gateway.queue.borrow_mut().pop()
}

/// Gives up a submitted request whose client no longer waits: removes it from the queue, or sends an abort to its worker. `lost`:
/// the gateway lost a part of its response.
pub(crate) fn abandoned(gateway: &Gateway, Assignment { worker, place }: Assignment, lost: bool) {
    let handle = worker.and_then(|number| gateway.workers.get(number));
    if let (Some(handle), Some(place)) = (&handle, place)
        && handle.has_ahead(place)
    {
        // A request that the worker has claimed meanwhile is aborted when it begins.
        lookahead::take_back(gateway, handle);
        if !handle.has_ahead(place) {
            abandoned(gateway, Assignment { worker: None, place: Some(place) }, lost);
        }
        return dispatch_again(gateway);
    }
    if let (Some(handle), Some(place)) = (&handle, place)
        && let Some(run) = handle.run()
    {
        gateway.queue.borrow_mut().left_while_it_ran(place, run.dispatched_at(), Instant::now());
    }
    if worker.is_none()
        && let Some(place) = place
    {
        // Finished after the borrow of the queue.
        let gone = gateway.queue.borrow_mut().give_up(place);
        if let Some(mut gone) = gone {
            if lost {
                gone.response.writer.lose();
            }
            gone.finish();
        }
    }
    if let Some(handle) = handle {
        if lost {
            handle.lose_response();
        }
        handle.abort();
    }
}

/// Submits the waiting requests again. In development each then gets the failure of the newest load as its response.
pub(super) fn resubmit_all(gateway: &Gateway) {
    while let Some(request) = pop(gateway) {
        submit(gateway, request);
    }
}

/// Refuses a request of an overloaded queue. `wait` is the `Retry-After`.
fn refuse_overloaded(request: Box<Request>, wait: Duration) {
    request.reject_for(RejectReason::Overloaded, 503, "more requests come than can be answered", wait);
}

/// Refuses requests that have waited too long.
pub(crate) async fn expire(gateway: Rc<Gateway>) {
    loop {
        let (expiry, refusal) = {
            let queue = gateway.queue.borrow();
            (queue.next_expiry(), queue.next_refusal())
        };
        tokio::select! {
            () = gateway.queued.notified() => {}
            () = gateway.clock.passed(expiry) => {}
            // Not the clock for deadlines: this deadline is long past when an overload begins, which that clock would take for a
            // pause.
            () = sleep_until(refusal) => {}
        }
        let now = Instant::now();
        loop {
            let refused = gateway.queue.borrow_mut().pop_refused(now, || pool_grows(&gateway));
            let Some((request, wait)) = refused else { break };
            refuse_overloaded(request, wait);
        }
        loop {
            let expired = gateway.queue.borrow_mut().pop_expired(gateway.clock.settled());
            let Some(request) = expired else { break };
            request.reject(RejectReason::QueueTimeout, 503, "no worker was free in time");
        }
    }
}
