//! Builds the status from a snapshot: pool, queue, counts, and worker processes.
//!
//! Called by `gateway/snapshot`, which borrows the parts from the gateway. Reads no clock.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime};

use crate::cgi::Variables;
use crate::config::Config;
use crate::gateway::telemetry::histogram::{BOUNDS, Histogram};
use crate::gateway::telemetry::metrics::{Counts, Times, WorkerEnd};
use crate::gateway::telemetry::request_line::RequestLine;
use crate::gateway::telemetry::verdict::{Reason, Verdict};
use crate::link::status::{
    AccessLogStatus, Bucket, BufferMemory, Connections, Generation, Latency, PoolStatus, QueueStatus,
    Reloads, Requests, Running, SpoolStatus, Status, Timestamp, Worker, WorkerTimes,
};
use crate::proto::memory::Memory;
use crate::proto::pool::{self, Pool, State};
use crate::proto::queue::Queue;
use crate::proto::request_end::RejectReason;

/// The moment at which the gateway started, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// For people.
    pub(crate) time: SystemTime,
    /// For durations.
    pub(crate) instant: Instant,
}

/// A snapshot of the gateway, from which the status is built.
#[derive(Debug)]
pub(crate) struct Snapshot<'a, T> {
    pub(crate) now: Instant,
    pub(crate) start: Start,
    pub(crate) config: &'a Config,
    pub(crate) verdict: (Verdict, Reason),
    /// Whether a stop has begun.
    pub(crate) stopping: bool,
    pub(crate) pool: &'a Pool,
    pub(crate) queue: &'a Queue<T>,
    pub(crate) counts: &'a Counts,
    pub(crate) open_connections: usize,
    pub(crate) memory: &'a Memory,
    /// Bytes in files.
    pub(crate) spooled: u64,
    /// Files that are open.
    pub(crate) spool_files: usize,
    /// Lines that the access log could not write; `None` without an access log.
    pub(crate) dropped_lines: Option<u64>,
    /// The worker processes, by the number of the worker.
    pub(crate) processes: HashMap<u32, Process>,
}

/// A worker's process, as the gateway sees it.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) generation: u32,
    /// The process's proportional share of memory (PSS), in bytes; `None` until it was measured.
    pub(crate) pss: Option<u64>,
    /// Memory of the Lua state, in bytes; `None` until it was measured.
    pub(crate) lua_heap: Option<u64>,
    pub(crate) running: Option<Running>,
}

impl Status {
    /// The status that the parts show.
    pub(crate) fn of<T>(parts: &Snapshot<'_, T>) -> Self {
        let Snapshot { now, start, config, verdict: (verdict, reason), counts, queue, .. } = *parts;
        let workers = workers(parts);
        let times = counts.times();
        let in_state = |state| workers.iter().filter(|worker| worker.state == state).count();
        let (min, max) = parts.pool.bounds();
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            app: crate::log::escape::line(config.app.as_bytes()).into_owned(),
            started: Timestamp(start.time),
            uptime: Some((now - start.instant).as_secs_f64()),
            verdict: verdict.name().into(),
            reason: reason.to_string(),
            stopping: parts.stopping,
            generation: parts.pool.generation(),
            generations: generations(parts.pool.generation(), &workers, counts),
            queue: QueueStatus {
                length: queue.len(),
                capacity: queue.capacity(),
                oldest_wait: queue.oldest().map_or(0.0, |came| (now - came).as_secs_f64()),
                overloaded: queue.is_overloaded(),
            },
            connections: Connections {
                open: parts.open_connections,
                max: config.max_connections,
                accepted: counts.connections,
                refused: counts.refused_connections,
                malformed: counts.malformed_connections,
            },
            buffer_memory: BufferMemory { bytes: parts.memory.used(), max: parts.memory.bound() },
            spool: SpoolStatus { bytes: parts.spooled, max: config.max_spool, files: parts.spool_files },
            requests: Requests::of(counts),
            queue_wait: Latency::of(&times.wait),
            service_time: Latency::of(&times.service),
            pool: PoolStatus {
                starting: in_state("starting") + in_state("ready"),
                idle: in_state("idle"),
                busy: in_state("busy"),
                leaving: in_state("leaving"),
                min,
                max,
                started: counts.workers_started,
                ended: WorkerEnd::ALL
                    .map(|how| (how.name().into(), counts.workers_ended[how as usize]))
                    .into(),
            },
            workers,
            times: counts
                .times_by_worker()
                .map(|(generation, worker, Times { wait, service })| WorkerTimes {
                    worker,
                    generation,
                    queue_wait: Latency::of(wait),
                    service_time: Latency::of(service),
                })
                .collect(),
            reloads: Reloads { ok: counts.reloads, failed: counts.failed_reloads },
            access_log: parts.dropped_lines.map(|dropped| AccessLogStatus { dropped }),
        }
    }
}

fn workers<T>(parts: &Snapshot<'_, T>) -> Vec<Worker> {
    let worker = |worker: pool::Worker| {
        let pool::Worker { number, generation, state, forked_at: born, requests, draining: leaving } = worker;
        // The books have the number before the process is there, and while the process before is still known.
        let process = parts.processes.get(&number).filter(|process| process.generation == generation);
        let times = parts.counts.times_of(generation, number);
        let quantile = |share| Some(times?.service.quantile(share)?.as_secs_f64());
        Worker {
            number,
            generation,
            pid: process.map(|process| process.pid),
            state: if leaving && state == State::Idle { "leaving" } else { state_name(state) }.into(),
            requests,
            age: Some((parts.now - born).as_secs_f64()),
            p50: quantile(0.5),
            p99: quantile(0.99),
            request: process.and_then(|process| process.running.clone()),
            pss: process.and_then(|process| process.pss),
            lua_heap: process.and_then(|process| process.lua_heap),
        }
    };
    parts.pool.workers().map(worker).collect()
}

/// The generations with workers, and the serving one (`answers`).
fn generations(answers: u32, workers: &[Worker], counts: &Counts) -> Vec<Generation> {
    let mut numbers: BTreeSet<u32> = workers.iter().map(|worker| worker.generation).collect();
    numbers.insert(answers);
    let generation = |number| {
        let Times { wait, service } = counts.times_of_generation(number);
        Generation {
            number,
            workers: workers.iter().filter(|worker| worker.generation == number).count(),
            queue_wait: Latency::of(&wait),
            service_time: Latency::of(&service),
        }
    };
    numbers.into_iter().map(generation).collect()
}

impl Running {
    /// The request with these variables, which has run for `time`.
    pub(crate) fn of(id: &str, variables: &Variables, time: Duration) -> Self {
        let line = RequestLine::of(variables);
        Self {
            id: id.to_owned(),
            line: line.to_string(),
            remote: line.remote().to_string(),
            time: Some(time.as_secs_f64()),
        }
    }
}

impl Requests {
    fn of(counts: &Counts) -> Self {
        const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
        Self {
            total: counts.by_class.iter().sum(),
            by_status: CLASSES.into_iter().map(Cow::from).zip(counts.by_class).collect(),
            aborted: counts.aborted,
            broken: counts.broken,
            refused: RejectReason::ALL.map(|why| (why.name().into(), counts.refused[why as usize])).into(),
            body_bytes: counts.body_bytes,
        }
    }
}

impl Latency {
    fn of(histogram: &Histogram) -> Self {
        let quantile = |share| histogram.quantile(share).map(|time| time.as_secs_f64());
        let bounds = BOUNDS.iter().map(|bound| Some(bound.as_secs_f64())).chain([None]);
        Self {
            count: histogram.count(),
            sum: histogram.sum().as_secs_f64(),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            buckets: bounds.zip(histogram.counts()).map(|(le, count)| Bucket { le, count: *count }).collect(),
        }
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Proved => "ready",
        State::Idle => "idle",
        State::Busy => "busy",
        State::Draining => "leaving",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Options;
    use crate::gateway::telemetry::status::json;
    use crate::proto::pool::Policy;
    use serde::Deserialize as _;
    use serde_json::Value;

    /// Three workers of generation 1: one idle, one busy, one that starts. Each has been there for two seconds.
    fn pool(now: Instant) -> Pool {
        let policy = Policy {
            min: 2,
            max: 3,
            idle_timeout: Duration::from_secs(60),
            max_requests: None,
            max_requests_jitter: 0,
            max_age: None,
            max_memory: None,
        };
        let (mut pool, born) = (Pool::new(policy, 1), now.checked_sub(Duration::from_secs(2)).unwrap());
        (1..=3).for_each(|worker| pool.starting(worker, 1, 0, born));
        (1..=2).for_each(|worker| assert_eq!(pool.ready(worker, born), pool::Ready::Work));
        assert_eq!(pool.assign(born), Some(2));
        pool
    }

    fn process(generation: u32, running: Option<Running>) -> Process {
        Process { pid: 70, generation, pss: Some(5), lua_heap: None, running }
    }

    fn status(processes: HashMap<u32, Process>) -> Status {
        let now = Instant::now();
        let config = Config::new(Options { app: Some("a\nb".into()), ..Options::default() }).unwrap();
        let mut queue = Queue::new(7, Duration::from_secs(9), None);
        queue.open(now);
        let came = now.checked_sub(Duration::from_secs(1)).unwrap();
        let place = queue.place(came, Duration::ZERO, false);
        assert!(queue.push(place, (), came).is_none());
        Status::of(&Snapshot {
            now,
            start: Start {
                time: SystemTime::UNIX_EPOCH,
                instant: now.checked_sub(Duration::from_secs(5)).unwrap(),
            },
            config: &config,
            verdict: (Verdict::Ok, Reason::Ready(2)),
            stopping: false,
            pool: &pool(now),
            queue: &queue,
            counts: &Counts::default(),
            open_connections: 4,
            memory: &Memory::new(800),
            spooled: 6,
            spool_files: 1,
            dropped_lines: None,
            processes,
        })
    }

    #[test]
    fn workers_are_those_of_the_books_with_their_processes() {
        let mut variables = Variables::new();
        variables.push(b"REQUEST_METHOD", b"GET");
        variables.push(b"REQUEST_URI", b"/a");
        variables.push(b"REMOTE_ADDR", b"::1");
        let running = Running::of("id", &variables, Duration::from_millis(500));
        let status = status(HashMap::from([(1, process(1, None)), (2, process(1, Some(running)))]));
        let shown =
            status.workers.iter().map(|worker| (worker.number, &*worker.state, worker.pid, worker.requests));
        assert_eq!(
            shown.collect::<Vec<_>>(),
            [(1, "idle", Some(70), 0), (2, "busy", Some(70), 1), (3, "starting", None, 0)]
        );
        assert!(status.workers.iter().all(|worker| (worker.age.unwrap() - 2.0).abs() < 0.001));
        let request = status.workers[1].request.as_ref().unwrap();
        assert_eq!((&*request.id, &*request.line, &*request.remote), ("id", "GET /a", "::1"));
        let PoolStatus { starting, idle, busy, leaving, min, max, .. } = status.pool;
        assert_eq!((starting, idle, busy, leaving, min, max), (1, 1, 1, 0, 2, 3));
    }

    /// The number of a worker that has ended is given to its successor before the process is forgotten.
    #[test]
    fn the_process_of_another_generation_is_not_shown_for_a_worker() {
        let status = status(HashMap::from([(1, process(0, None)), (2, process(1, None))]));
        let pids: Vec<_> = status.workers.iter().map(|worker| worker.pid).collect();
        assert_eq!(pids, [None, Some(70), None]);
        assert_eq!(status.workers[0].pss, None);
    }

    /// `nibiru status` may be of another version than the server.
    #[test]
    fn a_client_reads_what_the_server_writes_whichever_field_is_missing_or_unknown() {
        let running = Running::of("id", &Variables::new(), Duration::from_millis(500));
        let status = status(HashMap::from([(2, process(1, Some(running)))]));
        let written = json::value(&status).unwrap();
        let read = |value: &Value| Status::deserialize(value).unwrap();
        assert_eq!(json::value(&read(&written)).unwrap().to_string(), written.to_string());

        let mut fields = Vec::new();
        paths(&written, String::new(), &mut fields);
        assert!(
            fields.len() > 100 && fields.contains(&("/workers/1/request".into(), "time".into())),
            "{fields:?}"
        );
        for (parent, name) in fields {
            let mut value = written.clone();
            let object = value.pointer_mut(&parent).unwrap().as_object_mut().unwrap();
            object.shift_remove(&name).unwrap();
            object.insert("unknown".into(), 7.into());
            assert_eq!(
                read(&value).pool.max,
                if name == "pool" || name == "max" && parent == "/pool" { 0 } else { 3 }
            );
        }
    }

    /// Each field of each object in `value`: the object's JSON pointer and the field's name.
    fn paths(value: &Value, at: String, fields: &mut Vec<(String, String)>) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    fields.push((at.clone(), name.clone()));
                    paths(value, format!("{at}/{name}"), fields);
                }
            }
            Value::Array(array) => {
                for (index, value) in array.iter().enumerate() {
                    paths(value, format!("{at}/{index}"), fields);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn the_json_has_the_names_that_are_documented() {
        let status = status(HashMap::new());
        let value = json::value(&status).unwrap();
        let names: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let expected = [
            "app",
            "buffer_memory",
            "connections",
            "generation",
            "generations",
            "pid",
            "pool",
            "queue",
            "queue_wait",
            "reason",
            "reloads",
            "requests",
            "service_time",
            "spool",
            "started",
            "stopping",
            "uptime",
            "verdict",
            "version",
            "workers",
        ];
        assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from(expected));
        assert_eq!((&value["started"], &value["uptime"]), (&"1970-01-01T00:00:00Z".into(), &5.0.into()));
        assert_eq!(
            value["queue"],
            serde_json::json!({
                "length": 1, "capacity": 7, "oldest_wait": 1.0, "overloaded": false
            })
        );
        assert_eq!((&value["generations"][0]["workers"], &value["generation"]), (&3.into(), &1.into()));
        assert!(!value["app"].as_str().unwrap().contains('\n'));
    }
}
