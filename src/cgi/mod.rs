//! CGI meta-variables and response heads (RFC 3875), std only.
//!
//! A request comes in as [`Variables`] and is checked into a [`request::Head`]; a response goes out with a
//! head that [`response::Head`] and [`ProxyHeaders`] have checked.

pub mod arrival;
pub mod proxy;
pub mod proxy_headers;
mod repeated;
pub mod request;
pub mod request_start;
pub mod response;
mod trace_context;
mod variables;

pub use proxy_headers::{Form, ProxyHeaders, Sendfile};
pub use trace_context::{TRACEPARENT, TraceId};
pub use variables::{Iter, Variables};

/// Whether `bytes` is a token (RFC 9110 §5.6.2), as methods and field names are.
pub fn is_token(bytes: &[u8]) -> bool {
    let is_tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(is_tchar)
}

/// The number that `value` is, if it is digits and nothing else and fits (RFC 9110 §8.6).
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |length, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        length.checked_mul(10)?.checked_add(digit)
    })
}
