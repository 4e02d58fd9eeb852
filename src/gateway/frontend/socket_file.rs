//! The file of a Unix socket: made here, watched while the gateway runs, removed at the end.
//!
//! The socket begins in a directory that only this user can enter, gets its mode and owner there, listens, and is then renamed
//! into its place: no other user can exchange it meanwhile, and nobody finds one that is not ready. Replaces only the socket
//! of a server that is gone. Two gateways that start at the same moment look and replace one after the other, under a lock.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tracing::warn;

use crate::config::{Config, SocketMode, SocketOwner};
use crate::gateway::frontend::found::{Found, Identity};
use crate::gateway::frontend::sockets::BACKLOG;
use crate::gateway::frontend::staging::{Sharing, Staging};
use crate::os::safe_path::SafePath;

/// How long a start waits for another one that makes a socket in the same directory, which takes a millisecond. Then it
/// goes on without the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// How socket files are made.
#[derive(Clone, Debug)]
pub(crate) struct Permissions {
    mode: SocketMode,
    owner: Option<SocketOwner>,
}

impl Permissions {
    pub(crate) fn of(config: &Config) -> Self {
        Self { mode: config.socket_mode, owner: config.socket_owner.clone() }
    }

    /// For this user alone.
    pub(crate) fn private() -> Self {
        Self { mode: SocketMode(0o600), owner: None }
    }
}

/// A socket file, known by device and inode, so that a successor's is never removed. The kernel does not give the
/// inode to another file while the socket is open, and it is: whoever has this has the socket.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    permissions: Permissions,
    identity: Identity,
    /// Whether the file is to be there after us.
    released: bool,
}

/// What a new socket may take the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// The socket of a server that is gone.
    Stale,
    /// Any socket: that of a server that still listens there, too.
    Running,
}

/// A socket that listens and that nobody can find yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    socket: OwnedFd,
    file: SocketFile,
    over: Over,
    staging: Staging,
}

impl SocketFile {
    /// Makes a socket at `path` that listens. Waits for other servers that are about to.
    pub(crate) async fn bind(path: &Path, permissions: &Permissions) -> io::Result<(OwnedFd, Self)> {
        Prepared::patiently(path, permissions, Over::Stale).await?.publish()
    }

    /// Whether [`Self::bind`] would succeed. Touches nothing that is at `path`.
    pub(crate) async fn try_out(path: &Path, permissions: &Permissions) -> io::Result<()> {
        Prepared::patiently(path, permissions, Over::Stale).await.map(drop)
    }

    /// Makes a socket that can take the place of that of a server that still listens at `path`: whoever connects reaches one of
    /// the two.
    pub(crate) async fn prepare_over(path: &Path, permissions: &Permissions) -> io::Result<Prepared> {
        Prepared::patiently(path, permissions, Over::Running).await
    }

    /// Makes the file anew where it was removed, with another socket, under the same name and permissions. An error of
    /// [`io::ErrorKind::WouldBlock`] where another server is making a socket in the directory.
    pub(crate) fn bind_again(&self) -> io::Result<(OwnedFd, Self)> {
        Prepared::new(&self.path, &self.permissions, Over::Stale, Sharing::Locked)?.publish()
    }

    /// The file of a socket that another process has made and handed over. That process's, until [`Self::keep`].
    pub(crate) fn known(path: &Path, permissions: &Permissions) -> Self {
        // Where the file is gone it is not this one, and the next look makes it anew.
        let identity = std::fs::symlink_metadata(path).map_or((0, 0), |data| identity(&data));
        Self { path: path.to_owned(), permissions: permissions.clone(), identity, released: true }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What is at the path now.
    pub(crate) fn look(&self) -> Found {
        match std::fs::symlink_metadata(&self.path) {
            Ok(data) if identity(&data) == self.identity => Found::Ours,
            Ok(data) => Found::Other(identity(&data)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Err(error) => Found::Unknown(crate::log::cause(&error)),
        }
    }

    /// The file is ours from now on, whoever made it.
    pub(crate) fn keep(&mut self) {
        self.released = false;
    }

    /// Leaves the file to whoever has the socket after us.
    pub(crate) fn release(&mut self) {
        self.released = true;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.released || self.look() != Found::Ours {
            return;
        }
        // By descriptor, since the path may lead elsewhere by now. Gone already is as good.
        if let Ok(place) = SafePath::of(&self.path)
            && stat_at(&place).is_ok_and(|stat| identity_of(&stat) == self.identity)
        {
            let _ = rustix::fs::unlinkat(place.directory(), place.name(), AtFlags::empty());
        }
    }
}

impl Prepared {
    async fn patiently(path: &Path, permissions: &Permissions, over: Over) -> io::Result<Self> {
        let polls = LOCK_PATIENCE.as_millis() / LOCK_POLL.as_millis();
        for _ in 0..polls {
            match Self::new(path, permissions, over, Sharing::Locked) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
        warn!(path = %path.display(), "another server has been making a socket there for long; going on");
        Self::new(path, permissions, over, Sharing::Alone)
    }

    fn new(path: &Path, permissions: &Permissions, over: Over, sharing: Sharing) -> io::Result<Self> {
        check_length(path)?;
        let target = SafePath::of(path)?;
        // First, since it says more than what else may be wrong.
        occupant(&target, permissions, over)?;
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
        // Not with fchmod, which changes the socket and not its file.
        std::fs::set_permissions(by_descriptor(&made), PermissionsExt::from_mode(permissions.mode.0))?;
        if let Some(SocketOwner { user, group }) = permissions.owner {
            let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
            rustix::fs::chownat(&made, c"", user, group, AtFlags::EMPTY_PATH)?;
        }
        rustix::net::listen(&socket, BACKLOG)?;
        let identity = identity_of(&rustix::fs::fstat(&made)?);
        // Nothing is there yet that would be removed.
        let file =
            SocketFile { path: path.to_owned(), permissions: permissions.clone(), identity, released: true };
        Ok(Self { socket, file, over, staging })
    }

    /// Moves the socket to its place.
    pub(crate) fn publish(mut self) -> io::Result<(OwnedFd, SocketFile)> {
        let (staging, target) = (&self.staging, self.staging.target());
        let somebody_else = || io::Error::new(io::ErrorKind::AddrInUse, "somebody else makes a socket there");
        let (from, to) = (staging.socket(), target.name());
        match occupant(target, &self.file.permissions, self.over)? {
            // Other programs do not know the lock; whoever made a socket there meanwhile keeps it.
            Some(old) if stat_at(target).is_ok_and(|now| identity_of(&now) == old) => {
                rustix::fs::renameat(staging, from, target.directory(), to)?;
            }
            Some(_) => return Err(somebody_else()),
            None => {
                let moved =
                    rustix::fs::renameat_with(staging, from, target.directory(), to, RenameFlags::NOREPLACE);
                match moved {
                    Ok(()) => {}
                    // A file system that cannot tell (NFS); a link replaces nothing either.
                    Err(Errno::INVAL) => {
                        rustix::fs::linkat(staging, from, target.directory(), to, AtFlags::empty())?;
                    }
                    Err(Errno::EXIST) => return Err(somebody_else()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        self.file.released = false;
        Ok((self.socket, self.file))
    }
}

/// Device and inode.
fn identity_of(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

fn identity(data: &std::fs::Metadata) -> Identity {
    (data.dev(), data.ino())
}

fn stat_at(place: &SafePath) -> io::Result<Stat> {
    Ok(rustix::fs::statat(place.directory(), place.name(), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A path of what a descriptor is of, whatever its names are by now.
fn by_descriptor(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Refuses a path by which no client could connect.
fn check_length(path: &Path) -> io::Result<()> {
    let too_long = |_| io::Error::other("the path is too long for a Unix socket (at most 107 bytes)");
    SocketAddrUnix::new(path).map(drop).map_err(too_long)
}

/// The socket at a place that another may take the place of; refuses everything else that is there.
fn occupant(place: &SafePath, permissions: &Permissions, over: Over) -> io::Result<Option<Identity>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let there = match rustix::fs::openat(place.directory(), place.name(), flags, Mode::empty()) {
        Ok(there) => there,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&there)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::other("the path exists and is not a socket"));
    }
    if over == Over::Running {
        return Ok(Some(identity_of(&stat)));
    }
    // Connects without waiting: the socket of a server that is stuck may have no place left.
    match rustix::net::connect(new_socket()?, &SocketAddrUnix::new(&*by_descriptor(&there))?) {
        Err(Errno::CONNREFUSED) => {}
        Ok(()) | Err(Errno::WOULDBLOCK) => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server is listening there"));
        }
        Err(error) => return Err(error.into()),
    }
    let ours = rustix::process::geteuid().as_raw();
    let configured = permissions.owner.as_ref().and_then(|owner| owner.user);
    if stat.st_uid != ours && Some(stat.st_uid) != configured {
        return Err(io::Error::other(format!(
            "nobody listens there, but the socket file belongs to user {}, who is neither this process's ({ours}) nor \
             that of --socket-owner; remove it if nobody needs it",
            stat.st_uid
        )));
    }
    Ok(Some(identity_of(&stat)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn permissions() -> Permissions {
        Permissions { mode: SocketMode(0o600), owner: None }
    }

    fn bind_as(path: &Path, permissions: &Permissions) -> io::Result<(OwnedFd, SocketFile)> {
        Prepared::new(path, permissions, Over::Stale, Sharing::Locked)?.publish()
    }

    fn bind(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
        bind_as(path, &permissions())
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn only_the_socket_of_a_server_that_is_gone_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");

        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let stale = std::fs::symlink_metadata(&path).unwrap().ino();
        // Held, so that its number is not given to another.
        std::fs::hard_link(&path, directory.path().join("old")).unwrap();
        let (_socket, file) = bind(&path).unwrap();
        assert_ne!(std::fs::symlink_metadata(&path).unwrap().ino(), stale);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        drop(file);
        assert_eq!(names(directory.path()), ["old"]);

        std::fs::write(&path, "precious").unwrap();
        assert!(bind(&path).unwrap_err().to_string().contains("not a socket"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
        let mut names = names(directory.path());
        names.sort();
        assert_eq!(names, ["a.sock", "old"]);
    }

    #[test]
    fn the_socket_has_its_mode_whatever_the_umask() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let (_socket, _file) = bind_as(&path, &Permissions { mode: SocketMode(0o666), owner: None }).unwrap();
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0o666);
    }

    #[test]
    fn one_that_takes_the_place_of_a_running_servers_replaces_sockets_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let over = || Prepared::new(&path, &permissions(), Over::Running, Sharing::Locked);
        let (_old_socket, old) = bind(&path).unwrap();
        let prepared = over().unwrap();
        assert_eq!(old.look(), Found::Ours);
        let (_socket, new) = prepared.publish().unwrap();
        assert!(matches!(old.look(), Found::Other(_)));
        drop(old);
        assert_eq!(new.look(), Found::Ours);
        drop(new);
        std::fs::write(&path, "precious").unwrap();
        assert!(over().unwrap_err().to_string().contains("not a socket"));
        assert_eq!(names(directory.path()), ["a.sock"]);
    }

    #[test]
    fn a_server_that_accepts_nobody_is_still_a_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let (socket, _file) = bind(&path).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = new_socket().unwrap();
            if rustix::net::connect(&client, &SocketAddrUnix::new(&path).unwrap()).is_err() {
                break;
            }
            waiting.push(client);
        }
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_socket_of_another_user_is_left_alone() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        let refused = bind(&path).unwrap_err().to_string();
        assert!(refused.contains("belongs to user 12345"), "{refused}");
        let owner = Some(SocketOwner { user: Some(12_345), group: None });
        let (_socket, file) = bind_as(&path, &Permissions { owner, ..permissions() }).unwrap();
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().uid(), 12_345);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_not_ours_any_more_is_left_to_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let (_socket, file) = bind(&path).unwrap();
        assert_eq!(file.look(), Found::Ours);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.look(), Found::Nothing);
        std::fs::write(&path, "another's").unwrap();
        assert!(matches!(file.look(), Found::Other(_)));
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_name_as_long_as_one_can_be_is_bound() {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let path = directory.path().join("n".repeat(106 - directory.path().as_os_str().len()));
        let (_socket, file) = bind(&path).unwrap();
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        drop(file);
        assert!(bind(&path.with_extension("longer")).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn two_servers_make_sockets_in_one_directory_one_after_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let first = Prepared::new(&path, &permissions(), Over::Stale, Sharing::Locked).unwrap();
        assert_eq!(bind(&directory.path().join("b.sock")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        // One that has waited for long enough goes on, and the first finds that somebody was faster.
        let second = Prepared::new(&path, &permissions(), Over::Stale, Sharing::Alone).unwrap();
        let (_socket, file) = second.publish().unwrap();
        assert_eq!(first.publish().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(names(directory.path()), ["a.sock"]);
        drop(file);
        assert!(names(directory.path()).is_empty());
    }

    /// Whoever may write to the directory can have made that.
    #[test]
    fn whatever_has_the_name_of_the_directory_where_sockets_begin_keeps_nobody_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let begins = directory.path().join(format!(".nibiru-{}", rustix::process::geteuid().as_raw()));
        std::fs::write(&begins, "").unwrap();
        bind(&path).unwrap();
        std::fs::remove_file(&begins).unwrap();
        std::os::unix::fs::symlink("elsewhere", &begins).unwrap();
        bind(&path).unwrap();
        std::fs::remove_file(&begins).unwrap();
        std::fs::create_dir(&begins).unwrap();
        std::fs::set_permissions(&begins, PermissionsExt::from_mode(0o755)).unwrap();
        bind(&path).unwrap();
        assert!(begins.exists());
        // Left by a server that was killed there: this is used, and removed.
        std::fs::set_permissions(&begins, PermissionsExt::from_mode(0o700)).unwrap();
        drop(UnixListener::bind(begins.join("a.sock")).unwrap());
        bind(&path).unwrap();
        assert!(names(directory.path()).is_empty());
    }

    /// A user who may have the socket, and whose directory it is in, puts links in the place of whatever appears there.
    #[test]
    fn whoever_owns_the_directory_gets_no_file_of_root() {
        use std::sync::atomic::{AtomicU32, Ordering};
        const ATTACKER: u32 = 12_345;
        /// Where sockets were made by path, a file of root's was lost in one of the first 20.
        const ROUNDS: u32 = 200;
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (precious, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let file = precious.path().join("file");
        std::fs::write(&file, "root's").unwrap();
        let look = || {
            let stat = |path: &Path| std::fs::metadata(path).map(|data| (data.uid(), data.mode())).unwrap();
            (stat(&file), stat(precious.path()), names(precious.path()))
        };
        let before = look();

        let round = AtomicU32::new(0);
        let home = |round: u32| scratch.path().join(round.to_string());
        let attack = || {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            let user = Uid::from_raw(ATTACKER);
            // Of this thread alone.
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            loop {
                let home = match round.load(Ordering::Relaxed) {
                    ROUNDS.. => return,
                    round => home(round),
                };
                for (place, link) in [("run/a.sock", "file"), ("run/.nibiru-0", "trap"), ("run", "trap")] {
                    let _ = renameat_with(CWD, home.join(place), CWD, home.join(link), RenameFlags::EXCHANGE);
                }
            }
        };
        let mut made = 0;
        let mut defend = |number: u32| {
            let (home, run) = (home(number), home(number).join("run"));
            std::fs::create_dir_all(&run).unwrap();
            let give = |path: &Path| std::os::unix::fs::lchown(path, Some(ATTACKER), None).unwrap();
            for (link, target) in [("file", &*file), ("trap", precious.path())] {
                std::os::unix::fs::symlink(target, home.join(link)).unwrap();
                give(&home.join(link));
            }
            give(&run);
            // In every other round the directory stands still, so that its names are reached.
            if number.is_multiple_of(2) {
                give(&home);
            }
            round.store(number, Ordering::Relaxed);
            let owner = Some(SocketOwner { user: Some(ATTACKER), group: None });
            let permissions = Permissions { mode: SocketMode(0o666), owner };
            made += u32::from(bind_as(&run.join("a.sock"), &permissions).is_ok());
            look()
        };
        let lost = std::thread::scope(|scope| {
            scope.spawn(attack);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                (1..ROUNDS).map(|number| (number, defend(number))).find(|(_, after)| *after != before)
            }));
            round.store(ROUNDS, Ordering::Relaxed);
            outcome.unwrap()
        });
        assert_eq!(lost, None, "before: {before:?}");
        assert!(made > 0, "the attack is no reason to make no socket at all");
    }
}
