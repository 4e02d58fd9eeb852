//! Socket files in directories of the tests: which are replaced, left and removed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::Uid;
use rustix::net::SocketAddrUnix;

use crate::config::{SocketMode, SocketOwner};
use crate::gateway::frontend::socket_file::file::SocketFile;
use crate::gateway::frontend::socket_file::making::UnpublishedSocket;
use crate::gateway::frontend::socket_file::occupant::{Replaceable, new_socket};
use crate::gateway::frontend::socket_file::path_state::PathState;
use crate::gateway::frontend::socket_file::permissions::Permissions;
use crate::gateway::frontend::socket_file::staging::Sharing;

fn permissions() -> Permissions {
    Permissions { mode: SocketMode(0o600), owner: None }
}

fn bind_as(path: &Path, permissions: &Permissions) -> io::Result<(OwnedFd, SocketFile)> {
    UnpublishedSocket::new(path, permissions, Replaceable::Stale, Sharing::Locked)?.publish()
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
    let over = || UnpublishedSocket::new(&path, &permissions(), Replaceable::Running, Sharing::Locked);
    let (_old_socket, old) = bind(&path).unwrap();
    let prepared = over().unwrap();
    assert_eq!(old.path_state(), PathState::Ours);
    let (_socket, new) = prepared.publish().unwrap();
    assert!(matches!(old.path_state(), PathState::Other(_)));
    drop(old);
    assert_eq!(new.path_state(), PathState::Ours);
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
    assert_eq!(file.path_state(), PathState::Ours);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(file.path_state(), PathState::Nothing);
    std::fs::write(&path, "another's").unwrap();
    assert!(matches!(file.path_state(), PathState::Other(_)));
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
    let first = UnpublishedSocket::new(&path, &permissions(), Replaceable::Stale, Sharing::Locked).unwrap();
    assert_eq!(bind(&directory.path().join("b.sock")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    // A server that has waited for long enough goes on, and the first server finds the name taken.
    let second = UnpublishedSocket::new(&path, &permissions(), Replaceable::Stale, Sharing::Alone).unwrap();
    let (_socket, file) = second.publish().unwrap();
    assert_eq!(first.publish().unwrap_err().kind(), io::ErrorKind::AddrInUse);
    assert_eq!(names(directory.path()), ["a.sock"]);
    drop(file);
    assert!(names(directory.path()).is_empty());
}

/// Every user who may write to the directory can make such a file.
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
