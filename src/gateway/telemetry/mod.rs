//! Telemetry: the metrics, the access log, the status in its formats, and the verdict.

pub(crate) mod access_log;
pub(crate) mod histogram;
pub(crate) mod metrics;
pub(crate) mod recent;
pub(crate) mod request_line;
pub(crate) mod status;
pub(crate) mod verdict;
