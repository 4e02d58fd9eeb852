//! The zygote: loads the application once, then forks a worker whenever the gateway asks.
//!
//! One thread, one blocking loop over its control link and its children's pidfds. Never opens a listening
//! socket, never starts a thread, never runs a request.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, waitid};

use crate::config::Preload;
use crate::link::Link;
use crate::link::launch::{Launch, NAME};
use crate::link::message::{Exit, FromZygote, LogLevel, ToZygote, shortened};
use crate::link::socket::Received;
use crate::lua;
use crate::os::descriptors;
use crate::os::dumpable;
use crate::os::fork::{self, Fork};
use crate::os::process;
use crate::os::rlimit;
use crate::os::signals;
use crate::os::title::{Title, WorkerTitle};
use crate::worker::{self, Spawn};

/// The exit status of a zygote whose application does not load.
const LOAD_FAILED: u8 = 3;

/// How many descriptors that loading has opened the log names.
const DESCRIPTORS_TOLD: usize = 8;

/// Runs a zygote to its end. Standard input is the control link.
pub fn run(launch: &Launch) -> ExitCode {
    match start(launch) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("zygote failed: {}", crate::log::cause(&error)));
            ExitCode::FAILURE
        }
    }
}

fn start(launch: &Launch) -> io::Result<ExitCode> {
    let closed = if launch.dumpable.is_on() { Ok(()) } else { dumpable::close() };
    // Executed as /proc/self/exe, it would be listed as "exe".
    rustix::thread::set_name(c"nibiru")?;
    // A session of its own: Ctrl-C at the terminal is for the gateway, which stops the others in good order.
    let _ = rustix::process::setsid();
    // What the gateway's priority is set to is not the application's. Where it cannot be said, workers run as this does.
    let _ = process::reset_scheduling_on_fork();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The gateway has done so; SIGXFSZ it ignores for itself.
    signals::restore_defaults();
    signals::restore_sigpipe_for_programs();
    rlimit::set(launch.open_files)?;
    let mut title = Title::take();
    title.set(&format!("zygote gen {} loading {}", launch.generation, launch.app));
    let control = Link::from(descriptors::take_standard_input()?);
    fork::claim_process();
    if let Err(error) = closed {
        warn(&control, &format!("{}: {}", dumpable::NOT_CLOSED, crate::log::cause(&error)));
    }
    std::env::set_current_dir(&launch.root).map_err(|error| {
        let cause = crate::log::cause(&error);
        io::Error::new(error.kind(), format!("cannot enter the root {}: {cause}", launch.root.display()))
    })?;

    let begin = Instant::now();
    // What the application logs while it loads goes this way, and only then: no worker inherits it.
    let log = Link::from(control.as_fd().try_clone_to_owned()?);
    let before = Descriptors::open()?;
    let mut state = match load(launch, log) {
        Ok(state) => state,
        Err(message) => {
            send(&control, &FromZygote::LoadFailed { message: &shortened(message.as_bytes()) }, None)?;
            return Ok(ExitCode::from(LOAD_FAILED));
        }
    };
    let preloaded = launch.preload != Preload::Off;
    // Collects first, so that a file which was read and forgotten is closed by the time it is looked for.
    state.settle();
    if preloaded && fork::threads()? > 1 {
        warn(&control, "loading the application started a thread, which forked workers would not have");
        return Err(load_in_workers(launch, control, &[]));
    }
    if launch.preload == Preload::Auto {
        let shared = Descriptors::open()?.since(&before);
        if !shared.is_empty() {
            return Err(load_in_workers(launch, control, &shared));
        }
    }
    state.log_while_loading(None);
    let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    send(&control, &FromZygote::Loaded { preloaded, micros }, None)?;
    // From here on only workers run the application. The zygote needs a descriptor for each of them.
    let open_files = rlimit::raise();
    let zygote = Zygote {
        control,
        preloaded,
        generation: launch.generation,
        memory_limit: launch.memory_limit,
        open_files,
        children: BTreeMap::new(),
        leaving: false,
    };
    title.set(&format!("zygote gen {} {}", launch.generation, launch.app));
    zygote.serve(state, title)
}

/// Logs a line of the zygote's own.
fn warn(control: &Link, line: &str) {
    let message = &*shortened(line.as_bytes());
    // Without a gateway nobody reads it.
    let _ = send(control, &FromZygote::Log { level: LogLevel::Warn, message, fields: b"" }, None);
}

/// Writes a line on standard error, which is a pipe into the gateway's log. Without a gateway nobody reads it.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A state with the application in it, or an empty one where workers load it.
fn load(launch: &Launch, log: Link) -> Result<lua::State, String> {
    let target = launch.app.parse::<lua::Target>().map_err(|error| error.to_string())?;
    let settings = lua::Settings {
        root: launch.root.clone(),
        target,
        generation: launch.generation,
        proxy_headers: launch.proxy_headers(),
    };
    let mut state = lua::State::new(&settings).map_err(|error| error.to_string())?;
    state.log_while_loading(Some(Box::new(move |level: lua::Level, message: &[u8], fields: &str| {
        let (message, fields) = (&*shortened(message), fields.as_bytes());
        // Without a gateway nobody reads it.
        let _ = send(&log, &FromZygote::Log { level: level.into(), message, fields }, None);
    })));
    if launch.preload != Preload::Off {
        // For an application that takes too long to load. Without a handler that only ends without its stack.
        state.accept_interrupts();
        let _ = lua::handle_interrupts();
        let loaded = state.load();
        worker::end_fork_of_load(&loaded);
        loaded.map_err(|error| error.to_string())?;
    }
    Ok(state)
}

/// Loading opened what forked workers would share: starts over as a process that does not load. Gives
/// the error where that is impossible.
fn load_in_workers(launch: &Launch, control: Link, shared: &[(i32, PathBuf)]) -> io::Error {
    for (_, target) in &shared[..shared.len().min(DESCRIPTORS_TOLD)] {
        warn(
            &control,
            &format!("loading the application opened {}, which forked workers would share", target.display()),
        );
    }
    if let Some(more) = shared.len().checked_sub(DESCRIPTORS_TOLD).filter(|more| *more > 0) {
        warn(
            &control,
            &format!("loading the application opened {more} more, which forked workers would share"),
        );
    }
    for (number, _) in shared {
        // It was open a moment ago.
        let _ = descriptors::keep_from_program(*number);
    }
    warn(
        &control,
        "every worker loads the application itself (use nibiru.on_worker_start for what a worker needs of its own, \
         or set --preload)",
    );
    let again = Launch { preload: Preload::Off, ..launch.clone() };
    Command::new("/proc/self/exe").arg0(NAME).args(again.arguments()).stdin(OwnedFd::from(control)).exec()
}

/// The open descriptors of this process, with what each leads to.
struct Descriptors(BTreeSet<(i32, PathBuf)>);

impl Descriptors {
    fn open() -> io::Result<Self> {
        let mut open = BTreeSet::new();
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let entry = entry?;
            let number = entry.file_name().to_string_lossy().parse();
            // The directory that is being read is among them, and closed by the time it is looked at.
            if let (Ok(number), Ok(target)) = (number, std::fs::read_link(entry.path())) {
                open.insert((number, target));
            }
        }
        Ok(Self(open))
    }

    /// Those that were not there before and that a fork would share for worse: devices have no position,
    /// and `/proc` shows each process its own.
    fn since(&self, before: &Self) -> Vec<(i32, PathBuf)> {
        let shared_memory = |target: &PathBuf| target.starts_with("/dev/shm");
        let harmless = |target: &PathBuf| {
            (target.starts_with("/dev") && !shared_memory(target)) || target.starts_with("/proc")
        };
        self.0.difference(&before.0).filter(|(_, target)| !harmless(target)).cloned().collect()
    }
}

/// Makes a process (`None`: the calling one) the leader of a process group of its own, so that a signal which the
/// application sends to its group (`kill 0`) reaches neither its siblings nor the zygote. Fails where it has ended.
fn lead_group(process: Option<Pid>) -> rustix::io::Result<()> {
    rustix::process::setpgid(process, process)
}

/// A zygote that has loaded.
struct Zygote {
    control: Link,
    preloaded: bool,
    memory_limit: Option<u64>,
    generation: u32,
    /// The limit of open files that is the application's.
    open_files: Option<u64>,
    /// By pid: a worker's number may be in use again before its process is reaped.
    children: BTreeMap<i32, Child>,
    /// Told to exit; waits for its children, so that none of them is left for process 1 to reap.
    leaving: bool,
}

struct Child {
    worker: u32,
    pidfd: OwnedFd,
}

impl Zygote {
    fn serve(mut self, state: lua::State, title: Title) -> io::Result<ExitCode> {
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
                            // It was this process's before, so it can be.
                            let _ = rlimit::set(self.open_files);
                            // The siblings' pidfds and the control link are not the worker's.
                            drop(self);
                            worker::run(spawn, state, title);
                        }
                        Ok(Fork::Parent { child }) => {
                            // Whoever is first: the gateway may kill the group as soon as it hears of it.
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

    /// Waits for a message or for children that have ended.
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
            // The application has SIGCHLD ignored, so nobody knows how a process ended.
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

fn send(control: &Link, message: &FromZygote<'_>, descriptor: Option<&OwnedFd>) -> io::Result<()> {
    let mut packet = Vec::with_capacity(64);
    message.encode(&mut packet);
    match descriptor {
        Some(descriptor) => control.send(&packet, &[descriptor.as_fd()]),
        None => control.send(&packet, &[]),
    }
}
