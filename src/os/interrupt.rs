//! The interrupt: a queued signal that carries a number into the middle of a process's code.
//!
//! The gateway sends interrupts to zygotes and workers. `link/interrupt` gives the numbers their meaning.
#![allow(unsafe_code, reason = "a signal with a number, and its handler, have no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

/// The function that [`handle`] registered.
static HANDLER: OnceLock<fn(u32)> = OnceLock::new();

/// The number of the signal: that of the highest real-time signal. Real-time signals are for applications to use and carry a
/// number; libraries that use some take the lowest.
fn signal_number() -> libc::c_int {
    libc::SIGRTMAX()
}

/// Interrupts the process behind `pidfd` with `number`. A process without a handler (see [`handle`]) is killed by it.
///
/// # Errors
/// `ESRCH` where the process has ended; `EAGAIN` where too many signals wait for it.
pub fn send(pidfd: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    /// The `siginfo_t` of a queued signal, as the kernel lays it out (`struct __rt` of `<asm-generic/siginfo.h>`).
    #[repr(C)]
    struct QueuedSiginfo {
        signal: libc::c_int,
        errno: libc::c_int,
        code: libc::c_int,
        sender: Sender,
    }
    #[repr(C)]
    struct Sender {
        pid: libc::pid_t,
        uid: libc::uid_t,
        value: libc::sigval,
    }
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(number as usize) };
    let sender = Sender {
        pid: rustix::process::getpid().as_raw_nonzero().get(),
        uid: rustix::process::getuid().as_raw(),
        value,
    };
    // SAFETY: a siginfo_t is integers and pointers that are not followed, all of which may be zero.
    let mut info = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
    const { assert!(size_of::<QueuedSiginfo>() <= size_of::<libc::siginfo_t>()) };
    const { assert!(align_of::<QueuedSiginfo>() <= align_of::<libc::siginfo_t>()) };
    let queued = QueuedSiginfo { signal: signal_number(), errno: 0, code: libc::SI_QUEUE, sender };
    // SAFETY: the two assertions above: it fits, and is aligned.
    unsafe { (&raw mut info).cast::<QueuedSiginfo>().write(queued) };
    // SAFETY: the call reads a whole siginfo_t, which `info` is, and touches nothing else of this process. No
    // wrapper passes a siginfo.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            libc::c_long::from(pidfd.as_raw_fd()),
            libc::c_long::from(signal_number()),
            &raw const info,
            libc::c_long::from(0),
        )
    };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Registers the handler of interrupts for the life of the process: `act` is called with the number of every interrupt that
/// [`send`] sends to this process, in the middle of the interrupted code. System calls that can go on after a signal go on. Only
/// the first call's `act` counts.
///
/// # Errors
/// Those of sigaction(2) and pthread_sigmask(3).
///
/// # Safety
/// `act` must be async-signal-safe (signal-safety(7)): it takes no lock, allocates no memory and does not panic.
pub unsafe fn handle(act: fn(u32)) -> io::Result<()> {
    extern "C" fn received(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel hands a handler with SA_SIGINFO a valid siginfo_t, and one of SI_QUEUE has a value.
        let number = unsafe {
            if (*info).si_code != libc::SI_QUEUE {
                return;
            }
            (*info).si_value().sival_ptr.addr()
        };
        if let (Some(act), Ok(number)) = (HANDLER.get(), u32::try_from(number)) {
            act(number);
        }
    }
    HANDLER.get_or_init(|| act);
    // SAFETY: an all-zero sigaction is a valid one; the mask is set by sigemptyset below.
    let mut action = unsafe { std::mem::zeroed::<libc::sigaction>() };
    action.sa_sigaction = received as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: both sets are this frame's own. The handler has the type that SA_SIGINFO asks for, and does
    // nothing but read atomics and call `act`, which the caller says is async-signal-safe.
    unsafe {
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(signal_number(), &raw const action, std::ptr::null_mut()) == -1 {
            return Err(io::Error::last_os_error());
        }
        // The process that started nibiru may have blocked it.
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal_number());
        match libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}
