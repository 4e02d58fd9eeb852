//! Other processes of this server: ended children, killed groups, and the priority of children.
#![allow(
    unsafe_code,
    reason = "WNOWAIT with a pid, signals to a pidfd's group and scheduling policies have no safe wrapper"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Pid;

/// A child of this process that has ended and was not reaped; `None` where there is none. The call does not reap the child: the
/// kernel gives the same one until [`rustix::process::waitpid`] does.
pub fn ended_child() -> Option<Pid> {
    // SAFETY: a siginfo_t is integers and pointers that are not followed, all of which may be zero.
    let mut info = unsafe { std::mem::zeroed::<libc::siginfo_t>() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the call writes a siginfo_t, which `info` is. rustix's wrapper keeps the pid to itself.
    if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) } == -1 {
        return None;
    }
    // SAFETY: after waitid the structure has a pid: of a child, or 0 where none has ended.
    Pid::from_raw(unsafe { info.si_pid() })
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

/// The flag `PIDFD_SIGNAL_PROCESS_GROUP` of pidfd_send_signal(2), from Linux 6.9 on.
const PIDFD_SIGNAL_PROCESS_GROUP: u32 = 1 << 2;

/// The fallback of [`kill_group`] for kernels that take no group from a pidfd. The number of a living process is its own. A
/// process that ends between the two calls here keeps its number until it is reaped, and the kernel gives all other numbers out
/// first.
fn kill_group_by_number(leader: BorrowedFd<'_>, pid: u32) -> io::Result<()> {
    let mut ended = [PollFd::new(&leader, PollFlags::IN)];
    if poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? > 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::kill_process_group(pid, rustix::process::Signal::KILL)?)
}

/// Gives every process that this one forks later the default scheduling policy, and no `nice` value below 0
/// (`SCHED_RESET_ON_FORK`, sched(7)).
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

/// Has this process scheduled in batches (`SCHED_BATCH`, sched(7)), or by the default policy: in batches, a process that becomes
/// runnable does not interrupt the running one. Needs no privilege.
///
/// # Errors
/// Those of sched_setscheduler(2): a filter that forbids the call, and a process that runs by a third policy, which is kept.
pub fn set_batch(batch: bool) -> io::Result<()> {
    // SAFETY: asks about the calling thread; touches no memory of this process. musl has no working wrappers for these.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    let (other, batches) = (libc::c_long::from(libc::SCHED_OTHER), libc::c_long::from(libc::SCHED_BATCH));
    let flag = libc::c_long::from(libc::SCHED_RESET_ON_FORK);
    if policy < 0 {
        return Err(io::Error::last_os_error());
    }
    if policy & !flag != other && policy & !flag != batches {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // Without privileges the flag cannot be dropped.
    let policy = if batch { batches } else { other } | (policy & flag);
    // SAFETY: an all-zero sched_param is the one that both policies take; the kernel only reads it.
    let parameters = unsafe { std::mem::zeroed::<libc::sched_param>() };
    // SAFETY: the pointer is this frame's own sched_param, for the time of the call.
    match unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsFd, OwnedFd};
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
        // The rest of an ended leader's group is killed by the pidfd where the kernel can.
        if kill_group(pidfd.as_fd(), leader.id()).is_err() {
            let pid = Pid::from_raw(leader.id().cast_signed()).unwrap();
            rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap();
        }
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
    }
}
