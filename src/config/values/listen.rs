//! Addresses to listen on: `unix:PATH`, `tcp:HOST:PORT`, `fd:N`, `systemd`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::value::{Value, expected};

/// The highest number of a descriptor.
const MAX_DESCRIPTOR: u32 = i32::MAX.unsigned_abs();

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// The Unix socket at this path.
    Unix(PathBuf),
    /// The TCP socket `HOST:PORT`.
    Tcp(String),
    /// The listening socket with this number that the process was started with (0 under spawn-fcgi and mod_fcgid).
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
    /// Whether another process has made the socket and keeps it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!("unix:/run/a:b.sock".parse(), Ok(Listen::Unix("/run/a:b.sock".into())));
        assert_eq!("fd:2147483647".parse(), Ok(Listen::Fd(2_147_483_647)));
        for text in
            ["", "unix:", "/run/a.sock", "tcp:9000", "fd:", "fd:x", "fd:-1", "fd:2147483648", "http:80"]
        {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
