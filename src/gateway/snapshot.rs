//! Snapshots of the gateway's state: the facts of the verdict, and the snapshot for the status.
//!
//! Called for each status, metrics and health request. Borrows from the gateway, changes nothing, asks no worker and never waits.

use std::time::{Duration, Instant};

use crate::gateway::Gateway;
use crate::gateway::pool::worker::WorkerHandle;
use crate::gateway::telemetry::status::{Process, Snapshot};
use crate::gateway::telemetry::verdict::{self, Facts, Reason, Verdict};
use crate::link::status::{Running, Status};

/// The verdict on the server.
pub(crate) fn verdict(gateway: &Gateway, now: Instant) -> (Verdict, Reason) {
    let (config, state) = (gateway.config(), gateway.server_state.get());
    let (pool, queue) = (gateway.pool.borrow(), gateway.queue.borrow());
    let (idle, busy) = pool.at_hand();
    let running =
        gateway.workers.borrow().values().filter_map(|link| Some(link.run()?.last_progress())).max();
    let facts = Facts {
        stop: state.stop(*gateway.stopping.borrow()),
        has_served: pool.generation() > 0,
        load_failed: state.load_failed,
        shows_failed_load: gateway.mode.development,
        cannot_fork: state.cannot_fork,
        failing: pool.is_failing(),
        idle,
        busy,
        min: pool.bounds().0,
        wanting_since: state.wanting_since,
        moved: running.into_iter().chain(pool.freed_at()).max().unwrap_or(gateway.start.instant),
        oldest: queue.oldest(),
        queue_full: queue.is_full(),
        shedding: queue.is_overloaded(),
        queue_timeout: config.queue_timeout,
        request_limit: config.request_timeout.map(|time| time + config.kill_after),
        start_limit: config.start_timeout,
    };
    verdict::verdict(&facts, now)
}

/// The status of the server.
pub(crate) fn status(gateway: &Gateway, now: Instant) -> Status {
    let (spooled, spool_files) = gateway.spool.used();
    let workers = gateway.workers.borrow();
    Status::of(&Snapshot {
        now,
        start: gateway.start,
        config: &gateway.config(),
        verdict: verdict(gateway, now),
        stopping: *gateway.stopping.borrow(),
        pool: &gateway.pool.borrow(),
        queue: &gateway.queue.borrow(),
        counts: &gateway.metrics.counts(),
        open_connections: gateway.metrics.open_connections(),
        memory: &gateway.memory,
        spooled,
        spool_files,
        dropped_lines: gateway.metrics.access_log().map(|log| log.dropped()),
        processes: workers.iter().map(|(number, link)| (*number, process(link, now))).collect(),
    })
}

fn process(link: &WorkerHandle, now: Instant) -> Process {
    let (name, memory) = (link.name(), link.memory());
    let running = link.running().map(|request| {
        let time = request.assigned.map_or(Duration::ZERO, |assigned| now - assigned.at);
        Running::of(&request.request_id, &request.variables, time)
    });
    Process {
        pid: name.pid,
        generation: name.generation,
        pss: memory.map(|memory| memory.pss),
        lua_heap: memory.map(|memory| memory.lua_heap),
        running,
    }
}
