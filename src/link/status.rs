//! The status of the server as data. Holds no decision; the forms of the status show these fields.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use serde::{Serialize, Serializer};

/// The moment at which the gateway started, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    /// For people.
    pub(crate) time: SystemTime,
    /// For durations.
    pub(crate) instant: Instant,
}

/// The status of the server. The fields are documented in `docs/how-to/status.md`; times are in seconds, sizes in bytes.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    /// Nibiru's version.
    pub(crate) version: &'static str,
    /// The gateway's process id.
    pub(crate) pid: u32,
    /// The application's name in the settings.
    pub(crate) app: String,
    /// The start of the gateway, in RFC 3339 and UTC.
    #[serde(serialize_with = "rfc3339")]
    pub(crate) started: SystemTime,
    /// Seconds since the start.
    pub(crate) uptime: f64,
    /// The verdict's word.
    pub(crate) verdict: &'static str,
    /// The verdict's reason.
    pub(crate) reason: String,
    /// Whether a stop has begun.
    pub(crate) stopping: bool,
    /// The generation of the code that answers requests.
    pub(crate) generation: u32,
    /// Every generation that still has workers, with the times of its requests.
    pub(crate) generations: Vec<Generation>,
    /// Requests that wait for a worker.
    pub(crate) queue: QueueStatus,
    /// Connections of proxies.
    pub(crate) connections: Connections,
    /// Memory of requests and responses.
    pub(crate) buffer_memory: BufferMemory,
    /// Request bodies and responses in files.
    pub(crate) spool: SpoolStatus,
    /// Requests that have ended since the start.
    pub(crate) requests: Requests,
    /// Time that requests waited for a worker, of those that got one.
    pub(crate) queue_wait: Latency,
    /// Time that workers took for requests.
    pub(crate) service_time: Latency,
    /// Workers by state, and totals since the start.
    pub(crate) pool: PoolStatus,
    /// Each worker.
    pub(crate) workers: Vec<Worker>,
    /// Times of each worker's requests, by the worker's number and generation. In the metrics only.
    #[serde(skip)]
    pub(crate) times: Vec<WorkerTimes>,
    /// Loads of the code since the start, the first load included.
    pub(crate) reloads: Reloads,
    /// The access log; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) access_log: Option<AccessLogStatus>,
}

/// A generation of the code.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Generation {
    /// The generation's number, from 1 on.
    pub(crate) number: u32,
    /// Workers of the generation.
    pub(crate) workers: usize,
    /// Time that requests waited for these workers.
    pub(crate) queue_wait: Latency,
    /// Time that these workers took for requests.
    pub(crate) service_time: Latency,
}

/// The queue.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct QueueStatus {
    /// Requests that wait.
    pub(crate) length: usize,
    /// The most requests that may wait.
    pub(crate) capacity: usize,
    /// Age of the oldest request that waits; 0 where none waits.
    pub(crate) oldest_wait: f64,
    /// Whether the newest requests go first and the oldest are refused.
    pub(crate) overloaded: bool,
}

/// Connections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Connections {
    /// Connections that are open.
    pub(crate) open: usize,
    /// The most connections that may be open.
    pub(crate) max: usize,
    /// Connections accepted since the start.
    pub(crate) accepted: u64,
    /// Connections of peers that may not connect, since the start; not among those accepted.
    pub(crate) refused: u64,
    /// Connections closed since the start because a peer did not speak FastCGI.
    pub(crate) malformed: u64,
}

/// Memory of requests and responses.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BufferMemory {
    /// Bytes that are in use.
    pub(crate) bytes: u64,
    /// The most bytes that may be in use.
    pub(crate) max: u64,
}

/// Request bodies and slow clients' responses in files.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SpoolStatus {
    /// Bytes that are in use now.
    pub(crate) bytes: u64,
    /// The most bytes that may be in use.
    pub(crate) max: u64,
    /// Files that are open.
    pub(crate) files: usize,
}

/// Requests that have ended.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Requests {
    /// All requests that have ended.
    pub(crate) total: u64,
    /// Requests by the class of the status that was sent: `1xx` to `5xx`, and `none`.
    pub(crate) by_status: BTreeMap<&'static str, u64>,
    /// Requests whose client went away first.
    pub(crate) aborted: u64,
    /// Requests whose response broke off after its head.
    pub(crate) broken: u64,
    /// Requests that no worker has seen, by the reason.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// Bytes of response bodies.
    pub(crate) body_bytes: u64,
}

/// Durations since the start, in seconds. Percentiles are as fine as the buckets.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    /// Durations that were counted.
    pub(crate) count: u64,
    /// The sum of the durations.
    pub(crate) sum: f64,
    /// The median; absent where nothing was counted, as the other percentiles are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50: Option<f64>,
    /// The 90th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p90: Option<f64>,
    /// The 99th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99: Option<f64>,
    /// The histogram's buckets, not cumulative.
    pub(crate) buckets: Vec<Bucket>,
}

/// A bucket of a histogram.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Bucket {
    /// The upper bound; `None` for the last bucket.
    pub(crate) le: Option<f64>,
    /// Durations above the bound before and up to this bound.
    pub(crate) count: u64,
}

/// The pool of workers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PoolStatus {
    /// Workers that are being forked or run their start hooks.
    pub(crate) starting: usize,
    /// Workers without a request.
    pub(crate) idle: usize,
    /// Workers that run a request.
    pub(crate) busy: usize,
    /// Workers that were told to exit.
    pub(crate) leaving: usize,
    /// The fewest workers that there may be.
    pub(crate) min: u32,
    /// The most workers that there may be.
    pub(crate) max: u32,
    /// Workers forked since the start.
    pub(crate) started: u64,
    /// Workers that have ended since the start, by the cause.
    pub(crate) ended: BTreeMap<&'static str, u64>,
}

/// One worker.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Worker {
    /// The worker's number. A number is used again when its worker is gone.
    pub(crate) number: u32,
    /// The generation of the worker's code.
    pub(crate) generation: u32,
    /// The process id; absent until the worker is forked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<u32>,
    /// The worker's state: `starting`, `ready` (of a generation that does not answer yet), `idle`, `busy`, `leaving`.
    pub(crate) state: &'static str,
    /// Requests that the worker was given.
    pub(crate) requests: u32,
    /// Seconds since the worker was forked.
    pub(crate) age: f64,
    /// The median service time of the workers with this number and generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50: Option<f64>,
    /// The 99th percentile of the same times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99: Option<f64>,
    /// The request that the worker runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<Running>,
    /// The worker's proportional share of memory (PSS), where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pss: Option<u64>,
    /// Memory of the worker's Lua state, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lua_heap: Option<u64>,
}

/// Times of the requests of the workers that had one number in one generation.
#[derive(Clone, Debug)]
pub(crate) struct WorkerTimes {
    pub(crate) worker: u32,
    pub(crate) generation: u32,
    /// Time that the requests waited for the worker.
    pub(crate) queue_wait: Latency,
    /// Time that the worker took for the requests.
    pub(crate) service_time: Latency,
}

/// A request that runs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Running {
    /// The request's id, as in every log.
    pub(crate) id: String,
    /// Method, URI and protocol, as in the access log.
    pub(crate) line: String,
    /// The client's address.
    pub(crate) remote: String,
    /// Seconds since a worker was given the request.
    pub(crate) time: f64,
}

/// Loads of the code.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Reloads {
    /// Loads that led to a generation that answers requests.
    pub(crate) ok: u64,
    /// Loads that failed and left the generation before serving.
    pub(crate) failed: u64,
}

/// The access log.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AccessLogStatus {
    /// Lines that could not be written.
    pub(crate) dropped: u64,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_seconds(*time))
}
