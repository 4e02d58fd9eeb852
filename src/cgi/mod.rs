//! CGI meta-variables and response heads (RFC 3875), std only.
//!
//! A request comes in as [`Variables`] and is checked into a [`request::Head`]; a response goes out with a
//! head that [`response::Head`] and [`ProxyHeaders`] have checked.

pub mod arrival;
pub mod path;
pub mod proxy;
pub mod proxy_headers;
pub mod request;
pub mod request_start;
pub mod response;
#[cfg(test)]
pub(crate) mod samples;
mod sendfile;
mod syntax;
mod trace_context;
mod variables;

pub use proxy_headers::ProxyHeaders;
pub use sendfile::{Form, Sendfile};
pub use syntax::is_token;
pub use trace_context::{TRACEPARENT, TraceId};
pub use variables::{Iter, Variables};
