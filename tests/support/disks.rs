//! Full disks and hanging disks.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::{Need, Server, ServerBuilder, lacks, output, skip, system_program};

/// nibiru in its own mount namespace, where `directory` is a disk of 1 MiB. The shell that starts it applies
/// `redirection`.
pub(crate) fn on_small_disk(directory: &Path, redirection: &str) -> ServerBuilder {
    let directory = directory.display();
    let script = format!("mount -t tmpfs -o size=1m none '{directory}' && exec \"$0\" \"$@\" {redirection}");
    Server::builder().through(["unshare", "--mount", "sh", "-c", &script])
}

/// The path by which this process reaches a file in the mount namespace of `server`.
pub(crate) fn path_within(server: &Server, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", server.pid()));
    root.join(path.strip_prefix("/").unwrap())
}

/// Fills the disk of `file`.
pub(crate) fn fill(file: &Path) {
    let mut file = fs::File::create(file).unwrap();
    let full = std::iter::repeat_with(|| file.write_all(&[b'x'; 4096])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
}

/// A file that is mounted as a disk and can be made to hang.
#[derive(Debug)]
pub(crate) struct Disk {
    directory: PathBuf,
    _scratch: tempfile::TempDir,
}

impl Disk {
    /// An empty disk; `None` if the machine cannot mount one, in which case the test is recorded as skipped.
    #[track_caller]
    pub(crate) fn new() -> Option<Self> {
        if lacks(Need::LoopDisk) {
            return None;
        }
        let scratch = tempfile::tempdir().unwrap();
        let (image, directory) = (scratch.path().join("image"), scratch.path().join("disk"));
        fs::create_dir(&directory).unwrap();
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        assert!(output(system_program("mkfs.ext4").args(["-q", "-F"]).arg(&image)).status.success());
        let mounted = output(system_program("mount").args(["-o", "loop"]).arg(&image).arg(&directory));
        if !mounted.status.success() {
            let problem = String::from_utf8_lossy(&mounted.stderr).into_owned();
            skip(Need::LoopDisk, &format!("cannot mount a file as a disk: {}", problem.trim()));
            return None;
        }
        Some(Self { directory, _scratch: scratch })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Freezes the disk until the guard is dropped. A process that writes to a frozen disk cannot even be killed, so
    /// the guard must be dropped before the server.
    pub(crate) fn freeze(&self) -> Frozen<'_> {
        let frozen = Frozen(&self.directory);
        assert!(output(system_program("fsfreeze").arg("-f").arg(&self.directory)).status.success());
        frozen
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, since a process that is just ending may still have a file open.
        let _ = output(system_program("umount").arg("--lazy").arg(&self.directory));
    }
}

/// A [`Disk`] that hangs.
#[derive(Debug)]
#[must_use]
pub(crate) struct Frozen<'a>(&'a Path);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = output(system_program("fsfreeze").arg("-u").arg(self.0)).status.success();
        assert!(thawed || std::thread::panicking(), "the disk still hangs");
    }
}
