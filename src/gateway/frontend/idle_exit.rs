//! Ends a gateway that nobody has needed for a while (`--exit-idle-time`), where somebody else keeps its sockets.
//!
//! No client is lost: the end is an ordinary stop, so whoever is accepted is served, and whoever is not waits in
//! the socket, which makes systemd start the next gateway.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::info;

use crate::gateway::Command;
use crate::gateway::Gateway;
use crate::gateway::events::Notice;

/// Asks for a stop once nobody was connected, and no worker had a request, for `time`.
pub(crate) async fn stop_when_idle(gateway: Rc<Gateway>, time: Duration) {
    loop {
        // A worker may still run the request of a client that has gone; then it is looked at again later.
        let begin = if gateway.has_work() { Instant::now() } else { gateway.idle_since.get() };
        let due = begin + time;
        if due <= gateway.clock.settled() {
            break;
        }
        gateway.clock.passed(Some(due)).await;
    }
    info!(idle_s = time.as_secs_f32(), "nobody was connected for long enough (--exit-idle-time)");
    gateway.notices.send(Notice::Command(Command::StopSoon));
}
