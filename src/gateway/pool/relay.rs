//! The driver of [`WorkerProtocol`]: a task that reads one worker, and relays its response to the client, its lines to the log, and
//! its exit to the pool.
//!
//! Trusts no packet of the worker. A packet that breaks the message format, the protocol or the rules of a response
//! ([`crate::proto::response`]) has the worker killed, and its request gets a 502.
//!
//! [`WorkerProtocol`]: crate::proto::worker::WorkerProtocol

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use tracing::error;

use crate::gateway::Gateway;
use crate::gateway::events::SupervisorEvent;
use crate::gateway::pool::lifecycle;
use crate::gateway::pool::log_limits::LogKind;
use crate::gateway::pool::process_log::LineMetadata;
use crate::gateway::pool::watchdog;
use crate::gateway::pool::worker::{WorkerHandle, WorkerMemory, WorkerName};
use crate::gateway::pool::worker_lane::WorkerLane;
use crate::link::Link;
use crate::link::lane::Corrupt;
use crate::link::message::LogLevel;
use crate::link::socket::Received;
use crate::log::{escape, fields};
use crate::proto::connection::WRITTEN_THROUGH;
use crate::proto::response::ProtocolViolation;
use crate::proto::response_writer::FilePart;
use crate::proto::turn::Turn;
use crate::proto::worker::{ExitCause, LinkError, RelayStep, WorkerEvent};

/// Serves one worker from its fork to its exit.
pub(super) async fn attend(gateway: Rc<Gateway>, worker: Rc<WorkerHandle>) {
    let cause = relay(&gateway, &worker).await;
    gateway.lanes.forget(&worker);
    if let ExitCause::Violation(what) = &cause {
        worker.distrust();
        log_violation(&gateway, &worker, what);
    }
    // A worker that closed its link is of no more use, even if it has not exited.
    worker.kill();
    lifecycle::worker_gone(&gateway, &worker);
    lifecycle::settle(&gateway, &worker, &cause);
    let start_failed = match cause {
        ExitCause::StartFailed(message) => Some(message),
        ExitCause::Exited { .. } | ExitCause::Violation(_) => None,
    };
    gateway
        .supervisor_events
        .send(SupervisorEvent::WorkerEnded { generation: worker.name().generation, start_failed });
}

/// Relays until the worker has exited and all its packets are relayed. Returns the cause of the end.
async fn relay(gateway: &Gateway, worker: &Rc<WorkerHandle>) -> ExitCause {
    let mut turn = Turn::begin(Instant::now);
    loop {
        if let Some(cause) = worker.take_relay_end() {
            return cause;
        }
        if turn.is_over() {
            gateway.yield_queue.wait_turn().await;
            turn = Turn::begin(Instant::now);
            // A child of the worker that floods its link must not hide its exit.
            if !worker.protocol().has_exited() && worker.exited_by_now().await {
                process_exited(gateway, worker);
            }
        }
        let backpressure = worker.backpressure();
        let step = worker.protocol().next_step(backpressure);
        if let Some(lane) = worker.lane() {
            let awaits_room = matches!(step, RelayStep::AwaitRoom(_));
            lane.hold_up(awaits_room);
            // The step is for one packet, wherever it is.
            if !awaits_room && lane.has_packet() {
                match deliver(gateway, worker, &mut turn, true) {
                    Delivery::Done | Delivery::HeldUp => continue,
                    Delivery::End(cause) => return cause,
                }
            }
        }
        let received = match step {
            RelayStep::AwaitRoom(room) => {
                let exited = worker.protocol().has_exited();
                tokio::select! {
                    () = room => worker.protocol().room_granted(),
                    // The request is given up, or the relay is to end.
                    () = worker.relay_called() => {}
                    () = worker.exited(), if !exited => process_exited(gateway, worker),
                }
                continue;
            }
            RelayStep::AwaitPacket => tokio::select! {
                biased;
                ready = worker.link().readable() => match ready {
                    Ok(mut ready) => match ready.try_io(|link| receive(gateway, worker, link.get_ref(), &mut turn)) {
                        Ok(received) => {
                            // Saves the receive that would find the link empty. A packet that is there all the same is received
                            // with the next one.
                            if worker.protocol().awaits_first_packet() {
                                ready.clear_ready();
                                turn = Turn::begin(Instant::now);
                            }
                            received
                        }
                        Err(_would_block) => {
                            turn = Turn::begin(Instant::now);
                            continue;
                        }
                    },
                    Err(_) => {
                        process_exited(gateway, worker);
                        continue;
                    }
                },
                () = worker.exited() => {
                    process_exited(gateway, worker);
                    continue;
                }
                () = worker.relay_called() => {
                    turn = Turn::begin(Instant::now);
                    continue;
                }
            },
            RelayStep::ReceiveRest => receive(gateway, worker, worker.link().get_ref(), &mut turn),
            RelayStep::End(cause) => return cause,
        };
        let end = received.unwrap_or_else(|error| worker.protocol().handle_link_error(link_error(&error)));
        if let Some(cause) = end {
            return cause;
        }
    }
}

/// The result of [`deliver`].
#[derive(Debug)]
pub(super) enum Delivery {
    /// No packet is in the lane now, or the turn is over.
    Done,
    /// The client has no room for more of its response.
    HeldUp,
    /// The worker's relay is to end.
    End(ExitCause),
}

/// Relays the packets in a worker's lane, until the turn is over. With `granted`, the first one needs no room.
pub(super) fn deliver(
    gateway: &Gateway,
    worker: &WorkerHandle,
    turn: &mut Turn,
    mut granted: bool,
) -> Delivery {
    let Some(lane) = worker.lane() else { return Delivery::Done };
    while lane.has_packet() && !turn.is_over() {
        if !std::mem::take(&mut granted) && worker.backpressure().is_some() {
            return Delivery::HeldUp;
        }
        match relay_next(gateway, worker, lane, turn) {
            Ok(None) => {}
            Ok(Some(cause)) => return Delivery::End(cause),
            Err(ProtocolViolation(what)) => return Delivery::End(ExitCause::Violation(what)),
        }
        if let Some(cause) = worker.take_relay_end() {
            return Delivery::End(cause);
        }
    }
    Delivery::Done
}

/// Relays the next packet in the lane, if there is one.
fn relay_next(
    gateway: &Gateway,
    worker: &WorkerHandle,
    lane: &WorkerLane,
    turn: &mut Turn,
) -> Result<Option<ExitCause>, ProtocolViolation> {
    let mut buffer = gateway.lanes.packet.borrow_mut();
    match lane.receive(&mut buffer).map_err(|Corrupt(what)| ProtocolViolation(what))? {
        Some((length, sent_at)) => {
            turn.goes_on_after(length);
            relay_packet(gateway, worker, &buffer[..length], Some(sent_at), None)
        }
        None => Ok(None),
    }
}

/// Handles the exit of the process. Frees the worker's place at once, because a successor need not wait for bytes that the client
/// has still to read.
fn process_exited(gateway: &Gateway, worker: &WorkerHandle) {
    worker.protocol().process_exited();
    worker.lane().into_iter().for_each(WorkerLane::close);
    lifecycle::worker_gone(gateway, worker);
}

fn link_error(error: &io::Error) -> LinkError {
    match error.kind() {
        io::ErrorKind::ConnectionReset => LinkError::Reset,
        io::ErrorKind::Unsupported => LinkError::Descriptor,
        _ => LinkError::Other,
    }
}

/// Receives and relays one packet. Returns the cause of the end if it was the last.
fn receive(
    gateway: &Gateway,
    worker: &Rc<WorkerHandle>,
    link: &Link,
    turn: &mut Turn,
) -> io::Result<Option<ExitCause>> {
    let (mut buffer, mut descriptors) = (gateway.packet.borrow_mut(), Vec::new());
    let length = match link.receive_one(&mut buffer, &mut descriptors)? {
        Received::Closed => {
            // Nobody has woken the relay for what an awake gateway would have found in the lane.
            let rest = relay_lane(gateway, worker, turn);
            let end = rest.unwrap_or_else(|ProtocolViolation(what)| Some(ExitCause::Violation(what)));
            return Ok(end.or_else(|| worker.protocol().handle_link_error(LinkError::Closed)));
        }
        Received::WakeUp => {
            turn.goes_on_after(1);
            worker.protocol().woken();
            // The lane is looked at before anything else.
            gateway.lanes.poll(worker);
            return Ok(None);
        }
        Received::Packet(length) => length,
    };
    turn.goes_on_after(length);
    let relayed = relay_in_order(gateway, worker, &buffer[..length], descriptors.pop(), turn);
    Ok(relayed.unwrap_or_else(|ProtocolViolation(what)| Some(ExitCause::Violation(what))))
}

/// Relays a packet of the socket, after those in the lane that were sent before it: an intact worker has written them all by now.
fn relay_in_order(
    gateway: &Gateway,
    worker: &WorkerHandle,
    packet: &[u8],
    file: Option<OwnedFd>,
    turn: &mut Turn,
) -> Result<Option<ExitCause>, ProtocolViolation> {
    if let Some(cause) = relay_lane(gateway, worker, turn)? {
        return Ok(Some(cause));
    }
    worker.lane().into_iter().for_each(WorkerLane::socket_packet_received);
    relay_packet(gateway, worker, packet, None, file)
}

/// Relays the packets that are in the lane now, whether or not the client has room: the lane is small.
fn relay_lane(
    gateway: &Gateway,
    worker: &WorkerHandle,
    turn: &mut Turn,
) -> Result<Option<ExitCause>, ProtocolViolation> {
    let Some(lane) = worker.lane() else { return Ok(None) };
    let (_, written) = lane.progress();
    while lane.progress().0 < written && lane.has_packet() {
        if let Some(cause) = relay_next(gateway, worker, lane, turn)? {
            return Ok(Some(cause));
        }
    }
    Ok(None)
}

/// Relays one packet. Returns the cause of the worker's exit if the packet announces it. `sent_at`: the time at which the worker says that
/// it sent the packet, which may be some time ago. `file`: the descriptor that came with the packet.
fn relay_packet(
    gateway: &Gateway,
    worker: &WorkerHandle,
    mut packet: &[u8],
    sent_at: Option<u64>,
    mut file: Option<OwnedFd>,
) -> Result<Option<ExitCause>, ProtocolViolation> {
    let (mut progress, serial) = (false, worker.protocol().serial());
    let claimed = worker.is_claimed().map_err(|Corrupt(what)| ProtocolViolation(what))?;
    worker.protocol().begin_packet(claimed);
    // A large piece of a body, which is written together with the end where that follows.
    let mut piece: Option<&[u8]> = None;
    loop {
        // Not borrowed while the event is handled.
        let event = worker.protocol().next_event(&mut packet)?;
        let complete = matches!(event, Some(WorkerEvent::ResponseEnd { complete: true }));
        if let Some(bytes) = piece.take_if(|_| !complete)
            && let Some(mut request) = worker.running_mut()
        {
            request.response.body(bytes)?;
        }
        let Some(event) = event else { break };
        match event {
            WorkerEvent::ResponseHead { block } => {
                progress = true;
                if let Some(mut request) = worker.running_mut() {
                    request.response.head(block, &gateway.proxy_headers)?;
                }
            }
            WorkerEvent::ResponseBody { bytes } if bytes.len() >= WRITTEN_THROUGH => {
                progress = true;
                piece = Some(bytes);
            }
            WorkerEvent::ResponseBody { bytes } => {
                progress = true;
                if let Some(mut request) = worker.running_mut() {
                    request.response.body(bytes)?;
                }
            }
            WorkerEvent::ResponseFile { offset, length } => {
                progress = true;
                let file = file.take().ok_or(ProtocolViolation("a file without its descriptor"))?;
                send_file(gateway, worker, file, offset, length)?;
            }
            WorkerEvent::ResponseEnd { complete } => {
                progress = true;
                end_response(gateway, worker, complete, piece.take())?;
            }
            WorkerEvent::Ready => {
                let now = Instant::now();
                let sent_at = sent_at.map_or(now, |sent_at| gateway.lanes.sent_at(sent_at, now));
                let ended_at = worker.run().map_or(sent_at, |run| sent_at.max(run.dispatched_at()));
                // Not borrowed while the request ends.
                if let Some(request) = worker.end_run() {
                    request.finish_at(ended_at, now);
                }
                if worker.protocol().has_exited() {
                    worker.begin_next(ended_at);
                } else {
                    lifecycle::worker_ready(gateway, worker, ended_at, now);
                }
            }
            WorkerEvent::Measured { pss, lua_heap } => {
                lifecycle::worker_measured(gateway, worker, WorkerMemory { pss, lua_heap });
            }
            WorkerEvent::Log { level, message, fields } => {
                log_line(gateway, worker, level, message, fields);
            }
            WorkerEvent::Stack { timeout, text } => watchdog::log_stack(gateway, worker, timeout, text),
            WorkerEvent::StartFailed { message } => {
                return Ok(Some(ExitCause::StartFailed(escape::text(message).into_owned())));
            }
        }
    }
    if file.is_some() {
        return Err(ProtocolViolation("a descriptor"));
    }
    if let Some(request) = worker.running() {
        request.response.flush();
    }
    // A worker that was ready may have its next request by now, which has made no progress.
    if progress && worker.protocol().serial() == serial {
        record_progress(worker);
    }
    Ok(None)
}

/// Sends a part of a file as the rest of a response.
fn send_file(
    gateway: &Gateway,
    worker: &WorkerHandle,
    file: OwnedFd,
    offset: u64,
    length: u64,
) -> Result<(), ProtocolViolation> {
    let Some(mut request) = worker.running_mut() else { return Ok(()) };
    match gateway.spool.claim_file() {
        Ok(claim) => request.response.file(FilePart { file: File::from(file), claim, offset, length }),
        Err(error) => {
            // The worker was told that there is room: others have taken it since.
            request.response.fail(503, &error.to_string(), None);
            Ok(())
        }
    }
}

/// Ends a response, after the last `piece` of its body.
fn end_response(
    gateway: &Gateway,
    worker: &WorkerHandle,
    complete: bool,
    piece: Option<&[u8]>,
) -> Result<(), ProtocolViolation> {
    if let Some(mut request) = worker.running_mut() {
        match piece {
            _ if !complete => request.response.fail(500, "the application failed", None),
            Some(bytes) => request.response.body_and_end(bytes)?,
            None => request.response.end()?,
        }
    }
    worker.response_ended();
    if !worker.protocol().has_exited() {
        gateway.pool.borrow_mut().record_answer(worker.name().worker);
    }
    Ok(())
}

/// Records progress of a response, which extends its deadline. Reads no clock for a response that is whole in its first packet. The
/// response to a client that has left gets no extension.
fn record_progress(worker: &WorkerHandle) {
    let running = worker.running();
    if let Some(mut run) = worker.run()
        && (run.streaming_since().is_some() || running.is_some())
        && !running.is_some_and(|request| request.response.is_abandoned())
    {
        run.record_progress(Instant::now());
        worker.set_run(run);
    }
}

/// Logs a line of the worker. In development the client gets errors, too.
fn log_line(gateway: &Gateway, worker: &WorkerHandle, level: LogLevel, message: &[u8], fields: &[u8]) {
    let running = worker.running();
    if let Some(request) = &running
        && gateway.mode.development
        && level == LogLevel::Error
    {
        let text = fields::after(message, &String::from_utf8_lossy(fields));
        request.response.stderr(text.as_bytes());
    }
    let request = running.as_ref().map(|request| request.ids());
    worker.name().log(level, request, LineMetadata { fields, ..LineMetadata::default() }, message);
}

fn log_violation(gateway: &Gateway, worker: &WorkerHandle, what: &str) {
    let WorkerName { worker: number, generation, pid } = worker.name();
    let running = worker.running();
    let ids = running.as_ref().map(|request| request.ids());
    let (request, trace_id) = (ids.map(|ids| ids.request), ids.and_then(|ids| ids.trace_id));
    gateway.log_limits.log(LogKind::ProtocolViolations, Instant::now(), |left_out| {
        error!(
            worker = number,
            r#gen = generation,
            pid,
            request,
            trace_id,
            left_out,
            "worker sent {what}; killing it"
        );
    });
}
