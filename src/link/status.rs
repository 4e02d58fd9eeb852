//! The status of the server as data: the JSON that the gateway writes and `nibiru status` reads.
//!
//! Holds no decision; the forms of the status show these fields. A reader takes the default for a field that the server does not
//! send, and ignores a field that it does not know, since client and server may be of different versions. Words are constants in
//! the server and owned text in a client.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The status of the server. The fields are documented in `docs/how-to/status.md`; times are in seconds, sizes in bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Nibiru's version.
    pub version: Cow<'static, str>,
    /// The gateway's process id.
    pub pid: u32,
    /// The application's name in the settings.
    pub app: String,
    /// The start of the gateway, in RFC 3339 and UTC.
    pub started: Timestamp,
    /// Seconds since the start; a server always sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime: Option<f64>,
    /// The verdict's word.
    pub verdict: Cow<'static, str>,
    /// The verdict's reason.
    pub reason: String,
    /// Whether a stop has begun.
    pub stopping: bool,
    /// The generation of the code that answers requests.
    pub generation: u32,
    /// Every generation that still has workers, with the times of its requests.
    pub generations: Vec<Generation>,
    /// Requests that wait for a worker.
    pub queue: QueueStatus,
    /// Connections of proxies.
    pub connections: Connections,
    /// Memory of requests and responses.
    pub buffer_memory: BufferMemory,
    /// Request bodies and responses in files.
    pub spool: SpoolStatus,
    /// Requests that have ended since the start.
    pub requests: Requests,
    /// Time that requests waited for a worker, for requests that got one.
    pub queue_wait: Latency,
    /// Time that workers took for requests.
    pub service_time: Latency,
    /// Workers by state, and totals since the start.
    pub pool: PoolStatus,
    /// Each worker.
    pub workers: Vec<Worker>,
    /// Times of each worker's requests, by the worker's number and generation. In the metrics only.
    #[serde(skip)]
    pub times: Vec<WorkerTimes>,
    /// Loads of the code since the start, the first load included.
    pub reloads: Reloads,
    /// The access log; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLogStatus>,
}

/// A generation of the code.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Generation {
    /// The generation's number, from 1 on.
    pub number: u32,
    /// Workers of the generation.
    pub workers: usize,
    /// Time that requests waited for these workers.
    pub queue_wait: Latency,
    /// Time that these workers took for requests.
    pub service_time: Latency,
}

/// The queue.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueStatus {
    /// Requests that wait.
    pub length: usize,
    /// The most requests that may wait.
    pub capacity: usize,
    /// Age of the oldest request that waits; 0 where none waits.
    pub oldest_wait: f64,
    /// Whether the newest requests go first and the oldest are refused.
    pub overloaded: bool,
}

/// Connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Connections {
    /// Connections that are open.
    pub open: usize,
    /// The most connections that may be open.
    pub max: usize,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections of peers that may not connect, since the start; not among those accepted.
    pub refused: u64,
    /// Connections closed since the start because a peer did not speak FastCGI.
    pub malformed: u64,
}

/// Memory of requests and responses.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BufferMemory {
    /// Bytes that are in use.
    pub bytes: u64,
    /// The most bytes that may be in use.
    pub max: u64,
}

/// Request bodies and slow clients' responses in files.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SpoolStatus {
    /// Bytes that are in use now.
    pub bytes: u64,
    /// The most bytes that may be in use.
    pub max: u64,
    /// Files that are open.
    pub files: usize,
}

/// Requests that have ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// All requests that have ended.
    pub total: u64,
    /// Requests by the class of the status that was sent: `1xx` to `5xx`, and `none`.
    pub by_status: BTreeMap<Cow<'static, str>, u64>,
    /// Requests whose client went away first.
    pub aborted: u64,
    /// Requests whose response broke off after its head.
    pub broken: u64,
    /// Requests that no worker has seen, by the reason.
    pub refused: BTreeMap<Cow<'static, str>, u64>,
    /// Bytes of response bodies.
    pub body_bytes: u64,
}

/// Durations since the start, in seconds. Percentiles are as fine as the buckets.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Durations that were counted.
    pub count: u64,
    /// The sum of the durations.
    pub sum: f64,
    /// The median; absent where nothing was counted, as the other percentiles are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// The 90th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90: Option<f64>,
    /// The 99th percentile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// The histogram's buckets, not cumulative.
    pub buckets: Vec<Bucket>,
}

/// A bucket of a histogram.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Bucket {
    /// The upper bound; `None` for the last bucket.
    pub le: Option<f64>,
    /// Durations above the bound before and up to this bound.
    pub count: u64,
}

/// The pool of workers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolStatus {
    /// Workers that are being forked or run their start hooks.
    pub starting: usize,
    /// Workers without a request.
    pub idle: usize,
    /// Workers that run a request.
    pub busy: usize,
    /// Workers that were told to exit.
    pub leaving: usize,
    /// The fewest workers that there may be.
    pub min: u32,
    /// The most workers that there may be.
    pub max: u32,
    /// Workers forked since the start.
    pub started: u64,
    /// Workers that have ended since the start, by the cause.
    pub ended: BTreeMap<Cow<'static, str>, u64>,
}

/// One worker.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Worker {
    /// The worker's number. A number is used again when its worker is gone.
    pub number: u32,
    /// The generation of the worker's code.
    pub generation: u32,
    /// The process id; absent until the worker is forked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The worker's state: `starting`, `ready` (of a generation that does not answer yet), `idle`, `busy`, `leaving`.
    pub state: Cow<'static, str>,
    /// Requests that the worker was given.
    pub requests: u32,
    /// Seconds since the worker was forked; a server always sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<f64>,
    /// The median service time of the workers with this number and generation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// The 99th percentile of the same times.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// The request that the worker runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Running>,
    /// The worker's proportional share of memory (PSS), where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pss: Option<u64>,
    /// Memory of the worker's Lua state, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lua_heap: Option<u64>,
}

/// Times of the requests of the workers that had one number in one generation.
#[derive(Clone, Debug)]
pub struct WorkerTimes {
    /// The workers' number.
    pub worker: u32,
    /// The generation of the workers' code.
    pub generation: u32,
    /// Time that the requests waited for the worker.
    pub queue_wait: Latency,
    /// Time that the worker took for the requests.
    pub service_time: Latency,
}

/// A request that runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Running {
    /// The request's id, as in every log.
    pub id: String,
    /// Method, URI and protocol, as in the access log.
    pub line: String,
    /// The client's address.
    pub remote: String,
    /// Seconds since a worker was given the request; a server always sends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<f64>,
}

/// Loads of the code.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloads {
    /// Loads that led to a generation that answers requests.
    pub ok: u64,
    /// Loads that failed and left the generation before serving.
    pub failed: u64,
}

/// The access log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AccessLogStatus {
    /// Lines that could not be written.
    pub dropped: u64,
}

/// A moment, in RFC 3339 and UTC, to the second. The default is 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp(pub SystemTime);

impl Default for Timestamp {
    fn default() -> Self {
        Self(SystemTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(self.0).fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map(Self).map_err(de::Error::custom)
    }
}
