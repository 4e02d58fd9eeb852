//! The table of running workers.

use std::cell::{Ref, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use crate::gateway::pool::worker::{WorkerHandle, WorkerName};
use crate::link::message::ToWorker;

/// The handles of running workers, by number.
#[derive(Debug, Default)]
pub(crate) struct WorkerTable(RefCell<HashMap<u32, Rc<WorkerHandle>>>);

impl WorkerTable {
    pub(crate) fn borrow(&self) -> Ref<'_, HashMap<u32, Rc<WorkerHandle>>> {
        self.0.borrow()
    }

    pub(super) fn count(&self) -> usize {
        self.0.borrow().len()
    }

    pub(super) fn get(&self, worker: u32) -> Option<Rc<WorkerHandle>> {
        self.0.borrow().get(&worker).map(Rc::clone)
    }

    pub(super) fn insert(&self, worker: Rc<WorkerHandle>) {
        self.0.borrow_mut().insert(worker.name().worker, worker);
    }

    /// Removes this worker. Returns false if it is not in the table any more.
    pub(super) fn remove(&self, worker: &WorkerHandle) -> bool {
        let WorkerName { worker: number, pid, .. } = worker.name();
        let mut workers = self.0.borrow_mut();
        let known = workers.get(&number).is_some_and(|known| known.name().pid == pid);
        if known {
            workers.remove(&number);
        }
        known
    }

    /// Sends a message other than a request to a worker, if its process runs.
    pub(crate) fn send(&self, worker: u32, message: ToWorker<'_>) {
        if let Some(worker) = self.0.borrow().get(&worker) {
            worker.send(message);
        }
    }

    /// Kills these workers with their process groups.
    pub(super) fn kill(&self, numbers: &[u32]) {
        let workers = self.0.borrow();
        numbers.iter().filter_map(|number| workers.get(number)).for_each(|worker| worker.kill_group());
    }

    pub(super) fn kill_all(&self) {
        self.0.borrow().values().for_each(|worker| worker.kill_group());
    }
}
