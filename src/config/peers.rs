//! The peers that may connect over TCP: `--allow-from`, and `FCGI_WEB_SERVER_ADDRS` of FastCGI 1.0 §3.2.
//!
//! A FastCGI client can claim to be any user at any address (REMOTE_USER, REMOTE_ADDR), so the default is closed: a list with
//! anything but addresses is refused, and without a list only a loopback address may be listened on. The settings check the
//! addresses here, and the listener the peers.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};

use super::error::ConfigError;
use super::values::Network;

/// The environment variable with the web servers' addresses (FastCGI 1.0 §3.2).
pub(super) const WEB_SERVER_ADDRS: &str = "FCGI_WEB_SERVER_ADDRS";

/// The peers that may connect over TCP. `None` allows every process that reaches the loopback address listened on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers(Option<Vec<Network>>);

impl Peers {
    /// The peers of `--allow-from` or of [`WEB_SERVER_ADDRS`]. If both are given, a peer must be in both, so that neither list
    /// widens the other.
    ///
    /// # Errors
    /// The variable holds anything but addresses, or no peer is in both lists.
    pub fn new(allow_from: &[Network], web_servers: Option<&OsStr>) -> Result<Self, ConfigError> {
        let Some(web_servers) = web_servers else {
            return Ok(Self((!allow_from.is_empty()).then(|| allow_from.to_vec())));
        };
        let mut both = addresses(web_servers)?;
        if !allow_from.is_empty() {
            both.retain(|address| allow_from.iter().any(|network| network.contains(*address)));
        }
        if both.is_empty() {
            let cause = "none of its addresses is among --allow-from, so nobody could connect over TCP";
            return Err(ConfigError::new(WEB_SERVER_ADDRS, cause));
        }
        Ok(Self(Some(both.into_iter().map(Network::from).collect())))
    }

    /// Whether the peer at this address may connect.
    pub fn allow(&self, peer: IpAddr) -> bool {
        self.0.as_ref().is_none_or(|networks| networks.iter().any(|network| network.contains(peer)))
    }

    /// Whether this address may be listened on.
    ///
    /// # Errors
    /// The reason, where other machines could connect and neither list is given.
    pub fn allow_listening(&self, address: SocketAddr) -> Result<(), &'static str> {
        if self.0.is_some() || address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(
            "whoever can connect there can claim to be any user: name the proxies (--allow-from 10.0.0.7), or listen \
             on 127.0.0.1 or a Unix socket",
        )
    }
}

/// The addresses in [`WEB_SERVER_ADDRS`]: "a comma-separated list of valid IP addresses" (FastCGI 1.0 §3.2).
fn addresses(list: &OsStr) -> Result<Vec<IpAddr>, ConfigError> {
    let refused = |cause: String| ConfigError::new(WEB_SERVER_ADDRS, cause);
    let text = list.to_str().ok_or_else(|| refused("not text".to_owned()))?;
    if text.trim().is_empty() {
        return Err(refused("set but empty; unset it, or list the addresses that may connect".to_owned()));
    }
    let parsed = text.split(',').map(str::trim).map(|entry| match entry.parse::<IpAddr>() {
        Ok(address) => Ok(address),
        Err(_) if entry.parse::<Network>().is_ok() => {
            Err(refused(format!("\"{entry}\" is a network, not an address; --allow-from takes networks")))
        }
        Err(_) => Err(refused(format!("\"{entry}\" is not an IP address"))),
    });
    parsed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Vec<Network> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn peers(allow_from: &[&str], web_servers: Option<&str>) -> Result<Peers, String> {
        Peers::new(&networks(allow_from), web_servers.map(OsStr::new)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_no_address_is_refused_by_name() {
        for (list, cause) in [
            ("localhost", "\"localhost\" is not an IP address"),
            ("10.0.0.0/8", "\"10.0.0.0/8\" is a network, not an address; --allow-from takes networks"),
            ("10.0.0.1;10.0.0.2", "\"10.0.0.1;10.0.0.2\" is not an IP address"),
            ("10.0.0.1,bar", "\"bar\" is not an IP address"),
            ("10.0.0.1,", "\"\" is not an IP address"),
            ("", "set but empty; unset it, or list the addresses that may connect"),
            (" ", "set but empty; unset it, or list the addresses that may connect"),
        ] {
            assert_eq!(peers(&[], Some(list)), Err(format!("FCGI_WEB_SERVER_ADDRS: {cause}")));
        }
        use std::os::unix::ffi::OsStrExt as _;
        assert!(Peers::new(&[], Some(OsStr::from_bytes(b"\xff"))).is_err());
    }

    #[test]
    fn only_who_is_named_may_connect() {
        for (allow_from, web_servers, allowed, refused) in [
            (
                &["10.0.0.0/8", "fd00::7"][..],
                None,
                &["10.1.2.3", "::ffff:10.1.2.3", "fd00::7"][..],
                &["11.0.0.1", "fd00::8", "127.0.0.1"][..],
            ),
            (&[], Some("10.0.0.7, ::1"), &["10.0.0.7", "::ffff:10.0.0.7", "::1"], &["10.0.0.8", "127.0.0.1"]),
            (&[], Some("::ffff:10.0.0.7"), &["10.0.0.7"], &["10.0.0.8"]),
            // With both lists the narrower one counts.
            (&["10.0.0.0/24"], Some("10.0.0.7,10.1.0.7"), &["10.0.0.7"], &["10.0.0.8", "10.1.0.7"]),
            (&["0.0.0.0/0"], None, &["192.0.2.1", "127.0.0.1"], &["::1"]),
        ] {
            let peers = peers(allow_from, web_servers).unwrap();
            for peer in allowed {
                assert!(peers.allow(peer.parse().unwrap()), "{peers:?} {peer}");
            }
            for peer in refused {
                assert!(!peers.allow(peer.parse().unwrap()), "{peers:?} {peer}");
            }
            assert_eq!(peers.allow_listening("0.0.0.0:9000".parse().unwrap()), Ok(()));
        }
        let problem = peers(&["192.0.2.0/24"], Some("10.0.0.7")).unwrap_err();
        assert!(problem.starts_with("FCGI_WEB_SERVER_ADDRS: none of its addresses is among --allow-from"));
    }

    #[test]
    fn where_nobody_is_named_only_a_loopback_address_may_be_listened_on() {
        let peers = peers(&[], None).unwrap();
        for address in ["127.0.0.1:9000", "127.8.8.8:9000", "[::1]:9000", "[::ffff:127.0.0.1]:9000"] {
            assert_eq!(peers.allow_listening(address.parse().unwrap()), Ok(()), "{address}");
        }
        for address in ["0.0.0.0:9000", "[::]:9000", "10.0.0.1:9000", "[::ffff:10.0.0.1]:9000"] {
            assert!(peers.allow_listening(address.parse().unwrap()).is_err(), "{address}");
        }
        assert!(peers.allow("127.0.0.1".parse().unwrap()));
    }
}
