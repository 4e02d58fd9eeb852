//! One client's connection without its socket: bytes in, complete requests out; responses in, bytes out.
//!
//! The driver ([`crate::gateway::frontend::connection`]) hands over what it has read ([`Connection::receive`]), does what
//! [`Connection::poll_event`] says, writes [`Connection::transmit`], and calls [`Connection::handle_timeout`] at
//! [`Connection::next_timeout`]. `state` holds everything; `input` decides what bytes mean,
//! `output` what goes to the client, `timers` when a client or a disk has had its time.

mod backpressure;
mod event;
mod input;
mod output;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod timers;

pub(crate) use self::event::{Close, Event, Policy, Timeouts};
pub(crate) use self::output::StreamSink;
pub(crate) use self::state::{Connection, READ_SIZE};
pub(crate) use self::stream::{Assignment, IncomingRequest, Source, StreamKey};
