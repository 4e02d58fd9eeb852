//! One client's connection without its socket: bytes in, complete requests out; responses in, bytes out.
//!
//! The driver ([`crate::gateway::frontend::connection`]) passes the bytes it reads to [`Connection::receive`], handles the events of
//! [`Connection::poll_event`], writes [`Connection::transmit`], and calls [`Connection::handle_timeout`] at
//! [`Connection::next_timeout`]. `state` has the fields, `input` handles bytes from the client, `output` bytes to the client,
//! `body_files` bodies in files of the proxy's, `files` and `transfers` files to the client, and `timers` the timeouts of client and disk.

mod backpressure;
mod body_files;
mod event;
mod files;
mod input;
mod output;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod timers;
mod transfers;

pub(crate) use self::event::{Close, Event, Policy, Timeouts};
pub(crate) use self::output::{Socket, StreamSink, WRITTEN_THROUGH};
pub(crate) use self::state::{Connection, READ_SIZE};
pub(crate) use self::stream::{Assignment, IncomingRequest, Source, StreamKey};
pub(crate) use self::transfers::{FileTurn, OpenFile, TurnEnd};
