//! The gateway's side of one worker: hands it requests, relays its answers, notices its end.
//!
//! Trusts nothing the worker sends: what does not follow the vocabulary, its turn ([`crate::proto::worker`]) or the rules
//! of an answer ([`crate::proto::response`]) costs the worker its life and its request a 502.

use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::fastcgi;
use crate::gateway::Gateway;
use crate::gateway::async_fd;
use crate::gateway::pool::log_pipe::Alive;
use crate::gateway::pool::process_log::{More, Process};
use crate::gateway::pool::watchdog;
use crate::gateway::request::Request;
use crate::link::Link;
use crate::link::interrupt::{Interrupt, Kind, Serial};
use crate::link::message::{FromWorker, LogLevel, RequestBody, Role, ToWorker};
use crate::link::socket::Received;
use crate::log::{escape, fields};
use crate::os::interrupt;
use crate::os::process;
use crate::proto::body::{Body, Place};
use crate::proto::request_end::{Handed, Named};
use crate::proto::response::ProtocolViolation;
use crate::proto::run::Run;
use crate::proto::turn::Turn;
use crate::proto::worker::WorkerProtocol;

/// The message to the client of a request that has reached its time-out.
pub(crate) const TOO_LONG: &str = "the request ran for too long";

/// How often a worker is asked what it takes. Adding its pages up costs the kernel some 50 µs, and more for a large one.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// The most packets that can wait in a link. The kernel counts no packet below 512 bytes, and lets at most two of
/// [`MAX_PACKET`](crate::link::message::MAX_PACKET) wait. What comes after so many was sent by somebody who has
/// outlived the worker.
pub(crate) const PACKETS_IN_A_LINK: u32 = 1024;

/// A worker that runs.
#[derive(Debug)]
pub(crate) struct WorkerLink {
    name: WorkerName,
    link: AsyncFd<Link>,
    pidfd: AsyncFd<OwnedFd>,
    /// The kernel kills the worker when this closes, so it lives exactly as long as this.
    _lifeline: OwnedFd,
    running: RefCell<Option<Box<Request>>>,
    /// A request that is answered, while the worker is not ready for the next.
    answered: RefCell<Option<Box<Request>>>,
    /// It takes too long to start, and has been interrupted.
    late: Cell<bool>,
    /// From the moment that a request is handed over until the worker is ready again.
    run: Cell<Option<Run>>,
    /// What the worker may say next.
    protocol: RefCell<WorkerProtocol>,
    /// The running request is answered without its worker, and what that says of it is dropped.
    given_up: Cell<bool>,
    /// Wakes the relay that waits for a client which nothing more is sent to.
    gave_up: Notify,
    /// Whether the worker was sent anything after the request it runs.
    told: Cell<bool>,
    /// Dropped when its process has ended, for the readers of its output.
    alive: RefCell<Option<Alive>>,
    /// Whether it has been ready.
    proved: Cell<bool>,
    memory: Cell<Option<Memory>>,
    /// When it was last asked what it takes, and whether it has run a request since.
    asked: Cell<Option<Instant>>,
    unmeasured: Cell<bool>,
}

/// What a worker takes, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Its proportional share of the pages it maps: what it has for itself, and its part of what is shared.
    pub(crate) pss: u64,
    /// What Lua's collector counts.
    pub(crate) lua_heap: u64,
}

/// Which worker this is, in the log and in the books.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerName {
    pub(crate) worker: u32,
    pub(crate) generation: u32,
    pub(crate) pid: u32,
}

impl WorkerName {
    pub(crate) fn process(self) -> Process {
        let Self { worker, generation, pid } = self;
        Process { name: "worker", worker: Some(worker), generation, pid }
    }

    /// Logs a line of this worker's, as its own.
    pub(crate) fn log(self, level: LogLevel, request: Option<Named<'_>>, more: More<'_>, line: &[u8]) {
        self.process().log(level, request, more, line);
    }
}

/// Why a worker did not get a request.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// It has ended, or is about to; the request has not reached it.
    Ended(Box<Request>),
    /// The system did not take this request; the worker is as it was.
    Refused(Box<Request>, io::Error),
}

/// How a worker ended.
#[derive(Debug)]
pub(crate) enum Fate {
    /// Its process is gone. `unread`: with something in its link that it never read.
    Ended { unread: bool },
    /// The application or a start hook failed in it.
    StartFailed(String),
    /// It broke the rules, and is killed for it.
    Misbehaved(&'static str),
}

impl WorkerLink {
    pub(crate) fn new(
        (worker, generation, pid): (u32, u32, u32),
        link: Link,
        pidfd: OwnedFd,
        lifeline: OwnedFd,
    ) -> io::Result<Rc<Self>> {
        link.set_nonblocking()?;
        Ok(Rc::new(Self {
            name: WorkerName { worker, generation, pid },
            link: async_fd::watch(link)?,
            pidfd: async_fd::watch(pidfd)?,
            _lifeline: lifeline,
            running: RefCell::new(None),
            answered: RefCell::new(None),
            late: Cell::new(false),
            run: Cell::new(None),
            protocol: RefCell::default(),
            given_up: Cell::new(false),
            gave_up: Notify::new(),
            told: Cell::new(false),
            alive: RefCell::new(None),
            proved: Cell::new(false),
            memory: Cell::new(None),
            asked: Cell::new(None),
            unmeasured: Cell::new(true),
        }))
    }

    pub(crate) fn name(&self) -> WorkerName {
        self.name
    }

    /// Keeps the handle whose drop tells the output's readers that the process has ended.
    pub(crate) fn keep_until_it_ends(&self, alive: Alive) {
        *self.alive.borrow_mut() = Some(alive);
    }

    /// Its process is gone: all that it wrote can be read.
    pub(crate) fn has_ended(&self) {
        *self.alive.borrow_mut() = None;
    }

    /// The worker is ready. Says whether for the first time.
    pub(crate) fn became_ready(&self) -> bool {
        self.unmeasured.set(true);
        !self.proved.replace(true)
    }

    /// What it took when it was last asked.
    pub(crate) fn memory(&self) -> Option<Memory> {
        self.memory.get()
    }

    /// Asks the worker what it takes, if it is `idle` and has run anything since it was last asked; at most once in
    /// [`MEASURE_INTERVAL`]. Gives when to try again.
    pub(crate) fn measure(&self, now: Instant, idle: bool) -> Option<Instant> {
        if !self.unmeasured.get() {
            return None;
        }
        let due = self.asked.get().map_or(now, |asked| asked + MEASURE_INTERVAL);
        if due > now {
            return Some(due);
        } else if !idle {
            return Some(now + MEASURE_INTERVAL);
        }
        self.asked.set(Some(now));
        self.unmeasured.set(false);
        self.protocol.borrow_mut().measurement_requested();
        self.tell(ToWorker::Measure);
        None
    }

    /// Hands the worker, which is idle, a request.
    pub(crate) fn start(&self, mut request: Box<Request>, packet: &mut Vec<u8>) -> Result<(), NotStarted> {
        packet.clear();
        let (body, file) = packed(&request.body);
        let (role, data_file) = match &request.data {
            Some(data) => {
                let (data, file) = packed(data);
                (Role::Filter { data }, file)
            }
            None if request.role == fastcgi::Role::Authorizer => (Role::Authorizer, None),
            None => (Role::Responder, None),
        };
        let request_id = request.request_id.as_bytes();
        let variables = request.variables.encoded();
        ToWorker::Request { request_id, variables, body, role }.encode(packet);
        let at = Instant::now();
        let link = self.link.get_ref();
        let sent = match (file, data_file) {
            (None, None) => link.send(packet, &[]),
            (Some(file), None) | (None, Some(file)) => link.send(packet, &[file]),
            (Some(file), Some(data_file)) => link.send(packet, &[file, data_file]),
        };
        match sent.map_err(|error| (error.kind(), error)) {
            Ok(()) => {}
            Err((io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset, _)) => {
                return Err(NotStarted::Ended(request));
            }
            Err((_, error)) => return Err(NotStarted::Refused(request, error)),
        }
        request.response.assign(|assignment| assignment.worker = Some(self.name.worker));
        request.set_handed(Handed { at, worker: self.name.worker, generation: self.name.generation });
        self.told.set(false);
        self.given_up.set(false);
        self.protocol.borrow_mut().dispatched();
        self.run.set(Some(Run::new(Instant::now())));
        *self.running.borrow_mut() = Some(request);
        Ok(())
    }

    /// Tells the worker something beside requests.
    pub(crate) fn tell(&self, message: ToWorker<'_>) {
        self.told.set(true);
        let mut packet = Vec::with_capacity(1);
        message.encode(&mut packet);
        // One that cannot be told has ended, or is stuck and will meet its deadline.
        let _ = self.link.get_ref().send(&packet, &[]);
    }

    pub(crate) fn kill(&self) {
        // One that has ended already needs no killing.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }

    /// Kills it with all of its process group: the command that it waits for would go on without it.
    pub(crate) fn kill_group(&self) {
        // Its group first: the members of a group whose leader has ended are harder to find.
        let _ = process::kill_group(self.pidfd.get_ref().as_fd(), self.name.pid);
        self.kill();
    }

    /// The request that runs.
    pub(crate) fn running(&self) -> Option<Ref<'_, Request>> {
        Ref::filter_map(self.running.borrow(), |running| running.as_deref()).ok()
    }

    /// Has a worker that takes too long to start say where it is, as the reason why it does not. Once; gives whether this
    /// was the first time.
    pub(crate) fn interrupt_start(&self) -> bool {
        let first = !self.late.replace(true);
        if first {
            let interrupt = Interrupt { kind: Kind::Timeout, serial: Serial::default() };
            // As for `interrupt`.
            let _ = interrupt::send(self.pidfd.get_ref().as_fd(), interrupt.encode());
        }
        first
    }

    /// Interrupts the running request, which may be over by the time that this arrives.
    pub(crate) fn interrupt(&self, kind: Kind) {
        let mut protocol = self.protocol.borrow_mut();
        protocol.stack_requested(kind);
        let interrupt = Interrupt { kind, serial: protocol.serial() };
        // One that has ended needs none, and one that cannot be sent any is killed soon.
        let _ = interrupt::send(self.pidfd.get_ref().as_fd(), interrupt.encode());
    }

    pub(crate) fn run(&self) -> Option<Run> {
        self.run.get()
    }

    pub(crate) fn set_run(&self, run: Run) {
        self.run.set(Some(run));
    }

    /// Answers the running request in the worker's place: `504`, or a response that breaks off.
    pub(crate) fn give_up(&self) {
        self.given_up.set(true);
        if let Some(request) = &mut *self.running.borrow_mut() {
            request.response.fail(504, TOO_LONG, None);
        }
        self.gave_up.notify_one();
    }

    pub(crate) fn has_given_up(&self) -> bool {
        self.given_up.get()
    }

    /// How the log names the request that the worker is busy with.
    pub(crate) fn request_line(&self) -> String {
        let (running, answered) = (self.running.borrow(), self.answered.borrow());
        running
            .as_ref()
            .or(answered.as_ref())
            .map_or_else(|| "no request".to_owned(), |request| request.line())
    }

    /// A line about the worker's request. `left_out`: how many like it were not written before.
    pub(crate) fn log(&self, level: LogLevel, left_out: Option<u64>, line: &[u8]) {
        let (running, answered) = (self.running.borrow(), self.answered.borrow());
        let request = running.as_ref().or(answered.as_ref()).map(|request| request.named());
        self.name.log(level, request, More { left_out, ..More::default() }, line);
    }

    /// Tells the client of the running request something beside the response.
    pub(crate) fn stderr(&self, message: &str) {
        if let Some(request) = &*self.running.borrow() {
            request.response.stderr(message.as_bytes());
        }
    }

    /// A part of the running request's response is lost before its client has it.
    pub(crate) fn lose_response(&self) {
        if let Some(request) = &mut *self.running.borrow_mut() {
            request.response.writer.lose();
        }
    }

    /// The request that is answered, of a worker that was not ready again.
    pub(crate) fn take_answered(&self) -> Option<Box<Request>> {
        self.answered.borrow_mut().take()
    }

    pub(crate) fn take_running(&self) -> Option<Box<Request>> {
        self.running.borrow_mut().take()
    }

    /// Whether the running request provably never reached Lua: the worker ended with something unread
    /// in its link, and nothing but that request was sent.
    pub(crate) fn never_read(&self, fate: &Fate) -> bool {
        matches!(fate, Fate::Ended { unread: true }) && !self.told.get()
    }

    /// Relays between the worker and the clients until the worker ends and all it sent is passed on.
    pub(crate) async fn relay(&self, gateway: &Rc<Gateway>) -> Fate {
        let (mut unread, mut exited) = (false, false);
        // There was room when it was this answer's turn; one packet may follow, whoever waits for room meanwhile.
        let mut has_room = false;
        let (mut turn, mut after_exit) = (Turn::begin(Instant::now), 0);
        loop {
            if turn.is_over() {
                gateway.turnstile.pass().await;
                turn = Turn::begin(Instant::now);
            }
            let room = self.running.borrow().as_ref().and_then(|request| request.response.room());
            let room = room.filter(|_| !self.given_up.get() && !has_room);
            has_room = false;
            let received = match room {
                Some(room) if exited => tokio::select! {
                    () = room => {
                        has_room = true;
                        continue;
                    }
                    () = self.gave_up.notified() => continue,
                },
                Some(room) => tokio::select! {
                    () = room => {
                        has_room = true;
                        continue;
                    }
                    () = self.gave_up.notified() => continue,
                    _ = self.pidfd.readable() => None,
                },
                // Its process is gone, but a child of its own may hold the link open: what is in it is all.
                None if exited && after_exit == PACKETS_IN_A_LINK => return Fate::Ended { unread },
                None if exited => {
                    after_exit += 1;
                    Some(self.receive(self.link.get_ref(), &mut turn, gateway))
                }
                None => tokio::select! {
                    biased;
                    ready = self.link.readable() => match ready {
                        Ok(mut ready) => match ready.try_io(|link| self.receive(link.get_ref(), &mut turn, gateway)) {
                            Ok(received) => Some(received),
                            Err(_would_block) => {
                                turn = Turn::begin(Instant::now);
                                continue;
                            }
                        },
                        Err(_) => None,
                    },
                    _ = self.pidfd.readable() => None,
                },
            };
            match received {
                // A successor need not wait for what this one's last client has still to read.
                None => {
                    exited = true;
                    self.protocol.borrow_mut().exited();
                    gateway.worker_gone(self);
                }
                Some(Ok(None)) => {}
                Some(Ok(Some(Fate::Ended { .. }))) => return Fate::Ended { unread },
                Some(Ok(Some(fate))) => return fate,
                Some(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => unread = true,
                Some(Err(_)) if exited => return Fate::Ended { unread },
                Some(Err(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Fate::Misbehaved("a descriptor");
                }
                Some(Err(_)) => return Fate::Misbehaved("an oversized packet"),
            }
        }
    }

    /// Receives and relays one packet. `Some` where it was the last.
    fn receive(&self, link: &Link, turn: &mut Turn, gateway: &Rc<Gateway>) -> io::Result<Option<Fate>> {
        let mut buffer = gateway.packet.borrow_mut();
        match link.receive_plain(&mut buffer)? {
            Received::Closed => Ok(Some(Fate::Ended { unread: false })),
            Received::Packet(length) => {
                turn.goes_on_after(length);
                let last = self.packet(&buffer[..length], gateway);
                Ok(last.unwrap_or_else(|ProtocolViolation(what)| Some(Fate::Misbehaved(what))))
            }
        }
    }

    /// One packet. `Some` where the worker says that it ends.
    fn packet(&self, mut packet: &[u8], gateway: &Rc<Gateway>) -> Result<Option<Fate>, ProtocolViolation> {
        let mut moved = false;
        self.protocol.borrow_mut().begin_packet();
        while let Some(message) = self.next_message(&mut packet)? {
            moved |=
                matches!(message, FromWorker::Head { .. } | FromWorker::Body { .. } | FromWorker::End { .. });
            match message {
                FromWorker::Head { block } => {
                    self.with_request(|request| request.response.head(block, &gateway.proxy_headers))?;
                }
                FromWorker::Body { bytes } => self.with_request(|request| request.response.body(bytes))?,
                FromWorker::End { complete } => {
                    self.with_request(|request| {
                        if complete {
                            return request.response.end();
                        }
                        request.response.fail(500, "the application failed", None);
                        Ok(())
                    })?;
                    *self.answered.borrow_mut() = self.running.borrow_mut().take();
                    if !self.protocol.borrow().has_exited() {
                        gateway.pool.borrow_mut().answered(self.name.worker);
                    }
                }
                FromWorker::Ready => {
                    self.run.set(None);
                    // Not borrowed while the request ends.
                    let answered = self.answered.borrow_mut().take();
                    if let Some(request) = answered {
                        request.finish();
                    }
                    gateway.worker_ready(self);
                }
                FromWorker::Measured { pss, lua_heap } => {
                    let memory = Memory { pss, lua_heap };
                    self.memory.set(Some(memory));
                    gateway.measured(self, memory);
                }
                FromWorker::Log { level, message, fields } => {
                    self.log_of_worker(level, message, fields, gateway);
                }
                FromWorker::Stack { timeout, text } => watchdog::log_stack(gateway, self, timeout, text),
                FromWorker::StartFailed { message } => {
                    return Ok(Some(Fate::StartFailed(escape::text(message).into_owned())));
                }
                // `WorkerProtocol` has taken it.
                FromWorker::Answering { .. } => {}
            }
        }
        if let Some(request) = &*self.running.borrow() {
            request.response.flush();
        }
        if moved {
            self.moved();
        }
        Ok(None)
    }

    fn next_message<'p>(&self, packet: &mut &'p [u8]) -> Result<Option<FromWorker<'p>>, ProtocolViolation> {
        self.protocol.borrow_mut().next(packet)
    }

    /// The answer has moved on. One that is whole in its first packet costs no look at the clock, and one that nobody waits
    /// for gains no time by going on.
    fn moved(&self) {
        let running = self.running.borrow();
        if let Some(mut run) = self.run.get()
            && (run.streaming_since().is_some() || running.is_some())
            && !running.as_ref().is_some_and(|request| request.response.is_abandoned())
        {
            run.record_progress(Instant::now());
            self.run.set(Some(run));
        }
    }

    fn with_request(
        &self,
        act: impl FnOnce(&mut Request) -> Result<(), ProtocolViolation>,
    ) -> Result<(), ProtocolViolation> {
        self.running.borrow_mut().as_mut().map_or(Ok(()), |request| act(request))
    }

    fn log_of_worker(&self, level: LogLevel, message: &[u8], fields: &[u8], gateway: &Gateway) {
        let running = self.running();
        if let Some(request) = &running
            && gateway.mode.development
            && level == LogLevel::Error
        {
            let text = fields::after(message, &String::from_utf8_lossy(fields));
            request.response.stderr(text.as_bytes());
        }
        let request = running.as_ref().map(|request| request.named());
        self.name.log(level, request, More { fields, ..More::default() }, message);
    }
}

/// How a body travels to a worker, and its descriptor where that goes along.
fn packed(body: &Body) -> (RequestBody<'_>, Option<BorrowedFd<'_>>) {
    match body.place() {
        Place::Memory(bytes) => (RequestBody::Inline(bytes), None),
        Place::File(file) => (RequestBody::Spooled { length: body.len() }, Some(file.as_fd())),
    }
}
