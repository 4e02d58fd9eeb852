//! Flags, environment and `nibiru.toml` become one checked [`Config`].
//!
//! [`Options`] is the one list of settings: clap reads it from flags and `NIBIRU_…` variables, serde from
//! the file. Flags beat the environment beats the file beats the defaults, which stand in [`Config::new`].

mod values;

use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::log;

pub use values::{
    AccessLog, Control, Listen, MAX_WORKERS, Preload, ProxyHeader, Sendfile, SendfileMap, Size, SocketMode,
    SocketOwner, Time, Timeout, UrlPath, Workers, proxy_headers,
};

/// The file that is read where no `--config` names one and it exists.
pub const FILE: &str = "nibiru.toml";

/// The most that `--max-params` may allow: a request's variables and a small body share one packet
/// between the gateway and a worker (see [`crate::ipc::message::MAX_PACKET`]).
const MAX_PARAMS_CEILING: u64 = 120 * 1024;

/// Every setting, each optional. Also the keys of `nibiru.toml`.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// The application: module.path:name or path/to/file.lua[:name]
    #[arg(value_name = "APP", env = "NIBIRU_APP")]
    pub app: Option<String>,

    /// Listen on unix:PATH, tcp:HOST:PORT, fd:N or systemd; repeatable [unix:nibiru.sock]
    #[arg(long, value_name = "ADDR", env = "NIBIRU_LISTEN", value_delimiter = ',')]
    #[serde(deserialize_with = "one_or_more")]
    pub listen: Vec<Listen>,

    /// Permissions of the Unix socket [0660]
    #[arg(long, value_name = "MODE", env = "NIBIRU_SOCKET_MODE")]
    #[serde(deserialize_with = "from_text")]
    pub socket_mode: Option<SocketMode>,

    /// Owner of the Unix socket
    #[arg(long, value_name = "USER[:GROUP]", env = "NIBIRU_SOCKET_OWNER")]
    #[serde(deserialize_with = "from_text")]
    pub socket_owner: Option<SocketOwner>,

    /// Root of the application and working directory [.]
    #[arg(long, value_name = "DIR", env = "NIBIRU_ROOT")]
    pub root: Option<PathBuf>,

    /// Number of workers, or MIN-MAX to scale with the load [number of CPUs]
    #[arg(long, value_name = "N", env = "NIBIRU_WORKERS")]
    #[serde(deserialize_with = "from_text")]
    pub workers: Option<Workers>,

    /// A worker above MIN that is idle for so long ends [60s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_IDLE_TIMEOUT")]
    #[serde(deserialize_with = "from_text")]
    pub idle_timeout: Option<Time>,

    /// How long a request may run; beyond: 504; or off [30s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_REQUEST_TIMEOUT")]
    #[serde(deserialize_with = "from_text")]
    pub request_timeout: Option<Timeout>,

    /// How long after that its worker is killed where it does not stop [2s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_KILL_AFTER")]
    #[serde(deserialize_with = "from_text")]
    pub kill_after: Option<Time>,

    /// A request that runs for longer is logged with its Lua stack [off]
    #[arg(long, value_name = "TIME", env = "NIBIRU_SLOW_LOG")]
    #[serde(deserialize_with = "from_text")]
    pub slow_log: Option<Timeout>,

    /// How long loading and start hooks may take; or off [60s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_START_TIMEOUT", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub start_timeout: Option<Timeout>,

    /// Replace a worker after so many requests; 1: a fresh state for each [off]
    #[arg(long, value_name = "N", env = "NIBIRU_MAX_REQUESTS")]
    #[serde(deserialize_with = "from_text")]
    pub max_requests: Option<NonZeroU32>,

    /// Up to so many requests more, by chance [0]
    #[arg(long, value_name = "N", env = "NIBIRU_MAX_REQUESTS_JITTER", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub max_requests_jitter: Option<u32>,

    /// Replace a worker that takes more memory (PSS) [off]
    #[arg(long, value_name = "SIZE", env = "NIBIRU_MAX_MEMORY")]
    #[serde(deserialize_with = "from_text")]
    pub max_memory: Option<Size>,

    /// Replace a worker that is older [off]
    #[arg(long, value_name = "TIME", env = "NIBIRU_MAX_AGE")]
    #[serde(deserialize_with = "from_text")]
    pub max_age: Option<Timeout>,

    /// Memory that a worker can have at all [off]
    #[arg(long, value_name = "SIZE", env = "NIBIRU_MEMORY_LIMIT")]
    #[serde(deserialize_with = "from_text")]
    pub memory_limit: Option<Size>,

    /// Requests that may wait for a worker; beyond: 503 [1024]
    #[arg(long, value_name = "N", env = "NIBIRU_QUEUE")]
    #[serde(deserialize_with = "from_text")]
    pub queue: Option<usize>,

    /// How long a request may wait for a worker; beyond: 503 [10s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_QUEUE_TIMEOUT")]
    #[serde(deserialize_with = "from_text")]
    pub queue_timeout: Option<Time>,

    /// How long a request's parameters may take to arrive; beyond: closed [30s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_HEADER_TIMEOUT", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub header_timeout: Option<Time>,

    /// How long a body may bring nothing, or come too slowly; beyond: 408 [90s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_BODY_TIMEOUT", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub body_timeout: Option<Time>,

    /// How long a client may take nothing of its answer; beyond: closed [60s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_SEND_TIMEOUT", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub send_timeout: Option<Time>,

    /// How long a response may stream in all; beyond: broken off [off]
    #[arg(long, value_name = "TIME", env = "NIBIRU_STREAM_TIMEOUT", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub stream_timeout: Option<Timeout>,

    /// Size of a request body; beyond: 413 [64M]
    #[arg(long, value_name = "SIZE", env = "NIBIRU_MAX_BODY")]
    #[serde(deserialize_with = "from_text")]
    pub max_body: Option<Size>,

    /// Size of a request's FastCGI parameters; beyond: 431 [64K]
    #[arg(long, value_name = "SIZE", env = "NIBIRU_MAX_PARAMS")]
    #[serde(deserialize_with = "from_text")]
    pub max_params: Option<Size>,

    /// Connections at a time; beyond: not accepted [4096]
    #[arg(long, value_name = "N", env = "NIBIRU_MAX_CONNECTIONS")]
    #[serde(deserialize_with = "from_text")]
    pub max_connections: Option<NonZeroU32>,

    /// Where bodies over 64K are kept [the system's temporary directory]
    #[arg(long, value_name = "DIR", env = "NIBIRU_SPOOL_DIR")]
    pub spool_dir: Option<PathBuf>,

    /// Size of all kept bodies together; beyond: 503 [1G]
    #[arg(long, value_name = "SIZE", env = "NIBIRU_MAX_SPOOL")]
    #[serde(deserialize_with = "from_text")]
    pub max_spool: Option<Size>,

    /// How the proxy is told to send a file itself [off]
    #[arg(long, value_enum, value_name = "HEADER", env = "NIBIRU_SENDFILE", hide_short_help = true)]
    pub sendfile: Option<Sendfile>,

    /// Files under DIR are under PREFIX for the proxy; repeatable
    #[arg(
        long,
        value_name = "DIR=PREFIX",
        env = "NIBIRU_SENDFILE_MAP",
        hide_short_help = true,
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_more")]
    pub sendfile_map: Vec<SendfileMap>,

    /// Headers with orders for the proxy that the application may send [none]
    #[arg(
        long,
        value_name = "NAME",
        env = "NIBIRU_PROXY_HEADERS",
        hide_short_help = true,
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_more")]
    pub proxy_headers: Vec<ProxyHeader>,

    /// How long a stop or reload waits for running requests [30s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_GRACE")]
    #[serde(deserialize_with = "from_text")]
    pub grace: Option<Time>,

    /// End when nobody was connected for so long; for socket activation [off]
    #[arg(long, value_name = "TIME", env = "NIBIRU_EXIT_IDLE_TIME", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub exit_idle_time: Option<Timeout>,

    /// Control socket: unix:PATH or off [the first Unix socket's path and .ctl]
    #[arg(long, value_name = "ADDR", env = "NIBIRU_CONTROL")]
    #[serde(deserialize_with = "from_text")]
    pub control: Option<Control>,

    /// Path at which the server itself answers with its status [off]
    #[arg(long, value_name = "PATH", env = "NIBIRU_STATUS_PATH")]
    #[serde(deserialize_with = "from_text")]
    pub status_path: Option<UrlPath>,

    /// File with a line for each request; - for standard output [off]
    #[arg(long, value_name = "FILE", env = "NIBIRU_ACCESS_LOG")]
    #[serde(deserialize_with = "from_text")]
    pub access_log: Option<AccessLog>,

    /// Load the application before the fork [auto]
    #[arg(long, value_enum, value_name = "WHEN", env = "NIBIRU_PRELOAD")]
    pub preload: Option<Preload>,

    /// Format of the log and the access log [text]
    #[arg(long, value_enum, value_name = "FORMAT", env = "NIBIRU_LOG_FORMAT")]
    pub log_format: Option<log::Format>,

    /// Least level that is logged [info]
    #[arg(long, value_enum, value_name = "LEVEL", env = "NIBIRU_LOG_LEVEL")]
    pub log_level: Option<log::Level>,
}

impl Options {
    /// Reads a configuration file; `None` where `path` is `None` and there is no [`FILE`].
    pub fn from_file(path: Option<&Path>) -> Result<Option<Self>, ConfigError> {
        let (path, required) = path.map_or((Path::new(FILE), false), |path| (path, true));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Ok(None),
            Err(error) => return Err(ConfigError::new(path.display(), log::cause(&error))),
        };
        toml::from_str(&text)
            .map(Some)
            .map_err(|error| ConfigError::new(path.display(), error.to_string().trim_end()))
    }

    /// Takes from `below` what is not set here.
    #[must_use]
    pub fn or(self, below: Self) -> Self {
        Self {
            app: self.app.or(below.app),
            listen: first_given(self.listen, below.listen),
            socket_mode: self.socket_mode.or(below.socket_mode),
            socket_owner: self.socket_owner.or(below.socket_owner),
            root: self.root.or(below.root),
            workers: self.workers.or(below.workers),
            idle_timeout: self.idle_timeout.or(below.idle_timeout),
            request_timeout: self.request_timeout.or(below.request_timeout),
            kill_after: self.kill_after.or(below.kill_after),
            slow_log: self.slow_log.or(below.slow_log),
            start_timeout: self.start_timeout.or(below.start_timeout),
            max_requests: self.max_requests.or(below.max_requests),
            max_requests_jitter: self.max_requests_jitter.or(below.max_requests_jitter),
            max_memory: self.max_memory.or(below.max_memory),
            max_age: self.max_age.or(below.max_age),
            memory_limit: self.memory_limit.or(below.memory_limit),
            queue: self.queue.or(below.queue),
            queue_timeout: self.queue_timeout.or(below.queue_timeout),
            header_timeout: self.header_timeout.or(below.header_timeout),
            body_timeout: self.body_timeout.or(below.body_timeout),
            send_timeout: self.send_timeout.or(below.send_timeout),
            stream_timeout: self.stream_timeout.or(below.stream_timeout),
            max_body: self.max_body.or(below.max_body),
            max_params: self.max_params.or(below.max_params),
            max_connections: self.max_connections.or(below.max_connections),
            spool_dir: self.spool_dir.or(below.spool_dir),
            max_spool: self.max_spool.or(below.max_spool),
            sendfile: self.sendfile.or(below.sendfile),
            sendfile_map: first_given(self.sendfile_map, below.sendfile_map),
            proxy_headers: first_given(self.proxy_headers, below.proxy_headers),
            grace: self.grace.or(below.grace),
            exit_idle_time: self.exit_idle_time.or(below.exit_idle_time),
            control: self.control.or(below.control),
            status_path: self.status_path.or(below.status_path),
            access_log: self.access_log.or(below.access_log),
            preload: self.preload.or(below.preload),
            log_format: self.log_format.or(below.log_format),
            log_level: self.log_level.or(below.log_level),
        }
    }
}

fn first_given<T>(list: Vec<T>, below: Vec<T>) -> Vec<T> {
    if list.is_empty() { below } else { list }
}

/// Every setting, decided.
#[derive(Clone, Debug)]
pub struct Config {
    /// As the user named it; the Lua bridge parses it.
    pub app: String,
    /// At least one address.
    pub listen: Vec<Listen>,
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
    /// How long a request's parameters may take, from its first byte.
    pub header_timeout: Duration,
    /// How long a body may bring nothing, and after which it must have come fast enough.
    pub body_timeout: Duration,
    /// How long a client may take no byte of what waits for it.
    pub send_timeout: Duration,
    /// How long a response may stream in all.
    pub stream_timeout: Option<Duration>,
    /// Bytes of one request body.
    pub max_body: u64,
    /// Bytes of one request's parameters.
    pub max_params: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Exists.
    pub spool_dir: PathBuf,
    /// Bytes of all spooled bodies together.
    pub max_spool: u64,
    /// How the proxy is told to send a file itself.
    pub sendfile: Sendfile,
    /// Where the proxy finds the application's files.
    pub sendfile_map: Vec<SendfileMap>,
    /// Headers with orders for the proxy that the application may send.
    pub proxy_headers: Vec<ProxyHeader>,
    /// How long a stop waits.
    pub grace: Duration,
    /// How long nobody may be connected before the gateway ends.
    pub exit_idle_time: Option<Duration>,
    /// The control socket, where there is to be one.
    pub control: Option<PathBuf>,
    /// The path that the gateway answers with its status.
    pub status_path: Option<String>,
    /// Where each request leaves a line.
    pub access_log: Option<AccessLog>,
    /// When the application is loaded.
    pub preload: Preload,
    /// Of the log.
    pub log_format: log::Format,
    /// Of the log.
    pub log_level: log::Level,
}

impl Config {
    /// Checks the options and fills in the defaults.
    pub fn new(options: Options) -> Result<Self, ConfigError> {
        let app = options.app.ok_or_else(|| {
            ConfigError::new("no application", "name one as module.path:name or path/to/file.lua")
        })?;
        let root = directory("root", options.root.unwrap_or_else(|| PathBuf::from(".")))?;
        let spool_dir = directory("spool-dir", options.spool_dir.unwrap_or_else(std::env::temp_dir))?;
        let max_params = options.max_params.map_or(64 << 10, |size| size.0);
        if max_params > MAX_PARAMS_CEILING {
            return Err(ConfigError::new("max-params", format!("at most {}K", MAX_PARAMS_CEILING >> 10)));
        }
        let workers = options.workers.unwrap_or_else(|| {
            let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
            Workers::fixed(u32::try_from(cpus).unwrap_or(MAX_WORKERS).min(MAX_WORKERS))
        });
        let listen = match options.listen {
            listen if listen.is_empty() => vec![Listen::default()],
            listen => listen,
        };
        let exit_idle_time = options.exit_idle_time.and_then(|time| time.0);
        if exit_idle_time.is_some() && listen.iter().any(|address| !address.is_inherited()) {
            let cause = "only with sockets that somebody else keeps (systemd or fd:N), since nobody could connect again";
            return Err(ConfigError::new("exit-idle-time", cause));
        }
        let sendfile = options.sendfile.unwrap_or(Sendfile::Off);
        if sendfile == Sendfile::Off && !options.sendfile_map.is_empty() {
            return Err(ConfigError::new("sendfile-map", "only with sendfile"));
        }
        if sendfile == Sendfile::XAccelRedirect && options.sendfile_map.is_empty() {
            let cause =
                "x-accel-redirect needs sendfile-map: nginx is told a location of its own, not a path";
            return Err(ConfigError::new("sendfile", cause));
        }
        Ok(Self {
            app,
            control: control(options.control, &listen),
            listen,
            socket_mode: options.socket_mode.unwrap_or(SocketMode(0o660)),
            socket_owner: options.socket_owner,
            root,
            workers,
            idle_timeout: options.idle_timeout.map_or(Duration::from_secs(60), |time| time.0),
            request_timeout: options.request_timeout.map_or(Some(Duration::from_secs(30)), |time| time.0),
            kill_after: options.kill_after.map_or(Duration::from_secs(2), |time| time.0),
            slow_log: options.slow_log.and_then(|time| time.0),
            start_timeout: options.start_timeout.map_or(Some(Duration::from_secs(60)), |time| time.0),
            max_requests: options.max_requests.map(NonZeroU32::get),
            max_requests_jitter: options.max_requests_jitter.unwrap_or(0),
            max_memory: options.max_memory.map(|size| size.0),
            max_age: options.max_age.and_then(|time| time.0),
            memory_limit: options.memory_limit.map(|size| size.0),
            queue: options.queue.unwrap_or(1024),
            queue_timeout: options.queue_timeout.map_or(Duration::from_secs(10), |time| time.0),
            header_timeout: options.header_timeout.map_or(Duration::from_secs(30), |time| time.0),
            body_timeout: options.body_timeout.map_or(Duration::from_secs(90), |time| time.0),
            send_timeout: options.send_timeout.map_or(Duration::from_secs(60), |time| time.0),
            stream_timeout: options.stream_timeout.and_then(|time| time.0),
            max_body: options.max_body.map_or(64 << 20, |size| size.0),
            max_params: usize::try_from(max_params).expect("checked against the ceiling"),
            max_connections: options.max_connections.map_or(4096, |n| n.get() as usize),
            spool_dir,
            max_spool: options.max_spool.map_or(1 << 30, |size| size.0),
            sendfile,
            sendfile_map: options.sendfile_map,
            proxy_headers: options.proxy_headers,
            grace: options.grace.map_or(Duration::from_secs(30), |time| time.0),
            exit_idle_time,
            status_path: options.status_path.map(|path| path.0),
            access_log: options.access_log,
            preload: options.preload.unwrap_or(Preload::Auto),
            log_format: options.log_format.unwrap_or(log::Format::Text),
            log_level: options.log_level.unwrap_or(log::Level::Info),
        })
    }
}

impl Config {
    /// Takes from `old` what a running server cannot change; gives the names of those settings that would differ.
    pub fn keep_what_needs_a_restart(&mut self, old: &Self) -> Vec<&'static str> {
        let mut differ = Vec::new();
        macro_rules! keep {
            ($($field:ident: $name:literal),+) => {
                $(if self.$field != old.$field {
                    self.$field.clone_from(&old.$field);
                    differ.push($name);
                })+
            };
        }
        keep!(
            listen: "listen",
            socket_mode: "socket-mode",
            socket_owner: "socket-owner",
            max_connections: "max-connections",
            spool_dir: "spool-dir",
            max_spool: "max-spool",
            sendfile: "sendfile",
            sendfile_map: "sendfile-map",
            proxy_headers: "proxy-headers",
            exit_idle_time: "exit-idle-time",
            control: "control",
            access_log: "access-log",
            log_format: "log-format",
            log_level: "log-level"
        );
        differ
    }
}

/// Where the control socket is: beside the first Unix socket unless the operator says otherwise.
pub fn control(given: Option<Control>, listen: &[Listen]) -> Option<PathBuf> {
    match given {
        Some(Control::Unix(path)) => Some(path),
        Some(Control::Off) => None,
        None => listen.iter().find_map(|address| match address {
            Listen::Unix(path) => {
                let mut path = path.clone().into_os_string();
                path.push(".ctl");
                Some(path.into())
            }
            _ => None,
        }),
    }
}

fn directory(option: &str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    let path = path
        .canonicalize()
        .map_err(|error| ConfigError::new(option, format!("{}: {}", path.display(), log::cause(&error))))?;
    if path.is_dir() {
        Ok(path)
    } else {
        Err(ConfigError::new(option, format!("{}: not a directory", path.display())))
    }
}

/// A setting that does not do: the object, then the cause.
#[derive(Debug)]
pub struct ConfigError {
    object: String,
    cause: String,
}

impl ConfigError {
    fn new(object: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self { object: object.to_string(), cause: cause.to_string() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.cause)
    }
}

impl std::error::Error for ConfigError {}

/// Lets the file write a value as text or as a number: `workers = 4`, `max-body = "64M"`.
fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    Scalar::deserialize(deserializer)?.to_string().parse().map(Some).map_err(de::Error::custom)
}

/// Lets the file write a list of one as that one: `listen = "unix:app.sock"`.
fn one_or_more<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    let texts = match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(text) => vec![text],
        OneOrMore::More(texts) => texts,
    };
    texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(i64),
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Options, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_sets_what_flags_leave_open() {
        let file = file("app = 'a:b'\nworkers = 3\nmax-body = '2M'\nlisten = 'tcp:[::1]:9000'").unwrap();
        let flags = Options { workers: Some(Workers::fixed(5)), ..Options::default() };
        let config = Config::new(flags.or(file)).unwrap();
        assert_eq!((config.app.as_str(), config.workers.max, config.max_body), ("a:b", 5, 2 << 20));
        assert_eq!(config.listen, [Listen::Tcp("[::1]:9000".to_owned())]);
        assert_eq!(config.queue_timeout, Duration::from_secs(10));
    }

    #[test]
    fn a_misspelt_key_and_a_bad_value_are_named() {
        assert!(file("wokers = 3").unwrap_err().contains("wokers"));
        assert!(file("queue-timeout = '10'").unwrap_err().contains("30s"));
        assert!(file("workers = 0").is_err());
        assert!(file("socket-mode = '0666'").unwrap_err().contains("world-writable"));
    }

    #[test]
    fn sizes_and_addresses() {
        for (text, bytes) in [("0", 0), ("65536", 65536), ("64K", 65536), ("1g", 1 << 30)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "K", "-1", "1.5M", "99999999999G"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!("unix:/run/a:b.sock".parse(), Ok(Listen::Unix("/run/a:b.sock".into())));
        for text in ["", "unix:", "/run/a.sock", "tcp:9000", "fd:x", "http:80"] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }

    #[test]
    fn workers_are_a_number_or_a_range() {
        for (text, min, max) in [("1", 1, 1), ("0-1", 0, 1), ("2-8", 2, 8), ("3-3", 3, 3)] {
            assert_eq!(text.parse(), Ok(Workers { min, max }), "{text}");
        }
        for text in ["", "0", "0-0", "3-2", "-2", "2-", "1-2-3", "1-10001", "a"] {
            assert!(text.parse::<Workers>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_control_socket_is_beside_the_first_unix_socket() {
        let config = |text: &str| Config::new(file(&format!("app = 'a'\n{text}")).unwrap()).unwrap().control;
        assert_eq!(config(""), Some("nibiru.sock.ctl".into()));
        assert_eq!(config("listen = ['tcp:[::1]:9000', 'unix:/run/a.sock']"), Some("/run/a.sock.ctl".into()));
        assert_eq!(config("listen = 'tcp:[::1]:9000'"), None);
        assert_eq!(config("control = 'off'"), None);
        assert_eq!(config("control = 'unix:/run/b'\nlisten = 'fd:0'"), Some("/run/b".into()));
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        let problem =
            |text: &str| Config::new(file(&format!("app = 'a'\n{text}")).unwrap()).unwrap_err().to_string();
        assert!(problem("exit-idle-time = '1m'").starts_with("exit-idle-time: only with"));
        assert!(file("request-timeout = '0s'").unwrap_err().contains("or off"));
        assert!(problem("sendfile-map = '/srv=/files'").starts_with("sendfile-map: only with sendfile"));
        assert!(problem("sendfile = 'x-accel-redirect'").contains("needs sendfile-map"));
        assert!(file("sendfile-map = '/srv'").unwrap_err().contains("DIR=PREFIX"));
        assert!(file("proxy-headers = ['Set-Cookie']").unwrap_err().contains("X-Accel-Redirect"));
        let off = Config::new(file("app = 'a'\nrequest-timeout = 'off'").unwrap()).unwrap();
        assert_eq!(off.request_timeout, None);
    }

    #[test]
    fn limits_that_the_processes_could_not_keep_are_refused() {
        let options =
            Options { app: Some("a".into()), max_params: Some(Size(1 << 20)), ..Options::default() };
        assert_eq!(Config::new(options).unwrap_err().to_string(), "max-params: at most 120K");
        assert!(Config::new(Options::default()).unwrap_err().to_string().starts_with("no application"));
    }
}
