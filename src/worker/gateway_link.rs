//! A worker's side of its link: collects what the application sends into packets, and notices aborts.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use crate::link::Link;
use crate::link::interrupt::Serial;
use crate::link::message::{FromWorker, LogLevel, MAX_CHUNK, MAX_FIELDS, MAX_PACKET, ToWorker, shortened};
use crate::link::socket::Received;
use crate::lua::{Gone, Interrupt, Level, Outcome, Output};
use crate::os::fork;

/// The link with what waits to be sent on it.
#[derive(Debug)]
pub(super) struct Channel {
    link: Link,
    /// Messages that are not sent yet; together less than [`MAX_PACKET`].
    packet: RefCell<Vec<u8>>,
    /// Whether they say which request they answer.
    named: Cell<bool>,
    /// Which request runs.
    serial: Cell<Serial>,
    /// The client of the running request has gone.
    aborted: Cell<bool>,
    /// The gateway wants no more of this worker.
    draining: Cell<bool>,
}

impl Channel {
    pub(super) fn new(link: Link) -> Self {
        Self {
            link,
            packet: RefCell::new(Vec::new()),
            named: Cell::new(false),
            serial: Cell::default(),
            aborted: Cell::new(false),
            draining: Cell::new(false),
        }
    }

    /// A new request runs.
    pub(super) fn begin(&self, serial: Serial) {
        self.serial.set(serial);
        self.aborted.set(false);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Waits for a packet; `None` where the gateway has closed the link. `buffer` has room for [`MAX_PACKET`], and is the caller's: the
    /// application runs while the packet is still read.
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

    /// Ends the running request; sent with what comes next.
    pub(super) fn end(&self, complete: bool) {
        self.encode(&FromWorker::End { complete });
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
        // Where the gateway is gone there is no log either.
        let _ = self.send(&FromWorker::Log { level, message, fields });
    }

    /// Adds a message; sends what is there first where both do not fit a packet.
    fn add(&self, message: &FromWorker<'_>) -> io::Result<()> {
        let length = match message {
            FromWorker::StartFailed { message } => message.len(),
            FromWorker::Log { message, fields, .. } => message.len() + fields.len(),
            FromWorker::Head { block } => block.len(),
            FromWorker::Body { bytes } => bytes.len(),
            FromWorker::Stack { text, .. } => text.len(),
            FromWorker::Ready
            | FromWorker::Answering { .. }
            | FromWorker::End { .. }
            | FromWorker::Measured { .. } => 0,
        };
        /// Room for the tags and lengths of this message, of `Answering` before it, and of the `End` and `Ready` that may
        /// follow.
        const OVERHEAD: usize = 32;
        if self.packet.borrow().len() + length + OVERHEAD > MAX_PACKET {
            self.flush()?;
        }
        self.encode(message);
        Ok(())
    }

    fn encode(&self, message: &FromWorker<'_>) {
        let mut packet = self.packet.borrow_mut();
        let answers =
            matches!(message, FromWorker::Head { .. } | FromWorker::Body { .. } | FromWorker::End { .. });
        if answers && !self.named.replace(true) {
            FromWorker::Answering { serial: self.serial.get().number() }.encode(&mut packet);
        }
        message.encode(&mut packet);
    }

    /// Sends what waits. Blocks while the gateway does not read, which is how a slow client slows its worker.
    pub(super) fn flush(&self) -> io::Result<()> {
        let mut packet = self.packet.borrow_mut();
        if !packet.is_empty() {
            self.link.send(&packet, &[])?;
            packet.clear();
            self.named.set(false);
        }
        Ok(())
    }

    /// Looks, without waiting, for what the gateway said while a request runs.
    fn heed(&self) -> Result<(), Gone> {
        let mut buffer = [0; 16];
        while let Ok(received) = self.link.try_receive(&mut buffer, &mut Vec::new()) {
            let Received::Packet(length) = received else { return Err(Gone) };
            match ToWorker::decode(&mut &buffer[..length]) {
                Ok(ToWorker::Abort) => self.aborted.set(true),
                Ok(ToWorker::Drain) => self.draining.set(true),
                // Asked between two requests, and answered there.
                Ok(ToWorker::Measure) => {}
                // The gateway sends no request to a worker that runs one.
                Ok(ToWorker::Request { .. }) | Err(_) => return Err(Gone),
            }
        }
        if self.aborted.get() { Err(Gone) } else { Ok(()) }
    }
}

/// The application's output, on its way to the gateway.
#[derive(Debug)]
pub(super) struct Outbox {
    channel: Rc<Channel>,
}

impl Outbox {
    pub(super) fn new(channel: Rc<Channel>) -> Self {
        Self { channel }
    }
}

impl Output for Outbox {
    fn head(&mut self, head: &[u8]) -> Result<(), Gone> {
        // Before anything more of the application's runs, which the link itself would only see later.
        fork::end_if_forked();
        self.channel.add(&FromWorker::Head { block: head }).map_err(|_| Gone)
    }

    fn body(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        for (index, bytes) in bytes.chunks(MAX_CHUNK).enumerate() {
            if index > 0 {
                self.flush()?;
            }
            self.channel.add(&FromWorker::Body { bytes }).map_err(|_| Gone)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Gone> {
        fork::end_if_forked();
        self.channel.flush().map_err(|_| Gone)?;
        self.channel.heed()
    }

    fn wait(&mut self, time: Duration) -> Result<(), Gone> {
        self.flush()?;
        self.channel.link.wait(time).map_err(|_| Gone)?;
        self.channel.heed()
    }

    fn log(&mut self, level: Level, message: &[u8], fields: &str) {
        self.channel.log(level.into(), message, fields);
    }

    fn stack(&mut self, interrupt: Interrupt, text: &[u8]) {
        let (timeout, text) = (interrupt == Interrupt::Timeout, &*shortened(text));
        // Where the gateway is gone there is no log either.
        let _ = self.channel.send(&FromWorker::Stack { timeout, text });
    }

    fn exit(&mut self, outcome: Option<Outcome>, code: i32) -> ! {
        if let Some(outcome) = outcome {
            self.channel.end(outcome == Outcome::Complete);
        }
        // Where the gateway is gone nobody waits for the answer.
        let _ = self.channel.flush();
        std::process::exit(code)
    }
}
