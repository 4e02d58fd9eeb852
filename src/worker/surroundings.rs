//! The working directory and the umask, put back after each request. Both are the process's, so a request that changes them
//! would change them for those that follow.
//!
//! Plain Lua can change neither; the worker asks only where the application has loaded other code.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, Stat};
use rustix::process::{fchdir, getcwd, umask};

/// As they were when the worker was ready, which includes what loading and start hooks have changed.
#[derive(Debug)]
pub(super) struct Surroundings {
    umask: Mode,
    directory: io::Result<Directory>,
    told: Told,
}

/// A worker says so once of each.
#[derive(Debug, Default)]
struct Told {
    umask: bool,
    directory: bool,
}

/// A working directory. It is known by more than its name, which it may lose: the release that a worker serves may be
/// removed or renamed.
#[derive(Debug)]
struct Directory {
    /// Opened only to come back to it.
    handle: OwnedFd,
    identity: (u64, u64),
    name: CString,
    /// Room for the name of the working directory.
    buffer: Vec<u8>,
}

impl Surroundings {
    /// Of this process.
    pub(super) fn now() -> Self {
        // There is no way to read it without setting it. A file that another thread makes meanwhile is its owner's alone.
        let mask = umask(Mode::from_bits_truncate(0o077));
        umask(mask);
        Self { umask: mask, directory: Directory::current(), told: Told::default() }
    }

    /// Puts them back where they have changed. `tell` gets a line for the log, once for each of the two.
    pub(super) fn put_back(&mut self, mut tell: impl FnMut(&str)) {
        let mask = umask(self.umask);
        if mask != self.umask && !std::mem::replace(&mut self.told.umask, true) {
            tell(&format!(
                "the application has changed the umask to {:04o}; it is {:04o} again for the next request \
                 (each worker says so once)",
                mask.bits(),
                self.umask.bits()
            ));
        }
        let (put_back, changed_to) = match &mut self.directory {
            Ok(directory) => {
                if directory.is_current() {
                    return;
                }
                let changed_to = shown(&getcwd(Vec::new()).unwrap_or_default());
                (fchdir(&directory.handle).map_err(io::Error::from), changed_to)
            }
            // Without the directory of the start there is nothing to compare with.
            Err(error) => (Err(io::Error::from(error.kind())), String::new()),
        };
        if std::mem::replace(&mut self.told.directory, true) {
            return;
        }
        tell(&match put_back {
            Ok(()) => format!(
                "the application has changed the working directory to {changed_to}; the next request finds the one \
                 before (each worker says so once)"
            ),
            Err(error) => format!(
                "cannot put the working directory back: {} (each worker says so once)",
                crate::log::cause(&error)
            ),
        });
    }
}

impl Directory {
    fn current() -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            handle: rustix::fs::open(".", flags, Mode::empty())?,
            identity: identity(rustix::fs::stat(".")?),
            // A removed directory has no name.
            name: getcwd(Vec::new()).unwrap_or_default(),
            buffer: Vec::new(),
        })
    }

    /// Whether this is the working directory still. By its name, which the kernel gives for half the price of asking for
    /// the directory's identity; where the name has changed, by that.
    fn is_current(&mut self) -> bool {
        let name = getcwd(std::mem::take(&mut self.buffer)).unwrap_or_default();
        let same_name = !name.is_empty() && name == self.name;
        self.buffer = name.into_bytes();
        same_name || rustix::fs::stat(".").is_ok_and(|stat| identity(stat) == self.identity)
    }
}

fn identity(stat: Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn shown(name: &CString) -> String {
    match name.as_bytes() {
        b"" => "one that has been removed".to_owned(),
        name => Path::new(OsStr::from_bytes(name)).display().to_string(),
    }
}
