//! Forks of this process: by the zygote, and by the application's C code without the server's knowledge.
#![allow(unsafe_code, reason = "fork, _exit and pages that a fork finds empty have no safe wrapper")]

use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use rustix::process::Pid;

/// The side of a [`fork`] that a process is on.
#[derive(Debug)]
pub enum Fork {
    /// The process that called.
    Parent {
        /// The new process.
        child: Pid,
    },
    /// The new process.
    Child,
}

/// Duplicates the calling process.
///
/// # Errors
/// Those of fork(2). Those of `/proc`, by which the threads are counted: a process that cannot look does not fork.
///
/// # Panics
/// When the process has a second thread: a child forked from it could only call async-signal-safe code.
pub fn fork() -> io::Result<Fork> {
    assert_eq!(threads()?, 1, "only a process with one thread forks");
    // SAFETY: fork(2) is unsafe in a process with several threads, where locks held by the others stay
    // locked in the child. The assertion above upholds that there are none.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent { child: Pid::from_raw(pid).expect("fork gives a positive pid") }),
    }
}

/// The number of threads of this process, as the kernel counts them.
///
/// # Errors
/// Where `/proc` is not mounted, and where this process has no descriptor left.
pub fn threads() -> io::Result<usize> {
    count(Path::new("/proc/self/task"))
}

/// The number of entries of a directory.
fn count(directory: &Path) -> io::Result<usize> {
    std::fs::read_dir(directory)?.try_fold(0, |counted, entry| entry.map(|_| counted + 1))
}

/// The mark of the process that called [`claim_process`] last.
static OWN: OnceLock<ProcessMark> = OnceLock::new();

enum ProcessMark {
    /// A byte that is 1 in the process that claimed it and 0 in all processes forked from that: the kernel empties the page at
    /// every kind of fork (`MADV_WIPEONFORK`, madvise(2)).
    Page(&'static AtomicU8),
    /// The number of the process, where the kernel knows no such pages. Each comparison is a system call.
    Pid(AtomicU32),
}

impl ProcessMark {
    fn new() -> Self {
        Self::page().map_or(Self::Pid(AtomicU32::new(0)), Self::Page)
    }

    fn page() -> Option<&'static AtomicU8> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
        let length = rustix::param::page_size();
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, where the kernel likes, touches no memory that is in use.
        let page =
            unsafe { mmap_anonymous(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE) }.ok()?;
        // SAFETY: the range is the mapping. Nothing refers to it yet, and a fork finds zeros there later, which are a
        // valid AtomicU8.
        unsafe { madvise(page, length, Advice::LinuxWipeOnFork) }.ok()?;
        // SAFETY: the mapping is readable, writable, larger than a byte, full of zeros, and is never taken away.
        Some(unsafe { &*page.cast::<AtomicU8>() })
    }
}

/// Marks this process as a process of the server's: [`is_forked`] is false in it, and true in processes that it forks. Zygote and
/// workers call this; a process that neither forks nor runs the application need not.
pub fn claim_process() {
    match OWN.get_or_init(ProcessMark::new) {
        ProcessMark::Page(mark) => mark.store(1, Ordering::Relaxed),
        ProcessMark::Pid(pid) => pid.store(std::process::id(), Ordering::Relaxed),
    }
}

/// Whether the application forked this process: since the last [`claim_process`], by C code. Reads memory and makes no system
/// call. A process that shares its parent's memory (`vfork`, `clone` with `CLONE_VM`) counts as its parent.
pub fn is_forked() -> bool {
    match OWN.get() {
        None => false,
        Some(ProcessMark::Page(mark)) => mark.load(Ordering::Relaxed) == 0,
        Some(ProcessMark::Pid(pid)) => pid.load(Ordering::Relaxed) != std::process::id(),
    }
}

/// Ends this process if the application forked it. Called where the application's code returns to the server, which works for the
/// parent only. Runs no exit handlers and flushes no buffers: the process shares them with its parent.
pub fn end_if_forked() {
    /// The exit status. Not 0: the application forgot to end the process, and its parent should see that.
    const STATUS: libc::c_int = 1;
    if is_forked() {
        let line = format!(
            "process {}, which the application forked, ends where its code returned to the server; end it with os.exit\n",
            std::process::id()
        );
        // A closed standard error does not keep the process alive.
        let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
        // SAFETY: the call ends the process and never returns. The kernel frees all that the process held.
        unsafe { libc::_exit(STATUS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_cannot_be_counted_are_an_error_and_not_one_thread() {
        assert!(count(Path::new("/proc/self/no-such-directory")).is_err());
        let here = std::thread::spawn(|| threads().unwrap());
        assert!(here.join().unwrap() >= 2);
    }

    #[test]
    fn a_process_with_a_second_thread_does_not_fork() {
        let forked = std::thread::spawn(|| match fork() {
            // Neither may happen. The child has this test's memory and must not return to its runner.
            Ok(Fork::Child) => std::process::abort(),
            forked => forked.is_ok(),
        });
        assert!(forked.join().is_err(), "a panic");
    }
}
