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

use super::Gateway;
use super::histogram::{BOUNDS, Histogram};
use super::journal::{Counts, Times, WorkerEnd};
use super::outcome::Refused;
use super::pool::{self, State};
use super::request_line::RequestLine;
use super::verdict::{self, Facts, Reason, Verdict};
use super::worker_link::WorkerLink;

/// When the gateway started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    time: SystemTime,
    instant: Instant,
}

impl Start {
    pub(super) fn now() -> Self {
        Self { time: SystemTime::now(), instant: Instant::now() }
    }
}

/// The whole of it. Its fields are documented in `docs/how-to/status.md`; times are in seconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Status {
    /// Of nibiru.
    pub(super) version: &'static str,
    /// Of the gateway.
    pub(super) pid: u32,
    /// As the operator named it.
    pub(super) app: String,
    /// RFC 3339, UTC.
    #[serde(serialize_with = "rfc3339")]
    pub(super) started: SystemTime,
    /// Seconds since then.
    pub(super) uptime: f64,
    /// How it does, in one word.
    pub(super) verdict: &'static str,
    /// Why.
    pub(super) reason: String,
    /// A stop has begun.
    pub(super) stopping: bool,
    /// The generation of the code that answers.
    pub(super) generation: u32,
    /// Every generation that still has workers, with how its requests do.
    pub(super) generations: Vec<Generation>,
    /// Requests that wait for a worker.
    pub(super) queue: QueueStatus,
    /// Connections of proxies.
    pub(super) connections: Connections,
    /// What clients hold of the memory.
    pub(super) buffer_memory: BufferMemory,
    /// What is kept in files.
    pub(super) spool: SpoolStatus,
    /// Since the start, but for those that run.
    pub(super) requests: Requests,
    /// How long requests waited for a worker, of those that got one.
    pub(super) queue_wait: Latency,
    /// How long workers took.
    pub(super) service_time: Latency,
    /// Workers by what they are doing, and how many there have been.
    pub(super) pool: PoolStatus,
    /// Each worker.
    pub(super) workers: Vec<Worker>,
    /// How each worker's requests did, by its number and generation; in the metrics only.
    #[serde(skip)]
    pub(super) times: Vec<WorkerTimes>,
    /// Loads of the code since the start, the first one included.
    pub(super) reloads: Reloads,
    /// Absent where there is no access log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) access_log: Option<AccessLogStatus>,
}

/// A generation of the code.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Generation {
    /// From 1 on.
    pub(super) number: u32,
    /// Workers that it has.
    pub(super) workers: usize,
    /// How long requests waited for them.
    pub(super) queue_wait: Latency,
    /// How long they took.
    pub(super) service_time: Latency,
}

/// The queue.
#[derive(Clone, Debug, Serialize)]
pub(super) struct QueueStatus {
    /// Requests in it.
    pub(super) length: usize,
    /// How many it takes.
    pub(super) capacity: usize,
    /// How long the oldest has waited; 0 where none waits.
    pub(super) oldest_wait: f64,
    /// Whether the newest go first and the oldest are refused.
    pub(super) overloaded: bool,
}

/// Connections.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Connections {
    /// Open now.
    pub(super) open: usize,
    /// How many there may be.
    pub(super) max: usize,
    /// Since the start.
    pub(super) accepted: u64,
    /// Since the start, of peers that may not connect; not among those accepted.
    pub(super) refused: u64,
    /// Since the start, those closed because what came was no FastCGI.
    pub(super) malformed: u64,
}

/// Requests and answers in memory.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BufferMemory {
    /// Bytes that are in use now.
    pub(super) bytes: u64,
    /// How many there may be.
    pub(super) max: u64,
}

/// Request bodies and slow clients' answers in files.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SpoolStatus {
    /// Bytes that are in use now.
    pub(super) bytes: u64,
    /// How many there may be.
    pub(super) max: u64,
    /// Files that are open now.
    pub(super) files: usize,
}

/// Requests that have ended.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Requests {
    /// All of them.
    pub(super) total: u64,
    /// By the status that was sent: `1xx` to `5xx`, and `none`.
    pub(super) by_status: BTreeMap<&'static str, u64>,
    /// Those whose client went away first.
    pub(super) aborted: u64,
    /// Those whose answer broke off after its head.
    pub(super) broken: u64,
    /// Those that no worker has seen, by the reason.
    pub(super) refused: BTreeMap<&'static str, u64>,
    /// Bytes of response bodies.
    pub(super) body_bytes: u64,
}

/// How long something took, since the start.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Latency {
    /// How many times.
    pub(super) count: u64,
    /// All of them together.
    pub(super) sum: f64,
    /// Half of them took at most so long; absent where there are none. Percentiles are as fine as the buckets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p50: Option<f64>,
    /// 90 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p90: Option<f64>,
    /// 99 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p99: Option<f64>,
    /// Each bucket on its own.
    pub(super) buckets: Vec<Bucket>,
}

/// A bucket of a histogram.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Bucket {
    /// Its upper bound; none for the last.
    pub(super) le: Option<f64>,
    /// How many fell into it and not into a lower one.
    pub(super) count: u64,
}

/// The workers together.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PoolStatus {
    /// Being forked, or running their start hooks.
    pub(super) starting: usize,
    /// Without a request.
    pub(super) idle: usize,
    /// With one.
    pub(super) busy: usize,
    /// Told to exit.
    pub(super) leaving: usize,
    /// As few as there may be.
    pub(super) min: u32,
    /// As many.
    pub(super) max: u32,
    /// Since the start.
    pub(super) started: u64,
    /// Since the start, by how they ended.
    pub(super) ended: BTreeMap<&'static str, u64>,
}

/// One worker.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Worker {
    /// Used again when its worker is gone.
    pub(super) number: u32,
    /// Of its code.
    pub(super) generation: u32,
    /// Absent until it is forked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    /// What it is doing: `starting`, `ready` (of a generation that does not answer yet), `idle`, `busy`, `leaving`.
    pub(super) state: &'static str,
    /// Requests that it was given.
    pub(super) requests: u32,
    /// Since it was forked.
    pub(super) age: f64,
    /// Half of the requests of workers with this number and generation took at most so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p50: Option<f64>,
    /// 99 of 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) p99: Option<f64>,
    /// What it runs now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<Running>,
    /// Its share of the memory (PSS), in bytes, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pss: Option<u64>,
    /// Of its Lua state, in bytes, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lua_heap: Option<u64>,
}

/// The requests of the workers that had one number in one generation.
#[derive(Clone, Debug)]
pub(super) struct WorkerTimes {
    pub(super) worker: u32,
    pub(super) generation: u32,
    /// How long they waited for it.
    pub(super) queue_wait: Latency,
    /// How long they took.
    pub(super) service_time: Latency,
}

/// A request that runs.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Running {
    /// As in every log.
    pub(super) id: String,
    /// Method, URI and protocol, as in the access log.
    pub(super) line: String,
    /// The client's address.
    pub(super) remote: String,
    /// How long it has run.
    pub(super) time: f64,
}

/// Loads of the code.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Reloads {
    /// Those that led to a generation that answers.
    pub(super) ok: u64,
    /// Those that left the one before serving.
    pub(super) failed: u64,
}

/// The access log.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AccessLogStatus {
    /// Lines that the disk did not take.
    pub(super) dropped: u64,
}

impl Gateway {
    /// The verdict, now.
    pub(super) fn verdict(&self) -> (Verdict, Reason) {
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
    pub(super) fn status(&self) -> Status {
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
