//! What the supervisor is told by the rest of the gateway, and the way to tell it.

use tokio::sync::mpsc;

use crate::gateway::Command;
use crate::gateway::pool::zygote::ZygoteEvent;

/// Something the supervisor has to know.
#[derive(Debug)]
pub(crate) enum SupervisorEvent {
    Command(Command),
    /// From the zygote of that launch.
    Zygote {
        launch: u64,
        event: ZygoteEvent,
    },
    /// A worker of a generation that does not answer yet is ready.
    FirstReady {
        generation: u32,
    },
    /// The books have changed: a worker is gone, is ready for the first time, or is to be replaced.
    PoolChanged,
    /// Requests wait.
    Demand,
    /// A worker has ended and its request is settled. With a message where the application or a start hook failed in it.
    WorkerEnded {
        generation: u32,
        start_failed: Option<String>,
    },
    /// While stopping: the last connection has closed.
    ConnectionsGone,
}

/// Sends supervisor_events; never fails, since a stopped supervisor has nothing more to know.
#[derive(Clone, Debug)]
pub(crate) struct SupervisorEvents(mpsc::UnboundedSender<SupervisorEvent>);

impl SupervisorEvents {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<SupervisorEvent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    pub(crate) fn send(&self, notice: SupervisorEvent) {
        let _ = self.0.send(notice);
    }
}
