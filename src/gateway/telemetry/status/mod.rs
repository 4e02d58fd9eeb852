//! What the gateway knows of itself, as data: taken in one moment, from the pool, the queue and the journal.
//!
//! The status path, the control socket and the metrics all show this. Asks no worker and never waits.

mod answer;
mod health;
mod html;
mod openmetrics;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};

use crate::gateway::Gateway;
use crate::gateway::pool::worker::WorkerLink;
use crate::gateway::telemetry::histogram::{BOUNDS, Histogram};
use crate::gateway::telemetry::journal::{Counts, Times, WorkerEnd};
use crate::gateway::telemetry::request_line::RequestLine;
use crate::gateway::telemetry::verdict::{self, Facts, Reason, Verdict};
use crate::proto::pool::{self, State};
use crate::proto::request_end::Refused;

/// When the gateway started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    time: SystemTime,
    instant: Instant,
}

impl Start {
    pub(crate) fn now() -> Self {
        Self { time: SystemTime::now(), instant: Instant::now() }
    }
}

/// The whole of it. Its fields are documented in `docs/how-to/status.md`; times are in seconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    /// Of nibiru.
    pub(crate) version: &'static str,
    /// Of the gateway.
    pub(crate) pid: u32,
    /// As the operator named it.
    pub(crate) app: String,
    /// RFC 3339, UTC.
    #[serde(serialize_with = "rfc3339")]
    pub(crate) started: SystemTime,
    /// Seconds since then.
    pub(crate) uptime: f64,
    /// How it does, in one word.
    pub(crate) verdict: &'static str,
    /// Why.
    pub(crate) reason: String,
    /// A stop has begun.
    pub(crate) stopping: bool,
    /// The generation of the code that answers.
    pub(crate) generation: u32,
    /// Every generation that still has workers, with how its requests do.
    pub(crate) generations: Vec<Generation>,
    /// Requests that wait for a worker.
    pub(crate) queue: QueueStatus,
    /// Connections of proxies.
    pub(crate) connections: Connections,
    /// What clients hold of the memory.
    pub(crate) buffer_memory: BufferMemory,
    /// What is kept in files.
    pub(crate) spool: SpoolStatus,
    /// Since the start, but for those that run.
    pub(crate) requests: Requests,
    /// How long requests waited for a worker, of those that got one.
    pub(crate) queue_wait: Latency,
    /// How long workers took.
    pub(crate) service_time: Latency,
    /// Workers by what they are doing, and how many there have been.
    pub(crate) pool: PoolStatus,
    /// Each worker.
    pub(crate) workers: Vec<Worker>,
    /// How each worker's requests did, by its number and generation; in the metrics only.
    #[serde(skip)]
    pub(crate) times: Vec<WorkerTimes>,
    /// Loads of the code since the start, the first one included.
    pub(crate) reloads: Reloads,
    /// Absent where there is no access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) access_log: Option<AccessLogStatus>,
}

/// A generation of the code.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Generation {
    /// From 1 on.
    pub(crate) number: u32,
    /// Workers that it has.
    pub(crate) workers: usize,
    /// How long requests waited for them.
    pub(crate) queue_wait: Latency,
    /// How long they took.
    pub(crate) service_time: Latency,
}

/// The queue.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct QueueStatus {
    /// Requests in it.
    pub(crate) length: usize,
    /// How many it takes.
    pub(crate) capacity: usize,
    /// How long the oldest has waited; 0 where none waits.
    pub(crate) oldest_wait: f64,
    /// Whether the newest go first and the oldest are refused.
    pub(crate) overloaded: bool,
}

/// Connections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Connections {
    /// Open now.
    pub(crate) open: usize,
    /// How many there may be.
    pub(crate) max: usize,
    /// Since the start.
    pub(crate) accepted: u64,
    /// Since the start, of peers that may not connect; not among those accepted.
    pub(crate) refused: u64,
    /// Since the start, those closed because what came was no FastCGI.
    pub(crate) malformed: u64,
}

/// Requests and answers in memory.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BufferMemory {
    /// Bytes that are in use now.
    pub(crate) bytes: u64,
    /// How many there may be.
    pub(crate) max: u64,
}

/// Request bodies and slow clients' answers in files.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SpoolStatus {
    /// Bytes that are in use now.
    pub(crate) bytes: u64,
    /// How many there may be.
    pub(crate) max: u64,
    /// Files that are open now.
    pub(crate) files: usize,
}

/// Requests that have ended.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Requests {
    /// All of them.
    pub(crate) total: u64,
    /// By the status that was sent: `1xx` to `5xx`, and `none`.
    pub(crate) by_status: BTreeMap<&'static str, u64>,
    /// Those whose client went away first.
    pub(crate) aborted: u64,
    /// Those whose answer broke off after its head.
    pub(crate) broken: u64,
    /// Those that no worker has seen, by the reason.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// Bytes of response bodies.
    pub(crate) body_bytes: u64,
}

/// How long something took, since the start.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    /// How many times.
    pub(crate) count: u64,
    /// All of them together.
    pub(crate) sum: f64,
    /// Half of them took at most so long; absent where there are none. Percentiles are as fine as the buckets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50: Option<f64>,
    /// 90 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p90: Option<f64>,
    /// 99 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99: Option<f64>,
    /// Each bucket on its own.
    pub(crate) buckets: Vec<Bucket>,
}

/// A bucket of a histogram.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Bucket {
    /// Its upper bound; none for the last.
    pub(crate) le: Option<f64>,
    /// How many fell into it and not into a lower one.
    pub(crate) count: u64,
}

/// The workers together.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PoolStatus {
    /// Being forked, or running their start hooks.
    pub(crate) starting: usize,
    /// Without a request.
    pub(crate) idle: usize,
    /// With one.
    pub(crate) busy: usize,
    /// Told to exit.
    pub(crate) leaving: usize,
    /// As few as there may be.
    pub(crate) min: u32,
    /// As many.
    pub(crate) max: u32,
    /// Since the start.
    pub(crate) started: u64,
    /// Since the start, by how they ended.
    pub(crate) ended: BTreeMap<&'static str, u64>,
}

/// One worker.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Worker {
    /// Used again when its worker is gone.
    pub(crate) number: u32,
    /// Of its code.
    pub(crate) generation: u32,
    /// Absent until it is forked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    /// What it is doing: `starting`, `ready` (of a generation that does not answer yet), `idle`, `busy`, `leaving`.
    pub(crate) state: &'static str,
    /// Requests that it was given.
    pub(crate) requests: u32,
    /// Since it was forked.
    pub(crate) age: f64,
    /// Half of the requests of workers with this number and generation took at most so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50: Option<f64>,
    /// 99 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99: Option<f64>,
    /// What it runs now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<Running>,
    /// Its share of the memory (PSS), in bytes, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pss: Option<u64>,
    /// Of its Lua state, in bytes, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lua_heap: Option<u64>,
}

/// The requests of the workers that had one number in one generation.
#[derive(Clone, Debug)]
pub(crate) struct WorkerTimes {
    pub(crate) worker: u32,
    pub(crate) generation: u32,
    /// How long they waited for it.
    pub(crate) queue_wait: Latency,
    /// How long they took.
    pub(crate) service_time: Latency,
}

/// A request that runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Running {
    /// As in every log.
    pub(crate) id: String,
    /// Method, URI and protocol, as in the access log.
    pub(crate) line: String,
    /// The client's address.
    pub(crate) remote: String,
    /// How long it has run.
    pub(crate) time: f64,
}

/// Loads of the code.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reloads {
    /// Those that led to a generation that answers.
    pub(crate) ok: u64,
    /// Those that left the one before serving.
    pub(crate) failed: u64,
}

/// The access log.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AccessLogStatus {
    /// Lines that the disk did not take.
    pub(crate) dropped: u64,
}

impl Gateway {
    /// The verdict, now.
    pub(crate) fn verdict(&self) -> (Verdict, Reason) {
        let (now, config, course) = (Instant::now(), self.config(), self.course.get());
        let (pool, queue) = (self.pool.borrow(), self.queue.borrow());
        let (idle, busy) = pool.at_hand();
        let running = self.workers.borrow().values().filter_map(|link| Some(link.run()?.moved_at())).max();
        let stop = match (*self.stopping.borrow(), course.stop_announced) {
            _ if course.taken_over => verdict::Stop::TakenOver,
            (true, _) => verdict::Stop::Begun,
            (false, true) => verdict::Stop::Announced,
            (false, false) => verdict::Stop::No,
        };
        let facts = Facts {
            stop,
            has_served: pool.generation() > 0,
            load_failed: course.load_failed,
            shows_failed_load: self.mode.development,
            cannot_fork: course.cannot_fork,
            failing: pool.is_failing(),
            idle,
            busy,
            min: pool.bounds().0,
            wanting_since: course.wanting_since,
            moved: running.into_iter().chain(pool.freed()).max().unwrap_or(self.start.instant),
            oldest: queue.oldest(),
            queue_full: queue.is_full(),
            shedding: queue.is_overloaded(),
            queue_timeout: config.queue_timeout,
            request_limit: config.request_timeout.map(|time| time + config.kill_after),
            start_limit: config.start_timeout,
        };
        verdict::verdict(&facts, now)
    }

    /// How the gateway is, now.
    pub(crate) fn status(&self) -> Status {
        let now = Instant::now();
        let config = self.config();
        let counts = self.journal.counts();
        let workers = self.workers_now(&counts, now);
        let times = counts.times();
        let in_state = |state| workers.iter().filter(|worker| worker.state == state).count();
        let queue = self.queue.borrow();
        let (min, max) = self.pool.borrow().bounds();
        let (spooled, files) = self.spool.used();
        let (verdict, reason) = self.verdict();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            app: crate::log::escape::line(config.app.as_bytes()).into_owned(),
            started: self.start.time,
            uptime: (now - self.start.instant).as_secs_f64(),
            verdict: verdict.name(),
            reason: reason.to_string(),
            stopping: *self.stopping.borrow(),
            generation: self.pool.borrow().generation(),
            generations: self.generations_now(&workers, &counts),
            queue: QueueStatus {
                length: queue.len(),
                capacity: queue.capacity(),
                oldest_wait: queue.oldest().map_or(0.0, |came| (now - came).as_secs_f64()),
                overloaded: queue.is_overloaded(),
            },
            connections: Connections {
                open: self.journal.open_connections(),
                max: config.max_connections,
                accepted: counts.connections,
                refused: counts.refused_connections,
                malformed: counts.malformed_connections,
            },
            buffer_memory: BufferMemory { bytes: self.memory.used(), max: self.memory.bound() },
            spool: SpoolStatus { bytes: spooled, max: config.max_spool, files },
            requests: Requests::of(&counts),
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
                ended: WorkerEnd::ALL.map(|how| (how.name(), counts.workers_ended[how as usize])).into(),
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
            access_log: self.journal.access_log().map(|log| AccessLogStatus { dropped: log.dropped() }),
        }
    }

    fn workers_now(&self, counts: &Counts, now: Instant) -> Vec<Worker> {
        let links = self.workers.borrow();
        let worker = |worker: pool::Worker| {
            let pool::Worker { number, generation, state, born, requests, leaving } = worker;
            // The number may be in the books before its process is there.
            let link = links.get(&number).filter(|link| link.name().generation == generation);
            let times = counts.times_of(generation, number);
            let quantile = |share| Some(times?.service.quantile(share)?.as_secs_f64());
            let memory = link.and_then(|link| link.memory());
            Worker {
                number,
                generation,
                pid: link.map(|link| link.name().pid),
                state: if leaving && state == State::Idle { "leaving" } else { state_name(state) },
                requests,
                age: (now - born).as_secs_f64(),
                p50: quantile(0.5),
                p99: quantile(0.99),
                request: link.and_then(|link| Running::of(link, now)),
                pss: memory.map(|memory| memory.pss),
                lua_heap: memory.map(|memory| memory.lua_heap),
            }
        };
        self.pool.borrow().workers().map(worker).collect()
    }

    fn generations_now(&self, workers: &[Worker], counts: &Counts) -> Vec<Generation> {
        let mut numbers: BTreeSet<u32> = workers.iter().map(|worker| worker.generation).collect();
        numbers.insert(self.pool.borrow().generation());
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
}

impl Requests {
    fn of(counts: &Counts) -> Self {
        const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
        Self {
            total: counts.by_class.iter().sum(),
            by_status: CLASSES.into_iter().zip(counts.by_class).collect(),
            aborted: counts.aborted,
            broken: counts.broken,
            refused: Refused::ALL.map(|why| (why.name(), counts.refused[why as usize])).into(),
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

impl Running {
    fn of(link: &WorkerLink, now: Instant) -> Option<Self> {
        let request = link.running()?;
        let line = RequestLine::of(&request.variables);
        Some(Self {
            id: request.request_id.clone(),
            line: line.to_string(),
            remote: line.remote().to_string(),
            time: request.handed.map_or(Duration::ZERO, |handed| now - handed.at).as_secs_f64(),
        })
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

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
}
