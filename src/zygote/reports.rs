//! The zygote's messages to the gateway.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::link::Link;
use crate::link::message::{FromZygote, LogLevel, shortened};

/// Sends a warning of the zygote's own for the log.
pub(super) fn warn(control: &Link, line: &str) {
    let message = &*shortened(line.as_bytes());
    // The error is ignored: without a gateway the line has no reader.
    let _ = send(control, &FromZygote::Log { level: LogLevel::Warn, message, fields: b"" }, None);
}

/// Sends one message, with at most one descriptor.
pub(super) fn send(control: &Link, message: &FromZygote<'_>, descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let mut packet = Vec::with_capacity(64);
    message.encode(&mut packet);
    match descriptor {
        Some(descriptor) => control.send(&packet, &[descriptor.as_fd()]),
        None => control.send(&packet, &[]),
    }
}
