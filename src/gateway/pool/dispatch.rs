//! Complete requests on their way to a worker: at once, from the queue, or with a refusal.
//!
//! Connections submit them, workers that become idle ask for them. Never waits.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::warn;

use crate::cgi::{Variables, request_start};
use crate::config::{ParamName, PriorityParam};
use crate::fastcgi::Role;
use crate::gateway::Gateway;
use crate::gateway::Load;
use crate::gateway::events::Notice;
use crate::gateway::pool::worker::NotStarted;
use crate::gateway::request::Request;
use crate::gateway::sleep_until;
use crate::link::message::ToWorker;
use crate::proto::connection::Assignment;
use crate::proto::queue::{Place, Turned};
use crate::proto::request_end::{Named, Refused};

impl Gateway {
    /// Takes a complete request: an idle worker gets it, else it waits.
    pub(crate) fn submit(&self, mut request: Box<Request>) {
        if !request.take_share() {
            return request.refuse(Refused::Memory, 503, "no memory is left for it");
        }
        if self.mode.development
            && let Load::Failed(message) = &self.mode.code.borrow().load
        {
            request.response.stderr(message.as_bytes());
            return request.fail(500, "the application does not load", None);
        }
        let came = request.came;
        if self.config.borrow().server_timing && request.role != Role::Authorizer {
            request.response.writer.tell_timing(came);
        }
        let place = self.queue.borrow_mut().place(came, request.head_start, self.is_marked(&request));
        request.response.assign(|assignment| assignment.place = Some(place));
        let idle = if self.queue.borrow().is_empty() { self.pool.borrow_mut().assign(came) } else { None };
        if let Some(worker) = idle {
            return self.hand(worker, place, request);
        }
        if let Some(wait) = self.pool.borrow().down_for(came) {
            return request.refuse_for(Refused::Down, 503, "the application does not start", wait);
        }
        if let Some(why) = self.given_up.get() {
            return request.refuse(Refused::Down, 503, why);
        }
        self.note(|course| course.wanting_since = course.wanting_since.or(Some(came)));
        let turned = self.queue.borrow_mut().push(place, request, came);
        self.queued.notify_one();
        self.ask_for_more();
        match turned {
            None => {}
            Some(Turned { item: request, overload: None }) => {
                request.refuse(Refused::QueueFull, 503, "the queue is full");
            }
            Some(Turned { item, overload: Some(wait) }) => refuse_overloaded(item, wait),
        }
    }

    /// Whether the proxy has marked a request as one that goes first (`--queue-priority`).
    fn is_marked(&self, request: &Request) -> bool {
        let config = self.config.borrow();
        let Some(PriorityParam(name)) = &config.queue_priority else { return false };
        let value = request.variables.get(name.as_bytes());
        value.is_some_and(|value| !matches!(value, b"" | b"0"))
    }

    /// How long before `since`, when its parameters were there, a request came to the proxy (`--request-start`).
    pub(crate) fn head_start(&self, variables: &Variables, since: Instant) -> Duration {
        let config = self.config.borrow();
        let Some(ParamName(name)) = &config.request_start else { return Duration::ZERO };
        let Some(value) = variables.get(name.as_bytes()) else { return Duration::ZERO };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        request_start::time_before(value, now.saturating_sub(since.elapsed()))
    }

    /// Whether workers are on their way that have not been there since the code was loaded.
    fn births_pending(&self) -> bool {
        self.reloading.get() || self.pool.borrow().births_pending()
    }

    /// A worker is free. Where the queue is empty, requests no longer count as waiting for a worker.
    pub(crate) fn nobody_wants(&self) {
        if self.queue.borrow().is_empty() && self.course.get().wanting_since.is_some() {
            self.note(|course| course.wanting_since = None);
        }
    }

    /// No request will get a worker any more: refuses those in the queue, and all that come later, with this reason.
    pub(crate) fn give_up(&self, why: &'static str) {
        self.given_up.set(Some(why));
        while let Some(request) = self.pop() {
            request.refuse(Refused::Down, 503, why);
        }
    }

    /// A request waits: the supervisor is to see whether more workers would help, once for all that wait.
    pub(crate) fn ask_for_more(&self) {
        let helps = {
            let pool = self.pool.borrow();
            pool.can_grow() || pool.has_nobody()
        };
        if helps && !self.demand.replace(true) {
            self.notices.send(Notice::Demand);
        }
    }

    /// Answers all that waits, where no worker is there nor about to be.
    pub(crate) fn refuse_all_while_down(&self) {
        while let Some(wait) = self.pool.borrow().down_for(Instant::now())
            && let Some(request) = self.pop()
        {
            request.refuse_for(Refused::Down, 503, "the application does not start", wait);
        }
    }

    /// Hands waiting requests to idle workers, as long as there are both.
    pub(crate) fn dispatch(&self) {
        while !self.queue.borrow().is_empty() {
            let now = Instant::now();
            let Some(worker) = self.pool.borrow_mut().assign(now) else { return };
            let Some((place, request)) = self.next_wanted(now) else {
                return self.pool.borrow_mut().unassign(worker, now);
            };
            self.hand(worker, place, request);
        }
    }

    /// Hands a request to a worker that is assigned to it.
    pub(crate) fn hand(&self, worker: u32, place: Place, request: Box<Request>) {
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
                self.put_back(place, request);
                self.dispatch();
            }
            Err(NotStarted::Refused(request, cause)) => {
                self.pool.borrow_mut().unassign(worker, Instant::now());
                let Named { request: id, trace_id } = request.named();
                let cause = crate::log::cause(&cause);
                self.in_trouble(|left_out| {
                    warn!(worker, request = id, trace_id, cause, left_out, "cannot hand over a request");
                });
                request.refuse(Refused::NotHanded, 503, "no worker could take the request");
            }
        }
    }

    /// Lets a request wait again that no worker has read.
    pub(crate) fn put_back(&self, place: Place, mut request: Box<Request>) {
        request.take_back();
        self.queue.borrow_mut().put_back(place, request);
        self.queued.notify_one();
    }

    /// The request whose turn it is, for a worker.
    fn next_wanted(&self, now: Instant) -> Option<(Place, Box<Request>)> {
        let was_overloaded = self.queue.borrow().is_overloaded();
        let median = self.journal.median_service();
        let next = loop {
            let next = self.queue.borrow_mut().take(now, median, || self.births_pending());
            match next {
                // Its connection has taken it out when the client went; this is the last look before it would run.
                Some((_, request)) if request.response.is_abandoned() => request.finish(),
                next => break next,
            }
        };
        if !was_overloaded && self.queue.borrow().is_overloaded() {
            self.queued.notify_one();
            self.in_trouble(|left_out| {
                warn!(
                    left_out,
                    "overloaded: requests wait for longer than --queue-target; the newest go first, and the oldest are refused"
                );
            });
        }
        next
    }

    /// A request that no worker will have.
    fn pop(&self) -> Option<Box<Request>> {
        self.queue.borrow_mut().pop()
    }

    /// A client does not wait any more for a request that was submitted. `lost`: since a part of its response is lost here.
    pub(crate) fn abandoned(&self, Assignment { worker, place }: Assignment, lost: bool) {
        let link = worker.and_then(|worker| self.workers.borrow().get(&worker).map(Rc::clone));
        if let (Some(link), Some(place)) = (&link, place)
            && let Some(run) = link.run()
        {
            self.queue.borrow_mut().left_while_it_ran(place, run.dispatched_at(), Instant::now());
        }
        if worker.is_none()
            && let Some(place) = place
        {
            // Finished when the queue is not borrowed any more.
            let gone = self.queue.borrow_mut().give_up(place);
            if let Some(gone) = gone {
                gone.finish();
            }
        }
        if let Some(link) = link {
            if lost {
                link.lose_response();
            }
            link.tell(ToWorker::Abort);
        }
    }

    /// In development: the newest code does not load. Whoever waits is told so.
    pub(crate) fn load_failed(&self) {
        while let Some(request) = self.pop() {
            self.submit(request);
        }
    }
}

/// `wait`: until its client may try again.
fn refuse_overloaded(request: Box<Request>, wait: Duration) {
    request.refuse_for(Refused::Overloaded, 503, "more requests come than can be answered", wait);
}

/// Answers requests that have waited too long.
pub(crate) async fn expire(gateway: Rc<Gateway>) {
    loop {
        let (expiry, refusal) = {
            let queue = gateway.queue.borrow();
            (queue.next_expiry(), queue.next_refusal())
        };
        tokio::select! {
            () = gateway.queued.notified() => {}
            () = gateway.clock.passed(expiry) => {}
            // Long due when an overload begins, which the deadlines' clock would take for a pause.
            () = sleep_until(refusal) => {}
        }
        let now = Instant::now();
        loop {
            let refused = gateway.queue.borrow_mut().pop_refused(now, || gateway.births_pending());
            let Some((request, wait)) = refused else { break };
            refuse_overloaded(request, wait);
        }
        loop {
            let expired = gateway.queue.borrow_mut().pop_expired(gateway.clock.settled());
            let Some(request) = expired else { break };
            request.refuse(Refused::QueueTimeout, 503, "no worker was free in time");
        }
    }
}
