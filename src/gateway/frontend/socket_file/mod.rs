//! The file of a Unix socket: made here, watched while the gateway runs, removed at the end.
//!
//! The socket begins in a directory that only this user can enter (`staging`), gets its mode and owner there (`permissions`), listens,
//! and is then renamed into its place (`making`): no other user can exchange it meanwhile, and nobody finds a socket that is not
//! ready. Only the socket of a server that is gone is replaced (`occupant`). Two gateways that start at the same moment look and replace
//! one after the other, under a lock.

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
