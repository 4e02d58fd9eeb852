//! The address of the HTTP server of `nibiru dev`, as people write it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The host of an address that is only a port. `dev` is for users of this machine.
const LOOPBACK: &str = "127.0.0.1";

/// An address to listen on: `HOST:PORT`, or `PORT` for the loopback address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAddress(String);

impl HttpAddress {
    /// As `HOST:PORT`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether other machines can reach a listener at this address.
pub(super) fn is_for_others(address: IpAddr) -> bool {
    // An IPv4 address may be written as an IPv6 one (RFC 4291 §2.5.5.2).
    !address.to_canonical().is_loopback()
}

impl FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // People paste the URL that the terminal shows.
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
    fn only_a_loopback_address_is_for_this_machine_alone() {
        for (address, others) in [
            ("127.0.0.1", false),
            ("127.8.8.8", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("0.0.0.0", true),
            ("::", true),
            ("192.0.2.1", true),
            ("fe80::1", true),
            ("::ffff:192.0.2.1", true),
        ] {
            assert_eq!(is_for_others(address.parse().unwrap()), others, "{address}");
        }
    }

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
