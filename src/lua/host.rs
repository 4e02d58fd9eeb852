//! The host of nibiru's Lua side: sends bytes, logs, keeps the request's bodies, ends the process.
//!
//! Shared by the state and by the [`functions`](super::functions) that Lua calls.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;

use super::body::{Body, Reader};
use super::output::{ClientGone, Interrupt, LoadingLog, Outcome, Output};
use crate::log::{Level, fields};
use crate::os::fork;

/// The exit status of a process whose application does not load.
const EXIT_NOT_LOADED: i32 = 3;

/// Bodies of a request, at most: its own, and a Filter's data.
const MOST_BODIES: u64 = 2;

/// The longest time that the kernel is asked to wait at once, which every kernel accepts. The Lua side asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// The state behind the functions that Lua calls.
///
/// No cell in it is borrowed while Lua may run, and Lua may run at every allocation: the collector may call a finaliser of the
/// application's, which may call any of these functions again.
#[derive(Default)]
pub(super) struct Host {
    /// The output of the worker; `None` in the zygote, and until the worker starts.
    output: RefCell<Option<Box<dyn Output>>>,
    /// The receiver of log lines until then.
    loading_log: RefCell<Option<LoadingLog>>,
    #[cfg(any(feature = "lua54", feature = "lua55"))]
    warnings: RefCell<super::warnings::Warnings>,
    head_sent: Cell<bool>,
    /// The application has loaded code that is not Lua.
    native_code: Cell<bool>,
    /// A request runs whose answer is not over.
    answers: Cell<bool>,
    /// The serial number of the first body in `bodies`. Bodies are counted, so that an input that outlives its request cannot
    /// read the next one's.
    serial: Cell<u64>,
    /// The bodies of the request that is running: its own, and a Filter's data.
    bodies: RefCell<Vec<Rc<Reader>>>,
}

impl Host {
    pub(super) fn attach(&self, output: Box<dyn Output>) {
        *self.output.borrow_mut() = Some(output);
    }

    /// A request begins with these bodies. Gives the serial number of the first; the second's is the next.
    pub(super) fn begin(&self, body: Body, data: Option<Body>) -> u64 {
        self.head_sent.set(false);
        self.answers.set(true);
        let mut bodies = self.bodies.borrow_mut();
        // The request before may have been left without its end.
        bodies.clear();
        self.serial.set(self.serial.get() + MOST_BODIES);
        bodies.extend([Some(body), data].into_iter().flatten().map(|body| Rc::new(Reader::new(body))));
        self.serial.get()
    }

    /// The application has loaded code that is not Lua.
    pub(super) fn note_native_code(&self) {
        self.native_code.set(true);
    }

    pub(super) fn has_native_code(&self) -> bool {
        self.native_code.get()
    }

    /// The answer of the request is over.
    pub(super) fn answered(&self) {
        self.answers.set(false);
    }

    /// Frees the bodies: an input that has outlived its request is closed from now on.
    pub(super) fn end(&self) {
        self.bodies.borrow_mut().clear();
    }

    pub(super) fn head_sent(&self) -> bool {
        self.head_sent.get()
    }

    pub(super) fn send(
        &self,
        head: Option<&[u8]>,
        body: Option<&[u8]>,
        flush: bool,
    ) -> Result<(), ClientGone> {
        let mut output = self.output.borrow_mut();
        let output = output.as_mut().ok_or(ClientGone)?;
        if let Some(head) = head {
            self.head_sent.set(true);
            output.head(head)?;
        }
        if let Some(body) = body {
            output.body(body)?;
        }
        if flush { output.flush() } else { Ok(()) }
    }

    /// Whether the rest of a body of so many bytes can be sent as a file.
    pub(super) fn takes_file(&self, length: u64) -> bool {
        self.output.borrow().as_ref().is_some_and(|output| output.takes_file(length))
    }

    /// Sends the head, if there is one to send, and a part of a file as the rest of the body.
    pub(super) fn send_file(
        &self,
        head: Option<&[u8]>,
        file: OwnedFd,
        offset: u64,
        length: u64,
    ) -> Result<(), ClientGone> {
        self.send(head, None, false)?;
        self.output.borrow_mut().as_mut().ok_or(ClientGone)?.file(file, offset, length)
    }

    /// Waits for a time in seconds, or until a signal comes, whose work is done in Lua code, or the client goes away. Gives the
    /// rest of the time, in seconds, and whether the client is still there: always, outside of a request.
    pub(super) fn sleep(&self, seconds: f64) -> (f64, bool) {
        let began = Instant::now();
        let time = Duration::from_secs_f64(seconds.clamp(0.0, LONGEST_WAIT.as_secs_f64()));
        let here = match self.output.borrow_mut().as_mut() {
            Some(output) if self.answers.get() && !fork::is_forked() => output.wait(time).is_ok(),
            _ => {
                // Not std's, which goes on after a signal.
                let _ = rustix::event::poll(&mut [], Timespec::try_from(time).ok().as_ref());
                true
            }
        };
        (seconds - began.elapsed().as_secs_f64(), here)
    }

    pub(super) fn log_while_loading(&self, log: Option<LoadingLog>) {
        *self.loading_log.borrow_mut() = log;
    }

    /// Logs a line. Dropped while the output is in use, where a warning could come from: that loses the line rather than the
    /// process.
    pub(super) fn log(&self, level: Level, message: &[u8], given: &str) {
        let Ok(mut output) = self.output.try_borrow_mut() else { return };
        // In a process that the application has forked, the links to the gateway are its parent's.
        let forked = fork::is_forked();
        if let Some(output) = output.as_mut().filter(|_| !forked) {
            return output.log(level, message, given);
        }
        if let Some(log) = self.loading_log.borrow().as_ref().filter(|_| !forked) {
            return log(level, message, given);
        }
        let line = fields::after(message, given) + "\n";
        // Standard output and error lead to the log, at a level each. A closed one has no reader to miss the line.
        let _ = match level {
            Level::Debug | Level::Info if forked => io::stdout().write_all(line.as_bytes()),
            _ => io::stderr().write_all(line.as_bytes()),
        };
    }

    /// Takes a piece of a warning, as [`Warnings::add`], and logs the warning with its last piece.
    ///
    /// Dropped while another warning is taken, where a finaliser could warn: that loses the line rather than the process.
    #[cfg(any(feature = "lua54", feature = "lua55"))]
    pub(super) fn warning(&self, piece: &str, more: bool) {
        let whole = self.warnings.try_borrow_mut().ok().and_then(|mut warnings| warnings.add(piece, more));
        if let Some(text) = whole {
            self.log(Level::Warn, text.as_bytes(), "");
        }
    }

    /// Sends the stack of an interrupted request. Called in the middle of Lua code, and never while the output is in use: that
    /// runs no Lua.
    pub(super) fn stack(&self, interrupt: Interrupt, text: &[u8]) {
        if let Ok(mut output) = self.output.try_borrow_mut()
            && let Some(output) = output.as_mut()
        {
            output.stack(interrupt, text);
        }
    }

    /// A program is about to be started. Called from Lua code, and so never while the output is in use.
    pub(super) fn before_program(&self) {
        if let Ok(mut output) = self.output.try_borrow_mut()
            && let Some(output) = output.as_mut()
        {
            output.before_program();
        }
    }

    pub(super) fn exit(&self, outcome: Option<Outcome>, code: i32) -> ! {
        match self.output.borrow_mut().as_mut() {
            // A forked process ends as any program does; its parent's request goes on.
            _ if fork::is_forked() => std::process::exit(code),
            Some(output) => output.exit(outcome, code),
            // While the application is loaded: an application that exits does not load, whatever status it names.
            None => std::process::exit(EXIT_NOT_LOADED),
        }
    }

    /// The body with this serial number, where its request still runs.
    pub(super) fn reader(&self, serial: u64) -> Option<Rc<Reader>> {
        let position = usize::try_from(serial.checked_sub(self.serial.get())?).ok()?;
        self.bodies.borrow().get(position).cloned()
    }
}

/// The outcome that a number of `serve` and `abandon` in `lua/nibiru/core/server.lua` stands for.
pub(super) fn outcome(number: i64) -> Outcome {
    match number {
        0 => Outcome::Complete,
        2 => Outcome::Aborted,
        _ => Outcome::Broken,
    }
}
