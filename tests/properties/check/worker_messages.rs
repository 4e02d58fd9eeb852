//! Properties of the responses that reach clients from a hostile worker.
//!
//! [`WorkerProtocol`] decides which messages are valid, and [`ResponseWriter`] writes the response: both are the
//! gateway's own state machines. The driver here takes the place of `gateway::pool::relay`, on a connection without a
//! socket.

use std::time::Instant;

use nibiru::cgi::ProxyHeaders;
use nibiru::cgi::response::{Head, Status};
use nibiru::fastcgi::client::{self, Decoder, Fault, Reply};
use nibiru::fastcgi::{Limits, ProtocolStatus, Role, Server};
use nibiru::link::interrupt::Kind;
use nibiru::link::message::{FromWorker, FromZygote, ToWorker, ToZygote};
use nibiru::proto::response::ProtocolViolation;
use nibiru::proto::response_writer::{FilePart, ResponseEnd, ResponseWriter, Sink};
use nibiru::proto::worker::{
    ExitCause, LinkError, MAX_PACKETS_IN_LINK, RelayStep, Way, WorkerEvent, WorkerProtocol,
};

/// A client gets one complete response or a visible break, for any acts of the input: packets of the worker, and events
/// in the gateway.
pub(crate) fn worker_messages(mut data: &[u8]) {
    vocabulary(data);
    let mut gateway = Gateway::new();
    while let Some((act, rest)) = data.split_first() {
        data = rest;
        let outcome = match act % 13 {
            // A raw packet of up to 255 bytes.
            0 => gateway.packet(take_short(&mut data)),
            // A composed packet, so that many inputs are well-formed.
            1..=4 => {
                let packet = composed(&mut data, gateway.protocol.serial().number());
                gateway.packet(&packet)
            }
            5 => {
                let kind = take_byte(&mut data);
                gateway.dispatch(kind & 1 == 1, kind & 2 == 2)
            }
            6 => {
                gateway.protocol.measurement_requested();
                Ok(())
            }
            7 => {
                let kind = if take_byte(&mut data) & 1 == 1 { Kind::Timeout } else { Kind::Trace };
                gateway.interrupt(kind);
                Ok(())
            }
            8 => {
                gateway.fail();
                Ok(())
            }
            9 => {
                gateway.protocol.process_exited();
                gateway.exited = true;
                Ok(())
            }
            10 => gateway.link_error(take_byte(&mut data)),
            11 => {
                gateway.protocol.message_sent();
                gateway.sent_since_dispatch = true;
                Ok(())
            }
            _ => gateway.step(take_byte(&mut data)),
        };
        if let Err(ProtocolViolation(what)) = outcome {
            assert!(!what.is_empty());
            // The worker is killed, and its request fails.
            gateway.fail();
            gateway.running = None;
            break;
        }
    }
    gateway.fail();
    gateway.check();
}

/// A decoded message encodes to the bytes it was decoded from, whatever its sender.
fn vocabulary(data: &[u8]) {
    macro_rules! same {
        ($type:ty) => {
            let (mut rest, mut again, mut end) = (data, Vec::new(), 0);
            while let Ok(message) = <$type>::decode(&mut rest) {
                message.encode(&mut again);
                end = data.len() - rest.len();
            }
            assert_eq!(again, &data[..end]);
        };
    }
    same!(FromWorker<'_>);
    same!(ToWorker<'_>);
    same!(FromZygote<'_>);
    same!(ToZygote);
}

fn take_byte(data: &mut &[u8]) -> u8 {
    let Some((byte, rest)) = data.split_first() else { return 0 };
    *data = rest;
    *byte
}

fn take_short<'a>(data: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::from(take_byte(data));
    let (bytes, rest) = data.split_at(length.min(data.len()));
    *data = rest;
    bytes
}

/// A packet of the messages that the input names, mostly those of an honest worker.
fn composed(data: &mut &[u8], serial: u32) -> Vec<u8> {
    const HEADS: [&[u8]; 9] = [
        b"Status: 200 OK\r\n\r\n",
        b"Content-Length: 3\r\n\r\n",
        b"Status: 204\r\n\r\n",
        b"Status: 304\r\nContent-Length: 9\r\n\r\n",
        b"Content-Length: 0\n\n",
        b"X: a\rb\r\n\r\n",
        b"Status: 200\r\n\r\nbody",
        b"Content-Length: 18446744073709551615\r\n\r\n",
        b"X-Accel-Redirect: /secret\r\n\r\n",
    ];
    let mut packet = Vec::new();
    FromWorker::Answering { serial }.encode(&mut packet);
    for _ in 0..take_byte(data) % 12 {
        let choice = take_byte(data);
        let variant = usize::from(choice >> 4);
        match choice % 12 {
            0 => FromWorker::Ready,
            1 | 2 => FromWorker::Head { block: HEADS[variant % HEADS.len()] },
            3 => FromWorker::Head { block: take_short(data) },
            4..=6 => FromWorker::Body { bytes: &[b'b'; 16][..variant] },
            7 => FromWorker::End { complete: variant != 0 },
            8 => FromWorker::Measured { pss: 1, lua_heap: 2 },
            9 => FromWorker::Log {
                level: nibiru::link::message::LogLevel::Info,
                message: b"line",
                fields: b"{}",
            },
            10 => FromWorker::Stack { timeout: variant % 2 == 1, text: b"stack" },
            _ if variant == 0 => FromWorker::StartFailed { message: b"no" },
            _ => FromWorker::Answering { serial: u32::from(take_byte(data)) },
        }
        .encode(&mut packet);
    }
    packet
}

/// One worker and a sequence of clients, with the gateway's own state machines between them.
struct Gateway {
    protocol: WorkerProtocol,
    /// The response to the running request.
    running: Option<ResponseWriter>,
    /// Whether a request was dispatched, and no `Ready` has come since.
    busy: bool,
    /// Whether `Ready` was processed, and no request was dispatched since.
    idle: bool,
    interrupts: [u32; 2],
    stacks: [u32; 2],
    exited: bool,
    link_unread: bool,
    sent_since_dispatch: bool,
    /// Number of reads of the relay after the exit that received a packet.
    received_after_exit: u32,
    orders: ProxyHeaders,
    clients: Vec<Client>,
}

/// A client, and the FastCGI output that it gets.
struct Client {
    server: Server,
    out: Vec<u8>,
    head_request: bool,
    /// Whether the response has ended, completely or by a break.
    over: bool,
}

impl Gateway {
    fn new() -> Self {
        Self {
            protocol: WorkerProtocol::default(),
            running: None,
            busy: false,
            idle: false,
            interrupts: [0; 2],
            stacks: [0; 2],
            exited: false,
            link_unread: false,
            sent_since_dispatch: false,
            received_after_exit: 0,
            orders: ProxyHeaders::default(),
            clients: Vec::new(),
        }
    }

    fn dispatch(&mut self, head_request: bool, holds: bool) -> Result<(), ProtocolViolation> {
        if !self.idle || self.exited {
            return Ok(());
        }
        let (mut server, mut request, mut out) = (Server::new(Limits::default()), Vec::new(), Vec::new());
        client::begin(1, Role::Responder, true, &mut request);
        client::params(1, [(&b"A"[..], &b"1"[..])], &mut request);
        client::stdin_end(1, &mut request);
        let mut input = &request[..];
        while server.receive(&mut input, &mut out).expect("a request").is_some() {}
        self.clients.push(Client { server, out, head_request, over: false });
        let mut writer = ResponseWriter::new(head_request);
        if holds {
            writer.hold_head();
        }
        self.running = Some(writer);
        self.protocol.dispatched(Way::Socket, false);
        self.sent_since_dispatch = false;
        (self.idle, self.busy) = (false, true);
        (self.interrupts, self.stacks) = ([0; 2], [0; 2]);
        Ok(())
    }

    fn interrupt(&mut self, kind: Kind) {
        // Only a busy worker is interrupted.
        if self.busy {
            self.protocol.stack_requested(kind);
            self.interrupts[usize::from(kind == Kind::Timeout)] += 1;
        }
    }

    fn packet(&mut self, packet: &[u8]) -> Result<(), ProtocolViolation> {
        self.protocol.begin_packet(true);
        let (mut rest, mut lines) = (packet, 0);
        while let Some(event) = self.protocol.next_event(&mut rest)? {
            if matches!(event, WorkerEvent::ResponseHead { .. } | WorkerEvent::ResponseBody { .. }) {
                self.check_name(packet, rest);
            }
            let (client, writer) = (self.clients.last_mut(), self.running.as_mut());
            match event {
                WorkerEvent::ResponseHead { block } => {
                    writer.unwrap().head(block, &self.orders, client.unwrap(), Instant::now)?;
                }
                WorkerEvent::ResponseBody { bytes } => {
                    assert!(!bytes.is_empty());
                    writer.unwrap().body(bytes, client.unwrap())?;
                }
                WorkerEvent::ResponseFile { .. } => unreachable!("no request takes a file"),
                WorkerEvent::ResponseEnd { complete: true } => {
                    writer.unwrap().end(client.unwrap(), Instant::now())?;
                    self.running = None;
                }
                WorkerEvent::ResponseEnd { complete: false } => {
                    self.fail();
                    self.running = None;
                }
                WorkerEvent::Ready => {
                    assert!(self.running.is_none() && !self.idle);
                    (self.idle, self.busy) = (true, false);
                }
                WorkerEvent::StartFailed { .. } => {
                    assert!(self.clients.is_empty() && !self.idle);
                    return Err(ProtocolViolation("the worker has ended"));
                }
                WorkerEvent::Measured { .. } => assert!(!self.exited),
                WorkerEvent::Log { .. } => lines += 1,
                WorkerEvent::Stack { timeout, .. } => {
                    let kind = usize::from(timeout);
                    self.stacks[kind] += 1;
                    assert!(self.busy && self.stacks[kind] <= self.interrupts[kind]);
                }
            }
        }
        assert!(rest.is_empty() && lines <= nibiru::proto::worker::MAX_LINES);
        Ok(())
    }

    /// Makes the link fail. The link of an honest worker fails only at its end.
    fn link_error(&mut self, kind: u8) -> Result<(), ProtocolViolation> {
        let error = [LinkError::Closed, LinkError::Reset, LinkError::Descriptor, LinkError::Other]
            [usize::from(kind % 4)];
        self.link_unread |= error == LinkError::Reset;
        let cause = self.protocol.handle_link_error(error);
        assert_eq!(cause.is_none(), error == LinkError::Reset);
        cause.map_or(Ok(()), |cause| self.end(&cause))
    }

    /// Makes a step of the relay. The client lacks room if `room % 2` is 1.
    fn step(&mut self, room: u8) -> Result<(), ProtocolViolation> {
        match self.protocol.next_step((room % 2 == 1).then_some(())) {
            RelayStep::AwaitRoom(()) => {
                assert!(room % 2 == 1);
                if room & 2 == 2 {
                    self.protocol.room_granted();
                    assert!(!matches!(self.protocol.clone().next_step(Some(())), RelayStep::AwaitRoom(())));
                }
            }
            RelayStep::AwaitPacket => assert!(!self.exited),
            RelayStep::ReceiveRest => {
                self.received_after_exit += 1;
                assert!(self.exited && self.received_after_exit <= MAX_PACKETS_IN_LINK);
            }
            RelayStep::End(cause) => {
                assert_eq!(self.received_after_exit, MAX_PACKETS_IN_LINK);
                return self.end(&cause);
            }
        }
        Ok(())
    }

    /// Ends the relay. A request counts as unread only if no message followed it.
    fn end(&self, cause: &ExitCause) -> Result<(), ProtocolViolation> {
        if let ExitCause::Exited { link_unread } = *cause {
            assert_eq!(link_unread, self.link_unread);
        }
        let unread = *cause == ExitCause::Exited { link_unread: true };
        assert_eq!(self.protocol.never_reached_lua(cause, true), unread && !self.sent_since_dispatch);
        Err(ProtocolViolation("the worker has ended"))
    }

    /// Expects that the packet names the running request before this message.
    fn check_name(&self, packet: &[u8], rest: &[u8]) {
        let (mut before, mut named) = (&packet[..packet.len() - rest.len()], None);
        while let Ok(message) = FromWorker::decode(&mut before) {
            if let FromWorker::Answering { serial } = message {
                named = Some(serial);
            }
        }
        assert_eq!(named, Some(self.protocol.serial().number()));
        assert_eq!(named.unwrap() as usize, self.clients.len());
    }

    /// Breaks off the running request.
    fn fail(&mut self) {
        let Some(writer) = &mut self.running else { return };
        let client = self.clients.last_mut().unwrap();
        writer.fail(502, "the worker is gone", None, client, Instant::now());
        assert!(writer.is_over() && client.over);
    }

    fn check(&self) {
        for (index, client) in self.clients.iter().enumerate() {
            // Only the last request may be unfinished, and only if its response has ended otherwise.
            assert!(client.over, "the response to request {index} has not ended");
            client.check();
        }
    }
}

impl Sink for Client {
    fn is_open(&self) -> bool {
        !self.over
    }

    fn stdout(&mut self, bytes: &[u8]) {
        assert!(!self.over, "bytes after the end");
        self.server.stdout(1, bytes, &mut self.out);
    }

    fn stderr(&mut self, bytes: &[u8]) {
        self.server.stderr(1, bytes, &mut self.out);
    }

    fn file(&mut self, _: FilePart) {
        unreachable!("no request takes a file");
    }

    fn end(&mut self, _: Instant) -> Option<ResponseEnd> {
        assert!(!self.over, "a second end");
        self.over = true;
        let _ = self.server.end(1, 0, ProtocolStatus::RequestComplete, &mut self.out);
        None
    }

    fn break_off(&mut self, _: &str, _: Instant) {
        assert!(!self.over, "a break after the end");
        self.over = true;
        self.server.break_off(&mut self.out);
    }
}

impl Client {
    /// Expects one head, a body within the Content-Length, and END_REQUEST only after the complete body.
    fn check(&self) {
        let (mut decoder, mut input) = (Decoder::new(), &self.out[..]);
        let (mut stdout, mut ended) = (Vec::new(), None);
        let broken = loop {
            match decoder.receive(&mut input) {
                Ok(Some(Reply::Stdout { bytes, .. })) => {
                    assert_eq!(ended, None, "STDOUT follows END_REQUEST");
                    stdout.extend_from_slice(bytes);
                }
                Ok(Some(Reply::End { app_status, .. })) => ended = Some(app_status),
                Ok(Some(other)) => panic!("{other:?}"),
                Ok(None) => break false,
                Err(fault) => {
                    assert_eq!(fault, Fault::BadVersion(0));
                    break true;
                }
            }
        };
        assert_eq!(broken, ended.is_none());
        let Ok(Status::Complete { head, consumed }) = Head::parse(&stdout) else { panic!("no head") };
        assert_eq!(head.field("X-Accel-Redirect"), None, "a proxy control header passes");
        let body = (stdout.len() - consumed) as u64;
        let bodiless = self.head_request || !head.body_allowed();
        let promised = if bodiless { Some(0) } else { head.content_length };
        if let Some(promised) = promised {
            assert!(body <= promised, "{body} bytes of {promised}");
            assert!(broken || body == promised, "{body} bytes of {promised} look complete");
        }
    }
}
