//! The file of a Unix socket: created at the start, watched while the gateway runs, removed at the end.
//!
//! The socket is created in a directory that only this user can enter (`staging`), gets its mode and owner there (`permissions`),
//! listens, and is then renamed to its path (`making`). So no other user can exchange it meanwhile, and no client finds a socket
//! that is not ready. Only the socket of a server that is gone is replaced (`occupant`). Gateways that start at the same time
//! check and replace in turn, under a lock.

mod file;
mod identity;
mod making;
mod occupant;
mod path_state;
mod permissions;
mod staging;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use file::SocketFile;
pub(crate) use making::{UnpublishedSocket, bind, bind_again, prepare_over, try_out};
pub(crate) use permissions::Permissions;
pub(crate) use watch::{RemakeResult, Report, SocketWatch, Step};
