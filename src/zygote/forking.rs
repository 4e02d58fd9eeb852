//! A zygote that has loaded: forks a worker whenever the gateway asks, and reaps it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::reports::send;
use crate::link::Link;
use crate::link::message::{Exit, FromZygote, ToZygote};
use crate::link::socket::Received;
use crate::lua;
use crate::os::fork::{self, Fork};
use crate::os::rlimit;
use crate::os::title::{Title, WorkerTitle};
use crate::worker::{self, Spawn};

/// A zygote that has loaded.
pub(super) struct Zygote {
    control: Link,
    preloaded: bool,
    /// The limit of a worker's memory, in bytes.
    memory_limit: Option<u64>,
    generation: u32,
    /// The application's soft limit of open files.
    open_files: Option<u64>,
    /// The workers, by pid: a worker's number may be in use again before its process is reaped.
    children: BTreeMap<i32, Child>,
    /// The gateway has sent `Shutdown`. The zygote waits for its children, so that none of them is left for process 1 to reap.
    leaving: bool,
}

struct Child {
    worker: u32,
    pidfd: OwnedFd,
}

impl Zygote {
    /// A zygote without workers. `control` leads to the gateway.
    pub(super) fn new(
        control: Link,
        generation: u32,
        preloaded: bool,
        memory_limit: Option<u64>,
        open_files: Option<u64>,
    ) -> Self {
        let children = BTreeMap::new();
        Self { control, preloaded, memory_limit, generation, open_files, children, leaving: false }
    }

    /// Serves the gateway's orders until it says `Shutdown` or closes the link.
    pub(super) fn serve(mut self, state: lua::State, title: Title) -> io::Result<ExitCode> {
        let mut buffer = [0; 64];
        loop {
            let (said, ended) = self.wait()?;
            for pid in ended {
                self.reap(pid)?;
            }
            if self.leaving && self.children.is_empty() {
                return Ok(ExitCode::SUCCESS);
            }
            if !said {
                continue;
            }
            let mut descriptors = Vec::new();
            let length = match self.control.receive(&mut buffer, &mut descriptors)? {
                Received::Packet(length) => length,
                // The gateway shares no memory with a zygote.
                Received::WakeUp => continue,
                Received::Closed => return Ok(ExitCode::SUCCESS),
            };
            match ToZygote::decode(&mut &buffer[..length]).map_err(io::Error::other)? {
                ToZygote::Shutdown if self.children.is_empty() => return Ok(ExitCode::SUCCESS),
                ToZygote::Shutdown => self.leaving = true,
                ToZygote::Spawn { worker } => {
                    let spawn = Spawn::new(worker, descriptors, self.preloaded, self.memory_limit)?;
                    match fork::fork() {
                        Ok(Fork::Child) => {
                            let _ = lead_group(None);
                            let title = WorkerTitle::new(title, worker, self.generation);
                            // The limit was this process's before, so it can be set again.
                            let _ = rlimit::set(self.open_files);
                            // The siblings' pidfds and the control link are not the worker's.
                            drop(self);
                            worker::run(spawn, state, title);
                        }
                        Ok(Fork::Parent { child }) => {
                            // Both processes set the group: the gateway may kill it as soon as it hears of the worker.
                            let _ = lead_group(Some(child));
                            self.announce(worker, child)?;
                        }
                        Err(error) => {
                            let errno = error.raw_os_error().unwrap_or_default().cast_unsigned();
                            send(&self.control, &FromZygote::SpawnFailed { worker, errno }, None)?;
                        }
                    }
                }
            }
        }
    }

    /// Waits for a message or for children that have ended. Gives whether there is a message, and the pids of the children.
    fn wait(&self) -> io::Result<(bool, Vec<i32>)> {
        let mut polled = Vec::with_capacity(1 + self.children.len());
        polled.push(PollFd::new(&self.control, PollFlags::IN));
        polled.extend(self.children.values().map(|child| PollFd::new(&child.pidfd, PollFlags::IN)));
        rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
        let ended = self
            .children
            .keys()
            .zip(&polled[1..])
            .filter(|(_, polled)| !polled.revents().is_empty())
            .map(|(pid, _)| *pid)
            .collect();
        Ok((!polled[0].revents().is_empty(), ended))
    }

    fn announce(&mut self, worker: u32, child: Pid) -> io::Result<()> {
        let pidfd = pidfd_open(child, PidfdFlags::empty())?;
        let pid = child.as_raw_nonzero().get();
        send(&self.control, &FromZygote::Spawned { worker, pid: pid.cast_unsigned() }, Some(&pidfd))?;
        self.children.insert(pid, Child { worker, pidfd });
        Ok(())
    }

    fn reap(&mut self, pid: i32) -> io::Result<()> {
        let Some(child) = self.children.remove(&pid) else { return Ok(()) };
        let status = match waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED) {
            // The application ignores SIGCHLD, so the kernel keeps no status.
            Err(Errno::CHILD) => None,
            status => status?,
        };
        let exit = status.map_or(Exit::Status(0), |status| match status.terminating_signal() {
            Some(signal) => Exit::Signal(signal.cast_unsigned()),
            None => Exit::Status(status.exit_status().unwrap_or_default().cast_unsigned()),
        });
        let message = FromZygote::Exited { worker: child.worker, pid: pid.cast_unsigned(), exit };
        send(&self.control, &message, None)
    }
}

/// Makes a process (`None`: the calling one) the leader of a process group of its own, so that a signal which the
/// application sends to its group (`kill 0`) reaches neither its siblings nor the zygote. Fails where the process has ended.
fn lead_group(process: Option<Pid>) -> rustix::io::Result<()> {
    rustix::process::setpgid(process, process)
}
