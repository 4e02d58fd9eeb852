//! The gateway's decisions without I/O: no event loop, no descriptor, no clock. Time comes in as an argument.
//!
//! The drivers in [`crate::gateway`] pass input to these state machines and execute their actions.

pub(crate) mod backoff;
pub(crate) mod batching;
pub(crate) mod body;
pub(crate) mod body_file;
pub(crate) mod connection;
pub(crate) mod file_records;
pub(crate) mod lookahead;
pub(crate) mod memory;
pub(crate) mod pool;
pub(crate) mod queue;
pub(crate) mod rate;
pub(crate) mod request_end;
pub(crate) mod request_id;
// Public for `fuzz/` alone: they hold no secret and do no harm, and a feature for it would be a second build to test.
#[doc(hidden)]
pub mod response;
#[doc(hidden)]
pub mod response_writer;
pub(crate) mod run;
pub(crate) mod send_buffer;
pub(crate) mod server_timing;
pub(crate) mod space;
pub(crate) mod supervisor;
pub(crate) mod turn;
#[doc(hidden)]
pub mod worker;
