//! The staging directory of a socket file, beside its path. The socket gets its mode and owner there, before any client can reach
//! it.
//!
//! Only this user can enter the directory, so no other user can exchange the socket, whatever the permissions of the directory
//! around it. It exists for a millisecond. Its lock keeps two servers of one user from replacing the same stale socket. Called by
//! `making`. Removes only a socket of its own name.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::os::random;
use crate::os::safe_path::SafePath;

/// The longest name that a socket keeps within the directory, in bytes: `/proc/self/fd/NUMBER/` before it has to fit into 107
/// bytes as well.
const MAX_NAME: usize = 80;

/// Most attempts to open and lock the directory. An attempt fails if another server removes the directory in between.
const TRIES: u32 = 8;

/// Whether the directory is shared with other servers of this user, under a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Shared. Fails with [`io::ErrorKind::WouldBlock`] while another server has the lock.
    Locked,
    /// Not shared: the directory has a random name.
    Alone,
}

/// The directory. Its drop removes it, with the socket in it if that has not been moved.
#[derive(Debug)]
pub(crate) struct Staging {
    target: SafePath,
    name: String,
    directory: OwnedFd,
    socket: OsString,
}

impl Staging {
    /// Creates the directory beside `target`.
    pub(crate) fn beside(target: SafePath, sharing: Sharing) -> io::Result<Self> {
        let user = rustix::process::geteuid().as_raw();
        let (mut name, mut sharing) = (format!(".nibiru-{user}"), sharing);
        for _ in 0..TRIES {
            if sharing == Sharing::Alone {
                name = random_name()?;
            }
            let directory = match open(&target, &name) {
                Ok(Some(directory)) => directory,
                // Any user that may write here can have created it, and must not keep this server out.
                Ok(None) => {
                    sharing = Sharing::Alone;
                    continue;
                }
                // Its last owner has just removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                // A file system without locks has no servers that know each other.
                Ok(()) | Err(Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK) => {}
                Err(error) => return Err(error.into()),
            }
            // Its last owner may have removed it after it was opened here.
            let same = rustix::fs::statat(target.directory(), &*name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(
                |there| rustix::fs::fstat(&directory).is_ok_and(|opened| is_same(&there, &opened)),
            );
            if same {
                let socket = target.name().to_owned();
                let socket = if socket.len() > MAX_NAME { "socket".into() } else { socket };
                let staging = Self { target, name, directory, socket };
                // Left by a server that was killed at this very point.
                staging.remove_socket();
                return Ok(staging);
            }
        }
        Err(io::Error::other("another process renames what is made in the directory"))
    }

    /// The path of the finished file.
    pub(crate) fn target(&self) -> &SafePath {
        &self.target
    }

    /// The name of the socket within the directory.
    pub(crate) fn socket(&self) -> &OsString {
        &self.socket
    }

    /// A path of the socket that no rename redirects, and that is short even for a long target path.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd())).join(&self.socket)
    }

    fn remove_socket(&self) {
        let found = rustix::fs::statat(&self.directory, &self.socket, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket) {
            // A file that cannot be removed fails the next bind, which reports it.
            let _ = rustix::fs::unlinkat(&self.directory, &self.socket, AtFlags::empty());
        }
    }
}

impl AsFd for Staging {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.remove_socket();
        // Removes only an empty directory, while the lock is still held.
        let _ = rustix::fs::unlinkat(self.target.directory(), &self.name, AtFlags::REMOVEDIR);
    }
}

/// Opens the directory, or creates it. `None` if others than this user may enter it.
fn open(target: &SafePath, name: &str) -> io::Result<Option<OwnedFd>> {
    match rustix::fs::mkdirat(target.directory(), name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(target.directory(), name, flags, Mode::empty()) {
        Ok(directory) => {
            let stat = rustix::fs::fstat(&directory)?;
            let ours = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o077 == 0;
            Ok(ours.then_some(directory))
        }
        Err(Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn random_name() -> io::Result<String> {
    Ok(format!(".nibiru-{:016x}", u64::from_ne_bytes(random::bytes()?)))
}

fn is_same(one: &rustix::fs::Stat, other: &rustix::fs::Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}
