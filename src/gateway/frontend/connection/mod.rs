//! The driver of one client's connection ([`crate::proto::connection`]): a task that reads the socket, handles the events of the
//! connection, and writes the bytes that the kernel did not take at once.

mod body_files;
pub(crate) mod handle;
mod wait;

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::Ready;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::{debug, info, warn};

use self::body_files::Openings;
use self::handle::Handle;
use self::wait::{Timers, Wait, Wake};
use crate::cgi::Variables;
use crate::fastcgi::{self, Fault, Role};
use crate::gateway::Gateway;
use crate::gateway::frontend::client_socket::ClientSocket;
use crate::gateway::own_paths;
use crate::gateway::pool::dispatch;
use crate::gateway::request::Request;
use crate::gateway::response::Response;
use crate::gateway::runtime;
use crate::gateway::spool::{BodyFiles, BodyWrite, Completion, FileSending, ResponseFile, Spool};
use crate::gateway::telemetry::status::Endpoint;
use crate::proto::connection::{
    Close, Connection, Event, IncomingRequest, Policy, StreamKey, Timeouts, TurnEnd,
};
use crate::proto::turn::Turn;

/// Serves a connection to its end. Requests that still run then are abandoned.
pub(crate) async fn serve(socket: ClientSocket, limits: fastcgi::Limits, gateway: Rc<Gateway>) {
    let state = Connection::new(limits, &gateway.memory, Instant::now());
    let handle = Handle::new(socket, state, &gateway.metrics);
    let mut task = Task {
        handle,
        gateway,
        writes: Vec::new(),
        openings: Openings::default(),
        response_file: None,
        file_sending: None,
    };
    task.run().await;
}

/// The task of a connection, with its jobs in progress.
struct Task {
    handle: Rc<Handle>,
    gateway: Rc<Gateway>,
    /// Writes of bodies in progress.
    writes: Vec<BodyWrite>,
    /// Files of the proxy's that are being opened.
    openings: Openings,
    /// The spool file, while the client is slow.
    response_file: Option<ResponseFile>,
    /// The turn of a file of the application's.
    file_sending: Option<FileSending>,
}

/// A watch for the hang-up of a client that has shut its writing side: a second descriptor of the socket, with its permit.
type HangUpWatch<'a> = (AsyncFd<OwnedFd>, SemaphorePermit<'a>);

impl Task {
    async fn run(&mut self) {
        let gateway = Rc::clone(&self.gateway);
        let handle = Rc::clone(&self.handle);
        let mut wait = Wait::new(gateway.stopping());
        let (mut hang_up, mut half_closed) = (None, false);
        loop {
            if !half_closed && handle.state.borrow().is_half_closed() {
                half_closed = true;
                hang_up = self.watch_for_hang_up(&gateway.half_closed);
            }
            self.begin_jobs();
            let stopping = wait.is_stopping();
            if stopping {
                handle.state.borrow_mut().stop();
                handle.leave_if_idle();
            }
            match handle.state.borrow_mut().poll_close(Instant::now) {
                Close::Now => break,
                Close::ShutDownWrite => handle.socket.shut_down_write(),
                Close::No => {}
            }
            let waits_for_room = self.waits_for_room();
            let (reading, writing, held, timers) = {
                let mut state = handle.state.borrow_mut();
                let reading = state.is_readable() && !waits_for_room;
                state.set_reading(reading, Instant::now);
                let timers = Timers {
                    deadline: state.next_timeout(timeouts(&gateway)),
                    rate_check: state.next_rate_check(),
                };
                (reading, state.wants_write(), reading && state.has_held(), timers)
            };
            let has_jobs = !self.writes.is_empty()
                || !self.openings.is_empty()
                || self.response_file.is_some()
                || self.file_sending.is_some();
            let mut settles = pin!(timers.deadline.map(|deadline| gateway.clock.settles(deadline)));
            let mut written = pin!(waits_for_room.then(|| gateway.spool.written()));
            let mut hung_up = pin!(hang_up.as_ref().map(|(watched, _)| hung_up(watched)));
            // What can be ready again and again comes last.
            let wake = poll_fn(|context| {
                if wait.poll_stop(context).is_ready() && !stopping || handle.changed.poll(context).is_ready()
                {
                    return Poll::Ready(Wake::Changed);
                }
                if hung_up.as_mut().as_pin_mut().is_some_and(|hung_up| hung_up.poll(context).is_ready()) {
                    return Poll::Ready(Wake::Lost);
                }
                if let Poll::Ready(wake) = wait.poll_timers(timers, &gateway.clock, settles.as_mut(), context)
                {
                    return Poll::Ready(wake);
                }
                let room = written.as_mut().as_pin_mut();
                if has_jobs && self.poll_jobs(context).is_ready()
                    || room.is_some_and(|room| room.poll(context).is_ready())
                {
                    return Poll::Ready(Wake::Changed);
                }
                if held {
                    return Poll::Ready(Wake::Socket(Ready::READABLE));
                }
                let ready = ready!(handle.socket.poll_ready(reading, writing, context));
                Poll::Ready(ready.map_or(Wake::Lost, Wake::Socket))
            })
            .await;
            let ready = match wake {
                Wake::Socket(ready) => ready,
                Wake::TimedOut => {
                    self.time_out();
                    continue;
                }
                Wake::Changed => continue,
                Wake::Lost => break,
            };
            if ready.is_writable() {
                if handle.state.borrow().is_file_blocked() && handle.socket.takes_bytes() {
                    handle.state.borrow_mut().unblock_file();
                }
                handle.flush();
            }
            if ready.is_readable()
                // Other connections may have taken the memory meanwhile.
                && !self.waits_for_room()
                && self.read()
            {
                gateway.yield_queue.wait_turn().await;
            }
            runtime::piece_done();
        }
    }

    fn waits_for_room(&self) -> bool {
        self.handle.state.borrow().waits_for_room(&self.gateway.memory, self.gateway.spool.is_writing())
    }

    /// Takes a turn: processes held bytes and readable bytes while the send buffer has room, then writes the results. Returns
    /// whether the turn ended before all bytes were processed.
    fn read(&mut self) -> bool {
        let mut turn = Turn::begin(Instant::now);
        self.handle.in_turn.set(true);
        self.read_until_over(&mut turn);
        self.handle.in_turn.set(false);
        if !self.handle.state.borrow().is_written() {
            self.handle.flush_end();
        }
        turn.is_over()
    }

    fn read_until_over(&mut self, turn: &mut Turn) {
        let gateway = Rc::clone(&self.gateway);
        let mut scratch = gateway.scratch.borrow_mut();
        let now = Instant::now();
        loop {
            let held = self.handle.state.borrow_mut().take_held();
            let read =
                if held.is_empty() { self.handle.socket.try_read(&mut scratch) } else { Ok(held.len()) };
            match read {
                Ok(0) => {
                    let half_closed = self.handle.socket.is_half_closed();
                    self.handle.state.borrow_mut().end_of_input(half_closed, now);
                    self.handle_events();
                }
                Ok(length) => {
                    let input = if held.is_empty() { &scratch[..length] } else { &held };
                    self.receive(input, now, turn);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    debug!(cause = %crate::log::cause(&error), "connection lost");
                    self.handle.state.borrow_mut().close(false);
                }
            }
            // Before more is read, so that a client that never reads cannot request without bound.
            if self.handle.state.borrow().is_full() {
                self.handle.flush_now();
            }
            let state = self.handle.state.borrow();
            if turn.is_over() || state.is_closing() || !state.is_readable() {
                return;
            }
        }
    }

    /// Processes bytes until the turn is over.
    fn receive(&mut self, mut input: &[u8], now: Instant, turn: &mut Turn) {
        let gateway = Rc::clone(&self.gateway);
        let own = |variables: &Variables, role| is_own(&gateway, variables, role);
        let body_files = gateway.body_files.borrow().clone();
        let policy = policy(&gateway, body_files.as_deref(), &own);
        loop {
            let taken = self.handle.state.borrow_mut().receive(&mut input, now, turn, &policy);
            match taken {
                Ok(true) => self.handle_events(),
                Ok(false) => break,
                Err(fault) => {
                    self.log_fault(fault);
                    self.handle.state.borrow_mut().close(true);
                    input = &[];
                    break;
                }
            }
        }
        {
            let mut state = self.handle.state.borrow_mut();
            state.hold(input);
            state.note_read(now);
            state.account();
        }
        self.handle_events();
    }

    /// Handles expired timers.
    fn time_out(&mut self) {
        {
            let others_wait = !self.gateway.queue.borrow().is_empty();
            let max_body = self.gateway.config().max_body;
            let (now, mut state) = (Instant::now(), self.handle.state.borrow_mut());
            state.check_client_rate(others_wait, now);
            state.handle_timeout(timeouts(&self.gateway), max_body, self.gateway.clock.settled(), now);
        }
        self.handle_events();
        self.handle.flush_end();
    }

    fn handle_events(&mut self) {
        loop {
            let event = self.handle.state.borrow_mut().poll_event();
            let Some(event) = event else { return };
            self.handle_event(event);
        }
    }

    fn handle_event(&mut self, event: Event) {
        let gateway = &self.gateway;
        match event {
            Event::Request { key, request } => self.submit(key, *request),
            Event::Rejected { key, variables, why, status, message } => {
                let head_request = variables.get(b"REQUEST_METHOD") == Some(b"HEAD");
                let response = Response::new(&self.handle, key, head_request);
                Request::partial(variables, response, &gateway.memory, &gateway.metrics)
                    .reject(why, status, &message);
            }
            Event::Misconfigured { repeated, lacks_path_info } => {
                log_proxy_faults(&repeated, lacks_path_info, gateway);
            }
            Event::BodyFileRefused { path, error } => {
                body_files::log_refusal(&path, &error, gateway);
            }
            Event::Abandoned { assignment, lost } => dispatch::abandoned(gateway, assignment, lost),
            Event::AbortedBeforeParams => {
                self.log("request aborted by the client before its parameters had come");
            }
            Event::AbortedWhileArriving { key, request } => {
                let (came, since) = (request.len(), request.since);
                let (variables, ..) = request.into_parts();
                let response = Response::new(&self.handle, key, false);
                let request = Request::partial(variables, response, &gateway.memory, &gateway.metrics);
                if !self.handle.state.borrow().is_cut() {
                    request.log_abort_while_arriving(came, since.elapsed());
                }
                request.finish();
            }
            Event::ParamsLate => {
                self.log("request ended: its parameters took too long (--header-timeout)");
            }
            Event::Late(why) => self.log(&format!("connection closed: {why}")),
            Event::SpoolLost(cause) => {
                if let Some(left_out) = gateway.metrics.may_log_refusal() {
                    warn!(
                        cause,
                        left_out, "connection broken off: what was spooled for a slow client is lost"
                    );
                }
                self.response_file = None;
                self.handle.drained.notify_waiters();
            }
            Event::FileLost(cause) => {
                if let Some(left_out) = gateway.metrics.may_log_refusal() {
                    warn!(
                        cause,
                        left_out, "connection broken off: a file of the application's cannot be sent"
                    );
                }
                self.handle.drained.notify_waiters();
            }
            Event::Slow => self.start_spooling(),
            Event::Ended(ended) => gateway.metrics.ended(&ended, Instant::now()),
        }
    }

    /// Submits a complete request.
    fn submit(&self, key: StreamKey, request: IncomingRequest) {
        let (role, since) = (request.role, request.since);
        let mut response = Response::new(&self.handle, key, request.head.head_request);
        if role == Role::Authorizer {
            response.hold_head();
        }
        let (variables, body, data) = request.into_parts();
        let mut request =
            Request::new(variables, body, response, &self.gateway.memory, &self.gateway.metrics);
        request.head_start = dispatch::head_start(&self.gateway, &request.variables, since);
        (request.role, request.data) = (role, data);
        if let Some(request) = own_paths::answer(request, &self.gateway) {
            dispatch::submit(&self.gateway, request);
        }
    }

    // Files.

    /// Starts due writes and reads. Drops the file of a client that has caught up.
    fn begin_jobs(&mut self) {
        let gateway = Rc::clone(&self.gateway);
        let state = &mut *self.handle.state.borrow_mut();
        while let Some((key, source, write)) = state.next_body_write() {
            self.writes.push(gateway.spool.write_body((key, source), write));
        }
        while let Some((key, open)) = state.next_body_file() {
            self.openings.start(key, open, &self.handle.socket, &gateway);
        }
        Spool::close(state.take_files_to_close());
        if let Some(turn) = state.next_file_turn(Instant::now) {
            match self.handle.socket.duplicate() {
                Ok(socket) => self.file_sending = Some(gateway.spool.send_file(turn, socket)),
                Err(error) => {
                    let lost = TurnEnd::Lost(crate::log::cause(&error).to_string());
                    state.file_turn_ended(turn, lost, Instant::now());
                    self.handle.changed.give();
                }
            }
        }
        let Some(response_file) = self.response_file.as_mut().filter(|_| state.is_spooling()) else {
            self.response_file = None;
            return;
        };
        if let Some(piece) = state.next_spool_read(Instant::now) {
            response_file.read(piece, &gateway.spool);
        }
        let limit = gateway.config().spool_response;
        if let Some((place, bytes)) = state.next_spool_write(|| response_file.grow(limit).is_ok()) {
            response_file.write(place, bytes, &gateway.spool);
            if !state.is_full() {
                self.handle.drained.notify_waiters();
            }
        }
    }

    /// Ready when a write or a read has ended.
    fn poll_jobs(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.poll_writes(context).is_ready()
            || self.poll_openings(context).is_ready()
            || self.poll_file_sending(context).is_ready()
        {
            Poll::Ready(())
        } else {
            self.poll_response_file(context)
        }
    }

    /// Ready when a turn of a file has ended.
    fn poll_file_sending(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(sending) = &mut self.file_sending else { return Poll::Pending };
        let ended = ready!(sending.poll(context));
        self.file_sending = None;
        if let Some((turn, end)) = ended {
            self.handle.state.borrow_mut().file_turn_ended(turn, end, Instant::now());
        }
        self.handle_events();
        self.handle.flush_end();
        Poll::Ready(())
    }

    /// Ready when a write of a body has ended.
    fn poll_writes(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let ended = self.writes.iter_mut().enumerate().find_map(|(index, write)| match write.poll(context) {
            Poll::Ready(file) => Some((index, file)),
            Poll::Pending => None,
        });
        let Some((index, file)) = ended else { return Poll::Pending };
        let write = self.writes.swap_remove(index);
        let buffers = self.gateway.spool.buffers();
        self.handle.state.borrow_mut().body_written(write.of, file, Instant::now(), buffers);
        drop(write);
        self.handle_events();
        Poll::Ready(())
    }

    /// Ready when a file of the proxy's has been opened, or is not taken.
    fn poll_openings(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (key, opened) = ready!(self.openings.poll(context));
        let max_body = self.gateway.config().max_body;
        self.handle.state.borrow_mut().body_file_opened(key, opened, max_body);
        self.handle_events();
        Poll::Ready(())
    }

    /// Opens a spool file for a slow client. Without room for a file the worker waits for the client.
    fn start_spooling(&mut self) {
        let limit = self.gateway.config().spool_response;
        match ResponseFile::new(limit, &self.gateway.spool) {
            Ok(response_file) => {
                self.response_file = Some(response_file);
                self.handle.state.borrow_mut().start_spooling();
            }
            Err(error) => debug!(cause = %error, "an answer is not spooled"),
        }
        self.handle.drained.notify_waiters();
    }

    /// Ready when a write to the spool file or a read from it has ended.
    fn poll_response_file(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(response_file) = &mut self.response_file else { return Poll::Pending };
        let Poll::Ready(done) = response_file.poll(context) else { return Poll::Pending };
        match done {
            Completion::Written(written) => {
                self.handle.state.borrow_mut().spool_written(written.is_ok());
                if let Err(error) = written
                    && let Some(left_out) = self.gateway.metrics.may_log_refusal()
                {
                    // Nothing is lost.
                    let cause = crate::log::cause(&error);
                    warn!(left_out, %cause, "cannot spool the answer of a slow client, whose worker waits for it");
                }
            }
            Completion::Read(Ok(bytes)) => {
                self.handle.state.borrow_mut().spool_read(bytes);
                self.handle.flush();
            }
            Completion::Read(Err(error)) => {
                self.handle.state.borrow_mut().spool_failed(crate::log::cause(&error).to_string());
                self.handle_events();
                self.handle.flush();
            }
        }
        Poll::Ready(())
    }

    // The client.

    /// Starts to watch a client that has shut its writing side for its hang-up.
    fn watch_for_hang_up<'a>(&self, room: &'a Semaphore) -> Option<HangUpWatch<'a>> {
        let part = room.try_acquire();
        let part =
            part.map_err(|_| io::Error::other("the limit of open files allows no more of them (ulimit -n)"));
        match part.and_then(|part| Ok((self.handle.socket.watch_for_hang_up()?, part))) {
            Ok(watched) => Some(watched),
            // No descriptor is left. The client still gets its responses, and its hang-up is noticed when they are written.
            Err(error) => {
                if let Some(left_out) = self.gateway.metrics.may_log_refusal() {
                    let cause = crate::log::cause(&error);
                    warn!(cause, left_out, "a client that has shut its side is not watched");
                }
                None
            }
        }
    }

    /// Counts and logs a fault that ends the connection. Another protocol than FastCGI is a warning with the address of the peer,
    /// because the peer must be configured differently.
    fn log_fault(&self, fault: Fault) {
        self.gateway.metrics.connection_malformed();
        let Some(left_out) = self.gateway.metrics.may_log_refusal() else { return };
        if let Fault::OtherProtocol(protocol) = fault {
            warn!(
                peer = self.handle.socket.peer(),
                left_out,
                "connection closed: the peer speaks {protocol}, not FastCGI (nginx: fastcgi_pass; Caddy: transport fastcgi; \
                 HAProxy: proto fcgi; Apache: ProxyPass with fcgi://)"
            );
        } else {
            info!(cause = %fault, left_out, "connection closed");
        }
    }

    /// Logs the reason for the early end of a request or a connection, under the rate limit of refusals.
    fn log(&self, message: &str) {
        if let Some(left_out) = self.gateway.metrics.may_log_refusal() {
            info!(left_out, "{message}");
        }
    }
}

/// Abandons all requests at the end of the connection, also when the task is dropped with the gateway. Otherwise requests whose
/// responses wait in a file would be missing in the access log.
impl Drop for Task {
    fn drop(&mut self) {
        if self.file_sending.is_some() {
            self.handle.socket.shut_down();
        }
        self.handle.state.borrow_mut().abandon_all();
        Spool::close(self.handle.state.borrow_mut().take_files_to_close());
        self.handle_events();
        self.handle.drained.notify_waiters();
    }
}

fn timeouts(gateway: &Gateway) -> Timeouts {
    let config = gateway.config.borrow();
    Timeouts { header: config.header_timeout, body: config.body_timeout, send: config.send_timeout }
}

fn policy<'a>(
    gateway: &'a Gateway,
    body_files: Option<&'a BodyFiles>,
    is_own: &'a dyn Fn(&Variables, Role) -> bool,
) -> Policy<'a> {
    Policy {
        max_body: gateway.config.borrow().max_body,
        memory: &gateway.memory,
        space: gateway.spool.space(),
        buffers: gateway.spool.buffers(),
        spooling: gateway.spool.is_writing(),
        body_file_param: body_files.map(BodyFiles::param),
        is_own,
    }
}

/// Whether the server itself answers a request with these variables.
fn is_own(gateway: &Gateway, variables: &Variables, role: Role) -> bool {
    Endpoint::of(variables, role, &gateway.config()).is_some()
}

/// Logs, once each, the parameters that the proxy repeats, and a missing PATH_INFO: faults of its configuration.
fn log_proxy_faults(repeated: &[Vec<u8>], lacks_path_info: bool, gateway: &Gateway) {
    let logged = &mut *gateway.logged_proxy_faults.borrow_mut();
    for name in repeated {
        if logged.add_repeated(name) {
            warn!("the proxy sends {} more than once; its last value counts", name.escape_ascii());
        }
    }
    if lacks_path_info && logged.add_missing_path_info() {
        warn!(
            "the proxy sends no path in PATH_INFO, as nginx's own fastcgi_params does not; include nibiru_params in its place, with \
             fastcgi_split_path_info"
        );
    }
}

/// Waits until a client that has shut its writing side closes its socket.
async fn hung_up(watched: &AsyncFd<OwnedFd>) {
    while let Ok(mut ready) = watched.writable().await {
        if ready.ready().is_write_closed() {
            return;
        }
        // The client has read something, and still has the socket.
        ready.clear_ready();
    }
}
