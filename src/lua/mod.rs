//! The Lua bridge: one Lua state that holds an application, and what a worker says to it.
//!
//! The only user of mlua. The worker calls [`State`] in the order of its methods; the application's
//! answers come back through the worker's [`Output`]. PEP 3333's rules are Lua (`lua/nibiru/`): this
//! side loads that code, builds `environ`, keeps the request's body and carries bytes. Never opens a
//! socket, never forks.

mod body;
#[cfg(not(feature = "luajit"))]
mod coroutine;
mod environ;
mod error;
mod host;
mod interrupt;
mod missing;
mod paths;
mod state;
mod target;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use crate::cgi::{ProxyHeaders, Variables};

pub use error::{Error, LoadError};
pub use interrupt::interrupt;
pub use state::State;
pub use target::Target;

/// What a state needs to know before it exists.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The application's root, absolute; the caller has already made it the working directory.
    pub root: PathBuf,
    /// Where the application is.
    pub target: Target,
    /// Which generation of the code this is, counted from 1.
    pub generation: u32,
    /// What the application may tell the proxy.
    pub proxy_headers: ProxyHeaders,
}

/// One complete request.
#[derive(Debug)]
pub struct Request<'a> {
    /// Its number, which [`interrupt`] names.
    pub serial: u32,
    /// Becomes `nibiru.request_id`.
    pub id: &'a [u8],
    /// Checked by the gateway; copied into `environ` as they are.
    pub variables: &'a Variables,
    /// What `wsgi.input` reads.
    pub body: Body,
    /// What the application is to do with it.
    pub role: Role,
}

/// `nibiru.role`.
#[derive(Debug)]
pub enum Role {
    /// Answer the request.
    Responder,
    /// Say whether it may go on.
    Authorizer,
    /// Answer it with a changed version of some data.
    Filter {
        /// What `nibiru.filter_data` reads.
        data: Body,
    },
}

/// A body of a request, complete.
#[derive(Debug)]
pub enum Body {
    /// Small enough to travel with the request.
    Memory(Vec<u8>),
    /// Spooled to a file that has no name any more.
    File {
        /// Read by position, so its cursor does not matter.
        file: File,
        /// In bytes; what the file holds beyond is not the body.
        length: u64,
    },
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response is whole, be it the application's or a `500`.
    Complete,
    /// It failed after its head went out: the transport must break, so that the rest is missed.
    Broken,
    /// The output said that the client went away.
    Aborted,
}

/// Where a log line ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For whoever works on the application.
    Debug,
    /// Ordinary news.
    Info,
    /// Something to look at.
    Warn,
    /// Something failed; `wsgi.errors` too.
    Error,
}

/// Takes log lines while the application loads, when there is no [`Output`] yet: level, message and fields, as
/// [`Output::log`].
pub type LoadingLog = Box<dyn Fn(Level, &[u8], &str)>;

/// What an interrupted request is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Tell its stack and go on.
    Trace,
    /// Tell its stack and fail.
    Timeout,
}

/// The client went away; nothing sent from now on has a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// Takes what the application produces while it serves a request, and its log lines at any time.
pub trait Output {
    /// A whole, checked CGI head: `Status: 200 OK\r\nName: value\r\n\r\n`. At most once per request.
    ///
    /// # Errors
    /// [`Gone`] ends the request as [`Outcome::Aborted`]; so it does in the other methods.
    fn head(&mut self, head: &[u8]) -> Result<(), Gone>;

    /// The next bytes of the body, never empty; may be kept back until [`Output::flush`] or the end.
    ///
    /// # Errors
    /// See [`Output::head`].
    fn body(&mut self, bytes: &[u8]) -> Result<(), Gone>;

    /// What was kept back must leave now.
    ///
    /// # Errors
    /// See [`Output::head`].
    fn flush(&mut self) -> Result<(), Gone>;

    /// Waits for so long, or until a signal comes or the client goes away, while a request runs.
    ///
    /// # Errors
    /// The client has gone.
    fn wait(&mut self, time: Duration) -> Result<(), Gone>;

    /// A message, without a line end of its own; a traceback has several lines. `fields` are JSON
    /// ([`crate::log::fields`]), or empty.
    fn log(&mut self, level: Level, message: &[u8], fields: &str);

    /// What an interrupted request was doing: the error, for a timeout, and its stack. Empty where there was no
    /// memory to say it.
    fn stack(&mut self, interrupt: Interrupt, text: &[u8]);

    /// The application called `os.exit(code)`. The request that was running has been answered and
    /// closed, and ended as `outcome` says; it is `None` between requests and once
    /// [`State::serve`] has returned. Must send what it keeps back and end the process: to return
    /// into the application is what `os.exit` never does.
    fn exit(&mut self, outcome: Option<Outcome>, code: i32) -> !;
}
