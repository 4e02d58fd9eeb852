//! FastCGI 1.0, sans-I/O: bytes in, events out. Std only; no socket, no clock, no thread.
//!
//! | layer | does |
//! | --- | --- |
//! | [`record`] | headers; beside it reader and write: padding, a byte stream cut into records, a stream split into records |
//! | [`params`] | name-value pairs, bounded, in pieces of any size |
//! | [`Server`] | the state of one connection: which records make sense when |
//! | [`client`] | the other end: requests for `nibiru dev`, `nibiru request`, tests and benchmarks |
//!
//! "Need more bytes" is a value. A mistake of the peer in one request is a [`Refusal`], which is answered; a mistake
//! that leaves the connection without sense is a [`Fault`], which ends it. Neither is a panic.
//!
//! ```
//! use nibiru::fastcgi::{AfterEnd, Event, Limits, ProtocolStatus, Role, Server, client};
//!
//! let mut request = Vec::new();
//! client::begin(1, Role::Responder, false, &mut request);
//! client::params(1, [(&b"REQUEST_METHOD"[..], &b"GET"[..])], &mut request);
//! client::stdin_end(1, &mut request);
//!
//! let (mut server, mut input, mut out) = (Server::new(Limits::default()), &request[..], Vec::new());
//! while let Some(event) = server.receive(&mut input, &mut out)? {
//!     match event {
//!         Event::Params { variables, .. } => assert_eq!(variables.get(b"REQUEST_METHOD"), Some(&b"GET"[..])),
//!         Event::StdinEnd { id } => {
//!             server.stdout(id, b"Content-Type: text/plain\r\n\r\nhello", &mut out);
//!             let after = server.end(id, 0, ProtocolStatus::RequestComplete, &mut out);
//!             assert_eq!(after, AfterEnd::Close);
//!         }
//!         _ => {}
//!     }
//! }
//!
//! let (mut decoder, mut input) = (client::Decoder::new(), &out[..]);
//! let reply = decoder.receive(&mut input)?;
//! assert!(matches!(reply, Some(client::Reply::Stdout { id: 1, bytes }) if bytes.ends_with(b"hello")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Not supported, and why
//!
//! - Versions other than 1: none was ever published.
//! - STDIN before the end of PARAMS: no client is known to send it, and until CONTENT_LENGTH is known a
//!   body has no bound. Such a request is refused with 400.
//! - CANT_MPX_CONN: requests share a connection. One more than [`Limits::max_requests`] is
//!   answered with 503.
//! - Management records from the server unasked: nginx gives up a connection on which it did not expect bytes.
//! - Waiting for an answer to be read: the caller bounds its output, since it alone knows the socket.

pub mod client;
mod event;
mod fault;
mod limits;
mod other_protocol;
pub mod params;
mod reader;
pub mod record;
mod refusal;
mod request;
mod role;
mod server;
mod status;
#[cfg(test)]
mod tests;
mod write;

pub use event::{AfterEnd, Event};
pub use fault::Fault;
pub use limits::{Limits, MAX_IGNORED, MAX_PAIRS, MAX_PARAMS, MAX_REFUSED, MAX_REQUESTS};
pub use other_protocol::OtherProtocol;
pub use reader::whole_records;
pub use refusal::Refusal;
pub use role::Role;
pub use server::Server;
pub use status::ProtocolStatus;
pub use write::{RECORD_PIECES, Records};
