//! What a single setting may be: parsed from its text, checked, never a bare number with a meaning of its own.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

use super::value::{Value, expected};
use crate::cgi;
use crate::log;

/// The most workers: far beyond what one machine runs, and small enough to catch a slip of the finger.
pub const MAX_WORKERS: u32 = 10_000;

/// The highest number that the kernel gives a descriptor.
const MAX_DESCRIPTOR: u32 = i32::MAX.unsigned_abs();

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

impl Default for Listen {
    fn default() -> Self {
        Self::Unix(PathBuf::from("nibiru.sock"))
    }
}

impl Listen {
    /// Whether the socket was made by somebody else, who keeps it.
    pub fn is_inherited(&self) -> bool {
        matches!(self, Self::Fd(_) | Self::Systemd)
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(PathBuf::from(path))),
            Some(("tcp", address)) if address.contains(':') => Ok(Self::Tcp(address.to_owned())),
            Some(("fd", number)) => number
                .parse()
                .ok()
                .filter(|number| *number <= MAX_DESCRIPTOR)
                .map(Self::Fd)
                .ok_or_else(|| "expected fd: and the number of a descriptor, such as fd:0".to_owned()),
            None if text == "systemd" => Ok(Self::Systemd),
            _ => Err(expected::<Self>()),
        }
    }
}

impl Value for Listen {
    const EXPECTED: &'static str = "unix:PATH, tcp:HOST:PORT, fd:N or systemd";
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
            .ok_or_else(expected::<Self>)?;
        if mode & 0o002 != 0 {
            return Err(
                "a world-writable socket lets every user of the machine send requests as any client; \
                        use 0660 and a group that the proxy is in"
                    .to_owned(),
            );
        }
        if mode & 0o220 == 0 {
            return Err("nobody could connect, which needs write permission; use 0660".to_owned());
        }
        Ok(Self(mode))
    }
}

// No bare number: TOML's 0o660 would come as 432.
impl Value for SocketMode {
    const EXPECTED: &'static str = "an octal mode such as 0660";
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
        if user.is_empty() && group.is_empty() {
            return Err(expected::<Self>());
        }
        Ok(Self {
            user: number_of("user", user, "/etc/passwd")?,
            group: number_of("group", group, "/etc/group")?,
        })
    }
}

/// `USER:GROUP`, by name where there is one.
impl fmt::Display for SocketOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |number: Option<u32>, table: &str| match number {
            Some(number) => name_of(number, table).unwrap_or_else(|| number.to_string()),
            None => String::new(),
        };
        write!(f, "{}:{}", part(self.user, "/etc/passwd"), part(self.group, "/etc/group"))
    }
}

/// The name that `/etc/passwd` or `/etc/group` has for a number; `None` where it has none.
fn name_of(number: u32, table: &str) -> Option<String> {
    let text = std::fs::read_to_string(table).ok()?;
    let mut fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2).is_some_and(|field| field.parse() == Ok(number)))?;
    Some(found[0].to_owned())
}

impl Value for SocketOwner {
    const EXPECTED: &'static str = "USER, USER:GROUP or :GROUP";
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

/// How many workers: `4`, or `2-8` to scale between the two. The lower bound may be 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// Kept also when there is nothing to do.
    pub min: u32,
    /// The most at a time; at least 1 and at least `min`.
    pub max: u32,
}

impl Workers {
    /// Always so many.
    pub fn fixed(count: u32) -> Self {
        Self { min: count, max: count }
    }
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        match (min.parse(), max.parse()) {
            (Ok(min), Ok(max)) if max >= 1 && min <= max && max <= MAX_WORKERS => Ok(Self { min, max }),
            (Ok(_), Ok(max)) if max > MAX_WORKERS => Err(format!("at most {MAX_WORKERS}")),
            _ => Err(expected::<Self>()),
        }
    }
}

impl Value for Workers {
    const EXPECTED: &'static str = "a number such as 4, or a range such as 0-8";
    const NUMBER: bool = true;
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.max) } else { write!(f, "{}-{}", self.min, self.max) }
    }
}

/// Where the control socket is, or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// A Unix socket at this path.
    Unix(PathBuf),
    /// There is none.
    Off,
}

impl FromStr for Control {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(PathBuf::from(path))),
            None if text == "off" => Ok(Self::Off),
            _ => Err(expected::<Self>()),
        }
    }
}

impl Value for Control {
    const EXPECTED: &'static str = "unix:PATH or off";
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// Appended to this file; USR1 opens it anew.
    File(PathBuf),
}

impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("on standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for AccessLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err(expected::<Self>()),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl Value for AccessLog {
    const EXPECTED: &'static str = "the name of a file, or - for standard output";
}

/// The file that the log goes to; none is standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget(pub Option<PathBuf>);

impl FromStr for LogTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err(expected::<Self>()),
            // It looks like the `off` of other options, and there is no such thing.
            "off" => Err("a server is never without its log; /dev/null keeps nothing".to_owned()),
            "-" => Ok(Self(None)),
            path => Ok(Self(Some(PathBuf::from(path)))),
        }
    }
}

impl Value for LogTarget {
    const EXPECTED: &'static str = "the name of a file, or - for standard error";
}

/// The path of a URL: begins with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlPath(pub String);

impl FromStr for UrlPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#%".contains(&byte);
        if text.starts_with('/') && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(expected::<Self>())
        }
    }
}

impl Value for UrlPath {
    const EXPECTED: &'static str = "a path such as /-/status, without a query";
}

/// How the proxy is told to send a file in the application's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sendfile {
    /// Not at all: the worker reads the file
    Off,
    /// nginx: a location of its own
    XAccelRedirect,
    /// Caddy, Apache, lighttpd: a path
    XSendfile,
}

impl fmt::Display for Sendfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// Files in this directory of ours are under this prefix for the proxy: `/srv/app/files=/files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendfileMap {
    /// Absolute, without a slash at its end.
    pub directory: String,
    /// A location of the proxy's, or a directory as the proxy sees it; without a slash at its end.
    pub prefix: String,
}

impl FromStr for SendfileMap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let absolute = |part: &str| {
            let harmless = part.starts_with('/') && !part.split('/').any(|name| name == "..");
            (harmless && !part.bytes().any(|byte| byte.is_ascii_control()))
                .then(|| part.trim_end_matches('/').to_owned())
        };
        text.split_once('=')
            .and_then(|(directory, prefix)| {
                Some(Self { directory: absolute(directory)?, prefix: absolute(prefix)? })
            })
            .ok_or_else(expected::<Self>)
    }
}

impl Value for SendfileMap {
    const EXPECTED: &'static str = "DIR=PREFIX, both absolute, such as /srv/app/files=/files";
}

impl SendfileMap {
    /// As it is, and where a link leads on the way to the directory, also with that followed: the application's root
    /// is known without links.
    pub fn resolved(&self) -> Vec<Self> {
        let resolved = std::fs::canonicalize(format!("{}/", self.directory)).ok();
        let resolved = resolved.and_then(|path| path.into_os_string().into_string().ok());
        let resolved = resolved.filter(|path| *path != self.directory);
        let other = resolved.map(|directory| Self { directory, prefix: self.prefix.clone() });
        std::iter::once(self.clone()).chain(other).collect()
    }
}

impl fmt::Display for SendfileMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/={}/", self.directory, self.prefix)
    }
}

/// The name of a response header by which an application gives its proxy orders ([`cgi::proxy_headers::is_order`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader(pub String);

/// What these settings let an application tell its proxy.
pub fn proxy_headers(sendfile: Sendfile, map: &[SendfileMap], allowed: &[ProxyHeader]) -> cgi::ProxyHeaders {
    let header = match sendfile {
        Sendfile::Off => None,
        Sendfile::XAccelRedirect => Some(("X-Accel-Redirect", cgi::Form::Uri)),
        Sendfile::XSendfile => Some(("X-Sendfile", cgi::Form::Raw)),
    };
    let map = map.iter().map(|entry| (entry.directory.as_bytes(), entry.prefix.as_bytes()));
    let sendfile = header.map(|(header, form)| cgi::Sendfile::new(header, form, map));
    cgi::ProxyHeaders::new(allowed.iter().map(|header| header.0.clone()).collect(), sendfile)
}

impl FromStr for ProxyHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let order = cgi::is_token(text.as_bytes()) && cgi::proxy_headers::is_order(text.as_bytes());
        if order { Ok(Self(text.to_owned())) } else { Err(expected::<Self>()) }
    }
}

impl Value for ProxyHeader {
    const EXPECTED: &'static str = "a header that gives the proxy orders";

    fn expected() -> String {
        format!("expected a header that gives the proxy orders: {}", cgi::proxy_headers::ORDERS_SHOWN)
    }
}

impl fmt::Display for ProxyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much of a request's query the access log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLogQuery {
    /// All of it, as it came
    On,
    /// Without the values that look like secrets
    Redact,
    /// None of it
    Off,
}

/// Something that is done or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// It is done
    On,
    /// It is not
    Off,
}

impl Switch {
    /// Whether it is done.
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::On { "on" } else { "off" })
    }
}

/// When the application is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
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
