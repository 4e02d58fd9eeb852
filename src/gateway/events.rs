//! The events that the rest of the gateway sends to the supervisor, and their queue.

use tokio::sync::mpsc;

use crate::gateway::Command;
use crate::gateway::pool::zygote::ZygoteEvent;

/// An event for the supervisor.
#[derive(Debug)]
pub(crate) enum SupervisorEvent {
    Command(Command),
    /// An event of the zygote of this launch.
    Zygote {
        launch: u64,
        event: ZygoteEvent,
    },
    /// The first worker of a generation that does not serve yet is ready.
    FirstReady {
        generation: u32,
    },
    /// The pool has changed: a worker is gone, is ready for the first time, or is to be replaced.
    PoolChanged,
    /// Requests wait.
    Demand,
    /// A worker has ended, and its request has been answered or queued again. `start_failed` is the message of an application or
    /// a start hook that failed in it.
    WorkerEnded {
        generation: u32,
        start_failed: Option<String>,
    },
    /// While stopping: the last connection has closed.
    ConnectionsGone,
}

/// The sending side of the supervisor's event queue. Events for a supervisor that has stopped are dropped.
#[derive(Clone, Debug)]
pub(crate) struct SupervisorEvents(mpsc::UnboundedSender<SupervisorEvent>);

impl SupervisorEvents {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<SupervisorEvent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    pub(crate) fn send(&self, event: SupervisorEvent) {
        let _ = self.0.send(event);
    }
}
