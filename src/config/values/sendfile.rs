//! Orders for the proxy: files that it is to send itself, and the headers that an application may send.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;

use super::value::{Value, expected};
use crate::cgi;

/// The response header that tells the proxy to send a file.
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

/// A directory of the application's, and its prefix for the proxy: `/srv/app/files=/files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendfileMap {
    /// The directory: absolute, without a slash at its end.
    pub directory: String,
    /// The prefix: a location of the proxy's, or a directory as the proxy sees it; without a slash at its end.
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
    /// This entry, and where the directory's path leads through links, a second one with the links resolved: the application's
    /// root has its links resolved.
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

/// The headers with orders for the proxy that these settings allow.
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
