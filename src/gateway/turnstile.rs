//! The waiting line of sources that have had their turn ([`crate::proto::turn`]) and have more to be read.

use tokio::sync::Semaphore;

/// Where sources wait whose turns were over, in the order in which they came.
///
/// One of them goes on each time the event loop has looked at everything else. So a client that asks for little does not notice how many
/// they are, and they share what it leaves.
#[derive(Debug)]
pub(crate) struct Turnstile(Semaphore);

impl Turnstile {
    pub(crate) fn new() -> Self {
        Self(Semaphore::new(1))
    }

    /// Waits for the source's next turn.
    pub(crate) async fn pass(&self) {
        // Never closed, so this is never an error.
        let _first = self.0.acquire().await;
        // Until the event loop has run what is ready and asked the kernel for more.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Sources that always have more beside one that has a little, on the gateway's event loop.
    #[test]
    fn those_that_have_had_their_turn_go_on_one_at_a_time_and_in_order() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let turns = tokio::task::LocalSet::new().block_on(&runtime, async {
            let (turnstile, turns) = (Rc::new(Turnstile::new()), Rc::new(RefCell::new(Vec::new())));
            for greedy in 0..20 {
                let (turnstile, turns) = (Rc::clone(&turnstile), Rc::clone(&turns));
                tokio::task::spawn_local(async move {
                    loop {
                        turns.borrow_mut().push(greedy);
                        turnstile.pass().await;
                    }
                });
            }
            // One that asks for little is run between any two of them.
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
