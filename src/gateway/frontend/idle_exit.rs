//! The exit of an idle gateway (`--exit-idle-time`), for socket activation.
//!
//! No client is lost, because the exit is an ordinary stop: accepted clients are served, and others wait in the socket, for which
//! systemd starts the next gateway.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::info;

use crate::gateway::Command;
use crate::gateway::Gateway;
use crate::gateway::events::SupervisorEvent;

/// Requests a stop once the gateway has had no connection and no running request for `time`.
pub(crate) async fn stop_when_idle(gateway: Rc<Gateway>, time: Duration) {
    loop {
        let now = Instant::now();
        let idle_since = (!gateway.has_work()).then(|| gateway.idle_since.get());
        let Some(next) = next_check(idle_since, time, now, gateway.clock.settled()) else { break };
        gateway.clock.passed(Some(next)).await;
    }
    info!(idle_s = time.as_secs_f32(), "nobody was connected for long enough (--exit-idle-time)");
    gateway.supervisor_events.send(SupervisorEvent::Command(Command::StopSoon));
}

/// Time of the next check; `None` if the gateway has been idle for `time`. `idle_since`: `None` while a client is connected, or a
/// worker runs the request of a client that has left. `settled`: time up to which all input has been processed.
fn next_check(
    idle_since: Option<Instant>,
    time: Duration,
    now: Instant,
    settled: Instant,
) -> Option<Instant> {
    let next = idle_since.unwrap_or(now) + time;
    (next > settled).then_some(next)
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
            // The time has passed, and input up to then is not processed yet: after a pause of the process.
            (Some(10), 60, 14, Some(15)),
            // A client is connected: the next check is after the whole time.
            (None, 20, 20, Some(25)),
            (None, 60, 60, Some(65)),
        ] {
            let next = next_check(idle_since.map(at), Duration::from_secs(5), at(now), at(settled));
            assert_eq!(next, look.map(at), "idle since {idle_since:?}, now {now}, settled {settled}");
        }
    }
}
