//! The file of a Unix socket: made here, watched while the gateway runs, removed at the end.
//!
//! Removes only the socket of a server that is gone. Two gateways that start at the same moment look, remove
//! and bind one after the other, under a lock on the directory.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tracing::warn;

use super::sockets::BACKLOG;
use crate::config::{Config, SocketMode, SocketOwner};

/// How long a start waits for another one that makes a socket in the same directory, which takes a millisecond. Then it
/// goes on without the lock: whoever can read a directory can lock it, and must not be able to keep us out.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// How socket files are made.
#[derive(Clone, Debug)]
pub(super) struct Permissions {
    mode: SocketMode,
    owner: Option<SocketOwner>,
}

impl Permissions {
    pub(super) fn of(config: &Config) -> Self {
        Self { mode: config.socket_mode, owner: config.socket_owner.clone() }
    }

    /// For this user alone.
    pub(super) fn private() -> Self {
        Self { mode: SocketMode(0o600), owner: None }
    }
}

/// A socket file, known by device and inode, so that a successor's is never removed. The kernel does not give the
/// inode to another file while the socket is open, and it is: whoever has this has the socket.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    permissions: Permissions,
    identity: Identity,
    /// Whether the file is to be there after us.
    released: bool,
}

/// Device and inode.
type Identity = (u64, u64);

/// What is at the path of a socket file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The file that we made.
    Ours,
    /// Nothing.
    Nothing,
    /// Something that others put there.
    Other(Identity),
    /// Nobody can tell.
    Unknown(String),
}

impl SocketFile {
    /// Makes a socket at `path` that listens. `patient`: waits for others that are about to.
    pub(super) fn bind(path: &Path, permissions: &Permissions, patient: bool) -> io::Result<(OwnedFd, Self)> {
        let address = address_of(path)?;
        let _lock = lock_directory(path, if patient { LOCK_PATIENCE } else { Duration::ZERO })?;
        remove_stale(path, permissions)?;
        let (socket, file) = Self::make(path, &address, permissions)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok((socket, file))
    }

    /// Makes the file of a socket that does not listen yet, so that nobody connects under other permissions. `address`
    /// leads to `path`.
    fn make(path: &Path, address: &SocketAddrUnix, permissions: &Permissions) -> io::Result<(OwnedFd, Self)> {
        let socket = new_socket()?;
        rustix::net::bind(&socket, address)?;
        let data = std::fs::symlink_metadata(path)?;
        let file = Self {
            path: path.to_owned(),
            permissions: permissions.clone(),
            identity: identity(&data),
            released: false,
        };
        std::fs::set_permissions(path, PermissionsExt::from_mode(permissions.mode.0))?;
        if let Some(owner) = &permissions.owner {
            chown(path, owner.user, owner.group)?;
        }
        Ok((socket, file))
    }

    /// Whether [`Self::bind`] would succeed. Touches nothing that is at `path`: a socket is made in its directory, under a
    /// name that nobody knows, and removed at once.
    pub(super) fn try_out(path: &Path, permissions: &Permissions) -> io::Result<()> {
        address_of(path)?;
        let _lock = lock_directory(path, LOCK_PATIENCE)?;
        find_stale(path, permissions)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory_of(path), flags, Mode::empty())?;
        // Through the descriptor, since the name beside it may be longer than that of the socket may be.
        let name = format!("/proc/self/fd/{}/.nibiru-check-{}", directory.as_raw_fd(), std::process::id());
        Self::make(Path::new(&name), &address_of(Path::new(&name))?, permissions).map(drop)
    }

    /// The file of a socket that another process has made and handed over. That process's, until [`Self::keep`].
    pub(super) fn known(path: &Path, permissions: &Permissions) -> Self {
        // Where the file is gone it is not this one, and the next look makes it anew.
        let identity = std::fs::symlink_metadata(path).map_or((0, 0), |data| identity(&data));
        Self { path: path.to_owned(), permissions: permissions.clone(), identity, released: true }
    }

    /// [`Self::bind`], in the place of a server that still listens there: whoever connects reaches one of the two.
    pub(super) fn bind_over(path: &Path, permissions: &Permissions) -> io::Result<(OwnedFd, Self)> {
        let mut aside = path.to_owned().into_os_string();
        aside.push(".new");
        let (socket, mut file) = Self::bind(Path::new(&aside), permissions, true)?;
        std::fs::rename(&aside, path)?;
        file.path = path.to_owned();
        Ok((socket, file))
    }

    /// Makes the file anew where it was removed, with another socket, under the same name and permissions.
    pub(super) fn bind_again(&self) -> io::Result<(OwnedFd, Self)> {
        Self::bind(&self.path, &self.permissions, false)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is at the path now.
    pub(super) fn look(&self) -> Found {
        match std::fs::symlink_metadata(&self.path) {
            Ok(data) if identity(&data) == self.identity => Found::Ours,
            Ok(data) => Found::Other(identity(&data)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(error) => Found::Unknown(crate::log::cause(&error)),
        }
    }

    /// The file is ours from now on, whoever made it.
    pub(super) fn keep(&mut self) {
        self.released = false;
    }

    /// Leaves the file to whoever has the socket after us.
    pub(super) fn release(&mut self) {
        self.released = true;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.released && self.look() == Found::Ours {
            // Gone already is as good.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(data: &std::fs::Metadata) -> Identity {
    (data.dev(), data.ino())
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn address_of(path: &Path) -> io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(path)
        .map_err(|_| io::Error::other("the path is too long for a Unix socket (at most 107 bytes)"))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str() != OsStr::new("") => parent,
        _ => Path::new("."),
    }
}

/// Locks the directory of `path` until what this gives is dropped. The lock is the directory's own (`flock`), so no
/// lock file is left behind. `None` where it cannot be locked at all: unreadable, or a file system without locks.
fn lock_directory(path: &Path, patience: Duration) -> io::Result<Option<OwnedFd>> {
    let directory = directory_of(path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(opened) => opened,
        Err(Errno::NOENT) => {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("the directory {} does not exist", directory.display()),
            ));
        }
        Err(_) => return Ok(None),
    };
    let deadline = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(opened)),
            Err(Errno::WOULDBLOCK) if patience.is_zero() => return Err(Errno::WOULDBLOCK.into()),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
            Err(Errno::WOULDBLOCK) => {
                warn!(path = %directory.display(), "another process keeps the directory locked; going on");
                return Ok(None);
            }
            Err(_) => return Ok(None),
        }
    }
}

/// Removes the socket of a server that is gone; refuses everything else that is at `path`.
fn remove_stale(path: &Path, permissions: &Permissions) -> io::Result<()> {
    let Some(stale) = find_stale(path, permissions)? else { return Ok(()) };
    // Other programs do not know the lock; whoever made a socket there meanwhile keeps it.
    if std::fs::symlink_metadata(path).is_ok_and(|now| identity(&now) != stale) {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody else makes a socket there"));
    }
    std::fs::remove_file(path)
}

/// The socket of a server that is gone, which another may take the place of; refuses everything else that is at `path`.
fn find_stale(path: &Path, permissions: &Permissions) -> io::Result<Option<Identity>> {
    let data = match std::fs::symlink_metadata(path) {
        Ok(data) => data,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !data.file_type().is_socket() {
        return Err(io::Error::other("the path exists and is not a socket"));
    }
    // Connects without waiting: the socket of a server that is stuck may have no place left.
    match rustix::net::connect(new_socket()?, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => {}
        Ok(()) | Err(Errno::WOULDBLOCK) => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server is listening there"));
        }
        Err(error) => return Err(error.into()),
    }
    let ours = rustix::process::geteuid().as_raw();
    let configured = permissions.owner.as_ref().and_then(|owner| owner.user);
    if data.uid() != ours && Some(data.uid()) != configured {
        return Err(io::Error::other(format!(
            "nobody listens there, but the socket file belongs to user {}, who is neither this process's ({ours}) nor \
             that of --socket-owner; remove it if nobody needs it",
            data.uid()
        )));
    }
    Ok(Some(identity(&data)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn permissions() -> Permissions {
        Permissions { mode: SocketMode(0o600), owner: None }
    }

    #[test]
    fn only_the_socket_of_a_server_that_is_gone_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let remove_stale = |path: &Path| remove_stale(path, &permissions());
        remove_stale(&path).unwrap();

        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(remove_stale(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(path.exists());
        remove_stale(&path).unwrap();
        assert!(!path.exists());

        std::fs::write(&path, "precious").unwrap();
        assert!(remove_stale(&path).unwrap_err().to_string().contains("not a socket"));
        assert!(path.exists());
    }

    #[test]
    fn a_server_that_accepts_nobody_is_still_a_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let (socket, _file) = SocketFile::bind(&path, &permissions(), true).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = new_socket().unwrap();
            if rustix::net::connect(&client, &SocketAddrUnix::new(&path).unwrap()).is_err() {
                break;
            }
            waiting.push(client);
        }
        assert_eq!(remove_stale(&path, &permissions()).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_socket_of_another_user_is_left_alone() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        chown(&path, Some(12_345), None).unwrap();
        let refused = remove_stale(&path, &permissions()).unwrap_err().to_string();
        assert!(refused.contains("belongs to user 12345"), "{refused}");
        let owner = Some(SocketOwner { user: Some(12_345), group: None });
        remove_stale(&path, &Permissions { owner, ..permissions() }).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_not_ours_any_more_is_left_to_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let (_socket, file) = SocketFile::bind(&path, &permissions(), true).unwrap();
        assert_eq!(file.look(), Found::Ours);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.look(), Found::Nothing);
        std::fs::write(&path, "another's").unwrap();
        assert!(matches!(file.look(), Found::Other(_)));
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn whoever_keeps_the_directory_locked_keeps_nobody_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let _held = lock_directory(&path, Duration::ZERO).unwrap().unwrap();
        assert_eq!(lock_directory(&path, Duration::ZERO).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        SocketFile::bind(&path, &permissions(), true).unwrap();
    }
}
