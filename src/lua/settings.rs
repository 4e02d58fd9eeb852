//! The settings of a Lua state.

use std::path::PathBuf;

use super::target::Target;
use crate::cgi::ProxyHeaders;

/// The settings of one [`State`](super::State).
#[derive(Clone, Debug)]
pub struct Settings {
    /// The application's root, absolute; the caller has already made it the working directory.
    pub root: PathBuf,
    /// The application's place.
    pub target: Target,
    /// The generation of the code, counted from 1.
    pub generation: u32,
    /// The orders that the application may give the proxy.
    pub proxy_headers: ProxyHeaders,
}
