//! A network of IP addresses, as `--allow-from` names it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::value::{Value, expected};

/// A network: the addresses with a common prefix, `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Whether the address is in this network. An IPv4 address counts in its IPv6 form too.
    pub(in crate::config) fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// The network of one address.
impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(canonical(IpNet::from(address)))
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>().map_err(|_| expected::<Self>())?,
        };
        if network.addr() != network.network() {
            let (network, address) = (network.trunc(), network.addr());
            return Err(format!("has bits beyond its prefix; write {network} or {address}"));
        }
        Ok(Self(canonical(network)))
    }
}

impl Value for Network {
    const EXPECTED: &'static str = "an address such as 10.0.0.7, or a network such as 10.0.0.0/8";
}

/// The IPv4 form of a network of IPv4 addresses in IPv6 form, `10.0.0.0/8` for `::ffff:10.0.0.0/104`, as peers are compared.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    let shorter = network.prefix_len().checked_sub(MAPPED);
    match (network.addr(), network.addr().to_canonical(), shorter) {
        (IpAddr::V6(_), IpAddr::V4(address), Some(prefix)) => IpNet::new_assert(address.into(), prefix),
        _ => network,
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_address_or_a_prefix() {
        for (text, shown) in [
            ("10.0.0.7", "10.0.0.7"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.0.0.7/32", "10.0.0.7"),
            ("fd00::/8", "fd00::/8"),
            ("::1", "::1"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), shown);
        }
        for text in
            ["", "localhost", "10.0.0.0/33", "10.0.0", "10.0.0.7 ", "10.0.0.1;10.0.0.2", "10.0.0.0/", "/8"]
        {
            assert_eq!(text.parse::<Network>(), Err(expected::<Network>()), "{text}");
        }
        let problem = "10.0.0.7/8".parse::<Network>().unwrap_err();
        assert_eq!(problem, "has bits beyond its prefix; write 10.0.0.0/8 or 10.0.0.7");
    }
}
