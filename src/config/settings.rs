//! Every setting, decided: the options checked together, with the defaults filled in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;

use super::addresses;
use super::error::ConfigError;
use super::limits;
use super::options::Options;
use super::peers::{Peers, WEB_SERVER_ADDRS};
use super::quantity::{Count, Positive, Size, Time};
use super::queue::{ParamName, PriorityParam, QueueOrder};
use super::spool_directory;
use super::value::OrOff;
use super::values::{
    AccessLog, AccessLogQuery, Control, Listen, MAX_WORKERS, Preload, ProxyHeader, Sendfile, SendfileMap,
    SocketMode, SocketOwner, Switch, Workers,
};
use crate::log;
use crate::os::memory;

/// The application where none is named, and the file that must be there for it.
const APP: &str = "app";
const APP_FILE: &str = "app.lua";

/// The part of the memory that clients' requests and answers may take.
const PART_FOR_BUFFERS: u64 = 8;

/// As much they may take on the smallest machine: a hundred requests with bodies of 64 KiB, or answers as large.
const LEAST_BUFFERS: u64 = 16 << 20;

/// Every setting, decided.
#[derive(Clone, Debug)]
pub struct Config {
    /// The configuration file, whether or not it is there: commands find the server by it. None where there is no server to
    /// find.
    pub file: Option<PathBuf>,
    /// As the user named it; the Lua bridge parses it.
    pub app: String,
    /// At least one address.
    pub listen: Vec<Listen>,
    /// Who may connect over TCP.
    pub peers: Peers,
    /// Of every Unix socket that is bound here.
    pub socket_mode: SocketMode,
    /// Of every Unix socket that is bound here, where it is to differ from the process's.
    pub socket_owner: Option<SocketOwner>,
    /// Absolute.
    pub root: PathBuf,
    /// Number of workers.
    pub workers: Workers,
    /// How long a worker above the least number stays idle.
    pub idle_timeout: Duration,
    /// How long a request may run.
    pub request_timeout: Option<Duration>,
    /// How long a request that has run too long may take to stop.
    pub kill_after: Duration,
    /// How long a request runs before its stack is logged.
    pub slow_log: Option<Duration>,
    /// How long a zygote may load, and a worker start.
    pub start_timeout: Option<Duration>,
    /// Requests after which a worker is replaced.
    pub max_requests: Option<u32>,
    /// The most that chance adds to it.
    pub max_requests_jitter: u32,
    /// Bytes of memory (PSS) beyond which a worker is replaced.
    pub max_memory: Option<u64>,
    /// Age at which a worker is replaced.
    pub max_age: Option<Duration>,
    /// Bytes of memory that a worker can have at all.
    pub memory_limit: Option<u64>,
    /// Requests that may wait.
    pub queue: usize,
    /// How long each may wait.
    pub queue_timeout: Duration,
    /// Whose turn it is.
    pub queue_order: QueueOrder,
    /// How long a request may wait where there is no overload.
    pub queue_target: Duration,
    /// For how long all wait longer until it is an overload.
    pub queue_interval: Duration,
    /// The parameter with the time at which the proxy received the request.
    pub request_start: Option<ParamName>,
    /// The parameter that marks requests which go first.
    pub queue_priority: Option<PriorityParam>,
    /// How long a request's parameters may take, from its first byte.
    pub header_timeout: Duration,
    /// How long a body may bring nothing, and after which it must have come fast enough.
    pub body_timeout: Duration,
    /// How long a client may take no byte of its answer.
    pub send_timeout: Duration,
    /// How long a response may stream in all.
    pub stream_timeout: Option<Duration>,
    /// Bytes of one request body.
    pub max_body: u64,
    /// Bytes of one request's parameters.
    pub max_params: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Bytes of memory for the requests and answers of all clients together.
    pub buffer_memory: u64,
    /// Exists.
    pub spool_dir: PathBuf,
    /// Bytes of all spooled bodies and answers together.
    pub max_spool: u64,
    /// Bytes of answers that are spooled for one connection.
    pub spool_response: u64,
    /// How the proxy is told to send a file itself.
    pub sendfile: Sendfile,
    /// Where the proxy finds the application's files.
    pub sendfile_map: Vec<SendfileMap>,
    /// Headers with orders for the proxy that the application may send.
    pub proxy_headers: Vec<ProxyHeader>,
    /// How long a stop waits.
    pub grace: Duration,
    /// How long a stop that has been asked for is only announced.
    pub drain_delay: Option<Duration>,
    /// How long nobody may be connected before the gateway ends.
    pub exit_idle_time: Option<Duration>,
    /// The control socket, where there is to be one.
    pub control: Option<PathBuf>,
    /// Whether there is none because the operator said so.
    pub wants_no_control: bool,
    /// The path that the gateway answers with its status.
    pub status_path: Option<String>,
    /// The path that the gateway answers with its health.
    pub health_path: Option<String>,
    /// Whether responses tell where their time went.
    pub server_timing: bool,
    /// Where each request leaves a line.
    pub access_log: Option<AccessLog>,
    /// How much of the query it has.
    pub access_log_query: AccessLogQuery,
    /// The file of the log; standard error where there is none.
    pub log: Option<PathBuf>,
    /// When the application is loaded.
    pub preload: Preload,
    /// Whether gateway and zygote are dumpable.
    pub dumpable: Switch,
    /// Of the log.
    pub log_format: log::Format,
    /// Of the log.
    pub log_level: log::Level,
}

impl Config {
    /// Checks the options and fills in the defaults.
    pub fn new(options: Options) -> Result<Self, ConfigError> {
        limits::check(&options)?;
        let root = directory("root", options.root.unwrap_or_else(|| PathBuf::from(".")))?;
        let app = match options.app {
            Some(app) if app.is_empty() => {
                return Err(ConfigError::new("app", "expected module.path:name or path/to/file.lua"));
            }
            Some(app) => app,
            None if root.join(APP_FILE).is_file() => APP.to_owned(),
            None => {
                let cause = format!(
                    "there is no {APP_FILE} in {}; name one as module.path:name or path/to/file.lua, or its directory \
                     with --root",
                    root.display()
                );
                return Err(ConfigError::new("no application", cause));
            }
        };
        let spool_dir = directory("spool-dir", options.spool_dir.unwrap_or_else(spool_directory::default))?;
        if let Err(error) = rustix::fs::access(&spool_dir, Access::WRITE_OK | Access::EXEC_OK) {
            let cause = format!("no file can be made there: {}", log::cause(&error.into()));
            return Err(ConfigError::new("spool-dir", cause).of(spool_dir.display()));
        }
        let max_memory = options.max_memory.and_then(OrOff::set).map(|Size(bytes)| bytes);
        if max_memory.is_some() {
            memory_is_known().map_err(|cause| ConfigError::new("max-memory", cause))?;
        }
        let workers = options.workers.unwrap_or_else(|| {
            let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
            Workers::fixed(u32::try_from(cpus).unwrap_or(MAX_WORKERS).min(MAX_WORKERS))
        });
        let listen = match options.listen {
            listen if listen.is_empty() => vec![Listen::default()],
            listen => listen,
        };
        let peers = Peers::new(&options.allow_from, std::env::var_os(WEB_SERVER_ADDRS).as_deref())?;
        for address in &listen {
            // A name is looked up, and an inherited socket seen, where it is opened.
            if let Listen::Tcp(name) = address
                && let Ok(literal) = name.parse()
            {
                peers
                    .allow_listening(literal)
                    .map_err(|cause| ConfigError::new("listen", cause).of(address))?;
            }
        }
        let exit_idle_time = time_unless_off(options.exit_idle_time, None);
        if exit_idle_time.is_some() && listen.iter().any(|address| !address.is_inherited()) {
            let cause = "only with sockets that somebody else keeps (systemd or fd:N), since nobody could connect again";
            return Err(ConfigError::new("exit-idle-time", cause));
        }
        let sendfile = options.sendfile.unwrap_or(Sendfile::Off);
        let mut sendfile_map = list_unless_off("sendfile-map", options.sendfile_map)?;
        if options.sendfile.is_none() && !sendfile_map.is_empty() {
            return Err(ConfigError::new("sendfile-map", "only with sendfile"));
        }
        if sendfile == Sendfile::Off {
            // A flag that turns it off need not undo the file's map as well.
            sendfile_map.clear();
        }
        if sendfile == Sendfile::XAccelRedirect && sendfile_map.is_empty() {
            let cause =
                "x-accel-redirect needs sendfile-map: nginx is told a location of its own, not a path";
            return Err(ConfigError::new("sendfile", cause));
        }
        if let (Some(OrOff::Set(health)), Some(OrOff::Set(status))) =
            (&options.health_path, &options.status_path)
            && health == status
        {
            return Err(ConfigError::new("health-path", "the same as status-path"));
        }
        let wants_no_control = options.control == Some(Control::Off);
        let control = control(options.control, &listen);
        addresses::check(&listen, control.as_deref())?;
        Ok(Self {
            file: None,
            app,
            control,
            wants_no_control,
            listen,
            peers,
            socket_mode: options.socket_mode.unwrap_or(SocketMode(0o660)),
            socket_owner: options.socket_owner.and_then(OrOff::set),
            root,
            workers,
            idle_timeout: options.idle_timeout.map_or(Duration::from_secs(60), |time| time.0),
            request_timeout: time_unless_off(options.request_timeout, Some(Duration::from_secs(30))),
            kill_after: options.kill_after.map_or(Duration::from_secs(2), |time| time.0),
            slow_log: time_unless_off(options.slow_log, None),
            start_timeout: time_unless_off(options.start_timeout, Some(Duration::from_secs(60))),
            max_requests: options.max_requests.and_then(OrOff::set).map(|Positive(count)| count),
            max_requests_jitter: options
                .max_requests_jitter
                .and_then(OrOff::set)
                .map_or(0, |Count(count)| count),
            max_memory,
            max_age: time_unless_off(options.max_age, None),
            memory_limit: options.memory_limit.and_then(OrOff::set).map(|Size(bytes)| bytes),
            queue: options.queue.map_or(1024, |Count(count)| count as usize),
            queue_timeout: options.queue_timeout.map_or(Duration::from_secs(10), |time| time.0),
            queue_order: options.queue_order.unwrap_or(QueueOrder::Adaptive),
            queue_target: options.queue_target.map_or(Duration::from_millis(100), |time| time.0),
            queue_interval: options.queue_interval.map_or(Duration::from_secs(1), |time| time.0),
            request_start: options.request_start.and_then(OrOff::set),
            queue_priority: options.queue_priority.and_then(OrOff::set),
            header_timeout: options.header_timeout.map_or(Duration::from_secs(30), |time| time.0),
            body_timeout: options.body_timeout.map_or(Duration::from_secs(90), |time| time.0),
            send_timeout: options.send_timeout.map_or(Duration::from_secs(60), |time| time.0),
            stream_timeout: time_unless_off(options.stream_timeout, None),
            max_body: options.max_body.map_or(64 << 20, |size| size.0),
            max_params: options
                .max_params
                .map_or(64 << 10, |Size(bytes)| usize::try_from(bytes).expect("checked against the highest")),
            max_connections: options.max_connections.map_or(4096, |Positive(count)| count as usize),
            buffer_memory: options.buffer_memory.map_or_else(buffer_memory, |size| size.0),
            spool_dir,
            max_spool: options.max_spool.map_or(1 << 30, |size| size.0),
            spool_response: options
                .spool_response
                .map_or(64 << 20, |size| size.set().map_or(0, |Size(bytes)| bytes)),
            sendfile,
            sendfile_map,
            proxy_headers: list_unless_off("proxy-headers", options.proxy_headers)?,
            grace: options.grace.map_or(Duration::from_secs(30), |time| time.0),
            drain_delay: time_unless_off(options.drain_delay, None),
            exit_idle_time,
            health_path: options.health_path.and_then(OrOff::set).map(|path| path.0),
            status_path: options.status_path.and_then(OrOff::set).map(|path| path.0),
            server_timing: options.server_timing == Some(Switch::On),
            access_log: options.access_log.and_then(OrOff::set),
            access_log_query: options.access_log_query.unwrap_or(AccessLogQuery::On),
            log: options.log.and_then(|target| target.0),
            preload: options.preload.unwrap_or(Preload::Auto),
            dumpable: options.dumpable.unwrap_or(Switch::Off),
            log_format: options.log_format.unwrap_or(log::Format::Text),
            log_level: options.log_level.unwrap_or(log::Level::Info),
        })
    }
}

/// The memory for clients where nobody says how much: a part of what the process can have, which is shared with its workers.
fn buffer_memory() -> u64 {
    (memory::available() / PART_FOR_BUFFERS).max(LEAST_BUFFERS)
}

/// Where the control socket is: beside the first Unix socket unless the operator says otherwise.
pub fn control(given: Option<Control>, listen: &[Listen]) -> Option<PathBuf> {
    match given {
        Some(Control::Unix(path)) => Some(path),
        Some(Control::Off) => None,
        None => listen.iter().find_map(|address| match address {
            Listen::Unix(path) => Some(control_beside(path)),
            _ => None,
        }),
    }
}

/// The control socket of a server that listens at `path`, unless the operator says otherwise.
pub fn control_beside(path: &Path) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(".ctl");
    path.into()
}

fn time_unless_off(given: Option<OrOff<Time>>, default: Option<Duration>) -> Option<Duration> {
    given.map_or(default, |time| time.set().map(|Time(time)| time))
}

/// The values of a list; `off` alone is none.
fn list_unless_off<T>(key: &str, given: Vec<OrOff<T>>) -> Result<Vec<T>, ConfigError> {
    let count = given.len();
    let values: Vec<T> = given.into_iter().filter_map(OrOff::set).collect();
    if values.len() < count && count > 1 {
        return Err(ConfigError::new(key, "off goes with no other value"));
    }
    Ok(values)
}

/// Whether the kernel says how much memory a process takes. Where it does not, no worker would ever be found too large.
fn memory_is_known() -> Result<(), String> {
    const FILE: &str = "/proc/self/smaps_rollup";
    let text = std::fs::read_to_string(FILE)
        .map_err(|error| format!("cannot be watched without {FILE}: {}", log::cause(&error)))?;
    let known = text.lines().any(|line| line.starts_with("Pss:"));
    known.then_some(()).ok_or_else(|| format!("cannot be watched: {FILE} says no Pss"))
}

fn directory(option: &str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    let wrong = |cause: String| ConfigError::new(option, cause).of(path.display());
    if path.as_os_str().is_empty() {
        return Err(wrong("expected a directory".to_owned()));
    }
    let found = path.canonicalize().map_err(|error| wrong(log::cause(&error)))?;
    if found.is_dir() { Ok(found) } else { Err(wrong("not a directory".to_owned())) }
}
