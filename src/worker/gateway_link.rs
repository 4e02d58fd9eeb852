//! A worker's end of its link to the gateway: messages out in packets, requests and orders in.
//!
//! Small requests and packets go through the lane, which is memory. The socket takes what does not fit, the gateway's orders, and the
//! wake-ups; the worker sleeps on it.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::packet::Packet;
use crate::link::Link;
use crate::link::interrupt::Serial;
use crate::link::lane::WorkerLane;
use crate::link::message::{FromWorker, LogLevel, MAX_FIELDS, MAX_PACKET, ToWorker, shortened};
use crate::link::socket::Received;
use crate::lua::ClientGone;
use crate::os::fork;
use crate::os::monotonic;
use crate::os::process;
use crate::os::shared_memory::SharedMemory;

/// The link, with the messages that wait to be sent on it.
#[derive(Debug)]
pub(super) struct GatewayLink {
    socket: Link,
    lane: Option<RefCell<WorkerLane<SharedMemory>>>,
    /// The orders in the socket that are received, as the lane counts them.
    orders: Cell<u64>,
    packet: RefCell<Packet>,
    /// The file that goes with the packet.
    file: RefCell<Option<OwnedFd>>,
    /// Whether the gateway takes a file as the rest of the running request's response.
    takes_file: Cell<bool>,
    /// The number of the request that was received last.
    serial: Cell<Serial>,
    /// The client of the running request has gone.
    aborted: Cell<bool>,
    /// The gateway wants no more of this worker.
    draining: Cell<bool>,
    /// The gateway wants to know the worker's memory.
    measuring: Cell<bool>,
    /// Whether this process is scheduled in batches; `None` where the kernel refuses a change.
    batch: Cell<Option<bool>>,
}

/// Room for what the gateway sends. The application runs while a request is still read from it.
pub(super) struct Buffers {
    lane: Vec<u8>,
    socket: Vec<u8>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self { lane: Vec::new(), socket: vec![0; MAX_PACKET] }
    }
}

impl GatewayLink {
    pub(super) fn new(socket: Link, lane: Option<SharedMemory>) -> Self {
        Self {
            socket,
            lane: lane.map(|memory| RefCell::new(WorkerLane::new(memory))),
            orders: Cell::new(0),
            packet: RefCell::default(),
            file: RefCell::default(),
            takes_file: Cell::default(),
            serial: Cell::default(),
            aborted: Cell::new(false),
            draining: Cell::new(false),
            measuring: Cell::new(false),
            batch: Cell::new(Some(false)),
        }
    }

    /// A new request runs. `takes_file`: as it says. Returns its number.
    pub(super) fn begin(&self, takes_file: bool) -> Serial {
        self.takes_file.set(takes_file);
        let serial = self.serial.get().next();
        self.serial.set(serial);
        self.packet.borrow_mut().begin(serial);
        self.aborted.set(false);
        serial
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether the gateway has asked for the worker's memory while a request ran.
    pub(super) fn take_measuring(&self) -> bool {
        self.measuring.take()
    }

    /// Waits for a packet; `None` where the gateway has closed the link. Calls `before_sleep` once if there is none yet.
    pub(super) fn receive<'a>(
        &self,
        buffers: &'a mut Buffers,
        descriptors: &mut Vec<OwnedFd>,
        before_sleep: impl FnOnce(),
    ) -> io::Result<Option<&'a [u8]>> {
        let mut before_sleep = Some(before_sleep);
        let length = loop {
            // Before the lane is touched, which a forked process does not have.
            fork::end_if_forked();
            let mut received = None;
            if let Some(lane) = &self.lane {
                let lane = lane.borrow();
                let orders = lane.orders();
                if orders != self.orders.get() {
                    match self.socket.try_receive(&mut buffers.socket, descriptors) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.orders.set(orders),
                        other => received = Some(other?),
                    }
                }
                if received.is_none() && lane.claim(&mut buffers.lane) {
                    return Ok(Some(&buffers.lane));
                }
            }
            if received.is_none() {
                before_sleep.take().into_iter().for_each(|call| call());
                received = self.sleep(&mut buffers.socket, descriptors)?;
            }
            match received {
                Some(Received::Packet(length)) => break length,
                Some(Received::Closed) => return Ok(None),
                Some(Received::WakeUp) | None => {}
            }
        };
        Ok(Some(&buffers.socket[..length]))
    }

    /// Sleeps until a packet comes over the socket; not if a request has come to the lane meanwhile.
    fn sleep(&self, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<Option<Received>> {
        let Some(lane) = &self.lane else { return self.socket.receive(buffer, descriptors).map(Some) };
        let lane = lane.borrow();
        if !lane.sleep() {
            return Ok(None);
        }
        self.set_batch(lane.wants_batch());
        let received = self.socket.receive(buffer, descriptors);
        lane.wake();
        received.map(Some)
    }

    /// Has this process scheduled as usual until it sleeps, since a program that it starts inherits the policy.
    pub(super) fn leave_batch(&self) {
        self.set_batch(false);
    }

    /// Has this process scheduled in batches, or as usual.
    fn set_batch(&self, batch: bool) {
        if self.batch.get().is_some_and(|now| now != batch) {
            self.batch.set(process::set_batch(batch).is_ok().then_some(batch));
        }
    }

    /// Whether the gateway takes a file as the rest of the running request's response.
    pub(super) fn takes_file(&self) -> bool {
        self.takes_file.get()
    }

    /// Adds a file as the rest of the running request's response.
    pub(super) fn add_file(&self, file: OwnedFd, offset: u64, length: u64) -> io::Result<()> {
        self.takes_file.set(false);
        self.add(&FromWorker::File { offset, length })?;
        *self.file.borrow_mut() = Some(file);
        Ok(())
    }

    /// Ends the running request. Sent with the next message.
    pub(super) fn end(&self, complete: bool) {
        self.packet.borrow_mut().add(&FromWorker::End { complete });
    }

    /// Adds a message and sends everything.
    pub(super) fn send(&self, message: &FromWorker<'_>) -> io::Result<()> {
        self.add(message)?;
        self.flush()
    }

    /// Sends a line for the log.
    pub(super) fn log(&self, level: LogLevel, message: &[u8], fields: &str) {
        const _: () = assert!(crate::log::fields::MAX_LENGTH <= MAX_FIELDS, "fields fit their message");
        let (message, fields) = (&*shortened(message), fields.as_bytes());
        // Without a gateway there is no log either.
        let _ = self.send(&FromWorker::Log { level, message, fields });
    }

    /// Adds a message. Sends the packet first where both do not fit.
    pub(super) fn add(&self, message: &FromWorker<'_>) -> io::Result<()> {
        if !self.packet.borrow().has_room_for(message) {
            self.flush()?;
        }
        self.packet.borrow_mut().add(message);
        Ok(())
    }

    /// Sends the packet. Blocks while the gateway does not read, which is how a slow client slows its worker.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut packet = self.packet.borrow_mut();
        if !packet.bytes().is_empty() {
            match self.file.take() {
                Some(file) => self.send_by_socket(packet.bytes(), &[file.as_fd()])?,
                None => self.send_packet(packet.bytes())?,
            }
            packet.clear();
        }
        Ok(())
    }

    fn send_packet(&self, packet: &[u8]) -> io::Result<()> {
        // Before the lane is touched, which a forked process does not have.
        fork::end_if_forked();
        if let Some(lane) = &self.lane {
            let mut lane = lane.borrow_mut();
            if lane.send(packet, monotonic::now) {
                return if lane.take_sleeper() { self.socket.wake() } else { Ok(()) };
            }
        }
        self.send_by_socket(packet, &[])
    }

    fn send_by_socket(&self, packet: &[u8], passed: &[BorrowedFd<'_>]) -> io::Result<()> {
        // Before the lane is touched, which a forked process does not have.
        fork::end_if_forked();
        self.lane.iter().for_each(|lane| lane.borrow_mut().socket_packet_sent());
        self.socket.send(packet, passed)
    }

    /// Waits for a message of the gateway's: for this time, or until a signal comes.
    pub(super) fn wait(&self, time: Duration) -> io::Result<()> {
        self.socket.wait(time)
    }

    /// Takes the gateway's orders to the running request, without waiting.
    pub(super) fn check_orders(&self) -> Result<(), ClientGone> {
        let orders = self.lane.as_ref().map(|lane| lane.borrow().orders());
        if orders.is_none_or(|orders| orders != self.orders.get()) {
            self.receive_orders()?;
            self.orders.set(orders.unwrap_or_default());
        }
        if self.aborted.get() { Err(ClientGone) } else { Ok(()) }
    }

    /// Receives everything that is in the socket.
    fn receive_orders(&self) -> Result<(), ClientGone> {
        let mut buffer = [0; 16];
        while let Ok(received) = self.socket.try_receive(&mut buffer, &mut Vec::new()) {
            let length = match received {
                Received::Packet(length) => length,
                Received::WakeUp => continue,
                Received::Closed => return Err(ClientGone),
            };
            match ToWorker::decode(&mut &buffer[..length]) {
                Ok(ToWorker::Abort { serial }) if serial == self.serial.get().number() => {
                    self.aborted.set(true)
                }
                // For a request that is over.
                Ok(ToWorker::Abort { .. }) => {}
                Ok(ToWorker::Drain) => self.draining.set(true),
                Ok(ToWorker::Measure) => self.measuring.set(true),
                // The gateway sends no request to a worker that runs one.
                Ok(ToWorker::Request { .. }) | Err(_) => return Err(ClientGone),
            }
        }
        Ok(())
    }
}
