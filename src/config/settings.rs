//! The decided settings: the options, checked together, with the defaults filled in.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;

use super::addresses;
use super::error::ConfigError;
use super::limits;
use super::options::Options;
use super::peers::{Peers, WEB_SERVER_ADDRS};
use super::spool_directory;
use super::values::{
    AccessLog, AccessLogQuery, BodyFileParam, BodyFiles, Control, Count, Listen, MAX_WORKERS, OrOff,
    ParamName, Positive, Preload, PriorityParam, ProxyHeader, QueueOrder, Sendfile, SendfileMap, Size,
    SocketMode, SocketOwner, Switch, Time, Workers, control,
};
use crate::log;
use crate::os::memory;

/// The default application, and the file in the root that it needs.
const APP: &str = "app";
const APP_FILE: &str = "app.lua";

/// The default `--buffer-memory`, as a part of the memory: an eighth.
const PART_FOR_BUFFERS: u64 = 8;

/// The least default of `--buffer-memory`, in bytes: a hundred requests with bodies of 64 KiB, or responses as
/// large.
const LEAST_BUFFERS: u64 = 16 << 20;

/// The checked settings: a field for each setting, and fields derived from several.
#[derive(Clone, Debug)]
pub struct Config {
    /// The path of the configuration file, whether or not the file exists: commands find the server by it. `None` for a server that
    /// commands do not look for.
    pub file: Option<PathBuf>,
    /// The application as the user named it; the Lua bridge parses the name.
    pub app: String,
    /// Addresses to listen on, at least one.
    pub listen: Vec<Listen>,
    /// The peers that may connect over TCP.
    pub allow_from: Peers,
    /// Permissions of every Unix socket that is bound here.
    pub socket_mode: SocketMode,
    /// Owner of every Unix socket that is bound here; `None` leaves the process's.
    pub socket_owner: Option<SocketOwner>,
    /// Root of the application and working directory of its processes: absolute, links resolved.
    pub root: PathBuf,
    /// Number of workers.
    pub workers: Workers,
    /// Time after which an idle worker above the least number ends.
    pub idle_timeout: Duration,
    /// Time that a request may run; `None` for no limit.
    pub request_timeout: Option<Duration>,
    /// Time that a request past its time-out may take to stop, until its worker is killed.
    pub kill_after: Duration,
    /// Time that a request runs until its stack is logged; `None` for never.
    pub slow_log: Option<Duration>,
    /// Time that a zygote may take to load, and a worker to start; `None` for no limit.
    pub start_timeout: Option<Duration>,
    /// Requests after which a worker is replaced; `None` for never.
    pub max_requests: Option<u32>,
    /// The largest number of requests that chance adds to `max_requests`.
    pub max_requests_jitter: u32,
    /// Memory (PSS, in bytes) beyond which a worker is replaced; `None` for never.
    pub max_memory: Option<u64>,
    /// Age at which a worker is replaced; `None` for never.
    pub max_age: Option<Duration>,
    /// Memory in bytes that a worker can have at all; `None` for no limit.
    pub memory_limit: Option<u64>,
    /// Requests that may wait.
    pub queue: usize,
    /// Time that a request may wait.
    pub queue_timeout: Duration,
    /// The order in which waiting requests are dispatched.
    pub queue_order: QueueOrder,
    /// Waiting time that is no overload.
    pub queue_target: Duration,
    /// Time for which all requests wait longer than `queue_target` until it is an overload.
    pub queue_interval: Duration,
    /// The FastCGI parameter with the time at which the proxy received the request.
    pub request_start: Option<ParamName>,
    /// The FastCGI parameter that marks requests which go first.
    pub queue_priority: Option<PriorityParam>,
    /// Time that a request's parameters may take, from its first byte.
    pub header_timeout: Duration,
    /// Time that a body may bring nothing, and after which it must have come fast enough.
    pub body_timeout: Duration,
    /// Time that a client may take no byte of its response.
    pub send_timeout: Duration,
    /// Time that a response may stream in all; `None` for no limit.
    pub stream_timeout: Option<Duration>,
    /// Size of one request body, in bytes.
    pub max_body: u64,
    /// Size of one request's parameters, in bytes.
    pub max_params: usize,
    /// Connections at a time.
    pub max_connections: usize,
    /// Memory in bytes for the requests and responses of all clients together.
    pub buffer_memory: u64,
    /// Directory for spooled bodies and responses, which existed when the settings were checked.
    pub spool_dir: PathBuf,
    /// Size of all spooled bodies and responses together, in bytes.
    pub max_spool: u64,
    /// Files of the proxy's that have bodies; `None` where bodies come in STDIN alone.
    pub body_files: Option<BodyFiles>,
    /// Size of the responses that are spooled for one connection, in bytes.
    pub spool_response: u64,
    /// The response header that tells the proxy to send a file.
    pub sendfile: Sendfile,
    /// Directories of the application's, and their prefixes for the proxy.
    pub sendfile_map: Vec<SendfileMap>,
    /// Headers with orders for the proxy that the application may send.
    pub proxy_headers: Vec<ProxyHeader>,
    /// Time that a stop waits for running requests.
    pub grace: Duration,
    /// Time between the order to stop and the stop, during which the health path says so; `None` for none.
    pub drain_delay: Option<Duration>,
    /// Time without a connection after which the gateway ends; `None` for never.
    pub exit_idle_time: Option<Duration>,
    /// Path of the control socket; `None` for no control socket.
    pub control: Option<PathBuf>,
    /// Whether there is no control socket because the operator turned it off.
    pub wants_no_control: bool,
    /// The URL path that the gateway answers with its status.
    pub status_path: Option<String>,
    /// The URL path that the gateway answers with its health.
    pub health_path: Option<String>,
    /// Whether responses have a `Server-Timing` with the times of their request.
    pub server_timing: bool,
    /// Destination of the access log; `None` for no access log.
    pub access_log: Option<AccessLog>,
    /// The part of a query in the access log.
    pub access_log_query: AccessLogQuery,
    /// File of the log; `None` for standard error.
    pub log: Option<PathBuf>,
    /// The time at which the application is loaded.
    pub preload: Preload,
    /// Whether gateway and zygote are dumpable.
    pub dumpable: Switch,
    /// Format of the log and the access log.
    pub log_format: log::Format,
    /// The least level that is logged.
    pub log_level: log::Level,
}

impl Config {
    /// Checks the options together and fills in the defaults.
    ///
    /// # Errors
    /// The first setting that is refused, with its value where the message does not show it.
    pub fn new(options: Options) -> Result<Self, ConfigError> {
        limits::check(&options)?;
        let sendfile_is_given = options.sendfile.is_some();
        let body_file_param_is_given = options.body_file_param.is_some();
        let given = options.defaulted();
        let root = directory("root", given.root)?;
        let app = application(given.app, &root)?;
        let spool_dir = directory("spool-dir", given.spool_dir.unwrap_or_else(spool_directory::default))?;
        if let Err(error) = rustix::fs::access(&spool_dir, Access::WRITE_OK | Access::EXEC_OK) {
            let cause = format!("no file can be made there: {}", log::cause(&error.into()));
            return Err(ConfigError::new("spool-dir", cause).of(spool_dir.display()));
        }
        if !body_file_param_is_given && given.body_file_dir.is_some() {
            return Err(ConfigError::new("body-file-dir", "only with body-file-param"));
        }
        let (request_start, queue_priority) = (given.request_start.set(), given.queue_priority.set());
        // A flag that turns the parameter off need not undo the file's directory as well.
        let body_files = given.body_file_param.set().map(|param| body_files(param, given.body_file_dir));
        let body_files = body_files.transpose()?;
        if let Some(BodyFiles { param, .. }) = &body_files {
            let others = [
                ("request-start", request_start.as_ref().map(|name| &name.0)),
                ("queue-priority", queue_priority.as_ref().map(|name| &name.0)),
            ];
            if let Some((other, _)) = others.iter().find(|(_, name)| *name == Some(param)) {
                return Err(ConfigError::new("body-file-param", format!("the same as {other}")));
            }
        }
        let max_memory = bytes(given.max_memory);
        if max_memory.is_some() {
            memory_is_known().map_err(|cause| ConfigError::new("max-memory", cause))?;
        }
        let listen = match given.listen {
            listen if listen.is_empty() => vec![Listen::default()],
            listen => listen,
        };
        let allow_from = Peers::new(&given.allow_from, std::env::var_os(WEB_SERVER_ADDRS).as_deref())?;
        for address in &listen {
            // A host name is resolved, and an inherited socket examined, when it is opened.
            if let Listen::Tcp(name) = address
                && let Ok(literal) = name.parse()
            {
                allow_from
                    .allow_listening(literal)
                    .map_err(|cause| ConfigError::new("listen", cause).of(address))?;
            }
        }
        let exit_idle_time = time(given.exit_idle_time);
        if exit_idle_time.is_some() && listen.iter().any(|address| !address.is_inherited()) {
            let cause = "only with sockets that somebody else keeps (systemd or fd:N), since nobody could connect again";
            return Err(ConfigError::new("exit-idle-time", cause));
        }
        let sendfile = given.sendfile;
        let mut sendfile_map = list("sendfile-map", given.sendfile_map)?;
        if !sendfile_is_given && !sendfile_map.is_empty() {
            return Err(ConfigError::new("sendfile-map", "only with sendfile"));
        }
        if sendfile == Sendfile::Off {
            // A flag that turns sendfile off need not undo the file's map as well.
            sendfile_map.clear();
        }
        if sendfile == Sendfile::XAccelRedirect && sendfile_map.is_empty() {
            let cause =
                "x-accel-redirect needs sendfile-map: nginx is told a location of its own, not a path";
            return Err(ConfigError::new("sendfile", cause));
        }
        let health_path = given.health_path.set().map(|path| path.0);
        let status_path = given.status_path.set().map(|path| path.0);
        if health_path.is_some() && health_path == status_path {
            return Err(ConfigError::new("health-path", "the same as status-path"));
        }
        let wants_no_control = given.control == Some(Control::Off);
        let control = control(given.control, &listen);
        addresses::check(&listen, control.as_deref())?;
        Ok(Self {
            file: None,
            app,
            control,
            wants_no_control,
            listen,
            allow_from,
            socket_mode: given.socket_mode,
            socket_owner: given.socket_owner.and_then(OrOff::set),
            root,
            workers: given.workers.unwrap_or_else(workers),
            idle_timeout: given.idle_timeout.0,
            request_timeout: time(given.request_timeout),
            kill_after: given.kill_after.0,
            slow_log: time(given.slow_log),
            start_timeout: time(given.start_timeout),
            max_requests: given.max_requests.set().map(|Positive(count)| count),
            max_requests_jitter: given.max_requests_jitter.set().map_or(0, |Count(count)| count),
            max_memory,
            max_age: time(given.max_age),
            memory_limit: bytes(given.memory_limit),
            queue: given.queue.0 as usize,
            queue_timeout: given.queue_timeout.0,
            queue_order: given.queue_order,
            queue_target: given.queue_target.0,
            queue_interval: given.queue_interval.0,
            request_start,
            queue_priority,
            header_timeout: given.header_timeout.0,
            body_timeout: given.body_timeout.0,
            send_timeout: given.send_timeout.0,
            stream_timeout: time(given.stream_timeout),
            max_body: given.max_body.0,
            max_params: usize::try_from(given.max_params.0).expect("checked against the highest"),
            max_connections: given.max_connections.0 as usize,
            buffer_memory: given.buffer_memory.map_or_else(buffer_memory, |size| size.0),
            spool_dir,
            max_spool: given.max_spool.0,
            body_files,
            spool_response: bytes(given.spool_response).unwrap_or(0),
            sendfile,
            sendfile_map,
            proxy_headers: list("proxy-headers", given.proxy_headers)?,
            grace: given.grace.0,
            drain_delay: time(given.drain_delay),
            exit_idle_time,
            health_path,
            status_path,
            server_timing: given.server_timing == Switch::On,
            access_log: given.access_log.set(),
            access_log_query: given.access_log_query,
            log: given.log.0,
            preload: given.preload,
            dumpable: given.dumpable,
            log_format: given.log_format,
            log_level: given.log_level,
        })
    }
}

/// The application: the one given, or that of the root's [`APP_FILE`].
fn application(given: Option<String>, root: &Path) -> Result<String, ConfigError> {
    match given {
        Some(app) if app.is_empty() => {
            Err(ConfigError::new("app", "expected module.path:name or path/to/file.lua"))
        }
        Some(app) => Ok(app),
        None if root.join(APP_FILE).is_file() => Ok(APP.to_owned()),
        None => {
            let cause = format!(
                "there is no {APP_FILE} in {}; name one as module.path:name or path/to/file.lua, or its directory \
                 with --root",
                root.display()
            );
            Err(ConfigError::new("no application", cause))
        }
    }
}

/// The default of the workers: one for each CPU.
fn workers() -> Workers {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
    Workers::fixed(u32::try_from(cpus).unwrap_or(MAX_WORKERS).min(MAX_WORKERS))
}

/// The default of the memory for clients, in bytes: a part of the memory that the process shares with its workers.
fn buffer_memory() -> u64 {
    (memory::available() / PART_FOR_BUFFERS).max(LEAST_BUFFERS)
}

/// Files of the proxy's in this directory, whose paths are in this parameter.
///
/// # Errors
/// There is no directory, no file in it can be opened, or it would be every file of the machine.
fn body_files(BodyFileParam(param): BodyFileParam, given: Option<PathBuf>) -> Result<BodyFiles, ConfigError> {
    let Some(given) = given else {
        return Err(ConfigError::new(
            "body-file-param",
            "needs body-file-dir: the proxy's directory with the files",
        ));
    };
    let resolved = directory("body-file-dir", given.clone())?;
    let wrong = |cause: String| ConfigError::new("body-file-dir", cause).of(given.display());
    if resolved.parent().is_none() {
        return Err(wrong(
            "would allow every file of the machine; use the proxy's directory for bodies".to_owned(),
        ));
    }
    if let Err(error) = rustix::fs::access(&resolved, Access::EXEC_OK) {
        return Err(wrong(format!("no file can be opened there: {}", log::cause(&error.into()))));
    }
    let absolute = std::path::absolute(&given).map_err(|error| wrong(log::cause(&error)))?;
    Ok(BodyFiles { param, directory: [absolute, resolved] })
}

/// A span of time, unless it is off.
fn time(given: OrOff<Time>) -> Option<Duration> {
    given.set().map(|Time(time)| time)
}

/// A number of bytes, unless it is off.
fn bytes(given: OrOff<Size>) -> Option<u64> {
    given.set().map(|Size(bytes)| bytes)
}

/// The values of a list; `off` alone stands for none.
fn list<T>(key: &str, given: Vec<OrOff<T>>) -> Result<Vec<T>, ConfigError> {
    let count = given.len();
    let values: Vec<T> = given.into_iter().filter_map(OrOff::set).collect();
    if values.len() < count && count > 1 {
        return Err(ConfigError::new(key, "off goes with no other value"));
    }
    Ok(values)
}

/// Checks that the kernel reports the memory of a process (PSS), without which no worker is ever found too large.
///
/// # Errors
/// The cause, for a message about `--max-memory`.
fn memory_is_known() -> Result<(), String> {
    const FILE: &str = "/proc/self/smaps_rollup";
    let text = std::fs::read_to_string(FILE)
        .map_err(|error| format!("cannot be watched without {FILE}: {}", log::cause(&error)))?;
    let known = text.lines().any(|line| line.starts_with("Pss:"));
    known.then_some(()).ok_or_else(|| format!("cannot be watched: {FILE} says no Pss"))
}

/// The absolute path of a directory, links resolved.
///
/// # Errors
/// The path is empty, or leads to no directory.
fn directory(option: &str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    let wrong = |cause: String| ConfigError::new(option, cause).of(path.display());
    if path.as_os_str().is_empty() {
        return Err(wrong("expected a directory".to_owned()));
    }
    let found = path.canonicalize().map_err(|error| wrong(log::cause(&error)))?;
    if found.is_dir() { Ok(found) } else { Err(wrong("not a directory".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::file;

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        let problem =
            |text: &str| Config::new(file(&format!("app = 'a'\n{text}")).unwrap()).unwrap_err().to_string();
        assert!(problem("exit-idle-time = '1m'").starts_with("exit-idle-time: only with"));
        assert!(problem("health-path = '/x'\nstatus-path = '/x'").starts_with("health-path: the same as"));
        assert!(problem("request-timeout = '0s'").contains("would end every request with 504"));
        assert!(problem("sendfile-map = '/srv=/files'").starts_with("sendfile-map: only with sendfile"));
        assert!(problem("sendfile = 'x-accel-redirect'").contains("needs sendfile-map"));
        assert!(file("sendfile-map = '/srv'").unwrap_err().contains("DIR=PREFIX"));
        for name in ["Set-Cookie", "X-Accel-Buffering", "X-Sendfile: /etc/passwd"] {
            let problem = file(&format!("proxy-headers = ['{name}']")).unwrap_err();
            assert!(problem.contains("gives the proxy orders: X-Accel-*, X-Sendfile*"), "{problem}");
        }
        assert_eq!(problem("body-file-dir = '/tmp'"), "body-file-dir: only with body-file-param");
        assert!(problem("body-file-param = 'A'").starts_with("body-file-param: needs body-file-dir"));
        let with = |text: &str| problem(&format!("body-file-param = 'A'\nbody-file-dir = '{text}"));
        assert_eq!(with("/tmp'\nrequest-start = 'A'"), "body-file-param: the same as request-start");
        assert_eq!(with("/tmp'\nqueue-priority = 'A'"), "body-file-param: the same as queue-priority");
        assert_eq!(with("/nonexistent'"), "body-file-dir: /nonexistent: no such file or directory");
        assert_eq!(with("/etc/passwd'"), "body-file-dir: /etc/passwd: not a directory");
        assert!(with("/tmp/..'").starts_with("body-file-dir: /tmp/..: would allow every file"));
        let off = Config::new(file("app = 'a'\nrequest-timeout = 'off'").unwrap()).unwrap();
        assert_eq!(off.request_timeout, None);
    }

    #[test]
    fn a_tcp_address_that_others_reach_needs_a_name_for_them() {
        let config = |text: &str| Config::new(file(&format!("app = 'a'\n{text}")).unwrap());
        for address in ["tcp:0.0.0.0:9000", "tcp:[::]:9000", "tcp:192.0.2.1:9000"] {
            let problem = config(&format!("listen = '{address}'")).unwrap_err().to_string();
            assert!(problem.starts_with(&format!("listen: {address}: whoever can connect")), "{problem}");
            config(&format!("listen = '{address}'\nallow-from = ['10.0.0.0/8', '::1']")).unwrap();
        }
        // A host name is not resolved before it is listened on.
        config("listen = ['tcp:127.0.0.1:9000', 'tcp:[::1]:9000', 'tcp:localhost:9000']").unwrap();
        assert!(file("allow-from = '10.0.0.7/8'").unwrap_err().contains("bits beyond its prefix"));
        assert!(file("allow-from = []").unwrap_err().contains("the list is empty"));
    }
}
