//! The lane: memory that the gateway shares with one worker, for small requests and small packets. While both run, neither makes a
//! system call for the other.
//!
//! ```text
//!             gateway                                   worker
//! requests    push ──► [ ring of requests ] ──► claim          one word says which are claimed
//! responses   receive ◄── [ ring of packets ] ◄── send
//! sleep       the word of each that says it sleeps: the other sends a packet on the socket to wake it
//! ```
//!
//! **Claims.** A worker gets more than one request at a time, so that it has its next one when it has answered one. Requests that it
//! has not claimed can be taken back. One word ([`Window`]) holds the number of claimed and of pushed requests, and both sides change
//! it by compare-and-exchange. So each request is claimed or taken back and never both, and where a worker is killed at whatever
//! instruction, the word says which of its requests may have reached Lua.
//!
//! **Order.** What does not fit the lane goes over the socket. Each packet in the lane has the number of packets that were sent over
//! the socket before it, so the gateway receives all of them in the order in which they were sent.
//!
//! **Sleep.** A side that is about to sleep says so and then looks again; the other side writes and then looks whether it is asleep. Both
//! have a fence in between, so at least one of the two sees what the other wrote. A wake-up may come when nothing is left to do, and does
//! no harm then.
//!
//! **Trust.** The worker trusts the gateway. The gateway copies what it reads, checks the copy, and never reads a request back. A
//! worker can harm its own requests alone, since no sibling shares its lane.

mod gateway;
mod layout;
#[cfg(all(test, not(miri)))]
mod orders;
#[cfg(test)]
mod tests;
mod window;
mod word;
mod worker;

pub use gateway::GatewayLane;
pub use layout::{MAX_LANE_PACKET, MAX_LANE_REQUEST, MAX_REQUESTS, WORDS};
pub use worker::WorkerLane;

use thiserror::Error;

/// A value in the lane that an intact worker does not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Corrupt(pub &'static str);
