//! The lifecycle of a worker: updates the pool and the requests when a worker is ready, is measured, or exits.
//!
//! Called by the relays and by the supervisor, calls the dispatch. The supervisor alone forks workers.

use std::time::Instant;

use tracing::{info, warn};

use crate::gateway::Gateway;
use crate::gateway::events::SupervisorEvent;
use crate::gateway::pool::dispatch;
use crate::gateway::pool::lookahead;
use crate::gateway::pool::worker::{TOO_LONG, WorkerHandle, WorkerMemory, WorkerName};
use crate::gateway::telemetry::metrics::WorkerEnd;
use crate::link::message::ToWorker;
use crate::log::Span;
use crate::proto::pool::{Ready, State};
use crate::proto::request_end::RequestIds;
use crate::proto::worker::ExitCause;

/// Handles a worker that is ready for a request, since `ended_at`.
pub(super) fn worker_ready(gateway: &Gateway, worker: &WorkerHandle, ended_at: Instant, now: Instant) {
    let WorkerName { worker: number, generation, .. } = worker.name();
    if worker.ahead() > 0 && gateway.pool.borrow().is_draining(number) {
        lookahead::take_back(gateway, worker);
    }
    let ready = gateway.pool.borrow_mut().ready(number, now);
    match ready {
        Ready::Next => {
            worker.record_ready();
            // Between two requests the worker takes the order, too.
            worker.request_measurement(now, true);
            worker.begin_next(ended_at);
            if gateway.pool.borrow_mut().take_changed() {
                gateway.supervisor_events.send(SupervisorEvent::PoolChanged);
            }
            dispatch::dispatch(gateway);
        }
        Ready::Work => {
            let first = worker.record_ready();
            // Before the worker gets its next request, which may keep it busy for long.
            let again = worker.request_measurement(now, true);
            // A first worker may replace a draining one, which may exit now; a measurement may have to be requested later.
            if first || (again.is_some() && !gateway.measuring.replace(true)) {
                gateway.supervisor_events.send(SupervisorEvent::PoolChanged);
            }
            dispatch::dispatch(gateway);
            dispatch::clear_wanting(gateway);
        }
        Ready::Proved => gateway.supervisor_events.send(SupervisorEvent::FirstReady { generation }),
        Ready::Drain => {
            worker.send(ToWorker::Drain);
            // The worker has a deadline now, which the supervisor keeps.
            gateway.supervisor_events.send(SupervisorEvent::PoolChanged);
            // The worker no longer counts, so another may take a request.
            dispatch::dispatch(gateway);
        }
        // `WorkerProtocol` rules this out.
        Ready::Unexpected => {}
    }
}

/// Handles the exit of a worker's process, and frees its place. Its last packets may still be in relay. A second call does nothing.
pub(super) fn worker_gone(gateway: &Gateway, worker: &WorkerHandle) {
    let WorkerName { worker: number, generation: r#gen, pid } = worker.name();
    worker.release_output();
    if !gateway.workers.remove(worker) {
        return;
    }
    lookahead::take_back(gateway, worker);
    let was = gateway.pool.borrow_mut().ended(number, Instant::now());
    gateway.metrics.worker_ended(was.map_or(WorkerEnd::Died, WorkerEnd::of));
    forget_generations(gateway);
    if matches!(was, Some(State::Idle | State::Proved)) {
        gateway.log_process_event(|left_out| {
            warn!(worker = number, r#gen, pid, left_out, "worker ended by itself")
        });
    }
    gateway.supervisor_events.send(SupervisorEvent::PoolChanged);
    // Another worker may take a request now, if the limit of running requests was reached.
    dispatch::dispatch(gateway);
}

/// Settles the request of an exited worker, if it had one, after all its packets are relayed: answers it, or puts it back into the
/// queue.
pub(super) fn settle(gateway: &Gateway, worker: &WorkerHandle, cause: &ExitCause) {
    let WorkerName { worker: number, generation: r#gen, pid } = worker.name();
    if let Some(request) = worker.take_finishing() {
        request.finish();
    }
    for (_, request) in worker.take_ahead() {
        // The worker may have run them, or has made that impossible to tell.
        request.fail(502, "the worker ended before it had answered", None);
    }
    let Some(request) = worker.take_running() else { return };
    let mut place = None;
    request.response.assign(|assignment| {
        assignment.worker = None;
        place = assignment.place;
    });
    if request.response.is_abandoned() {
        return request.finish();
    }
    if worker.run().is_some_and(|run| run.has_timed_out()) {
        // Even if the worker never read it, because its time is over. The time-out is logged already.
        return request.fail(504, TOO_LONG, None);
    }
    // A corrupt lane proves nothing.
    let claimed = worker.is_claimed().unwrap_or(true);
    if worker.protocol().never_reached_lua(cause, claimed) {
        gateway.log_process_event(|left_out| {
            let RequestIds { request, trace_id } = request.ids();
            warn!(
                worker = number,
                r#gen,
                pid,
                request,
                trace_id,
                left_out,
                "worker ended before it read its request; trying another"
            );
        });
        match place {
            Some(place) => gateway.requeue(place, request),
            None => request.finish(),
        }
        return dispatch::dispatch(gateway);
    }
    // A violation of the protocol is logged already.
    if !matches!(cause, ExitCause::Violation(_)) {
        gateway.log_process_event(|left_out| {
            let RequestIds { request, trace_id } = request.ids();
            warn!(
                worker = number,
                r#gen, pid, request, trace_id, left_out, "worker ended in the middle of its request"
            );
        });
    }
    request.fail(502, "the worker ended before it had answered", None);
}

/// Handles a measurement of a worker's memory.
pub(super) fn worker_measured(gateway: &Gateway, worker: &WorkerHandle, memory: WorkerMemory) {
    worker.set_memory(memory);
    let WorkerName { worker: number, generation: r#gen, pid } = worker.name();
    let replacement = gateway.pool.borrow_mut().record_memory(number, memory.pss, Instant::now());
    let Some(replacement) = replacement else { return };
    let (pss, lua_heap, max_memory) = (memory.pss, memory.lua_heap, gateway.config().max_memory);
    gateway.log_process_event(|left_out| match replacement.pause {
        None => {
            info!(
                worker = number,
                r#gen, pid, pss, lua_heap, left_out, "worker is too large and is replaced (--max-memory)"
            );
        }
        Some(pause) => warn!(
            worker = number,
            r#gen,
            pid,
            pss,
            lua_heap,
            max_memory,
            left_out,
            "worker is too large before it has answered anything (--max-memory); it is replaced in {}",
            Span::from(pause)
        ),
    });
    gateway.supervisor_events.send(SupervisorEvent::PoolChanged);
}

/// Drops the times of generations without workers that will get none.
fn forget_generations(gateway: &Gateway) {
    let pool = gateway.pool.borrow();
    let current = pool.generation();
    gateway.metrics.forget_generations(|generation| {
        generation >= current || pool.workers().any(|worker| worker.generation == generation)
    });
}

/// Kills a worker whose deadline has passed, with its process group. Does nothing if the process has exited.
pub(super) fn kill_overdue(gateway: &Gateway, number: u32) {
    let Some(worker) = gateway.workers.get(number) else { return };
    let WorkerName { generation: r#gen, pid, .. } = worker.name();
    let running = worker.running();
    let ids = running.as_ref().map(|request| request.ids());
    let (request, trace_id) = (ids.map(|ids| ids.request), ids.and_then(|ids| ids.trace_id));
    gateway.log_process_event(|left_out| {
        warn!(
            worker = number,
            r#gen, pid, request, trace_id, left_out, "worker does not end; killing it and its process group"
        );
    });
    worker.kill_group();
}
