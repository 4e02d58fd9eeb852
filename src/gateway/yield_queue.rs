//! The queue of sources that have more to read after their turn ([`crate::proto::turn`]).

use tokio::sync::Semaphore;

use crate::gateway::runtime;

/// A queue of sources whose turns are over, first come, first served.
///
/// One source passes each time the event loop has served everything else. So a client that asks for little does not notice how
/// many sources wait, and they share the remaining time.
#[derive(Debug)]
pub(crate) struct YieldQueue(Semaphore);

impl YieldQueue {
    pub(crate) fn new() -> Self {
        Self(Semaphore::new(1))
    }

    /// Waits for the source's next turn.
    pub(crate) async fn wait_turn(&self) {
        // Never closed, so never an error.
        let _first = self.0.acquire().await;
        // Lets the event loop run the ready tasks and ask the kernel for more.
        tokio::task::yield_now().await;
        runtime::turn_over();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Many busy sources beside a quiet one, on the gateway's event loop.
    #[test]
    fn sources_pass_one_at_a_time_and_in_order() {
        let turns = runtime::new().unwrap().block_on(async {
            let (yield_queue, turns) = (Rc::new(YieldQueue::new()), Rc::new(RefCell::new(Vec::new())));
            for greedy in 0..20 {
                let (yield_queue, turns) = (Rc::clone(&yield_queue), Rc::clone(&turns));
                tokio::task::spawn_local(async move {
                    loop {
                        turns.borrow_mut().push(greedy);
                        yield_queue.wait_turn().await;
                    }
                });
            }
            // The quiet source runs between any two busy ones.
            for _ in 0..100 {
                let before = turns.borrow().len();
                tokio::task::yield_now().await;
                let passed = turns.borrow().len() - before;
                assert!(passed <= 1 || before == 0, "{passed} in a row");
            }
            turns.borrow().clone()
        });
        assert!(turns.len() > 80, "{turns:?}");
        for (number, greedy) in turns.iter().enumerate() {
            assert_eq!(number % 20, *greedy, "each in its turn: {turns:?}");
        }
    }
}
