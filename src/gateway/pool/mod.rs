//! The process side of the gateway: supervises zygotes and workers, and sends them orders.

pub(crate) mod dispatch;
pub(crate) mod lanes;
pub(crate) mod lifecycle;
pub(crate) mod log_limits;
pub(crate) mod log_pipe;
pub(crate) mod lookahead;
pub(crate) mod loop_hooks;
pub(crate) mod orphans;
pub(crate) mod process_log;
mod relay;
mod request_packet;
pub(crate) mod stuck;
pub(crate) mod supervisor;
pub(crate) mod watchdog;
pub(crate) mod worker;
mod worker_lane;
pub(crate) mod worker_table;
pub(crate) mod zygote;
