//! A directory beneath which files are opened for reading, by paths that another process chooses.
//!
//! A path is opened name by name, each in the directory that was opened before, and never through a symbolic link. So it leaves the
//! directory neither by `..` nor by a link, also where another process renames and links meanwhile. openat2(2) would do the same in one
//! call, but `RestrictSUIDSGID=` of systemd forbids it, since a filter of system calls cannot look at its argument.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// A directory, kept open, so that its path may lead elsewhere later.
#[derive(Debug)]
pub struct Directory(OwnedFd);

/// An opened file, with what the kernel knows of it.
#[derive(Debug)]
pub struct Opened {
    /// The file, for reading. May be of any kind, also a directory.
    pub file: File,
    /// The kind of file where it is not a regular one, as a message calls it.
    pub other_kind: Option<&'static str>,
    /// The user to whom it belongs.
    pub owner: u32,
    /// Its length in bytes.
    pub length: u64,
}

/// The reason for which a path is not opened.
#[derive(Debug)]
pub enum Refusal {
    /// The path leads out of the directory.
    Outside,
    /// A name of the path is a symbolic link.
    Link,
    /// There is no such file.
    Missing,
    /// This process may not open it.
    Denied,
    /// A socket, or a device without a driver.
    NoFile,
    /// Another error.
    Other(io::Error),
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        match error {
            Errno::LOOP => Self::Link,
            // A name too long, or with a zero byte, is no file's.
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::INVAL => Self::Missing,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::NXIO => Self::NoFile,
            other => Self::Other(other.into()),
        }
    }
}

impl Directory {
    /// Opens the directory. Links on the way to it are followed: its path is the operator's.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens the file that `path`, relative to the directory, names. Never waits for another process, as for the writer of a named
    /// pipe.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn read(&self, path: &Path) -> Result<Opened, Refusal> {
        let names: Option<Vec<&OsStr>> = path.components().map(plain).collect();
        let names = names.ok_or(Refusal::Outside)?;
        let (last, before) = names.split_last().ok_or(Refusal::Outside)?;
        let mut directory = None;
        for name in before {
            let at = directory.as_ref().unwrap_or(&self.0).as_fd();
            directory = Some(enter(at, name)?);
        }
        let at = directory.as_ref().unwrap_or(&self.0);
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::openat(at, *last, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        Ok(Opened {
            other_kind: other_kind(&stat),
            owner: stat.st_uid,
            length: u64::try_from(stat.st_size).unwrap_or(0),
            file: file.into(),
        })
    }
}

/// A name that leads one step down.
fn plain(component: Component<'_>) -> Option<&OsStr> {
    match component {
        Component::Normal(name) => Some(name),
        _ => None,
    }
}

/// Opens the directory `name` in `at`, which is not a link.
fn enter(at: impl AsFd, name: &OsStr) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&at, name, flags, Mode::empty()).map_err(|error| {
        let stat = rustix::fs::statat(&at, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_link = stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        // The kernel says of a link only that it is no directory.
        if error == Errno::NOTDIR && is_link { Refusal::Link } else { error.into() }
    })
}

fn other_kind(stat: &Stat) -> Option<&'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a named pipe"),
        _ => Some("a device"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_file_beneath_is_opened_and_what_leads_out_or_is_no_file_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        fs::create_dir_all(path("body/1/2")).unwrap();
        fs::write(path("body/1/2/file"), "12345").unwrap();
        fs::write(path("outside"), "secret").unwrap();
        symlink("1/2/file", path("body/link")).unwrap();
        symlink("1/2", path("body/linked")).unwrap();
        symlink("..", path("body/1/2/up")).unwrap();
        symlink("/", path("body/root")).unwrap();
        rustix::fs::mkfifoat(CWD, path("body/pipe"), Mode::from_raw_mode(0o600)).unwrap();
        let _socket = UnixListener::bind(path("body/socket")).unwrap();
        let directory = Directory::open(&path("body")).unwrap();
        let opened = directory.read("1/2/file".as_ref()).unwrap();
        let owner = fs::metadata(path("outside")).unwrap().uid();
        assert_eq!((opened.other_kind, opened.owner, opened.length), (None, owner, 5));
        assert_eq!(directory.read("pipe".as_ref()).unwrap().other_kind, Some("a named pipe"));
        assert_eq!(directory.read("1".as_ref()).unwrap().other_kind, Some("a directory"));
        let refused = |name: &str| directory.read(name.as_ref()).unwrap_err();
        for outside in ["../outside", "1/../../outside", "1/2/../2/file", "/etc/passwd", "/", ".", ""] {
            assert!(matches!(refused(outside), Refusal::Outside), "{outside}");
        }
        for link in ["link", "linked/file", "1/2/up/passwd", "root/etc/passwd"] {
            assert!(matches!(refused(link), Refusal::Link), "{link}");
        }
        for missing in ["none", "none/x", "1/2/file/x", "a\0b", "a\0b/x", &"x".repeat(300)] {
            assert!(matches!(refused(missing), Refusal::Missing), "{missing:?}");
        }
        assert!(matches!(refused("socket"), Refusal::NoFile));
        // The directory stays the one that was opened.
        fs::rename(path("body"), path("moved")).unwrap();
        symlink("/etc", path("body")).unwrap();
        assert!(matches!(refused("passwd"), Refusal::Missing));
        directory.read("1/2/file".as_ref()).unwrap();
    }

    #[test]
    fn only_a_directory_is_opened_as_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Directory::open(file.path()).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        assert_eq!(Directory::open("/nonexistent".as_ref()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
