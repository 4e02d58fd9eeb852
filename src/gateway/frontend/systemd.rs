//! Notifies systemd of the gateway's state: ready, reloading, stopping, alive. Does nothing without systemd.
//!
//! Called by the gateway and its supervisor; never by zygotes and workers, which do not inherit the variables.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::debug;

/// Environment variables that systemd sets for the process that it starts, and that are for none of its children.
pub(crate) const VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// The application is being loaded for the first time.
pub(crate) fn starting(app: &str) {
    notify(&[NotifyState::Status(&format!("loading {app}"))]);
}

/// A generation answers, and connections are accepted.
pub(crate) fn ready(generation: u32, workers: &str) {
    let status = format!("{workers} workers, generation {generation}");
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// A newer generation does not load, and `generation` goes on answering.
pub(crate) fn not_reloaded(generation: u32, workers: &str) {
    let status =
        format!("{workers} workers, generation {generation}; the last reload failed, and changed nothing");
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// New code is being loaded. Ends with [`ready`] or [`not_reloaded`].
pub(crate) fn reloading(generation: u32) {
    let status = format!("reloading: generation {generation} is being loaded");
    // From version 253 on systemd wants the time, to tell which reload this answers.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now, NotifyState::Status(&status)]),
        Err(error) => debug!(cause = %crate::log::cause(&error), "no monotonic clock for systemd"),
    }
}

/// A stop has been asked for, and begins after `--drain-delay`.
pub(crate) fn stop_announced() {
    notify(&[NotifyState::Stopping, NotifyState::Status("a stop is announced; requests are still served")]);
}

/// A stop has begun.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("finishing accepted requests")]);
}

/// Notifies systemd that the event loop turns, twice in the time that systemd allows. A task of the loop itself, so that a loop that
/// is stuck is silent.
pub(crate) async fn watchdog() {
    let Some(time) = sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) else { return };
    // Below a millisecond it would do nothing else.
    let mut interval = tokio::time::interval((time / 2).max(Duration::from_millis(1)));
    loop {
        interval.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        // Nothing else depends on it, and the journal shows what systemd makes of the silence.
        debug!(cause = %crate::log::cause(&error), "systemd is not notified");
    }
}
