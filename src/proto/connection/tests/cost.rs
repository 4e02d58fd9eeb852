//! The work of the gateway for a small request, for `tests/instructions` to count: the connection, the lane, the worker's messages and
//! the response. Left out are its driver (tasks, sockets), the queue and pool, the metrics and the log.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::cgi::samples::SMALL_REQUEST;
use crate::link::interrupt::Serial;
use crate::link::lane::{GatewayLane, MAX_LANE_PACKET, WORDS, WorkerLane};
use crate::link::message::{FromWorker, RequestBody, Role as MessageRole, ToWorker};
use crate::proto::worker::{Way, WorkerEvent, WorkerProtocol};

/// Calls `act`. The instructions between its entry and its return count.
#[inline(never)]
fn counted<T>(act: impl FnOnce() -> T) -> T {
    black_box(act())
}

/// The gateway's side of one worker.
struct Side {
    pair: Pair,
    lane: GatewayLane<Rc<[AtomicU64]>>,
    protocol: WorkerProtocol,
    packet: Vec<u8>,
    buffer: Vec<u8>,
}

impl Side {
    /// Has a request read and pushed.
    fn request(&mut self, bytes: &[u8]) -> StreamKey {
        let [Event::Request { key, request }] = &self.pair.send(bytes)[..] else { panic!("no request") };
        self.packet.clear();
        ToWorker::Request {
            request_id: b"0123456789abcdef",
            variables: request.head.variables.encoded(),
            body: RequestBody::Inline(b""),
            role: MessageRole::Responder,
            takes_file: true,
        }
        .encode(&mut self.packet);
        assert!(self.lane.push(&self.packet).unwrap());
        self.protocol.dispatched(Way::Lane, true);
        *key
    }

    /// Has the worker's packet read and relayed.
    fn respond(&mut self, key: StreamKey) {
        let (length, _) = self.lane.receive(&mut self.buffer).unwrap().expect("a packet");
        let (mut packet, protocol) = (&self.buffer[..length], &mut self.protocol);
        protocol.begin_packet(self.lane.is_claimed().unwrap());
        let orders = ProxyHeaders::default();
        self.pair.respond(key, |writer, sink, now| {
            while let Some(event) = protocol.next_event(&mut packet).unwrap() {
                match event {
                    WorkerEvent::ResponseHead { block } => writer.head(block, &orders, sink, || now).unwrap(),
                    WorkerEvent::ResponseBody { bytes } => writer.body(bytes, sink).unwrap(),
                    WorkerEvent::ResponseEnd { .. } => writer.end(sink, now).unwrap(),
                    WorkerEvent::Ready => {}
                    other => panic!("{other:?}"),
                }
            }
        });
        self.lane.finish();
    }
}

#[test]
#[ignore = "counts something under callgrind only: tests/instructions"]
fn requests_of_the_gateway() {
    const REQUESTS: usize = 1000;
    let memory: Rc<[AtomicU64]> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
    let mut worker = WorkerLane::new(Rc::clone(&memory));
    let mut side = Side {
        pair: Pair::new(),
        lane: GatewayLane::new(memory),
        protocol: WorkerProtocol::default(),
        packet: Vec::new(),
        buffer: vec![0; MAX_LANE_PACKET],
    };
    side.protocol.begin_packet(false);
    let mut ready = Vec::new();
    FromWorker::Ready.encode(&mut ready);
    while side.protocol.next_event(&mut &ready[..]).unwrap().is_none() {}
    let mut request = head(1, true, Role::Responder, SMALL_REQUEST);
    client::stdin_end(1, &mut request);
    let (mut claimed, mut serial, mut packet) = (Vec::new(), Serial::default(), Vec::new());
    for _ in 0..REQUESTS {
        let key = counted(|| side.request(&request));
        assert!(worker.claim(&mut claimed));
        serial = serial.next();
        packet.clear();
        FromWorker::Answering { serial: serial.number() }.encode(&mut packet);
        let block = b"Status: 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\n";
        FromWorker::Head { block }.encode(&mut packet);
        FromWorker::Body { bytes: b"Hello, World!\n" }.encode(&mut packet);
        FromWorker::End { complete: true }.encode(&mut packet);
        FromWorker::Ready.encode(&mut packet);
        assert!(worker.send(&packet, || 0));
        counted(|| side.respond(key));
        assert!(side.pair.got(1).unwrap().stdout.ends_with("\r\n\r\nHello, World!\n"));
        side.pair.received.clear();
    }
    println!("requests: {REQUESTS}");
}
