//! The processes' side: the zygotes and workers that run, and what each is told to do.

pub(crate) mod dispatch;
pub(crate) mod lifecycle;
pub(crate) mod log_limits;
pub(crate) mod log_pipe;
pub(crate) mod orphans;
pub(crate) mod process_log;
mod relay;
pub(crate) mod supervisor;
pub(crate) mod watchdog;
pub(crate) mod worker;
pub(crate) mod zygote;
