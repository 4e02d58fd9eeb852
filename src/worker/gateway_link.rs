//! A worker's end of its link to the gateway: messages out in packets, requests and orders in.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::packet::Packet;
use crate::link::Link;
use crate::link::interrupt::Serial;
use crate::link::message::{FromWorker, LogLevel, MAX_FIELDS, ToWorker, shortened};
use crate::link::socket::Received;
use crate::lua::ClientGone;

/// The link, with the messages that wait to be sent on it.
#[derive(Debug)]
pub(super) struct GatewayLink {
    link: Link,
    packet: RefCell<Packet>,
    /// The client of the running request has gone.
    aborted: Cell<bool>,
    /// The gateway wants no more of this worker.
    draining: Cell<bool>,
}

impl GatewayLink {
    pub(super) fn new(link: Link) -> Self {
        Self { link, packet: RefCell::default(), aborted: Cell::new(false), draining: Cell::new(false) }
    }

    /// A new request runs.
    pub(super) fn begin(&self, serial: Serial) {
        self.packet.borrow_mut().begin(serial);
        self.aborted.set(false);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Waits for a packet; `None` where the gateway has closed the link. `buffer` has room for
    /// [`MAX_PACKET`](crate::link::message::MAX_PACKET), and is the caller's: the application runs while the packet is still read.
    pub(super) fn receive<'a>(
        &self,
        buffer: &'a mut [u8],
        descriptors: &mut Vec<OwnedFd>,
    ) -> io::Result<Option<&'a [u8]>> {
        Ok(match self.link.receive(buffer, descriptors)? {
            Received::Packet(length) => Some(&buffer[..length]),
            Received::Closed => None,
        })
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
            self.link.send(packet.bytes(), &[])?;
            packet.clear();
        }
        Ok(())
    }

    /// Waits for a message of the gateway's: for this time, or until a signal comes.
    pub(super) fn wait(&self, time: Duration) -> io::Result<()> {
        self.link.wait(time)
    }

    /// Takes the gateway's orders to the running request, without waiting.
    pub(super) fn check_orders(&self) -> Result<(), ClientGone> {
        let mut buffer = [0; 16];
        while let Ok(received) = self.link.try_receive(&mut buffer, &mut Vec::new()) {
            let Received::Packet(length) = received else { return Err(ClientGone) };
            match ToWorker::decode(&mut &buffer[..length]) {
                Ok(ToWorker::Abort) => self.aborted.set(true),
                Ok(ToWorker::Drain) => self.draining.set(true),
                // Sent between two requests, and answered there.
                Ok(ToWorker::Measure) => {}
                // The gateway sends no request to a worker that runs one.
                Ok(ToWorker::Request { .. }) | Err(_) => return Err(ClientGone),
            }
        }
        if self.aborted.get() { Err(ClientGone) } else { Ok(()) }
    }
}
