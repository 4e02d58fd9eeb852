//! The status of the server: its data, built from parts that are given to it, and its forms.
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

pub(crate) use crate::link::status::{Running, Start, Status};
pub(crate) use assembly::{Parts, Process};
pub(crate) use endpoint::{Endpoint, Page};
pub(crate) use format::Format;
pub(crate) use health::Health;
pub(crate) use json::value;
