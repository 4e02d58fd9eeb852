//! The output of an application: the interface through which a Lua state speaks to its worker.

use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::log::Level;

/// The end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response is whole, be it the application's or a `500`.
    Complete,
    /// The request failed after its head went out: the transport must break, so that the client misses the rest.
    Broken,
    /// The output said that the client went away.
    Aborted,
}

/// The log of an application that loads, while there is no [`Output`] yet: level, message and fields, as [`Output::log`].
pub type LoadingLog = Box<dyn Fn(Level, &[u8], &str)>;

/// The task of an interrupted request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Tell the stack and go on.
    Trace,
    /// Tell the stack and fail.
    Timeout,
}

/// The client went away: nothing sent from now on has a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientGone;

/// The receiver of an application's response while it serves a request, and of its log lines at any time.
pub trait Output {
    /// A whole, checked CGI head: `Status: 200 OK\r\nName: value\r\n\r\n`. At most once per request.
    ///
    /// # Errors
    /// [`ClientGone`] ends the request as [`Outcome::Aborted`]; so it does in the other methods.
    fn head(&mut self, head: &[u8]) -> Result<(), ClientGone>;

    /// The next bytes of the body, never empty; may be kept back until [`Output::flush`] or the end.
    ///
    /// # Errors
    /// See [`Output::head`].
    fn body(&mut self, bytes: &[u8]) -> Result<(), ClientGone>;

    /// Whether [`Output::file`] takes a file of so many bytes now.
    fn takes_file(&self, length: u64) -> bool;

    /// The rest of the body: `length` bytes of a regular file from `offset` on. Nothing but the end of the response may follow.
    ///
    /// # Errors
    /// See [`Output::head`].
    fn file(&mut self, file: OwnedFd, offset: u64, length: u64) -> Result<(), ClientGone>;

    /// Sends the bytes that were kept back.
    ///
    /// # Errors
    /// See [`Output::head`].
    fn flush(&mut self) -> Result<(), ClientGone>;

    /// Waits while a request runs: for this time, or until a signal comes or the client goes away.
    ///
    /// # Errors
    /// The client has gone.
    fn wait(&mut self, time: Duration) -> Result<(), ClientGone>;

    /// A message, without a line end of its own; a traceback has several lines. `fields` are JSON
    /// ([`crate::log::fields`]), or empty.
    fn log(&mut self, level: Level, message: &[u8], fields: &str);

    /// The stack of an interrupted request, led by the error for a timeout. Empty where no memory was left to describe it.
    fn stack(&mut self, interrupt: Interrupt, text: &[u8]);

    /// The application is about to start a program, by `os.execute` or `io.popen`. Puts back what the program must not inherit.
    fn before_program(&mut self);

    /// The application called `os.exit(code)`. The request that was running has been answered and
    /// closed, and ended as `outcome` says; it is `None` between requests and once
    /// [`State::serve`](super::State::serve) has returned. Must send buffered bytes and end the process, because
    /// `os.exit` never returns into the application.
    fn exit(&mut self, outcome: Option<Outcome>, code: i32) -> !;
}
