//! Forks of this process: those that the zygote makes, and those that the application makes behind the server's back.
#![allow(unsafe_code, reason = "fork, _exit and pages that a fork finds empty have no safe wrapper")]

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use rustix::process::Pid;

/// Which side of a [`fork`] this is.
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
/// # Panics
/// When the process has a second thread: a child forked from it could only call async-signal-safe code.
pub fn fork() -> io::Result<Fork> {
    assert_eq!(threads(), 1, "only a process with one thread forks");
    // SAFETY: fork(2) is unsafe in a process with several threads, where locks held by the others stay
    // locked in the child. The assertion above upholds that there are none.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent { child: Pid::from_raw(pid).expect("fork gives a positive pid") }),
    }
}

/// How [`is_forked`] knows the process that called [`claim_process`] last.
static OWN: OnceLock<Own> = OnceLock::new();

enum Own {
    /// A byte that is 1 in the process that claimed it. The kernel gives 0 to every process that is forked from it, by
    /// whatever call (`MADV_WIPEONFORK`).
    Page(&'static AtomicU8),
    /// Where the kernel knows no such pages: the number of the process, which is asked for each time.
    Pid(AtomicU32),
}

impl Own {
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
        // SAFETY: the range is the mapping. Nothing refers to it yet, and what a fork finds there later is zeros, which
        // are an AtomicU8 as well.
        unsafe { madvise(page, length, Advice::LinuxWipeOnFork) }.ok()?;
        // SAFETY: the mapping is readable, writable, larger than a byte, full of zeros, and is never taken away.
        Some(unsafe { &*page.cast::<AtomicU8>() })
    }
}

/// From now on this process is not a fork, and those that it forks are: see [`is_forked`]. Zygote and workers call it; a process
/// that neither forks nor runs the application need not.
pub fn claim_process() {
    match OWN.get_or_init(Own::new) {
        Own::Page(mark) => mark.store(1, Ordering::Relaxed),
        Own::Pid(pid) => pid.store(std::process::id(), Ordering::Relaxed),
    }
}

/// Whether this is a process that the application forked: since the last [`claim_process`], by C code. A read of memory,
/// and no system call. One that shares its memory with its parent (`vfork`, `clone` with `CLONE_VM`) is not told apart.
pub fn is_forked() -> bool {
    match OWN.get() {
        None => false,
        Some(Own::Page(mark)) => mark.load(Ordering::Relaxed) == 0,
        Some(Own::Pid(pid)) => pid.load(Ordering::Relaxed) != std::process::id(),
    }
}

/// Ends this process where the application forked it: its code has come to an end, and what follows is its parent's to do.
/// Neither exit handlers nor buffers are touched, which it shares with its parent.
pub fn end_if_forked() {
    /// Not 0: the application forgot to end the process, and its parent should see that.
    const STATUS: libc::c_int = 1;
    if is_forked() {
        let line = format!(
            "process {}, which the application forked, ends where its code returned to the server; end it with os.exit\n",
            std::process::id()
        );
        // Where nobody reads it, it ends all the same.
        let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
        // SAFETY: ends the process and returns to nobody; what it leaves undone is the operating system's to clear.
        unsafe { libc::_exit(STATUS) }
    }
}

/// How many threads this process has, as the kernel counts them; 1 where `/proc` is not mounted.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count())
}
