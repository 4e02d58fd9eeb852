//! Other protocols than FastCGI, told from the first bytes of a connection.

use std::fmt;

use super::record::HEADER_LENGTH;

/// The protocol of a peer that was configured for another kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherProtocol {
    /// HTTP, 1 or 2: `proxy_pass` in place of `fastcgi_pass`.
    Http,
    /// TLS.
    Tls,
    /// The PROXY protocol of load balancers (HAProxy's `send-proxy`).
    Proxy,
}

impl OtherProtocol {
    /// The protocol of a connection that begins with these bytes, where that is known.
    pub(super) fn of(start: &[u8; HEADER_LENGTH]) -> Option<Self> {
        const HTTP: [&[u8]; 11] = [
            b"GET ",
            b"HEAD ",
            b"POST ",
            b"PUT ",
            b"DELETE ",
            b"CONNECT ",
            b"OPTIONS ",
            b"TRACE ",
            b"PATCH ",
            b"PROPFIND",
            // RFC 9113 §3.4
            b"PRI * HT",
        ];
        let begins = |with: &[u8]| start.starts_with(with);
        if HTTP.into_iter().any(begins) {
            Some(Self::Http)
        } else if begins(b"\x16\x03") {
            // RFC 8446 §5.1: a handshake record.
            Some(Self::Tls)
        } else if begins(b"PROXY ") || begins(b"\r\n\r\n\0\r\nQ") {
            Some(Self::Proxy)
        } else {
            None
        }
    }
}

impl fmt::Display for OtherProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Tls => "TLS",
            Self::Proxy => "the PROXY protocol",
        })
    }
}
