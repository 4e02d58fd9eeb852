//! CGI meta-variables and response heads (RFC 3875), std only.

mod variables;

pub use variables::{Iter, Variables};
