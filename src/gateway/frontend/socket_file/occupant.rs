//! The file at the path of a new socket, and whether the socket may replace it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::gateway::frontend::socket_file::identity::{self, Identity};
use crate::gateway::frontend::socket_file::permissions::{Permissions, by_descriptor};
use crate::os::safe_path::SafePath;

/// The kinds of sockets that a new one may replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replaceable {
    /// The socket of a server that is gone.
    Stale,
    /// Any socket, also that of a server that still listens there.
    Running,
}

/// The identity of the socket that a new one may replace; `None` if no file is at the path. Refuses every other file.
pub(super) fn replaceable(
    place: &SafePath,
    permissions: &Permissions,
    kind: Replaceable,
) -> io::Result<Option<Identity>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let there = match rustix::fs::openat(place.directory(), place.name(), flags, Mode::empty()) {
        Ok(there) => there,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&there)?;
    let occupant =
        Occupant { is_socket: FileType::from_raw_mode(stat.st_mode) == FileType::Socket, owner: stat.st_uid };
    let ours = rustix::process::geteuid().as_raw();
    occupant.may_be_replaced(kind, ours, permissions.user(), || {
        // Connects without waiting, because the backlog of a stuck server may be full.
        match rustix::net::connect(new_socket()?, &SocketAddrUnix::new(&*by_descriptor(&there))?) {
            Err(Errno::CONNREFUSED) => Ok(false),
            Ok(()) | Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    })?;
    Ok(Some(identity::of_stat(&stat)))
}

/// The file at the path of a new socket.
#[derive(Clone, Copy, Debug)]
struct Occupant {
    is_socket: bool,
    /// The file's user.
    owner: u32,
}

impl Occupant {
    /// Decides whether a socket of user `ours` may replace the file. `configured` is the user of `--socket-owner`. `listens` checks
    /// whether a server listens at the file, and is called only if that matters.
    fn may_be_replaced(
        self,
        kind: Replaceable,
        ours: u32,
        configured: Option<u32>,
        listens: impl FnOnce() -> io::Result<bool>,
    ) -> io::Result<()> {
        if !self.is_socket {
            return Err(io::Error::other("the path exists and is not a socket"));
        }
        if kind == Replaceable::Running {
            return Ok(());
        }
        if listens()? {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server is listening there"));
        }
        if self.owner != ours && Some(self.owner) != configured {
            return Err(io::Error::other(format!(
                "nobody listens there, but the socket file belongs to user {}, who is neither this process's ({ours}) nor \
                 that of --socket-owner; remove it if nobody needs it",
                self.owner
            )));
        }
        Ok(())
    }
}

/// A Unix stream socket without a name, which never blocks.
pub(super) fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_nobody_listens_at_and_that_is_ours_is_replaced() {
        let (socket, file) = (true, false);
        for (is_socket, over, owner, listens, configured, refused) in [
            (socket, Replaceable::Stale, 7, false, None, None),
            (socket, Replaceable::Stale, 8, false, Some(8), None),
            (socket, Replaceable::Stale, 7, true, None, Some("another server is listening there")),
            (socket, Replaceable::Stale, 8, true, None, Some("another server is listening there")),
            (socket, Replaceable::Stale, 8, false, None, Some("belongs to user 8")),
            (socket, Replaceable::Stale, 8, false, Some(9), Some("belongs to user 8")),
            (socket, Replaceable::Running, 8, true, None, None),
            (file, Replaceable::Stale, 7, false, None, Some("not a socket")),
            (file, Replaceable::Running, 7, false, None, Some("not a socket")),
        ] {
            let decided = Occupant { is_socket, owner }.may_be_replaced(over, 7, configured, || Ok(listens));
            match (decided, refused) {
                (Ok(()), None) => {}
                (Err(error), Some(text)) => assert!(error.to_string().contains(text), "{error}"),
                (decided, _) => panic!("{is_socket} {over:?} {owner} {listens}: {decided:?}"),
            }
        }
    }

    #[test]
    fn nobody_is_asked_at_the_place_of_a_server_that_is_to_be_replaced_or_of_a_file() {
        let asked = || -> io::Result<bool> { panic!("asked") };
        assert!(
            Occupant { is_socket: true, owner: 1 }
                .may_be_replaced(Replaceable::Running, 7, None, asked)
                .is_ok()
        );
        assert!(
            Occupant { is_socket: false, owner: 7 }
                .may_be_replaced(Replaceable::Stale, 7, None, asked)
                .is_err()
        );
        let fails =
            Occupant { is_socket: true, owner: 7 }
                .may_be_replaced(Replaceable::Stale, 7, None, || Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(fails.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
