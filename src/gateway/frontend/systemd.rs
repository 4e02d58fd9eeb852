//! Notifications of the gateway's state to systemd: ready, reloading, stopping, alive. Without systemd they do nothing.
//!
//! Sent by the gateway and its supervisor; zygotes and workers do not inherit the variables.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

/// Environment variables that systemd sets for the process it starts. Removed for children.
pub(crate) const VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Notifies that the application loads for the first time.
pub(crate) fn starting(app: &str) {
    notify(&[NotifyState::Status(&format!("loading {app}"))]);
}

/// Notifies that a generation serves, and connections are accepted.
pub(crate) fn ready(generation: u32, workers: &str) {
    let status = format!("{workers} workers, generation {generation}");
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Notifies that a newer generation does not load, and `generation` continues to serve.
pub(crate) fn not_reloaded(generation: u32, workers: &str) {
    let status =
        format!("{workers} workers, generation {generation}; the last reload failed, and changed nothing");
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Notifies that new code loads. Followed by [`ready`] or [`not_reloaded`].
pub(crate) fn reloading(generation: u32) {
    let status = format!("reloading: generation {generation} is being loaded");
    // From version 253 on systemd needs the time, to match the end of a reload to its beginning.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now, NotifyState::Status(&status)]),
        Err(error) => debug!(cause = %crate::log::cause(&error), "no monotonic clock for systemd"),
    }
}

/// Notifies that a stop was requested, and begins after `--drain-delay`.
pub(crate) fn stop_announced() {
    notify(&[NotifyState::Stopping, NotifyState::Status("a stop is announced; requests are still served")]);
}

/// Notifies that a stop has begun.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("finishing accepted requests")]);
}

/// Notifies systemd that the event loop runs, twice in the time that systemd allows. A task of the loop itself, so that a stuck
/// loop is silent.
pub(crate) async fn watchdog() {
    let Some(time) = sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) else { return };
    // At least a millisecond, or the loop would do nothing else.
    let mut interval = tokio::time::interval((time / 2).max(Duration::from_millis(1)));
    loop {
        interval.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        // Not fatal: the metrics shows how systemd reacts to the silence.
        debug!(cause = %crate::log::cause(&error), "systemd is not notified");
    }
}
