//! A directory beneath which files are opened for reading, by paths that another process chooses.
//!
//! The kernel resolves each path (openat2(2)): it leaves the directory neither by `..` nor by an absolute path, and passes no
//! symbolic link, also where another process renames directories meanwhile.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// The resolution of every path.
const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

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
            Errno::XDEV => Self::Outside,
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
    /// Those of open(2). A kernel without openat2(2), or a filter of system calls that forbids it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        match rustix::fs::openat2(&directory, c".", flags, Mode::empty(), RESOLVE) {
            Ok(_) => Ok(Self(directory)),
            Err(Errno::NOSYS | Errno::PERM) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "openat2(2) is missing: it needs Linux 5.6, and a filter of system calls that allows it",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the file that `path`, relative to the directory, names. Never waits for another process, as for the writer of a named
    /// pipe.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn read(&self, path: &Path) -> Result<Opened, Refusal> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = rustix::fs::openat2(&self.0, path, flags, Mode::empty(), RESOLVE)?;
        let stat = rustix::fs::fstat(&file)?;
        Ok(Opened {
            other_kind: other_kind(&stat),
            owner: stat.st_uid,
            length: u64::try_from(stat.st_size).unwrap_or(0),
            file: file.into(),
        })
    }
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
        rustix::fs::mkfifoat(CWD, path("body/pipe"), Mode::from_raw_mode(0o600)).unwrap();
        let _socket = UnixListener::bind(path("body/socket")).unwrap();
        let directory = Directory::open(&path("body")).unwrap();
        let opened = directory.read("1/2/file".as_ref()).unwrap();
        let owner = fs::metadata(path("outside")).unwrap().uid();
        assert_eq!((opened.other_kind, opened.owner, opened.length), (None, owner, 5));
        assert_eq!(directory.read("pipe".as_ref()).unwrap().other_kind, Some("a named pipe"));
        assert_eq!(directory.read("1".as_ref()).unwrap().other_kind, Some("a directory"));
        let refused = |name: &str| directory.read(name.as_ref()).unwrap_err();
        for outside in ["../outside", "1/../../outside", "/etc/passwd", "/"] {
            assert!(matches!(refused(outside), Refusal::Outside), "{outside}");
        }
        for link in ["link", "linked/file", "linked/../1/2/file"] {
            assert!(matches!(refused(link), Refusal::Link), "{link}");
        }
        for missing in ["none", "1/2/file/x", "", "a\0b", &"x".repeat(300)] {
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
