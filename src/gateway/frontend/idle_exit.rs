//! The end of a gateway that nobody has needed for a while (`--exit-idle-time`), where another process keeps its sockets.
//!
//! No client is lost: the end is an ordinary stop, so clients that were accepted are served, and the others wait in the socket,
//! which makes systemd start the next gateway.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::info;

use crate::gateway::Command;
use crate::gateway::Gateway;
use crate::gateway::events::SupervisorEvent;

/// Asks for a stop once nobody was connected, and no worker had a request, for `time`.
pub(crate) async fn stop_when_idle(gateway: Rc<Gateway>, time: Duration) {
    loop {
        let now = Instant::now();
        let idle_since = (!gateway.has_work()).then(|| gateway.idle_since.get());
        let Some(look) = next_look(idle_since, time, now, gateway.clock.settled()) else { break };
        gateway.clock.passed(Some(look)).await;
    }
    info!(idle_s = time.as_secs_f32(), "nobody was connected for long enough (--exit-idle-time)");
    gateway.supervisor_events.send(SupervisorEvent::Command(Command::StopSoon));
}

/// The moment of the next look; `None` where the gateway has been idle for `time`. `idle_since`: `None` while anybody is connected,
/// or a worker runs the request of a client that has gone. `settled`: all that had come by then has been looked at.
fn next_look(idle_since: Option<Instant>, time: Duration, now: Instant, settled: Instant) -> Option<Instant> {
    let look = idle_since.unwrap_or(now) + time;
    (look > settled).then_some(look)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_comes_once_the_gateway_has_been_idle_for_the_whole_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (idle_since, now, settled, look) in [
            // Idle since 10: the end is due at 15.
            (Some(10), 10, 9, Some(15)),
            (Some(10), 14, 14, Some(15)),
            (Some(10), 15, 15, None),
            (Some(10), 60, 60, None),
            // The time has passed, and what came by then has not been looked at: after a pause of the process.
            (Some(10), 60, 14, Some(15)),
            // Somebody is connected: another look after the whole time.
            (None, 20, 20, Some(25)),
            (None, 60, 60, Some(65)),
        ] {
            let next = next_look(idle_since.map(at), Duration::from_secs(5), at(now), at(settled));
            assert_eq!(next, look.map(at), "idle since {idle_since:?}, now {now}, settled {settled}");
        }
    }
}
