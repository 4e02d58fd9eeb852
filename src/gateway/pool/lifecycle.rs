//! A worker's life in the books: what becomes of the pool and of the requests when a worker is ready, is measured, or ends.
//!
//! Called by the workers' relays and by the supervisor; calls the dispatch. The books are the pool's, and forking is the
//! supervisor's.

use std::time::Instant;

use tracing::{info, warn};

use crate::gateway::Gateway;
use crate::gateway::events::SupervisorEvent;
use crate::gateway::pool::dispatch;
use crate::gateway::pool::worker::{TOO_LONG, WorkerHandle, WorkerMemory, WorkerName};
use crate::gateway::telemetry::metrics::WorkerEnd;
use crate::link::message::ToWorker;
use crate::log::Span;
use crate::proto::pool::{Ready, State};
use crate::proto::request_end::RequestIds;
use crate::proto::worker::ExitCause;

/// A worker is ready for a request.
pub(super) fn worker_ready(gateway: &Gateway, worker: &WorkerHandle) {
    let WorkerName { worker: number, generation, .. } = worker.name();
    let now = Instant::now();
    let ready = gateway.pool.borrow_mut().ready(number, now);
    match ready {
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
            // The worker has a deadline.
            gateway.supervisor_events.send(SupervisorEvent::PoolChanged);
            // The worker may have been the one too many.
            dispatch::dispatch(gateway);
        }
        // `WorkerProtocol` has ruled this out.
        Ready::Unexpected => {}
    }
}

/// A worker's process is gone: its place is free. What it sent before may still be on its way to its
/// client. Harmless the second time.
pub(super) fn worker_gone(gateway: &Gateway, worker: &WorkerHandle) {
    let WorkerName { worker: number, generation: r#gen, pid } = worker.name();
    worker.release_output();
    if !gateway.workers.remove(worker) {
        return;
    }
    let was = gateway.pool.borrow_mut().ended(number, Instant::now());
    gateway.metrics.worker_ended(was.map_or(WorkerEnd::Died, WorkerEnd::of));
    forget_generations(gateway);
    if matches!(was, Some(State::Idle | State::Proved)) {
        gateway.log_process_event(|left_out| {
            warn!(worker = number, r#gen, pid, left_out, "worker ended by itself")
        });
    }
    gateway.supervisor_events.send(SupervisorEvent::PoolChanged);
    // Another may take a request now, where as many ran as may.
    dispatch::dispatch(gateway);
}

/// Settles the request that a worker leaves, if any, once everything that the worker sent is passed on: it is answered or goes
/// back to the queue.
pub(super) fn settle(gateway: &Gateway, worker: &WorkerHandle, cause: &ExitCause) {
    let WorkerName { worker: number, generation: r#gen, pid } = worker.name();
    if let Some(request) = worker.take_finishing() {
        request.finish();
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
        // Also where it was never read: it has had its time. The log knows.
        return request.fail(504, TOO_LONG, None);
    }
    if worker.protocol().never_reached_lua(cause) {
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
            Some(place) => dispatch::put_back(gateway, place, request),
            None => request.finish(),
        }
        return dispatch::dispatch(gateway);
    }
    // A violation of the protocol has its line already.
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

/// A worker's memory was measured.
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

/// Forgets the times of generations that have no worker and get none any more.
fn forget_generations(gateway: &Gateway) {
    let pool = gateway.pool.borrow();
    let current = pool.generation();
    gateway.metrics.forget_generations(|generation| {
        generation >= current || pool.workers().any(|worker| worker.generation == generation)
    });
}

/// Kills a worker that should be gone by now, with its process group. Nothing where there is no such process.
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
