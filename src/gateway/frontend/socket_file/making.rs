//! Creates socket files: prepares the socket in a directory beside its path, then moves it there.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use tracing::warn;

use crate::gateway::frontend::socket_file::file::SocketFile;
use crate::gateway::frontend::socket_file::identity;
use crate::gateway::frontend::socket_file::occupant::{Replaceable, new_socket, replaceable};
use crate::gateway::frontend::socket_file::permissions::Permissions;
use crate::gateway::frontend::socket_file::staging::{Sharing, Staging};
use crate::gateway::frontend::sockets::BACKLOG;
use crate::os::safe_path::SafePath;

/// Longest wait of a start for another server that is creating a socket in the same directory, which takes a millisecond. Then the
/// start goes on without the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// A listening socket that has no public path yet.
#[derive(Debug)]
pub(crate) struct UnpublishedSocket {
    socket: OwnedFd,
    file: SocketFile,
    replaces: Replaceable,
    staging: Staging,
}

/// Creates a listening socket at `path`. Waits for other servers that are creating one in the same directory.
pub(crate) async fn bind(path: &Path, permissions: &Permissions) -> io::Result<(OwnedFd, SocketFile)> {
    UnpublishedSocket::patiently(path, permissions, Replaceable::Stale).await?.publish()
}

/// Whether [`bind`] would succeed. Leaves a file at `path` unchanged.
pub(crate) async fn try_out(path: &Path, permissions: &Permissions) -> io::Result<()> {
    UnpublishedSocket::patiently(path, permissions, Replaceable::Stale).await.map(drop)
}

/// Creates a socket to replace that of a server that still listens at `path`. A client that connects reaches one of the two.
pub(crate) async fn prepare_over(path: &Path, permissions: &Permissions) -> io::Result<UnpublishedSocket> {
    UnpublishedSocket::patiently(path, permissions, Replaceable::Running).await
}

/// Recreates a removed file, with another socket, under the same name and permissions. Fails with [`io::ErrorKind::WouldBlock`]
/// while another server is creating a socket in the directory.
pub(crate) fn bind_again(removed: &SocketFile) -> io::Result<(OwnedFd, SocketFile)> {
    UnpublishedSocket::new(removed.path(), removed.permissions(), Replaceable::Stale, Sharing::Locked)?
        .publish()
}

impl UnpublishedSocket {
    async fn patiently(path: &Path, permissions: &Permissions, kind: Replaceable) -> io::Result<Self> {
        let polls = LOCK_PATIENCE.as_millis() / LOCK_POLL.as_millis();
        for _ in 0..polls {
            match Self::new(path, permissions, kind, Sharing::Locked) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
        warn!(path = %path.display(), "another server has been making a socket there for long; going on");
        Self::new(path, permissions, kind, Sharing::Alone)
    }

    pub(super) fn new(
        path: &Path,
        permissions: &Permissions,
        kind: Replaceable,
        sharing: Sharing,
    ) -> io::Result<Self> {
        check_length(path)?;
        let target = SafePath::of(path)?;
        // First, because its error is more precise than those of the next steps.
        replaceable(&target, permissions, kind)?;
        let staging = Staging::beside(target, sharing).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => error,
            kind => {
                let cause = crate::log::cause(&error);
                io::Error::new(
                    kind,
                    format!("no directory can be made beside it, where sockets begin: {cause}"),
                )
            }
        })?;
        let socket = new_socket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&*staging.path())?).map_err(|error| match error {
            Errno::NOENT => io::Error::other("/proc is not mounted, through which sockets are made"),
            error => error.into(),
        })?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&staging, staging.socket(), flags, Mode::empty())?;
        permissions.apply(&made)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let identity = identity::of_stat(&rustix::fs::fstat(&made)?);
        Ok(Self { socket, file: SocketFile::staged(path, permissions, identity), replaces: kind, staging })
    }

    /// Moves the socket to its path.
    pub(crate) fn publish(mut self) -> io::Result<(OwnedFd, SocketFile)> {
        let (staging, target) = (&self.staging, self.staging.target());
        let somebody_else = || io::Error::new(io::ErrorKind::AddrInUse, "somebody else makes a socket there");
        let (from, to) = (staging.socket(), target.name());
        match replaceable(target, self.file.permissions(), self.replaces)? {
            // Other programs ignore the lock. A socket that one of them has created there meanwhile stays.
            Some(old) if identity::at(target).is_ok_and(|now| now == old) => {
                rustix::fs::renameat(staging, from, target.directory(), to)?;
            }
            Some(_) => return Err(somebody_else()),
            None => {
                let moved =
                    rustix::fs::renameat_with(staging, from, target.directory(), to, RenameFlags::NOREPLACE);
                match moved {
                    Ok(()) => {}
                    // A file system that does not support the flag (NFS). A link replaces nothing either.
                    Err(Errno::INVAL) => {
                        rustix::fs::linkat(staging, from, target.directory(), to, AtFlags::empty())?;
                    }
                    Err(Errno::EXIST) => return Err(somebody_else()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.file.keep();
        Ok((self.socket, self.file))
    }
}

/// Refuses a path that is too long for a client to connect to.
fn check_length(path: &Path) -> io::Result<()> {
    let too_long = |_| io::Error::other("the path is too long for a Unix socket (at most 107 bytes)");
    SocketAddrUnix::new(path).map(drop).map_err(too_long)
}
