//! System calls that no safe wrapper offers. The only `unsafe` beside mlua's.
#![allow(
    unsafe_code,
    reason = "fork, F_SETSIG, inherited descriptors, signals and the arguments have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::DupFlags;
use rustix::process::Pid;

/// Has the allocator give what it has free back to the system. Other threads that allocate wait meanwhile.
pub fn give_memory_back() {
    // The others' allocators do so by themselves, or never.
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes the locks of the allocator, may be called in any thread, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

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

/// Asks the kernel to kill this process with `SIGKILL` when the last writer of the pipe `lifeline`
/// closes it. Nothing is ever written to the pipe, so its closing is the only event it can have.
///
/// Unlike `PR_SET_PDEATHSIG`, this follows the gateway and not the parent, which is the zygote. It
/// works in an endless loop, in C code and with every signal blocked.
///
/// # Errors
/// `BrokenPipe` where the writer is closed already.
pub fn die_with(lifeline: &OwnedFd) -> io::Result<()> {
    /// `F_SETSIG` of `<linux/fcntl.h>`, which the libc crate lacks on some targets.
    const F_SETSIG: libc::c_int = 10;
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    for (command, argument) in [(libc::F_SETOWN, pid), (F_SETSIG, libc::SIGKILL)] {
        // SAFETY: both commands take an int and touch only the description behind a descriptor that
        // `lifeline` keeps open.
        if unsafe { libc::fcntl(lifeline.as_raw_fd(), command, argument) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    let flags = rustix::fs::fcntl_getfl(lifeline)?;
    // O_ASYNC is not in rustix's named flags; it is the one that arms the signal.
    let armed = flags | OFlags::from_bits_retain(libc::O_ASYNC.cast_unsigned());
    rustix::fs::fcntl_setfl(lifeline.as_fd(), armed)?;
    // The writer may have closed before the signal was armed; then the pipe already reads as ended.
    let mut polled = [PollFd::new(lifeline, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default()))?;
    if polled[0].revents().contains(PollFlags::HUP) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    Ok(())
}

/// Takes over a descriptor that this process was started with, by moving it to a new number. What
/// stays under the old number is `/dev/null`, so that no later file takes that place by accident; it
/// is close-on-exec except as one of the standard three.
///
/// # Errors
/// `EBADF` where the descriptor is not open.
pub fn take_descriptor(number: u32) -> io::Result<OwnedFd> {
    let raw = i32::try_from(number).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the borrow ends with this statement, and fcntl itself checks that the descriptor is open.
    let moved = rustix::io::fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(raw) }, 3)?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    // SAFETY: the number is open, as fcntl just found, and belongs to nobody else in this process: it
    // came with the process and is taken once. `ManuallyDrop` keeps it open as what dup2 makes of it.
    let mut old = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(raw) });
    let flags = if number < 3 { DupFlags::empty() } else { DupFlags::CLOEXEC };
    rustix::io::dup3(&null, &mut old, flags)?;
    Ok(moved)
}

/// Marks every descriptor from 3 on close-on-exec, so that nothing this process was started with (a
/// listening socket of systemd's, a terminal multiplexer's pipe) reaches the zygote and the workers.
pub fn keep_descriptors_from_children() {
    // SAFETY: the call changes a flag of descriptors and neither opens nor closes one. A kernel before
    // 5.11 refuses it, and the descriptors stay as they were.
    unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
}

/// Takes the memory that holds this process's arguments, which the kernel shows in `/proc/PID/cmdline`: the
/// strings of `argv`, one after the other, each with its NUL. `None` the second time, and where the kernel does not say
/// where they are. Whoever writes there changes what `std::env::args` gives.
pub fn take_arguments() -> Option<&'static mut [u8]> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything, so count from its end, after which the third field follows.
    let mut fields = stat[stat.rfind(')')? + 2..].split_ascii_whitespace();
    // Fields 48 and 49 of proc(5): `arg_start` and `arg_end`; 0 where the kernel keeps them to itself.
    let start: usize = fields.nth(48 - 3)?.parse().ok()?;
    let end: usize = fields.next()?.parse().ok()?;
    let first = std::ptr::with_exposed_provenance_mut::<u8>(start);
    if first.is_null() || end <= start || TAKEN.swap(true, Ordering::Relaxed) {
        return None;
    }
    // SAFETY: the kernel laid `argv`'s strings out between these addresses when it executed this process: at the
    // top of the main stack, writable, and there to the end of the process. It is given away once. The standard
    // library keeps pointers into it and reads through them in `std::env::args` only, which nibiru calls (in
    // clap) before this and never after; any bytes with the NUL at the end that nobody overwrites are strings.
    Some(unsafe { std::slice::from_raw_parts_mut(first, end - start) })
}

/// Lets programs that the application starts die of SIGPIPE, as they expect to (`os.execute("yes | head")`), while
/// this process goes on and sees its write fail.
///
/// Rust has the signal ignored, and what is ignored stays so in a program that is executed. A handler does not.
pub fn restore_sigpipe_for_programs() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing, so it may run at any time; SA_RESTART keeps it from interrupting
    // system calls. An all-zero sigaction has no flags, blocks no signals, and is then given its handler.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        // Fails for signals that do not exist only.
        libc::sigaction(libc::SIGPIPE, &action, std::ptr::null_mut());
    }
}

/// Gives every signal the state that a program expects at its start, whatever this process inherited: none is blocked,
/// and none is ignored. Programs that the application starts inherit that.
///
/// Parents leave much behind: `nohup` ignores HUP, a shell's background job INT and QUIT, Python PIPE and XFSZ. With CHLD
/// ignored the kernel reaps children itself, so that nobody learns how one ended: neither the zygote of its workers nor
/// `os.execute` of a command. A blocked TERM is never received.
///
/// SIGPIPE stays ignored, as Rust has it: see [`restore_sigpipe_for_programs`]. So do signals that have a handler.
pub fn restore_signals() {
    // SAFETY: both structures are this frame's own, and an all-zero sigaction is a valid one (SIG_DFL, no flags, an
    // empty mask). The calls change what this process does at a signal from "nothing" to the default, on which no code
    // of this process relies at its start. They fail for KILL, STOP and numbers that do not exist only.
    unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE) {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
            {
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// Has a write beyond the limit of a file's size (`ulimit -f`) fail, as it does on a full disk, in place of ending this
/// process with SIGXFSZ. Processes that are executed inherit it, and undo it with [`restore_signals`].
pub fn survive_file_size_limit() {
    // SAFETY: an ignored signal runs no code. The call fails for signals that do not exist only.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// A child of this process that has ended and that nobody has reaped. It stays so: reap it with
/// [`rustix::process::waitpid`]. The kernel gives the same one until somebody does.
pub fn ended_child() -> Option<Pid> {
    // SAFETY: a siginfo_t is integers and pointers that nobody follows, all of which may be zero.
    let mut info = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the call writes a siginfo_t, which `info` is. rustix's wrapper keeps the pid to itself.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) } == -1 {
        return None;
    }
    // SAFETY: after waitid the structure has a pid: of a child, or 0 where none has ended.
    Pid::from_raw(unsafe { info.si_pid() })
}

/// What [`on_interrupt`] was told to do.
static ON_INTERRUPT: OnceLock<fn(u32)> = OnceLock::new();

/// The signal that interrupts a running request. The highest of the real-time signals, which are for applications
/// to use and carry a number; libraries that use some take the lowest.
fn interrupt_signal() -> libc::c_int {
    libc::SIGRTMAX()
}

/// Interrupts the process behind `pidfd` with `number`, for its [`on_interrupt`]. One that has not
/// called that is killed by it.
///
/// # Errors
/// `ESRCH` where the process has ended; `EAGAIN` where too many signals wait for it.
pub fn interrupt(pidfd: BorrowedFd<'_>, number: u32) -> io::Result<()> {
    /// `siginfo_t` of a queued signal, as the kernel lays it out (`struct __rt` of `<asm-generic/siginfo.h>`).
    #[repr(C)]
    struct Queued {
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
    // SAFETY: a siginfo_t is integers and pointers that nobody follows, all of which may be zero.
    let mut info = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
    const { assert!(size_of::<Queued>() <= size_of::<libc::siginfo_t>()) };
    const { assert!(align_of::<Queued>() <= align_of::<libc::siginfo_t>()) };
    let queued = Queued { signal: interrupt_signal(), errno: 0, code: libc::SI_QUEUE, sender };
    // SAFETY: the two assertions above: it fits, and is aligned.
    unsafe { (&raw mut info).cast::<Queued>().write(queued) };
    // SAFETY: the call reads a whole siginfo_t, which `info` is, and touches nothing else of this process. No
    // wrapper passes a siginfo.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            libc::c_long::from(pidfd.as_raw_fd()),
            libc::c_long::from(interrupt_signal()),
            &raw const info,
            libc::c_long::from(0),
        )
    };
    if sent == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Kills the process group that a process leads.
pub fn kill_group(leader: BorrowedFd<'_>, pid: u32) -> io::Result<()> {
    // SAFETY: the call touches no memory of this process: the null pointer stands for a plain signal. The wrapper passes no
    // flags.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            libc::c_long::from(leader.as_raw_fd()),
            libc::c_long::from(libc::SIGKILL),
            std::ptr::null::<libc::siginfo_t>(),
            libc::c_long::from(PIDFD_SIGNAL_PROCESS_GROUP),
        )
    };
    if sent == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EINVAL) => kill_group_by_number(leader, pid),
        error => Err(error),
    }
}

/// From Linux 6.9 on.
const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;

/// [`kill_group`] where the kernel takes no group from a pidfd. A process that has not ended has its number to itself. One that
/// ends between these two calls would have to be reaped, and all other numbers given out, before another had it.
fn kill_group_by_number(leader: BorrowedFd<'_>, pid: u32) -> io::Result<()> {
    let mut ended = [PollFd::new(&leader, PollFlags::IN)];
    if poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::kill_process_group(pid, rustix::process::Signal::KILL)?)
}

/// Has every process that this one forks run with the default scheduling policy and no advantage (`nice` below 0), whatever
/// this one has.
pub fn reset_scheduling_on_fork() -> io::Result<()> {
    // musl has no working wrappers for these.
    // SAFETY: asks about the calling thread; touches no memory of this process.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    let policy = i32::try_from(policy).map_err(io::Error::other)?;
    if policy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: an all-zero sched_param is a valid one, and the kernel writes one into it.
    let mut parameters = unsafe { std::mem::zeroed::<libc::sched_param>() };
    // SAFETY: the pointer is this frame's own sched_param, for the time of the call.
    if unsafe { libc::syscall(libc::SYS_sched_getparam, 0, &raw mut parameters) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let policy = libc::c_long::from(policy | libc::SCHED_RESET_ON_FORK);
    // SAFETY: as above; the kernel only reads.
    match unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Has `act` called with the number of every [`interrupt`] of this process, in the middle of whatever it does: `act`
/// may do only what is async-signal-safe. System calls that can go on after a signal do. For the life of
/// the process; only the first call counts.
pub fn on_interrupt(act: fn(u32)) -> io::Result<()> {
    extern "C" fn received(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the kernel hands a handler with SA_SIGINFO a valid siginfo_t, and one of SI_QUEUE has a value.
        let number = unsafe {
            if (*info).si_code != libc::SI_QUEUE {
                return;
            }
            (*info).si_value().sival_ptr.addr()
        };
        if let (Some(act), Ok(number)) = (ON_INTERRUPT.get(), u32::try_from(number)) {
            act(number);
        }
    }
    ON_INTERRUPT.get_or_init(|| act);
    // SAFETY: an all-zero sigaction is a valid one; the mask is set by sigemptyset below.
    let mut action = unsafe { std::mem::zeroed::<libc::sigaction>() };
    action.sa_sigaction = received as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: both sets are this frame's own. The handler has the type that SA_SIGINFO asks for, and does
    // nothing but read atomics and call `act`, which is async-signal-safe by this function's contract.
    unsafe {
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(interrupt_signal(), &raw const action, std::ptr::null_mut()) == -1 {
            return Err(io::Error::last_os_error());
        }
        // Whoever started nibiru may have blocked it.
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, interrupt_signal());
        match libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
mod tests {
    use std::io::Read;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, ChildStdout, Command, Stdio};

    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    /// A shell that leads a group, and the command that it waits for. Both hold the pipe open.
    fn group() -> (Child, ChildStdout, OwnedFd) {
        let mut leader = Command::new("sh")
            .args(["-c", "sleep 600 & echo; wait"])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = leader.stdout.take().unwrap();
        output.read_exact(&mut [0]).unwrap();
        let pid = Pid::from_raw(leader.id().cast_signed()).unwrap();
        (leader, output, pidfd_open(pid, PidfdFlags::empty()).unwrap())
    }

    #[test]
    fn a_group_is_killed_with_its_leader_by_either_way() {
        for kill in [kill_group, kill_group_by_number] {
            let (mut leader, mut output, pidfd) = group();
            kill(pidfd.as_fd(), leader.id()).unwrap();
            // Ends with the last process of the group.
            assert_eq!(output.read(&mut [0]).unwrap(), 0);
            assert_eq!(leader.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
    }

    #[test]
    fn the_number_of_a_leader_that_has_ended_is_not_used() {
        let (mut leader, mut output, pidfd) = group();
        leader.kill().unwrap();
        leader.wait().unwrap();
        assert!(kill_group_by_number(pidfd.as_fd(), leader.id()).is_err());
        // What it has left goes by its pidfd where the kernel can.
        if kill_group(pidfd.as_fd(), leader.id()).is_err() {
            let pid = Pid::from_raw(leader.id().cast_signed()).unwrap();
            rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap();
        }
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
    }
}
