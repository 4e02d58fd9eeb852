//! The address of the HTTP server of `nibiru dev`, as people write it.

use std::fmt;
use std::str::FromStr;

/// The host where only a port is given: `dev` is for the user of this machine.
const LOOPBACK: &str = "127.0.0.1";

/// `HOST:PORT`, with a port of its own on the loopback address where the host is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAddress(String);

impl HttpAddress {
    /// As `HOST:PORT`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A URL is what the terminal shows, so it is what gets pasted.
        let address = text.strip_prefix("http://").map_or(text, |rest| rest.trim_end_matches('/'));
        let (host, port) = address.rsplit_once(':').unwrap_or(("", address));
        let host = if host.is_empty() { LOOPBACK } else { host };
        let host_is_whole = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        match port.parse::<u16>() {
            Ok(port) if host_is_whole && !host.contains('/') => Ok(Self(format!("{host}:{port}"))),
            _ => Err("expected a port such as 8001, or HOST:PORT such as 127.0.0.1:8001".to_owned()),
        }
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_on_the_loopback_address() {
        for (text, address) in [
            ("8001", "127.0.0.1:8001"),
            (":8001", "127.0.0.1:8001"),
            ("0", "127.0.0.1:0"),
            ("localhost:8001", "localhost:8001"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:8001", "[::1]:8001"),
            ("http://127.0.0.1:8001/", "127.0.0.1:8001"),
        ] {
            assert_eq!(text.parse::<HttpAddress>().unwrap().as_str(), address, "{text}");
        }
    }

    #[test]
    fn what_names_no_port_is_refused() {
        for text in
            ["", ":", "localhost", "127.0.0.1", "::1", "a:b", "8001x", "65536", "host:1/path", "tcp:host:1"]
        {
            let problem = text.parse::<HttpAddress>().unwrap_err();
            assert!(problem.contains("8001"), "{text}: {problem}");
        }
    }
}
