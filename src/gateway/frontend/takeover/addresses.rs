//! The names of listening addresses between two gateways, whose working directories may differ.

use std::path::absolute;

use crate::config::Listen;

/// The name of an address: the same in every process that means the same socket.
pub(super) fn name_of(address: &Listen) -> String {
    match address {
        Listen::Unix(path) => format!("unix:{}", absolute(path).as_deref().unwrap_or(path).display()),
        other => other.to_string(),
    }
}

/// The names of addresses.
pub(crate) fn names<'a>(addresses: impl IntoIterator<Item = &'a Listen>) -> Vec<String> {
    addresses.into_iter().map(name_of).collect()
}

/// Whether an address is among [`names`].
pub(crate) fn is_among(address: &Listen, names: &[String]) -> bool {
    names.contains(&name_of(address))
}
