//! The discovery of a server's control socket by its configuration file, also where the file no longer names the socket.
//!
//! A server listens at abstract Unix sockets (unix(7): no file, gone with the process). The name of such a socket holds a hash of
//! the configuration file's path. The server tells callers of its own user the path of its control socket. Commands list the
//! names in `/proc/net/unix`. Every user of the machine can take a name, so that a name alone proves nothing: a command asks the
//! kernel for the user of the listener (`SO_PEERCRED`), and the control socket has permissions of its own.

use std::io::{self, Read as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The front of every abstract socket's name.
const PREFIX: &str = "nibiru";

/// The longest wait for a server's answer. The server has the answer in memory.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest answer, in bytes: the absolute path of a Unix socket.
const MAX_ANSWER: u64 = 8 * 1024;

/// Hashes of the configuration file's absolute paths: the path as people write it, and the path without symbolic links. A
/// deployment may change either. A relative `path` starts at `directory`, the shell's name of the working directory.
fn names(directory: &Path, path: &Path) -> Vec<u64> {
    let written = directory.join(path);
    let written = absolute(&written).unwrap_or(written);
    let parent = written.parent().and_then(|parent| parent.canonicalize().ok());
    let real = parent.zip(written.file_name()).map(|(parent, name)| parent.join(name));
    let mut names: Vec<u64> = [Some(written), real].into_iter().flatten().map(|path| hash(&path)).collect();
    names.dedup();
    names
}

/// The FNV-1a hash of a path, in 64 bits: the same in every version of nibiru. The hash protects nothing.
fn hash(path: &Path) -> u64 {
    path.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Opens the sockets by which commands find this server. `chance` is a random number: servers with the same file differ in it.
pub fn announce(directory: &Path, file: &Path, chance: u64) -> io::Result<Vec<UnixListener>> {
    let open = |name: u64| {
        let name = format!("{PREFIX}/{name:016x}/{chance:016x}");
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    names(directory, file).into_iter().map(open).collect()
}

/// The answer of a server to a command: the absolute path of the control socket; empty where the server has none.
pub fn answer(control: Option<&Path>) -> Vec<u8> {
    let path = control.map(|path| absolute(path).unwrap_or_else(|_| path.to_owned()));
    path.map_or_else(Vec::new, |path| path.into_os_string().into_vec())
}

/// The control sockets of the servers that run with this file, each once; `None` stands for servers without one.
///
/// Servers of other users are left out, since every user can take the names: see `trusted`.
pub fn servers(directory: &Path, file: &Path) -> Vec<Option<PathBuf>> {
    let names: Vec<String> =
        names(directory, file).iter().map(|name| format!("@{PREFIX}/{name:016x}/")).collect();
    let trusted = trusted(&directory.join(file));
    // Names of other programs' sockets may hold any bytes.
    let table = std::fs::read("/proc/net/unix").unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    // The columns: Num RefCount Protocol Flags Type St Inode Path.
    let listed = table.lines().filter_map(|line| line.split_whitespace().nth(7));
    let ours = listed.filter(|listed| names.iter().any(|name| listed.starts_with(name.as_str())));
    let mut found: Vec<_> = ours.filter_map(|name| ask(&name[1..], &trusted).ok()).collect();
    found.sort();
    found.dedup();
    found
}

/// The users whose servers a command believes: its own and root; for root, also the owners of the file and of its directory.
fn trusted(file: &Path) -> Vec<u32> {
    let own = rustix::process::geteuid();
    let mut users = vec![own.as_raw(), 0];
    if own.is_root() {
        users.extend(
            [Some(file), file.parent()]
                .into_iter()
                .flatten()
                .filter_map(|path| path.metadata().ok())
                .map(|data| data.uid()),
        );
    }
    users
}

/// Asks the listener of an abstract socket for its control socket; `None` where the server has none.
///
/// # Errors
/// `PermissionDenied` where the listener's user is not `trusted`; those of the connection.
fn ask(name: &str, trusted: &[u32]) -> io::Result<Option<PathBuf>> {
    // Never blocks: another program may have taken the name and accept no connection.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    if !trusted.contains(&rustix::net::sockopt::socket_peercred(&stream)?.uid.as_raw()) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut path = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut path)?;
    Ok((!path.is_empty()).then(|| PathBuf::from(std::ffi::OsString::from_vec(path))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// Answers `count` callers of each listener.
    fn serve(listeners: Vec<UnixListener>, control: Option<PathBuf>) {
        for listener in listeners {
            let control = control.clone();
            listener.set_nonblocking(false).unwrap();
            std::thread::spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.write_all(&answer(control.as_deref()));
                }
            });
        }
    }

    #[test]
    fn servers_are_found_by_their_file_however_it_is_written_and_others_are_not() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("one")).unwrap();
        std::os::unix::fs::symlink(root.join("one"), root.join("current")).unwrap();
        let file = Path::new("nibiru.toml");
        assert_eq!(servers(&root.join("one"), file), []);
        serve(announce(&root.join("current"), file, 1).unwrap(), Some("/run/a.ctl".into()));
        serve(announce(&root.join("one"), file, 2).unwrap(), None);
        let both = [None, Some(PathBuf::from("/run/a.ctl"))];
        for directory in ["current", "one", "one/../current"] {
            assert_eq!(servers(&root.join(directory), file), both, "{directory}");
        }
        assert_eq!(servers(Path::new("/"), &root.join("one/nibiru.toml")), both);
        // The link leads elsewhere after a deployment, and the server still runs.
        std::fs::create_dir(root.join("two")).unwrap();
        std::fs::remove_file(root.join("current")).unwrap();
        std::os::unix::fs::symlink(root.join("two"), root.join("current")).unwrap();
        assert_eq!(servers(&root.join("current"), file), [Some(PathBuf::from("/run/a.ctl"))]);
        assert_eq!(servers(&root.join("two"), file), []);
    }

    #[test]
    fn an_answer_of_another_user_is_none() {
        let root = tempfile::tempdir().unwrap();
        let listeners = announce(root.path(), Path::new("a.toml"), 3).unwrap();
        serve(listeners, Some("/run/a.ctl".into()));
        let name = format!("{PREFIX}/{:016x}/{:016x}", names(root.path(), Path::new("a.toml"))[0], 3);
        assert_eq!(ask(&name, &[u32::MAX]).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    /// Every user of the machine may have done these things.
    #[test]
    fn sockets_of_others_do_not_hide_a_server_nor_hold_a_command_up() {
        let root = tempfile::tempdir().unwrap();
        let file = Path::new("nibiru.toml");
        let bind =
            |name: &[u8]| UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        let _no_text = bind(&[b"nibiru \xff", root.path().as_os_str().as_bytes()].concat());
        let name = format!("{PREFIX}/{:016x}/taken", names(root.path(), file)[0]);
        let full = bind(name.as_bytes());
        rustix::net::listen(&full, 0).unwrap();
        // The first connection fills the backlog of 0.
        let _waiting = UnixStream::connect_addr(&full.local_addr().unwrap()).unwrap();
        assert_eq!(servers(root.path(), file), []);
        serve(announce(root.path(), file, 1).unwrap(), Some("/run/a.ctl".into()));
        assert_eq!(servers(root.path(), file), [Some(PathBuf::from("/run/a.ctl"))]);
    }
}
