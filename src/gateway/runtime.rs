//! The runtime of the gateway: tokio on one thread, whose tasks need not be `Send`.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

use crate::gateway::spool;

/// Short pieces of work between two calls of the hooks while the loop does not sleep.
const PIECES: u32 = 16;

/// What is called between the tasks of the event loop. No task runs meanwhile, and nothing is borrowed.
pub(super) trait LoopHooks {
    /// No task is ready: the loop is about to sleep. Work that it schedules keeps the loop from that.
    fn before_sleep(&self);
    /// The loop has slept.
    fn after_sleep(&self);
    /// Tasks are ready without a pause.
    fn between_tasks(&self);
}

thread_local! {
    static HOOKS: RefCell<Option<Rc<dyn LoopHooks>>> = const { RefCell::new(None) };
    static DONE: Cell<u32> = const { Cell::new(0) };
}

/// A runtime that runs its tasks on the calling thread.
///
/// Not a `LocalSet` in a runtime: waking one of its tasks wakes the set, which costs a write to the runtime's event descriptor and a
/// read of it in each turn of the loop.
pub(super) fn new() -> io::Result<LocalRuntime> {
    Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(spool::THREADS)
        .thread_name("spool")
        .on_thread_park(|| call(|hooks| hooks.before_sleep()))
        .on_thread_unpark(|| call(|hooks| hooks.after_sleep()))
        .build_local(LocalOptions::default())
}

/// The hooks of this thread, until this is dropped.
#[must_use]
pub(super) struct HooksGuard(());

impl Drop for HooksGuard {
    fn drop(&mut self) {
        HOOKS.set(None);
    }
}

/// Sets the hooks of this thread.
pub(super) fn set_hooks(hooks: Rc<dyn LoopHooks>) -> HooksGuard {
    HOOKS.set(Some(hooks));
    HooksGuard(())
}

/// To be called after a whole turn of a source that has more to read: with such sources the loop never sleeps.
pub(super) fn turn_over() {
    call(|hooks| hooks.between_tasks());
}

/// To be called after each piece of work for a client. With enough clients the loop never sleeps.
pub(super) fn piece_done() {
    let done = DONE.get() + 1;
    DONE.set(done % PIECES);
    if done == PIECES {
        turn_over();
    }
}

fn call(act: impl FnOnce(&dyn LoopHooks)) {
    let hooks = HOOKS.with_borrow(|hooks| hooks.as_ref().map(Rc::clone));
    if let Some(hooks) = hooks {
        act(&*hooks);
    }
}
