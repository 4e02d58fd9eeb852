//! The count of bodies with a write in progress, for tasks that wait until a write has freed memory.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct PendingWrites {
    count: Cell<usize>,
    ended: Notify,
}

/// A write in progress, until its drop.
#[derive(Debug)]
pub(super) struct WriteGuard(Rc<PendingWrites>);

impl PendingWrites {
    pub(super) fn start(self: &Rc<Self>) -> WriteGuard {
        self.count.set(self.count.get() + 1);
        WriteGuard(Rc::clone(self))
    }

    pub(super) fn any(&self) -> bool {
        self.count.get() > 0
    }

    /// Waits for the end of a write. The wait begins at the call, not at the first poll.
    pub(super) fn ended(&self) -> impl Future<Output = ()> {
        self.ended.notified()
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        let left = self.0.count.get() - 1;
        self.0.count.set(left);
        if left == 0 {
            // Wakes all, because no further end would.
            self.0.ended.notify_waiters();
        } else {
            self.0.ended.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn each_end_wakes_one_task_and_the_last_end_wakes_all() {
        run(async {
            let writing = Rc::new(PendingWrites::default());
            let (first, second) = (writing.start(), writing.start());
            assert!(writing.any());
            let woken = Rc::new(Cell::new(0));
            let tasks = tokio::task::LocalSet::new();
            for _ in 0..3 {
                let (writing, woken) = (Rc::clone(&writing), Rc::clone(&woken));
                tasks.spawn_local(async move {
                    writing.ended().await;
                    woken.set(woken.get() + 1);
                });
            }
            tasks
                .run_until(async {
                    tokio::task::yield_now().await;
                    drop(first);
                    tokio::task::yield_now().await;
                    assert!(woken.get() <= 1 && writing.any());
                    drop(second);
                    assert!(!writing.any());
                })
                .await;
            tasks.await;
            assert_eq!(woken.get(), 3);
        });
    }
}
