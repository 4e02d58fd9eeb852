//! The lanes in the turns of the event loop: when their packets are relayed, when workers are woken, and how processes are scheduled.
//!
//! While the loop runs, nobody wakes it, and it wakes nobody. When no task is ready, it relays what workers have sent meanwhile, wakes the
//! workers that sleep and have a request, says that it sleeps, and looks once more. So a wake-up serves all requests of a turn of the
//! loop.

use std::rc::Rc;
use std::time::Instant;

use crate::gateway::Gateway;
use crate::gateway::pool::relay::{self, Delivery};
use crate::gateway::runtime::LoopHooks;
use crate::os::process;
use crate::proto::turn::Turn;

/// Looks at lanes that always have more, until the loop asks the kernel for the clients' news.
const LOOKS: u32 = 4;

/// The hooks of the event loop.
pub(crate) struct Hooks(pub(crate) Rc<Gateway>);

impl LoopHooks for Hooks {
    fn before_sleep(&self) {
        let lanes = &self.0.lanes;
        for _ in 0..LOOKS {
            deliver(&self.0);
            lanes.wake_workers();
            if lanes.sleep() {
                adapt(&self.0);
                return;
            }
            lanes.wake();
        }
        // A ready task keeps the loop from sleeping.
        tokio::task::spawn_local(async {});
    }

    fn after_sleep(&self) {
        self.0.lanes.wake();
    }

    fn between_tasks(&self) {
        deliver(&self.0);
        self.0.lanes.wake_workers();
    }
}

/// Relays what the workers have sent through their lanes, for a turn of each.
fn deliver(gateway: &Gateway) {
    gateway.lanes.each(|worker| {
        let Some(lane) = worker.lane().filter(|lane| lane.is_ready()) else { return };
        match relay::deliver(gateway, worker, &mut Turn::begin(Instant::now), false) {
            Delivery::Done => {}
            // The relay waits for the client.
            Delivery::HeldUp => {
                lane.hold_up(true);
                worker.call_relay();
            }
            Delivery::End(cause) => {
                // Nothing of it is relayed any more.
                lane.hold_up(true);
                worker.end_relay(cause);
            }
        }
    });
}

/// Adapts the scheduling of all processes to the load. Called when the loop is about to sleep.
fn adapt(gateway: &Gateway) {
    let Some(batch) = gateway.lanes.observe_load(gateway.queue.borrow().len()) else { return };
    match process::set_batch(batch) {
        Ok(()) => {
            let workers = gateway.workers.borrow();
            workers.values().filter_map(|worker| worker.lane()).for_each(|lane| lane.set_batch(batch));
        }
        Err(error) => gateway.lanes.log_refused(&error),
    }
}
