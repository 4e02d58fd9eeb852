//! Complete requests on their way to a worker: at once, from the queue, or with a refusal.
//!
//! Connections submit them, workers that become idle ask for them. Never waits.

use std::rc::Rc;
use std::time::Instant;

use tracing::warn;

use super::notice::Notice;
use super::outcome::Refused;
use super::reply::Ticket;
use super::request::{Named, Request};
use super::worker_link::NotStarted;
use super::{Gateway, Load};
use crate::fastcgi::Role;
use crate::ipc::message::ToWorker;

impl Gateway {
    /// Takes a complete request: an idle worker gets it, else it waits.
    pub(super) fn submit(&self, request: Box<Request>) {
        let Some(mut request) = self.answer_itself(request) else { return };
        if !request.take_share() {
            return request.refuse(Refused::Memory, 503, "no memory is left for it");
        }
        if self.mode.development
            && let Load::Failed(message) = &self.mode.code.borrow().load
        {
            request.reply.stderr(message.as_bytes());
            return request.reply.fail(500, "the application does not load", None);
        }
        let came = request.came;
        if self.config.borrow().server_timing && request.role != Role::Authorizer {
            request.reply.tell_timing(came);
        }
        let idle = if self.queue.borrow().is_empty() { self.pool.borrow_mut().assign(came) } else { None };
        if let Some(worker) = idle {
            return self.hand(worker, came, request);
        }
        if let Some(wait) = self.pool.borrow().down_for(came) {
            return request.refuse_for(Refused::Down, 503, "the application does not start", wait);
        }
        if let Some(why) = self.given_up.get() {
            return request.refuse(Refused::Down, 503, why);
        }
        self.note(|course| course.wanting_since = course.wanting_since.or(Some(came)));
        let full = self.queue.borrow_mut().push(came, request).err();
        match full {
            None => {
                self.queued.notify_one();
                self.ask_for_more();
            }
            Some(mut request) => request.refuse(Refused::QueueFull, 503, "the queue is full"),
        }
    }

    /// A worker is free. Where the queue is empty, requests no longer count as waiting for a worker.
    pub(super) fn nobody_wants(&self) {
        if self.queue.borrow().is_empty() && self.course.get().wanting_since.is_some() {
            self.note(|course| course.wanting_since = None);
        }
    }

    /// No request will get a worker any more: refuses those in the queue, and all that come later, with this reason.
    pub(super) fn give_up(&self, why: &'static str) {
        self.given_up.set(Some(why));
        while let Some((_, mut request)) = self.next_wanted() {
            request.refuse(Refused::Down, 503, why);
        }
    }

    /// A request waits: the supervisor is to see whether more workers would help, once for all that wait.
    pub(super) fn ask_for_more(&self) {
        let helps = {
            let pool = self.pool.borrow();
            pool.can_grow() || pool.has_nobody()
        };
        if helps && !self.demand.replace(true) {
            self.notices.send(Notice::Demand);
        }
    }

    /// Answers all that waits, where no worker is there nor about to be.
    pub(super) fn refuse_all_while_down(&self) {
        while let Some(wait) = self.pool.borrow().down_for(Instant::now())
            && let Some((_, mut request)) = self.next_wanted()
        {
            request.refuse_for(Refused::Down, 503, "the application does not start", wait);
        }
    }

    /// Hands waiting requests to idle workers, as long as there are both.
    pub(super) fn dispatch(&self) {
        while !self.queue.borrow().is_empty() {
            let now = Instant::now();
            let Some(worker) = self.pool.borrow_mut().assign(now) else { return };
            let Some((came, request)) = self.next_wanted() else {
                return self.pool.borrow_mut().unassign(worker, now);
            };
            self.hand(worker, came, request);
        }
    }

    /// Hands a request to a worker that is assigned to it.
    pub(super) fn hand(&self, worker: u32, came: Instant, request: Box<Request>) {
        let link = self.workers.borrow().get(&worker).map(Rc::clone);
        let started = match link {
            Some(link) => link.start(request, &mut self.request_packet.borrow_mut()),
            None => Err(NotStarted::Ended(request)),
        };
        match started {
            Ok(()) => {
                if self.pool.borrow_mut().take_changed() {
                    self.notices.send(Notice::PoolChanged);
                }
            }
            // Its link will notice. The books have it busy until then, so another worker is next.
            Err(NotStarted::Ended(request)) => {
                self.put_back(came, request);
                self.dispatch();
            }
            Err(NotStarted::Refused(mut request, cause)) => {
                self.pool.borrow_mut().unassign(worker, Instant::now());
                let Named { request: id, trace_id } = request.named();
                let cause = crate::log::cause(&cause);
                warn!(worker, request = id, trace_id, cause, "cannot hand over a request");
                request.refuse(Refused::NotHanded, 503, "no worker could take the request");
            }
        }
    }

    /// Lets a request wait again that no worker has read.
    pub(super) fn put_back(&self, came: Instant, mut request: Box<Request>) {
        request.take_back();
        self.queue.borrow_mut().put_back(came, request);
        self.queued.notify_one();
    }

    /// The request that has waited longest and whose client still waits.
    pub(super) fn next_wanted(&self) -> Option<(Instant, Box<Request>)> {
        let mut queue = self.queue.borrow_mut();
        loop {
            let (came, request) = queue.pop()?;
            if !request.reply.ticket().is_abandoned() {
                return Some((came, request));
            }
        }
    }

    /// A client has gone.
    pub(super) fn abandoned(&self, ticket: &Ticket) {
        match ticket.abandon() {
            Some(worker) => self.tell(worker, ToWorker::Abort),
            None => self.queue.borrow_mut().retain(|request| !request.reply.ticket().is_abandoned()),
        }
    }

    /// In development: the newest code does not load. Whoever waits is told so.
    pub(super) fn load_failed(&self) {
        while let Some((_, request)) = self.next_wanted() {
            self.submit(request);
        }
    }
}

/// Answers requests that have waited too long.
pub(super) async fn expire(gateway: Rc<Gateway>) {
    loop {
        let next = gateway.queue.borrow().next_expiry();
        tokio::select! {
            () = gateway.queued.notified() => {}
            () = gateway.clock.passed(next) => {}
        }
        loop {
            let expired = gateway.queue.borrow_mut().pop_expired(gateway.clock.settled());
            let Some(mut request) = expired else { break };
            request.refuse(Refused::QueueTimeout, 503, "no worker was free in time");
        }
    }
}
