//! The application's output on its way to the gateway.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::gateway_link::GatewayLink;
use crate::link::message::{FromWorker, MAX_CHUNK, MIN_FILE, shortened};
use crate::log::Level;
use crate::lua::{ClientGone, Interrupt, Outcome, Output};
use crate::os::fork;

/// The sender of the application's responses and log lines.
#[derive(Debug)]
pub(super) struct ResponseSender {
    link: Rc<GatewayLink>,
}

impl ResponseSender {
    pub(super) fn new(link: Rc<GatewayLink>) -> Self {
        Self { link }
    }
}

impl Output for ResponseSender {
    fn head(&mut self, head: &[u8]) -> Result<(), ClientGone> {
        // A fork ends before more of the application's code runs; the link would notice it only later.
        fork::end_if_forked();
        self.link.add(&FromWorker::Head { block: head }).map_err(|_| ClientGone)
    }

    fn body(&mut self, bytes: &[u8]) -> Result<(), ClientGone> {
        for (index, bytes) in bytes.chunks(MAX_CHUNK).enumerate() {
            if index > 0 {
                self.flush()?;
            }
            self.link.add(&FromWorker::Body { bytes }).map_err(|_| ClientGone)?;
        }
        Ok(())
    }

    fn takes_file(&self, length: u64) -> bool {
        length >= MIN_FILE && self.link.takes_file() && !fork::is_forked()
    }

    fn file(&mut self, file: OwnedFd, offset: u64, length: u64) -> Result<(), ClientGone> {
        self.link.add_file(file, offset, length).map_err(|_| ClientGone)
    }

    fn flush(&mut self) -> Result<(), ClientGone> {
        fork::end_if_forked();
        self.link.flush().map_err(|_| ClientGone)?;
        self.link.check_orders()
    }

    fn wait(&mut self, time: Duration) -> Result<(), ClientGone> {
        self.flush()?;
        self.link.wait(time).map_err(|_| ClientGone)?;
        self.link.check_orders()
    }

    fn log(&mut self, level: Level, message: &[u8], fields: &str) {
        self.link.log(level.into(), message, fields);
    }

    fn stack(&mut self, interrupt: Interrupt, text: &[u8]) {
        let (timeout, text) = (interrupt == Interrupt::Timeout, &*shortened(text));
        // Without a gateway there is no log either.
        let _ = self.link.send(&FromWorker::Stack { timeout, text });
    }

    fn before_program(&mut self) {
        self.link.leave_batch();
    }

    fn exit(&mut self, outcome: Option<Outcome>, code: i32) -> ! {
        if let Some(outcome) = outcome {
            self.link.end(outcome == Outcome::Complete);
        }
        // The error is ignored: without a gateway the response has no reader.
        let _ = self.link.flush();
        std::process::exit(code)
    }
}
