//! Every setting as an operator may give it, each optional: the one list that clap reads from flags and variables, and
//! serde from the file.

use std::path::PathBuf;

use serde::Deserialize;

use super::file::{addresses, from_text, one_of, one_or_more, plain};
use super::peers::Network;
use super::quantity::{Count, Positive, Size, Time};
use super::queue::{ParamName, PriorityParam, QueueOrder};
use super::value::OrOff;
use super::values::{
    AccessLog, AccessLogQuery, Control, Listen, LogTarget, Preload, ProxyHeader, Sendfile, SendfileMap,
    SocketMode, SocketOwner, Switch, UrlPath, Workers,
};
use crate::log;

/// Every setting, each optional. Also the keys of `nibiru.toml`.
#[derive(Clone, Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// The application: module.path:name or path/to/file.lua[:name] [app, where ROOT has an app.lua]
    #[arg(value_name = "APP", env = "NIBIRU_APP")]
    #[serde(deserialize_with = "plain")]
    pub app: Option<String>,

    /// Listen on unix:PATH, tcp:HOST:PORT, fd:N or systemd; repeatable [unix:nibiru.sock]
    #[arg(long, value_name = "ADDR", env = "NIBIRU_LISTEN", value_delimiter = ',')]
    #[serde(deserialize_with = "addresses")]
    pub listen: Vec<Listen>,

    /// Who may connect over TCP: an address or a network; repeatable [this machine]
    #[arg(
        long,
        value_name = "CIDR",
        env = "NIBIRU_ALLOW_FROM",
        hide_short_help = true,
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "addresses")]
    pub allow_from: Vec<Network>,

    /// Permissions of the Unix socket [0660]
    #[arg(long, value_name = "MODE", env = "NIBIRU_SOCKET_MODE")]
    #[serde(deserialize_with = "from_text")]
    pub socket_mode: Option<SocketMode>,

    /// Owner of the Unix socket
    #[arg(long, value_name = "USER[:GROUP]", env = "NIBIRU_SOCKET_OWNER")]
    #[serde(deserialize_with = "from_text")]
    pub socket_owner: Option<OrOff<SocketOwner>>,

    /// Root of the application and working directory [.]
    #[arg(long, value_name = "DIR", env = "NIBIRU_ROOT")]
    #[serde(deserialize_with = "plain")]
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
    pub request_timeout: Option<OrOff<Time>>,

    /// How long after that its worker is killed where it does not stop [2s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_KILL_AFTER")]
    #[serde(deserialize_with = "from_text")]
    pub kill_after: Option<Time>,

    /// A request that runs for longer is logged with its Lua stack [off]
    #[arg(long, value_name = "TIME", env = "NIBIRU_SLOW_LOG")]
    #[serde(deserialize_with = "from_text")]
    pub slow_log: Option<OrOff<Time>>,

    /// How long loading and start hooks may take; or off [60s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_START_TIMEOUT", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub start_timeout: Option<OrOff<Time>>,

    /// Replace a worker after so many requests; 1: a fresh state for each [off]
    #[arg(long, value_name = "N", env = "NIBIRU_MAX_REQUESTS")]
    #[serde(deserialize_with = "from_text")]
    pub max_requests: Option<OrOff<Positive>>,

    /// Up to so many requests more, by chance [0]
    #[arg(long, value_name = "N", env = "NIBIRU_MAX_REQUESTS_JITTER", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub max_requests_jitter: Option<OrOff<Count>>,

    /// Replace a worker that takes more memory (PSS) [off]
    #[arg(long, value_name = "SIZE", env = "NIBIRU_MAX_MEMORY")]
    #[serde(deserialize_with = "from_text")]
    pub max_memory: Option<OrOff<Size>>,

    /// Replace a worker that is older [off]
    #[arg(long, value_name = "TIME", env = "NIBIRU_MAX_AGE")]
    #[serde(deserialize_with = "from_text")]
    pub max_age: Option<OrOff<Time>>,

    /// Memory that a worker can have at all [off]
    #[arg(long, value_name = "SIZE", env = "NIBIRU_MEMORY_LIMIT")]
    #[serde(deserialize_with = "from_text")]
    pub memory_limit: Option<OrOff<Size>>,

    /// Requests that may wait for a worker; beyond: 503 [1024]
    #[arg(long, value_name = "N", env = "NIBIRU_QUEUE")]
    #[serde(deserialize_with = "from_text")]
    pub queue: Option<Count>,

    /// How long a request may wait for a worker; beyond: 503 [10s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_QUEUE_TIMEOUT")]
    #[serde(deserialize_with = "from_text")]
    pub queue_timeout: Option<Time>,

    /// Whose turn it is [fifo]
    #[arg(long, value_enum, value_name = "ORDER", env = "NIBIRU_QUEUE_ORDER", hide_short_help = true)]
    #[serde(deserialize_with = "one_of")]
    pub queue_order: Option<QueueOrder>,

    /// How long a request may wait where there is no overload [100ms]
    #[arg(long, value_name = "TIME", env = "NIBIRU_QUEUE_TARGET", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub queue_target: Option<Time>,

    /// For how long all wait longer until it is an overload [1s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_QUEUE_INTERVAL", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub queue_interval: Option<Time>,

    /// The proxy's parameter with the time at which it received the request [off]
    #[arg(long, value_name = "PARAM", env = "NIBIRU_REQUEST_START", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub request_start: Option<OrOff<ParamName>>,

    /// The proxy's parameter that marks requests which go first [off]
    #[arg(long, value_name = "PARAM", env = "NIBIRU_QUEUE_PRIORITY", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub queue_priority: Option<OrOff<PriorityParam>>,

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
    pub stream_timeout: Option<OrOff<Time>>,

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
    pub max_connections: Option<Positive>,

    /// Memory for all clients' requests and answers together; beyond: 503 [an eighth of the memory]
    #[arg(long, value_name = "SIZE", env = "NIBIRU_BUFFER_MEMORY")]
    #[serde(deserialize_with = "from_text")]
    pub buffer_memory: Option<Size>,

    /// Where bodies over 64K are kept [$TMPDIR, /var/tmp or /tmp]
    #[arg(long, value_name = "DIR", env = "NIBIRU_SPOOL_DIR")]
    #[serde(deserialize_with = "plain")]
    pub spool_dir: Option<PathBuf>,

    /// Size of all kept bodies and answers together; beyond: 503 [1G]
    #[arg(long, value_name = "SIZE", env = "NIBIRU_MAX_SPOOL")]
    #[serde(deserialize_with = "from_text")]
    pub max_spool: Option<Size>,

    /// How much of a slow client's answer is kept so that its worker is free; or off [64M]
    #[arg(long, value_name = "SIZE", env = "NIBIRU_SPOOL_RESPONSE")]
    #[serde(deserialize_with = "from_text")]
    pub spool_response: Option<OrOff<Size>>,

    /// How the proxy is told to send a file itself [off]
    #[arg(long, value_enum, value_name = "HEADER", env = "NIBIRU_SENDFILE", hide_short_help = true)]
    #[serde(deserialize_with = "one_of")]
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
    pub sendfile_map: Vec<OrOff<SendfileMap>>,

    /// Headers with orders for the proxy that the application may send: X-Accel-*, X-Sendfile*, X-LIGHTTPD-*, … [none]
    #[arg(
        long,
        value_name = "NAME",
        env = "NIBIRU_PROXY_HEADERS",
        hide_short_help = true,
        value_delimiter = ','
    )]
    #[serde(deserialize_with = "one_or_more")]
    pub proxy_headers: Vec<OrOff<ProxyHeader>>,

    /// How long a stop or reload waits for running requests [30s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_GRACE")]
    #[serde(deserialize_with = "from_text")]
    pub grace: Option<Time>,

    /// How long requests are still served after TERM, while the health says 503 [off]
    #[arg(long, value_name = "TIME", env = "NIBIRU_DRAIN_DELAY", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub drain_delay: Option<OrOff<Time>>,

    /// End when nobody was connected for so long; for socket activation [off]
    #[arg(long, value_name = "TIME", env = "NIBIRU_EXIT_IDLE_TIME", hide_short_help = true)]
    #[serde(deserialize_with = "from_text")]
    pub exit_idle_time: Option<OrOff<Time>>,

    /// Control socket: unix:PATH or off [the first Unix socket's path and .ctl]
    #[arg(long, value_name = "ADDR", env = "NIBIRU_CONTROL")]
    #[serde(deserialize_with = "from_text")]
    pub control: Option<Control>,

    /// Path at which the server itself answers with its status [off]
    #[arg(long, value_name = "PATH", env = "NIBIRU_STATUS_PATH")]
    #[serde(deserialize_with = "from_text")]
    pub status_path: Option<OrOff<UrlPath>>,

    /// Path at which the server itself answers with its health: 200 or 503 [off]
    #[arg(long, value_name = "PATH", env = "NIBIRU_HEALTH_PATH")]
    #[serde(deserialize_with = "from_text")]
    pub health_path: Option<OrOff<UrlPath>>,

    /// Tell clients in Server-Timing how long a request waited and ran [off]
    #[arg(long, value_enum, value_name = "WHETHER", env = "NIBIRU_SERVER_TIMING", hide_short_help = true)]
    #[serde(deserialize_with = "one_of")]
    pub server_timing: Option<Switch>,

    /// File with a line for each request; - for standard output [off]
    #[arg(long, value_name = "FILE", env = "NIBIRU_ACCESS_LOG")]
    #[serde(deserialize_with = "from_text")]
    pub access_log: Option<OrOff<AccessLog>>,

    /// How much of the query the access log has [on]
    #[arg(long, value_enum, value_name = "WHAT", env = "NIBIRU_ACCESS_LOG_QUERY", hide_short_help = true)]
    #[serde(deserialize_with = "one_of")]
    pub access_log_query: Option<AccessLogQuery>,

    /// File of the log; - for standard error [-]
    #[arg(long, value_name = "FILE", env = "NIBIRU_LOG")]
    #[serde(deserialize_with = "from_text")]
    pub log: Option<LogTarget>,

    /// Load the application before the fork [auto]
    #[arg(long, value_enum, value_name = "WHEN", env = "NIBIRU_PRELOAD")]
    #[serde(deserialize_with = "one_of")]
    pub preload: Option<Preload>,

    /// Whether processes of the same user can trace gateway and zygote, and crashes leave a core [off]
    #[arg(long, value_enum, value_name = "WHETHER", env = "NIBIRU_DUMPABLE", hide_short_help = true)]
    #[serde(deserialize_with = "one_of")]
    pub dumpable: Option<Switch>,

    /// Format of the log and the access log [text]
    #[arg(long, value_enum, value_name = "FORMAT", env = "NIBIRU_LOG_FORMAT")]
    #[serde(deserialize_with = "one_of")]
    pub log_format: Option<log::Format>,

    /// Least level that is logged [info]
    #[arg(long, value_enum, value_name = "LEVEL", env = "NIBIRU_LOG_LEVEL")]
    #[serde(deserialize_with = "one_of")]
    pub log_level: Option<log::Level>,
}

impl Options {
    /// Takes from `below` what is not set here.
    #[must_use]
    pub fn or(self, below: Self) -> Self {
        Self {
            app: self.app.or(below.app),
            listen: first_given(self.listen, below.listen),
            allow_from: first_given(self.allow_from, below.allow_from),
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
            queue_order: self.queue_order.or(below.queue_order),
            queue_target: self.queue_target.or(below.queue_target),
            queue_interval: self.queue_interval.or(below.queue_interval),
            request_start: self.request_start.or(below.request_start),
            queue_priority: self.queue_priority.or(below.queue_priority),
            header_timeout: self.header_timeout.or(below.header_timeout),
            body_timeout: self.body_timeout.or(below.body_timeout),
            send_timeout: self.send_timeout.or(below.send_timeout),
            stream_timeout: self.stream_timeout.or(below.stream_timeout),
            max_body: self.max_body.or(below.max_body),
            max_params: self.max_params.or(below.max_params),
            max_connections: self.max_connections.or(below.max_connections),
            buffer_memory: self.buffer_memory.or(below.buffer_memory),
            spool_dir: self.spool_dir.or(below.spool_dir),
            max_spool: self.max_spool.or(below.max_spool),
            spool_response: self.spool_response.or(below.spool_response),
            sendfile: self.sendfile.or(below.sendfile),
            sendfile_map: first_given(self.sendfile_map, below.sendfile_map),
            proxy_headers: first_given(self.proxy_headers, below.proxy_headers),
            grace: self.grace.or(below.grace),
            drain_delay: self.drain_delay.or(below.drain_delay),
            exit_idle_time: self.exit_idle_time.or(below.exit_idle_time),
            control: self.control.or(below.control),
            status_path: self.status_path.or(below.status_path),
            health_path: self.health_path.or(below.health_path),
            server_timing: self.server_timing.or(below.server_timing),
            access_log: self.access_log.or(below.access_log),
            access_log_query: self.access_log_query.or(below.access_log_query),
            log: self.log.or(below.log),
            preload: self.preload.or(below.preload),
            dumpable: self.dumpable.or(below.dumpable),
            log_format: self.log_format.or(below.log_format),
            log_level: self.log_level.or(below.log_level),
        }
    }
}

fn first_given<T>(list: Vec<T>, below: Vec<T>) -> Vec<T> {
    if list.is_empty() { below } else { list }
}
