//! Request heads: from the variables that a client sent to a head that is safe to act on (RFC 3875 §4.1).

mod bad_request;
mod content_length;
mod head;
mod path_info;
mod repeated;

pub use bad_request::BadRequest;
pub use content_length::ContentLength;
pub use head::Head;
