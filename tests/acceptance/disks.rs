//! Disks that are full or that hang, for one server: in a mount namespace of its own, so that nobody else sees them.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Server, ServerBuilder, output};

/// Why there can be no disks of a test's own, where there cannot.
pub(crate) fn none_here() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root, to mount a disk");
    }
    let directory = tempfile::tempdir().unwrap();
    let mut mount = Command::new("unshare");
    mount.args(["--mount", "mount", "-t", "tmpfs", "none"]).arg(directory.path());
    (!output(&mut mount).status.success()).then_some("nothing can be mounted here")
}

/// nibiru in a mount namespace of its own, where `directory` is a disk of 1 MiB. `redirection`: of the shell.
pub(crate) fn on_small_disk(directory: &Path, redirection: &str) -> ServerBuilder {
    mounted(&format!("mount -t tmpfs -o size=1m none '{}'", directory.display()), redirection)
}

/// nibiru in a mount namespace of its own, where `directory` is a disk that can be frozen; the disk is the file `image`.
/// None where files cannot be mounted.
pub(crate) fn on_disk_that_freezes(directory: &Path, image: &Path) -> Option<ServerBuilder> {
    fs::File::create(image).unwrap().set_len(64 << 20).unwrap();
    let made = output(Command::new("mkfs.ext4").arg("-q").arg(image).stdin(Stdio::null()));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mount = format!("mount -o loop '{}' '{}'", image.display(), directory.display());
    let tried = output(Command::new("unshare").args(["--mount", "sh", "-c", &mount]));
    tried.status.success().then(|| mounted(&mount, ""))
}

fn mounted(mount: &str, redirection: &str) -> ServerBuilder {
    let script = format!("{mount} && exec \"$0\" \"$@\" {redirection}");
    Server::builder().through(["unshare", "--mount", "sh", "-c", &script])
}

/// `path` as `server`, in its namespace, sees it.
pub(crate) fn seen_by(server: &Server, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", server.pid()));
    root.join(path.strip_prefix("/").unwrap())
}

/// Fills the disk that `file` is on.
pub(crate) fn fill(file: &Path) {
    let mut file = fs::File::create(file).unwrap();
    let full = std::iter::repeat_with(|| file.write_all(&[b'x'; 4096])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
}

/// A disk that takes no write until this is dropped: whoever writes hangs, and cannot be killed.
#[derive(Debug)]
pub(crate) struct Frozen(PathBuf);

impl Frozen {
    /// The disk that is mounted on `directory`, as this process sees it.
    pub(crate) fn new(directory: PathBuf) -> Self {
        // What fails half way is thawed as well.
        let frozen = Self(directory);
        frozen.run("-f");
        frozen
    }

    fn run(&self, how: &str) {
        let done = output(Command::new("fsfreeze").arg(how).arg(&self.0).stdin(Stdio::null()));
        let complaint = String::from_utf8_lossy(&done.stderr).into_owned();
        if !done.status.success() {
            eprintln!("fsfreeze {how}: {complaint}");
        }
        assert!(done.status.success() || std::thread::panicking(), "fsfreeze {how}: {complaint}");
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.run("-u");
    }
}
