//! Paths of files that are made or opened for writing, resolved so that no other user can redirect them.
//!
//! A path is resolved name by name and kept as a descriptor of the directory and a last name, so that a rename of a directory in
//! between does not redirect the file. A symbolic link is followed only where root or this process's user made it, or where no
//! other user can write to its directory. Socket files and logs are opened so: a process that runs as root may have them in a
//! directory of another user.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, Stat};
use rustix::io::Errno;

/// The most links that are followed, as in the kernel.
const MAX_LINKS: u32 = 40;

/// A directory and a name in it, which may or may not exist.
#[derive(Debug)]
pub struct SafePath {
    directory: OwnedFd,
    name: OsString,
    /// Whether the name is a link of procfs, to which `/dev/stdout` leads. Only the kernel can follow such a link.
    of_procfs: bool,
}

impl SafePath {
    /// The place that `path` names. A link as the last name is not followed.
    ///
    /// # Errors
    /// Those of openat(2); a link that another user could have made.
    pub fn of(path: &Path) -> io::Result<Self> {
        Walk::start(path, false)?.finish()
    }

    /// The place that `path` leads to. A link as the last name is followed.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn following(path: &Path) -> io::Result<Self> {
        Walk::start(path, true)?.finish()
    }

    /// The directory, opened with `O_PATH`.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The last name, within the directory.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Opens the file. A link that was put in its place since is not followed.
    ///
    /// # Errors
    /// Those of openat(2); a file with several hard links, where another user could have made one.
    pub fn open(&self, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        if self.of_procfs {
            return Ok(rustix::fs::openat(&self.directory, &*self.name, flags, mode)?);
        }
        let file = rustix::fs::openat(&self.directory, &*self.name, flags | OFlags::NOFOLLOW, mode)?;
        let stat = rustix::fs::fstat(&file)?;
        // With fs.protected_hardlinks off, a user can make a hard link to any file in a directory that he may write to.
        if file_type(&stat) == FileType::RegularFile
            && stat.st_nlink > 1
            && !is_guarded(&rustix::fs::fstat(&self.directory)?)
        {
            return Err(io::Error::other(
                "the file has a second name (a hard link), and other users can write to its directory",
            ));
        }
        Ok(file)
    }
}

/// A path that is being resolved.
struct Walk<'a> {
    path: &'a Path,
    follow_last: bool,
    at: OwnedFd,
    /// The names that are not resolved yet, the next one last.
    rest: Vec<Step>,
    links: u32,
}

enum Step {
    Root,
    Parent,
    Into(OsString),
}

impl<'a> Walk<'a> {
    fn start(path: &'a Path, follow_last: bool) -> io::Result<Self> {
        let at = open_directory(CWD, Path::new("."))?;
        let mut walk = Self { path, follow_last, at, rest: Vec::new(), links: 0 };
        walk.push(path);
        Ok(walk)
    }

    fn push(&mut self, path: &Path) {
        self.rest.extend(path.components().rev().filter_map(|component| match component {
            Component::RootDir => Some(Step::Root),
            Component::ParentDir => Some(Step::Parent),
            Component::Normal(name) => Some(Step::Into(name.to_owned())),
            Component::CurDir | Component::Prefix(_) => None,
        }));
    }

    fn finish(mut self) -> io::Result<SafePath> {
        while let Some(step) = self.rest.pop() {
            let name = match step {
                Step::Root => {
                    self.at = open_directory(CWD, Path::new("/"))?;
                    continue;
                }
                Step::Parent => {
                    self.at = open_directory(&self.at, Path::new(".."))?;
                    continue;
                }
                Step::Into(name) => name,
            };
            let is_last = self.rest.is_empty();
            if is_last && !self.follow_last {
                return Ok(self.end(name, false));
            }
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let entry = match rustix::fs::openat(&self.at, &*name, flags, Mode::empty()) {
                Ok(entry) => entry,
                Err(Errno::NOENT) if is_last => return Ok(self.end(name, false)),
                Err(Errno::NOENT) => return Err(self.no_directory()),
                Err(error) => return Err(error.into()),
            };
            let stat = rustix::fs::fstat(&entry)?;
            match file_type(&stat) {
                FileType::Symlink => {
                    self.allow_link(&name, &stat)?;
                    if rustix::fs::fstatfs(&self.at)?.f_type != PROC_SUPER_MAGIC {
                        self.links += 1;
                        if self.links > MAX_LINKS {
                            return Err(Errno::LOOP.into());
                        }
                        let target = rustix::fs::readlinkat(&entry, c"", Vec::new())?;
                        self.push(Path::new(&OsString::from_vec(target.into_bytes())));
                    } else if is_last {
                        return Ok(self.end(name, true));
                    } else {
                        self.at = open_directory(&self.at, Path::new(&name))?;
                    }
                }
                _ if is_last => return Ok(self.end(name, false)),
                FileType::Directory => self.at = entry,
                _ => return Err(Errno::NOTDIR.into()),
            }
        }
        Err(Errno::ISDIR.into())
    }

    fn end(self, name: OsString, of_procfs: bool) -> SafePath {
        SafePath { directory: self.at, name, of_procfs }
    }

    fn no_directory(&self) -> io::Error {
        let directory: PathBuf = match self.path.parent() {
            Some(parent) if parent.as_os_str() != OsStr::new("") => parent.into(),
            _ => ".".into(),
        };
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("the directory {} does not exist", directory.display()),
        )
    }

    /// Refuses a link by which another user could choose the place.
    fn allow_link(&self, name: &OsStr, link: &Stat) -> io::Result<()> {
        if is_trusted(link.st_uid) || is_guarded(&rustix::fs::fstat(&self.at)?) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} is a symbolic link that user {} made, who is neither root nor this server's user; name what it leads to",
                Path::new(name).display(),
                link.st_uid
            ),
        ))
    }
}

fn open_directory(at: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_trusted(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// Whether no other user can write to a directory. The group's bits are those of the mask where there is an ACL.
fn is_guarded(directory: &Stat) -> bool {
    is_trusted(directory.st_uid) && directory.st_mode & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    const OTHER: u32 = 12_345;

    fn write(path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        SafePath::following(path)?.open(flags, Mode::from_raw_mode(0o600))
    }

    #[test]
    fn links_lead_where_the_kernel_would_follow_them() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        std::fs::create_dir_all(path("releases/1")).unwrap();
        symlink("releases/1", path("current")).unwrap();
        symlink("../../releases/./1/../1/log", path("releases/1/link")).unwrap();
        symlink(path("current/link"), path("absolute")).unwrap();
        symlink("loop", path("loop")).unwrap();
        write(&path("absolute")).unwrap();
        assert!(path("releases/1/log").is_file());
        assert_eq!(SafePath::of(&path("current")).unwrap().name(), "current");
        assert!(SafePath::of(&path("absolute")).unwrap().open(OFlags::WRONLY, Mode::empty()).is_err());
        assert_eq!(write(&path("loop")).unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        let missing = SafePath::of(&path("missing/log")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(missing.to_string().ends_with("missing does not exist"), "{missing}");
        assert!(write(&path("releases/1/log/x")).is_err());
        assert!(write(&path("current/..")).is_err());
        // A link of procfs, by way of others.
        let file = std::fs::File::create(path("opened")).unwrap();
        symlink(format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)), path("stream")).unwrap();
        std::fs::rename(path("opened"), path("moved")).unwrap();
        rustix::io::write(write(&path("stream")).unwrap(), b"through it").unwrap();
        assert_eq!(std::fs::read(path("moved")).unwrap(), b"through it");
    }

    #[test]
    fn another_user_cannot_choose_the_place() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        std::fs::create_dir(path("theirs")).unwrap();
        std::fs::create_dir(path("ours")).unwrap();
        std::fs::write(path("ours/file"), "").unwrap();
        for (name, target) in [("theirs/file", "ours/file"), ("theirs/directory", "ours"), ("mine", "ours")] {
            symlink(path(target), path(name)).unwrap();
            lchown(path(name), Some(OTHER), None).unwrap();
        }
        symlink(path("ours"), path("theirs/of-root")).unwrap();
        std::fs::hard_link(path("ours/file"), path("theirs/second")).unwrap();
        lchown(path("theirs"), Some(OTHER), None).unwrap();
        for name in ["theirs/file", "theirs/directory/log"] {
            let refused = write(&path(name)).unwrap_err();
            assert!(refused.to_string().contains("is a symbolic link that user 12345 made"), "{refused}");
        }
        let refused = write(&path("theirs/second")).unwrap_err();
        assert!(refused.to_string().contains("hard link"), "{refused}");
        // Only root can have put a link into a directory that no other user may write to, also where the link's owner is another.
        for name in ["theirs/of-root/log", "mine/log", "theirs/log", "ours/file"] {
            write(&path(name)).unwrap();
        }
        // The mode of /tmp: every user may make files.
        std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o1777)).unwrap();
        assert!(write(&path("mine/log")).is_err());
    }
}
