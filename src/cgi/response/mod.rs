//! Response heads (RFC 3875 §6): reading those of applications, writing those of nibiru itself.

mod bad_head;
mod failure;
mod head;
mod reason;

pub use bad_head::{BadHead, MAX_HEAD};
pub use failure::{failure, split_failure};
pub use head::{Fields, Head, Status};
pub use reason::reason;
