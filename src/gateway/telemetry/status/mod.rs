//! The status of the server: its parts become the data of [`crate::link::status`], and the data its forms.
//!
//! The status path, the control socket and the metrics show the same data. Nothing here knows the gateway, reads a clock or asks a
//! worker.

mod assembly;
mod endpoint;
mod format;
mod health;
mod html;
mod json;
mod openmetrics;

pub(crate) use assembly::{Process, Snapshot, Start};
pub(crate) use endpoint::{Endpoint, Page};
pub(crate) use format::Format;
pub(crate) use health::Health;
pub(crate) use json::value;
