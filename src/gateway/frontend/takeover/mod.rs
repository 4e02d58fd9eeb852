//! The take-over: a running gateway passes its listening sockets to a new one, so that the program is replaced without a refused
//! connection.
//!
//! `protocol` decides for both sides, without I/O. `old_gateway` and `new_gateway` drive it over the control socket.

mod addresses;
mod line;
mod new_gateway;
mod old_gateway;
mod protocol;

pub(crate) use addresses::{is_among, names};
pub(crate) use new_gateway::{RunningGateway, addresses_of};
pub(crate) use old_gateway::serve;
