//! The working directory and the umask, restored after each request. Both belong to the process, so a change by one request
//! would reach the requests that follow.
//!
//! Plain Lua can change neither; the worker checks them only where the application has loaded other code.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, Stat};
use rustix::process::{fchdir, getcwd, umask};

/// The working directory and the umask of a worker that is ready, with the changes of loading and start hooks.
#[derive(Debug)]
pub(super) struct ProcessState {
    umask: Mode,
    directory: io::Result<Directory>,
    umask_logged: bool,
    directory_logged: bool,
}

/// A working directory. Its name does not identify it: the release that a worker serves may be removed or renamed.
#[derive(Debug)]
struct Directory {
    /// Opened only to come back to it.
    handle: OwnedFd,
    identity: (u64, u64),
    name: CString,
    /// Room for the name of the working directory.
    buffer: Vec<u8>,
}

impl ProcessState {
    /// Captures the state of this process.
    pub(super) fn capture() -> Self {
        // The umask cannot be read without setting it. A file that another thread makes meanwhile is readable by its owner only.
        let mask = umask(Mode::from_bits_truncate(0o077));
        umask(mask);
        Self { umask: mask, directory: Directory::current(), umask_logged: false, directory_logged: false }
    }

    /// Restores the directory and the umask where they have changed. `log` gets a line for each of the two, once.
    pub(super) fn restore(&mut self, mut log: impl FnMut(&str)) {
        let mask = umask(self.umask);
        if mask != self.umask && !std::mem::replace(&mut self.umask_logged, true) {
            log(&format!(
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
            // Without the directory of the start a comparison is impossible.
            Err(error) => (Err(io::Error::from(error.kind())), String::new()),
        };
        if std::mem::replace(&mut self.directory_logged, true) {
            return;
        }
        log(&match put_back {
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

    /// Whether this is still the working directory. Compares the name, which costs half as much as the directory's identity, and
    /// the identity where the name has changed.
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
