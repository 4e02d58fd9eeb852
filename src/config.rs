//! Flags, environment and `nibiru.toml` become one checked [`Config`].
//!
//! [`Options`] is the one list of settings: clap reads it from flags and `NIBIRU_…` variables, serde from
//! the file. Flags beat the environment beats the file beats the defaults, which stand in [`Config::new`].

use std::fmt;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::log;

/// The file that is read where no `--config` names one and it exists.
pub const FILE: &str = "nibiru.toml";

/// The most that `--max-params` may allow: a request's variables and a small body share one packet
/// between the gateway and a worker (see [`crate::ipc::message::MAX_PACKET`]).
const MAX_PARAMS_CEILING: u64 = 120 * 1024;

/// The most workers: far beyond what one machine runs, and small enough to catch a slip of the finger.
const MAX_WORKERS: u32 = 10_000;

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

    /// Number of workers [number of CPUs]
    #[arg(long, value_name = "N", env = "NIBIRU_WORKERS")]
    #[serde(deserialize_with = "from_text")]
    pub workers: Option<NonZeroU32>,

    /// Requests that may wait for a worker; beyond: 503 [1024]
    #[arg(long, value_name = "N", env = "NIBIRU_QUEUE")]
    #[serde(deserialize_with = "from_text")]
    pub queue: Option<usize>,

    /// How long a request may wait for a worker; beyond: 503 [10s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_QUEUE_TIMEOUT")]
    #[serde(deserialize_with = "from_text")]
    pub queue_timeout: Option<Time>,

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

    /// How long a stop or reload waits for running requests [30s]
    #[arg(long, value_name = "TIME", env = "NIBIRU_GRACE")]
    #[serde(deserialize_with = "from_text")]
    pub grace: Option<Time>,

    /// Load the application before the fork [auto]
    #[arg(long, value_enum, value_name = "WHEN", env = "NIBIRU_PRELOAD")]
    pub preload: Option<Preload>,

    /// Format of the log [text]
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
            listen: if self.listen.is_empty() { below.listen } else { self.listen },
            socket_mode: self.socket_mode.or(below.socket_mode),
            socket_owner: self.socket_owner.or(below.socket_owner),
            root: self.root.or(below.root),
            workers: self.workers.or(below.workers),
            queue: self.queue.or(below.queue),
            queue_timeout: self.queue_timeout.or(below.queue_timeout),
            max_body: self.max_body.or(below.max_body),
            max_params: self.max_params.or(below.max_params),
            max_connections: self.max_connections.or(below.max_connections),
            spool_dir: self.spool_dir.or(below.spool_dir),
            max_spool: self.max_spool.or(below.max_spool),
            grace: self.grace.or(below.grace),
            preload: self.preload.or(below.preload),
            log_format: self.log_format.or(below.log_format),
            log_level: self.log_level.or(below.log_level),
        }
    }
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
    pub workers: u32,
    /// Requests that may wait.
    pub queue: usize,
    /// How long each may wait.
    pub queue_timeout: Duration,
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
    /// How long a stop waits.
    pub grace: Duration,
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
        let workers = match options.workers {
            Some(workers) if workers.get() > MAX_WORKERS => {
                return Err(ConfigError::new("workers", format!("at most {MAX_WORKERS}")));
            }
            Some(workers) => workers.get(),
            None => std::thread::available_parallelism()
                .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(MAX_WORKERS)),
        };
        Ok(Self {
            app,
            listen: if options.listen.is_empty() {
                vec![Listen::Unix(PathBuf::from("nibiru.sock"))]
            } else {
                options.listen
            },
            socket_mode: options.socket_mode.unwrap_or(SocketMode(0o660)),
            socket_owner: options.socket_owner,
            root,
            workers,
            queue: options.queue.unwrap_or(1024),
            queue_timeout: options.queue_timeout.map_or(Duration::from_secs(10), |time| time.0),
            max_body: options.max_body.map_or(64 << 20, |size| size.0),
            max_params: usize::try_from(max_params).expect("checked against the ceiling"),
            max_connections: options.max_connections.map_or(4096, |n| n.get() as usize),
            spool_dir,
            max_spool: options.max_spool.map_or(1 << 30, |size| size.0),
            grace: options.grace.map_or(Duration::from_secs(30), |time| time.0),
            preload: options.preload.unwrap_or(Preload::Auto),
            log_format: options.log_format.unwrap_or(log::Format::Text),
            log_level: options.log_level.unwrap_or(log::Level::Info),
        })
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

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// A TCP socket: `HOST:PORT`.
    Tcp(String),
    /// A listening socket that this process was started with (0 under spawn-fcgi and mod_fcgid).
    Fd(u32),
    /// The sockets that systemd passes.
    Systemd,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(PathBuf::from(path))),
            Some(("tcp", address)) if address.contains(':') => Ok(Self::Tcp(address.to_owned())),
            Some(("fd", number)) => {
                number.parse().map(Self::Fd).map_err(|_| format!("{number}: not a descriptor's number"))
            }
            None if text == "systemd" => Ok(Self::Systemd),
            _ => Err("expected unix:PATH, tcp:HOST:PORT, fd:N or systemd".to_owned()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Fd(number) => write!(f, "fd:{number}"),
            Self::Systemd => f.write_str("systemd"),
        }
    }
}

/// Permissions of a socket file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl FromStr for SocketMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = u32::from_str_radix(text.trim_start_matches("0o"), 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
            .ok_or("expected an octal mode such as 0660")?;
        if mode & 0o002 == 0 {
            Ok(Self(mode))
        } else {
            Err("a world-writable socket lets every user of the machine send requests as any client; \
                 use 0660 and a group that the proxy is in"
                .to_owned())
        }
    }
}

/// `USER`, `USER:GROUP` or `:GROUP`, names or numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    /// Whom the file belongs to.
    pub user: Option<u32>,
    /// Which group may connect under mode 0660.
    pub group: Option<u32>,
}

impl FromStr for SocketOwner {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self {
            user: number_of("user", user, "/etc/passwd")?,
            group: number_of("group", group, "/etc/group")?,
        })
    }
}

/// Looks a name up in `/etc/passwd` or `/etc/group`; both keep the number in the third field.
fn number_of(kind: &str, name: &str, table: &str) -> Result<Option<u32>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    let text = std::fs::read_to_string(table).map_err(|error| format!("{table}: {}", log::cause(&error)))?;
    text.lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == name)
        .and_then(|fields| fields.get(2)?.parse().ok())
        .map(Some)
        .ok_or_else(|| format!("{name}: no such {kind}"))
}

/// A number of bytes: `65536`, `64K`, `64M`, `1G`; K, M and G are powers of 1024, as in nginx and php.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
            Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
            Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(|| "expected a size such as 65536, 64K, 64M or 1G".to_owned())
    }
}

/// A span of time: `30s`, `100ms`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|_| "expected a time with its unit, such as 30s, 100ms or 2m".to_owned())
    }
}

/// When the application is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preload {
    /// Before the fork, unless that opens a file or socket that workers would share
    Auto,
    /// Before the fork
    On,
    /// In every worker
    Off,
}

impl fmt::Display for Preload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// Lets the file write a value as text or as a number: `workers = 4`, `max-body = "64M"`.
fn from_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    Scalar::deserialize(deserializer)?.to_string().parse().map(Some).map_err(de::Error::custom)
}

/// Lets the file write `listen` as one address or a list.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Listen>, D::Error> {
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
        let flags = Options { workers: NonZeroU32::new(5), ..Options::default() };
        let config = Config::new(flags.or(file)).unwrap();
        assert_eq!((config.app.as_str(), config.workers, config.max_body), ("a:b", 5, 2 << 20));
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
    fn limits_that_the_processes_could_not_keep_are_refused() {
        let options =
            Options { app: Some("a".into()), max_params: Some(Size(1 << 20)), ..Options::default() };
        assert_eq!(Config::new(options).unwrap_err().to_string(), "max-params: at most 120K");
        assert!(Config::new(Options::default()).unwrap_err().to_string().starts_with("no application"));
    }
}
