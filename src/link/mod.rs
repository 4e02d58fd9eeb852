//! The links between the processes: their messages, and the sockets that carry them.
//!
//! The gateway on one side, the zygote and the workers on the other, meet here and nowhere else.

pub mod discovery;
pub mod interrupt;
pub mod lane;
pub mod launch;
pub mod message;
pub mod socket;
pub mod status;

pub use socket::Link;
