//! What workers tell the gateway about themselves, and what becomes of the requests of those that end.
//!
//! Called by their links. The books are the pool's, and forking is the supervisor's.

use std::time::Instant;

use tracing::{info, warn};

use crate::gateway::Gateway;
use crate::gateway::events::Notice;
use crate::gateway::pool::throttles::About;
use crate::gateway::pool::worker::{Fate, Memory, TOO_LONG, WorkerLink, WorkerName};
use crate::gateway::telemetry::journal::WorkerEnd;
use crate::link::message::ToWorker;
use crate::proto::pool::{Ready, State};
use crate::proto::request_end::Named;

impl Gateway {
    /// A worker says that it is ready.
    pub(crate) fn worker_ready(&self, link: &WorkerLink) {
        let WorkerName { worker, generation, .. } = link.name();
        let now = Instant::now();
        let ready = self.pool.borrow_mut().ready(worker, now);
        match ready {
            Ready::Work => {
                let first = link.became_ready();
                // Before it gets its next request, which may keep it busy for long.
                let again = link.measure(now, true);
                // Whoever is due may leave when this is its successor; what this takes may have to be asked later.
                if first || (again.is_some() && !self.measuring.replace(true)) {
                    self.notices.send(Notice::PoolChanged);
                }
                self.dispatch();
                self.nobody_wants();
            }
            Ready::Proved => self.notices.send(Notice::FirstReady { generation }),
            Ready::Drain => {
                link.tell(ToWorker::Drain);
                // It has a deadline.
                self.notices.send(Notice::PoolChanged);
                // It may have been the one too many.
                self.dispatch();
            }
            // `WorkerProtocol` has ruled this out.
            Ready::Unexpected => {}
        }
    }

    /// A worker's process is gone: its place is free. What it sent before may still be on its way to its
    /// client. Harmless the second time.
    pub(crate) fn worker_gone(&self, link: &WorkerLink) {
        let WorkerName { worker, generation: r#gen, pid } = link.name();
        link.has_ended();
        let mut workers = self.workers.borrow_mut();
        if workers.get(&worker).is_none_or(|known| known.name().pid != pid) {
            return;
        }
        workers.remove(&worker);
        let was = self.pool.borrow_mut().ended(worker, Instant::now());
        self.journal.worker_ended(was.map_or(WorkerEnd::Died, WorkerEnd::of));
        self.forget_generations();
        if matches!(was, Some(State::Idle | State::Proved)) {
            self.in_trouble(|left_out| warn!(worker, r#gen, pid, left_out, "worker ended by itself"));
        }
        self.notices.send(Notice::PoolChanged);
        drop(workers);
        // Another may take a request now, where as many ran as may.
        self.dispatch();
    }

    /// All that a worker sent is passed on. The request that it leaves is answered or goes back.
    pub(crate) fn settle(&self, link: &WorkerLink, fate: &Fate) {
        let WorkerName { worker, generation: r#gen, pid } = link.name();
        if let Some(answered) = link.take_answered() {
            answered.finish();
        }
        let Some(request) = link.take_running() else { return };
        let mut place = None;
        request.response.assign(|assignment| {
            assignment.worker = None;
            place = assignment.place;
        });
        if request.response.is_abandoned() {
            return request.finish();
        }
        if link.run().is_some_and(|run| run.has_timed_out()) {
            // Also where it was never read: it has had its time. The log knows.
            return request.fail(504, TOO_LONG, None);
        }
        if link.never_read(fate) {
            self.in_trouble(|left_out| {
                let Named { request, trace_id } = request.named();
                warn!(
                    worker,
                    r#gen,
                    pid,
                    request,
                    trace_id,
                    left_out,
                    "worker ended before it read its request; trying another"
                );
            });
            match place {
                Some(place) => self.put_back(place, request),
                None => request.finish(),
            }
            return self.dispatch();
        }
        // One that broke the rules has its line already.
        if !matches!(fate, Fate::Misbehaved(_)) {
            self.in_trouble(|left_out| {
                let Named { request, trace_id } = request.named();
                warn!(
                    worker,
                    r#gen, pid, request, trace_id, left_out, "worker ended in the middle of its request"
                );
            });
        }
        request.fail(502, "the worker ended before it had answered", None);
    }

    /// Logs a line about a worker that ended or does not start, unless there were too many lately: see [`Throttles::say`].
    ///
    /// [`Throttles::say`]: crate::gateway::pool::throttles::Throttles::say
    pub(crate) fn in_trouble(&self, write: impl FnOnce(Option<u64>)) {
        self.throttles.say(About::Workers, Instant::now(), write);
    }

    /// A worker says what it takes.
    pub(crate) fn measured(&self, link: &WorkerLink, memory: Memory) {
        let WorkerName { worker, generation: r#gen, pid } = link.name();
        let Some(due) = self.pool.borrow_mut().measured(worker, memory.pss, Instant::now()) else { return };
        let (pss, lua_heap, max_memory) = (memory.pss, memory.lua_heap, self.config().max_memory);
        self.in_trouble(|left_out| match due.pause {
            None => {
                info!(
                    worker,
                    r#gen,
                    pid,
                    pss,
                    lua_heap,
                    left_out,
                    "worker is too large and is replaced (--max-memory)"
                );
            }
            Some(pause) => warn!(
                worker,
                r#gen,
                pid,
                pss,
                lua_heap,
                max_memory,
                left_out,
                "worker is too large before it has answered anything (--max-memory); it is replaced in {pause:?}"
            ),
        });
        self.notices.send(Notice::PoolChanged);
    }

    /// Times are kept by generation as long as it has workers or is to have some.
    pub(crate) fn forget_generations(&self) {
        let pool = self.pool.borrow();
        let current = pool.generation();
        self.journal.forget_generations(|generation| {
            generation >= current || pool.workers().any(|worker| worker.generation == generation)
        });
    }

    pub(crate) fn tell(&self, worker: u32, message: ToWorker<'_>) {
        if let Some(link) = self.workers.borrow().get(&worker) {
            link.tell(message);
        }
    }

    /// Kills a worker that should be gone by now, and what it waits for. False where there is no such process.
    pub(crate) fn end_overdue(&self, worker: u32) -> bool {
        let known = self.workers.borrow();
        let Some(link) = known.get(&worker) else { return false };
        let WorkerName { generation: r#gen, pid, .. } = link.name();
        let running = link.running();
        let named = running.as_ref().map(|request| request.named());
        let (request, trace_id) = (named.map(|named| named.request), named.and_then(|named| named.trace_id));
        self.in_trouble(|left_out| {
            warn!(
                worker,
                r#gen,
                pid,
                request,
                trace_id,
                left_out,
                "worker does not end; killing it and its process group"
            );
        });
        link.kill_group();
        true
    }

    /// Kills workers that have had their time, and what they wait for.
    pub(crate) fn kill(&self, workers: &[u32]) {
        let known = self.workers.borrow();
        workers.iter().filter_map(|worker| known.get(worker)).for_each(|link| link.kill_group());
    }

    pub(crate) fn kill_all(&self) {
        self.workers.borrow().values().for_each(|link| link.kill_group());
    }
}
