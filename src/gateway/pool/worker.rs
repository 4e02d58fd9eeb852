//! The handle of one worker process: sends requests and messages to it, interrupts it, kills it. Holds its running request.
//!
//! Calls no other part of the pool. [`crate::gateway::pool::relay`] reads the messages of the worker.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::gateway::async_fd;
use crate::gateway::pool::log_pipe::ProcessGuard;
use crate::gateway::pool::process_log::{LineMetadata, Process};
use crate::gateway::pool::request_packet::encode;
use crate::gateway::pool::worker_lane::WorkerLane;
use crate::gateway::request::Request;
use crate::link::Link;
use crate::link::interrupt::{Interrupt, Kind, Serial};
use crate::link::lane::{Corrupt, GatewayLane};
use crate::link::message::{LogLevel, ToWorker};
use crate::os::interrupt;
use crate::os::process;
use crate::os::shared_memory::SharedMemory;
use crate::proto::pool::{Measure, Measurements};
use crate::proto::queue;
use crate::proto::request_end::{Assigned, RequestIds};
use crate::proto::run::Run;
use crate::proto::supervisor::{StartAction, StartDeadline};
use crate::proto::worker::{ExitCause, Way, WorkerProtocol};

/// The message to the client of a request that has reached its time-out.
pub(crate) const TOO_LONG: &str = "the request ran for too long";

/// The handle of a worker process that runs or has just exited.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    name: WorkerName,
    link: AsyncFd<Link>,
    /// The way for small requests and packets; `None` where the system refused it.
    lane: Option<WorkerLane>,
    pidfd: AsyncFd<OwnedFd>,
    /// The lifeline: a pipe whose close makes the kernel kill the worker.
    _lifeline: OwnedFd,
    running: RefCell<Option<Box<Request>>>,
    /// Requests that wait in the lane behind the running one, in order.
    ahead: RefCell<VecDeque<(queue::Place, Box<Request>)>>,
    /// The request whose response has ended, until the worker is ready again.
    finishing: RefCell<Option<Box<Request>>>,
    /// The deadline of the start.
    start_deadline: Cell<StartDeadline>,
    /// The deadlines of the request, from its dispatch until the worker is ready again.
    run: Cell<Option<Run>>,
    protocol: RefCell<WorkerProtocol>,
    /// Whether the gateway has answered the running request. Its parts from the worker are dropped.
    given_up: Cell<bool>,
    /// Wakes the relay, whatever it waits for.
    relay_call: Notify,
    /// The reason for which the relay is to end.
    relay_end: RefCell<Option<ExitCause>>,
    /// Whether the worker has broken the protocol, so that nothing it wrote proves anything.
    broken: Cell<bool>,
    /// The guard for the readers of its output, dropped when the process has exited.
    output: RefCell<Option<ProcessGuard>>,
    was_ready: Cell<bool>,
    memory: Cell<Option<WorkerMemory>>,
    measurements: Cell<Measurements>,
}

/// The memory of a worker, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerMemory {
    /// The proportional share of mapped pages: its own pages, and its part of shared ones.
    pub(crate) pss: u64,
    /// The heap that Lua's collector counts.
    pub(crate) lua_heap: u64,
}

/// The name of a worker in the log and in the pool.
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

    /// Logs a line as the worker's own.
    pub(crate) fn log(
        self,
        level: LogLevel,
        request: Option<RequestIds<'_>>,
        metadata: LineMetadata<'_>,
        line: &[u8],
    ) {
        self.process().log(level, request, metadata, line);
    }
}

/// The reason for which a worker did not get a request.
#[derive(Debug)]
pub(crate) enum DispatchError {
    /// The worker has exited or is about to, and the request has not reached it.
    Ended(Box<Request>),
    /// The system did not deliver this request. The worker is unchanged.
    Refused(Box<Request>, io::Error),
}

impl WorkerHandle {
    pub(crate) fn new(
        (worker, generation, pid): (u32, u32, u32),
        (link, lane): (Link, Option<GatewayLane<SharedMemory>>),
        pidfd: OwnedFd,
        lifeline: OwnedFd,
        forked_at: Instant,
    ) -> io::Result<Rc<Self>> {
        link.set_nonblocking()?;
        Ok(Rc::new(Self {
            name: WorkerName { worker, generation, pid },
            link: async_fd::watch(link)?,
            lane: lane.map(WorkerLane::new),
            pidfd: async_fd::watch(pidfd)?,
            _lifeline: lifeline,
            running: RefCell::new(None),
            ahead: RefCell::default(),
            finishing: RefCell::new(None),
            start_deadline: Cell::new(StartDeadline::new(forked_at)),
            run: Cell::new(None),
            protocol: RefCell::default(),
            given_up: Cell::new(false),
            relay_call: Notify::new(),
            relay_end: RefCell::new(None),
            broken: Cell::new(false),
            output: RefCell::new(None),
            was_ready: Cell::new(false),
            memory: Cell::new(None),
            measurements: Cell::new(Measurements::new()),
        }))
    }

    pub(crate) fn name(&self) -> WorkerName {
        self.name
    }

    /// The state of the protocol, borrowed for one call.
    pub(super) fn protocol(&self) -> RefMut<'_, WorkerProtocol> {
        self.protocol.borrow_mut()
    }

    /// The link to the worker.
    pub(super) fn link(&self) -> &AsyncFd<Link> {
        &self.link
    }

    /// The lane to the worker.
    pub(super) fn lane(&self) -> Option<&WorkerLane> {
        self.lane.as_ref()
    }

    // The relay.

    /// Has the relay look at everything again.
    pub(super) fn call_relay(&self) {
        self.relay_call.notify_one();
    }

    /// Waits for [`Self::call_relay`].
    pub(super) async fn relay_called(&self) {
        self.relay_call.notified().await;
    }

    /// Has the relay end for this reason.
    pub(super) fn end_relay(&self, cause: ExitCause) {
        self.relay_end.borrow_mut().get_or_insert(cause);
        self.call_relay();
    }

    /// Whether the relay is to end.
    pub(super) fn is_ending(&self) -> bool {
        self.relay_end.borrow().is_some()
    }

    /// The reason of [`Self::end_relay`].
    pub(super) fn take_relay_end(&self) -> Option<ExitCause> {
        self.relay_end.borrow_mut().take()
    }

    /// Records that the worker has broken the protocol.
    pub(super) fn distrust(&self) {
        self.broken.set(true);
    }

    /// Handles what an intact worker does not write into its lane.
    fn corrupt(&self, Corrupt(what): Corrupt) {
        self.distrust();
        self.end_relay(ExitCause::Violation(what));
    }

    /// Waits for the exit of the process.
    pub(super) async fn exited(&self) {
        let _ = self.pidfd.readable().await;
    }

    /// Whether the process has exited. Waits for nothing.
    pub(super) async fn exited_by_now(&self) -> bool {
        tokio::select! {
            biased;
            () = self.exited() => true,
            () = std::future::ready(()) => false,
        }
    }

    // To the worker.

    /// Sends a request to the idle worker.
    pub(crate) fn dispatch(
        &self,
        request: Box<Request>,
        packet: &mut Vec<u8>,
        now: Instant,
    ) -> Result<(), DispatchError> {
        if self.is_ending() {
            return Err(DispatchError::Ended(request));
        }
        let files = encode(&request, packet);
        let way = match self.push(packet, &files) {
            Ok(true) => Way::Lane,
            Ok(false) => match self.send_packet(packet, &files) {
                Ok(()) => Way::Socket,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
                {
                    return Err(DispatchError::Ended(request));
                }
                Err(error) => return Err(DispatchError::Refused(request, error)),
            },
            Err(corrupt) => {
                self.corrupt(corrupt);
                return Err(DispatchError::Ended(request));
            }
        };
        request.response.assign(|assignment| assignment.worker = Some(self.name.worker));
        self.begin(request, way, now);
        Ok(())
    }

    /// Sends a further request to a worker that runs one from its lane. Returns the request where the lane has no room for it.
    pub(super) fn dispatch_ahead(
        &self,
        place: queue::Place,
        request: Box<Request>,
        packet: &mut Vec<u8>,
    ) -> Option<Box<Request>> {
        let files = encode(&request, packet);
        if !self.push(packet, &files).unwrap_or_else(|corrupt| {
            self.corrupt(corrupt);
            false
        }) {
            return Some(request);
        }
        request.response.assign(|assignment| assignment.worker = Some(self.name.worker));
        self.ahead.borrow_mut().push_back((place, request));
        None
    }

    /// Pushes a request without files into the lane. False where it must go over the socket.
    fn push(&self, packet: &[u8], files: &[BorrowedFd<'_>]) -> Result<bool, Corrupt> {
        match &self.lane {
            Some(lane) if files.is_empty() => lane.push(packet),
            _ => Ok(false),
        }
    }

    /// Sends a packet over the socket.
    fn send_packet(&self, packet: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.link.get_ref().send(packet, files)?;
        if let Some(lane) = &self.lane {
            lane.order_sent();
        }
        Ok(())
    }

    /// Begins the run of a request that was sent to the worker.
    fn begin(&self, mut request: Box<Request>, way: Way, at: Instant) {
        request.set_assigned(Assigned { at, worker: self.name.worker, generation: self.name.generation });
        self.given_up.set(false);
        self.protocol().dispatched(way, request.takes_file);
        self.run.set(Some(Run::new(at)));
        *self.running.borrow_mut() = Some(request);
    }

    /// Begins the run of the next request in the lane. An abandoned one is aborted. Returns whether there is one.
    pub(super) fn begin_next(&self, now: Instant) -> bool {
        let next = self.ahead.borrow_mut().pop_front();
        let Some((_, request)) = next else { return false };
        let abandoned = request.response.is_abandoned();
        self.begin(request, Way::Ahead, now);
        if abandoned {
            self.abort();
        }
        true
    }

    /// Takes back the request that was sent last, if it waits behind the running one and the worker has not claimed it.
    pub(super) fn take_back(&self) -> Option<(queue::Place, Box<Request>)> {
        let lane = self.lane.as_ref().filter(|_| !self.broken.get())?;
        let mut ahead = self.ahead.borrow_mut();
        if ahead.is_empty() {
            return None;
        }
        match lane.take_back() {
            Ok(true) => ahead.pop_back(),
            Ok(false) => None,
            Err(corrupt) => {
                self.corrupt(corrupt);
                None
            }
        }
    }

    /// The number of requests that wait behind the running one.
    pub(super) fn ahead(&self) -> usize {
        self.ahead.borrow().len()
    }

    /// Whether the request at this place waits behind the running one.
    pub(super) fn has_ahead(&self, place: queue::Place) -> bool {
        self.ahead.borrow().iter().any(|(other, _)| *other == place)
    }

    /// Takes the requests that the worker has claimed besides the running one.
    pub(super) fn take_ahead(&self) -> VecDeque<(queue::Place, Box<Request>)> {
        self.ahead.take()
    }

    /// Whether the worker has claimed its running request, where that was sent through the lane.
    pub(super) fn is_claimed(&self) -> Result<bool, Corrupt> {
        self.lane.as_ref().map_or(Ok(false), WorkerLane::is_claimed)
    }

    /// Whether the running request was sent through the lane, where further ones may wait.
    pub(super) fn runs_from_lane(&self) -> bool {
        self.protocol.borrow().way() != Way::Socket
    }

    /// Wakes the worker.
    pub(super) fn wake(&self) {
        // A worker that takes no packet has exited, or does not sleep.
        let _ = self.link.get_ref().wake();
    }

    /// Tells the worker that the client of its running request has gone.
    pub(super) fn abort(&self) {
        let serial = self.protocol().serial().number();
        self.send(ToWorker::Abort { serial });
    }

    /// Sends a message other than a request.
    pub(crate) fn send(&self, message: ToWorker<'_>) {
        self.protocol().message_sent();
        let mut packet = Vec::with_capacity(8);
        message.encode(&mut packet);
        // A worker that takes no message has exited, or is stuck and has a deadline.
        let _ = self.send_packet(&packet, &[]);
    }

    /// Requests a measurement of the worker's memory, if one is due. Returns the time of the next attempt if it is too early.
    pub(crate) fn request_measurement(&self, now: Instant, is_idle: bool) -> Option<Instant> {
        let mut measurements = self.measurements.get();
        let measure = measurements.poll(now, is_idle);
        self.measurements.set(measurements);
        match measure {
            Measure::Never => None,
            Measure::At(time) => Some(time),
            Measure::Now => {
                self.protocol().measurement_requested();
                self.send(ToWorker::Measure);
                None
            }
        }
    }

    /// The deadline of the start of this worker.
    pub(crate) fn start_due(&self, timeout: Duration) -> Option<Instant> {
        self.start_deadline.get().next_deadline(timeout)
    }

    /// Handles the deadline of the start, if it passed by `settled`. Returns the action; an interrupt is sent already.
    pub(crate) fn start_timed_out(&self, settled: Instant, timeout: Duration) -> Option<StartAction> {
        let mut deadline = self.start_deadline.get();
        let action = deadline.handle_timeout(settled, timeout);
        self.start_deadline.set(deadline);
        if action == Some(StartAction::Interrupt) {
            let interrupt = Interrupt { kind: Kind::Timeout, serial: Serial::default() };
            // A failure is harmless, as in `interrupt`.
            let _ = interrupt::send(self.pidfd.get_ref().as_fd(), interrupt.encode());
        }
        action
    }

    /// Interrupts the running request, which may be over by the time that this arrives.
    pub(crate) fn interrupt(&self, kind: Kind) {
        let mut protocol = self.protocol();
        protocol.stack_requested(kind);
        let interrupt = Interrupt { kind, serial: protocol.serial() };
        // A failure is harmless: the worker has exited, or is killed soon.
        let _ = interrupt::send(self.pidfd.get_ref().as_fd(), interrupt.encode());
    }

    pub(crate) fn kill(&self) {
        // Fails if the worker has exited.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }

    /// Kills the worker with its process group, because a command that it waits for would go on.
    pub(crate) fn kill_group(&self) {
        // The group first: the members of a group whose leader has exited are harder to find.
        let _ = process::kill_group(self.pidfd.get_ref().as_fd(), self.name.pid);
        self.kill();
    }

    // The process.

    /// Keeps the guard for the readers of its output.
    pub(crate) fn keep_output(&self, guard: ProcessGuard) {
        *self.output.borrow_mut() = Some(guard);
    }

    /// Drops the guard: the process has exited, and all its output can be read.
    pub(super) fn release_output(&self) {
        *self.output.borrow_mut() = None;
    }

    /// Records that the worker is ready for a request. Returns whether for the first time.
    pub(super) fn record_ready(&self) -> bool {
        let mut measurements = self.measurements.get();
        measurements.mark_due();
        self.measurements.set(measurements);
        !self.was_ready.replace(true)
    }

    /// The memory at the last measurement.
    pub(crate) fn memory(&self) -> Option<WorkerMemory> {
        self.memory.get()
    }

    pub(super) fn set_memory(&self, memory: WorkerMemory) {
        self.memory.set(Some(memory));
    }

    // The request.

    /// The running request, whose response has not ended.
    pub(crate) fn running(&self) -> Option<Ref<'_, Request>> {
        Ref::filter_map(self.running.borrow(), |running| running.as_deref()).ok()
    }

    /// The running request, for a part of its response.
    pub(super) fn running_mut(&self) -> Option<RefMut<'_, Request>> {
        RefMut::filter_map(self.running.borrow_mut(), |running| running.as_deref_mut()).ok()
    }

    /// Records the end of the running request's response.
    pub(super) fn response_ended(&self) {
        *self.finishing.borrow_mut() = self.running.borrow_mut().take();
    }

    /// Records that the gateway lost a part of the running request's response.
    pub(super) fn lose_response(&self) {
        if let Some(request) = &mut *self.running.borrow_mut() {
            request.response.writer.lose();
        }
    }

    /// Takes the request whose response has ended, from a worker that was not ready again.
    pub(super) fn take_finishing(&self) -> Option<Box<Request>> {
        self.finishing.borrow_mut().take()
    }

    /// Ends the run of a worker that is ready again. Returns the request if its response has ended.
    pub(super) fn end_run(&self) -> Option<Box<Request>> {
        if self.run.take().is_some()
            && self.runs_from_lane()
            && let Some(lane) = &self.lane
        {
            lane.finish();
        }
        self.finishing.borrow_mut().take()
    }

    pub(super) fn take_running(&self) -> Option<Box<Request>> {
        self.running.borrow_mut().take()
    }

    pub(crate) fn run(&self) -> Option<Run> {
        self.run.get()
    }

    pub(crate) fn set_run(&self, run: Run) {
        self.run.set(Some(run));
    }

    /// A future that waits for room in the send buffer of the running request's client; `None` if there is room, or if the request
    /// is given up.
    pub(super) fn backpressure(&self) -> Option<impl Future<Output = ()> + use<>> {
        let room = self.running.borrow().as_ref().and_then(|request| request.response.room());
        room.filter(|_| !self.given_up.get())
    }

    /// Answers the running request in the worker's place: `504`, or a response that breaks off.
    pub(super) fn give_up(&self) {
        self.given_up.set(true);
        if let Some(request) = &mut *self.running.borrow_mut() {
            request.response.fail(504, TOO_LONG, None);
        }
        self.call_relay();
    }

    pub(super) fn has_given_up(&self) -> bool {
        self.given_up.get()
    }

    /// The request line of the worker's request, for the log.
    pub(crate) fn request_line(&self) -> String {
        let (running, finishing) = (self.running.borrow(), self.finishing.borrow());
        running
            .as_ref()
            .or(finishing.as_ref())
            .map_or_else(|| "no request".to_owned(), |request| request.line())
    }

    /// Logs a line about the worker's request. `left_out`: the number of lines like it that were not written before.
    pub(crate) fn log(&self, level: LogLevel, left_out: Option<u64>, line: &[u8]) {
        let (running, finishing) = (self.running.borrow(), self.finishing.borrow());
        let request = running.as_ref().or(finishing.as_ref()).map(|request| request.ids());
        self.name.log(level, request, LineMetadata { left_out, ..LineMetadata::default() }, line);
    }

    /// Sends a message as FastCGI STDERR to the client of the running request.
    pub(crate) fn stderr(&self, message: &str) {
        if let Some(request) = &*self.running.borrow() {
            request.response.stderr(message.as_bytes());
        }
    }
}
