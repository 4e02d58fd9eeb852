//! The driver of one zygote process: executes it, sends it orders to fork, and turns its messages into events.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

use crate::gateway::async_fd;
use crate::gateway::frontend::systemd;
use crate::gateway::pool::log_pipe::{self, Line, LogPipeContext, Pipes, ProcessGuard};
use crate::gateway::pool::orphans::AwaitedChild;
use crate::gateway::pool::process_log::{LineMetadata, Process};
use crate::link::Link;
use crate::link::interrupt::{Interrupt, Kind, Serial};
use crate::link::lane::{self, GatewayLane};
use crate::link::launch::{Launch, NAME};
use crate::link::message::{Exit, FromZygote, MAX_PACKET, ToZygote};
use crate::link::socket::Received;
use crate::log::escape;
use crate::os::interrupt;
use crate::os::shared_memory::SharedMemory;
use crate::proto::turn::Turn;
use crate::proto::worker::{MAX_LINES, MAX_PACKETS_IN_LINK};

/// A running zygote.
#[derive(Debug)]
pub(crate) struct ZygoteLink {
    pub(crate) generation: u32,
    link: Rc<AsyncFd<Link>>,
    pidfd: OwnedFd,
}

/// An event of a zygote.
#[derive(Debug)]
pub(crate) enum ZygoteEvent {
    Loaded {
        preloaded: bool,
        took: Duration,
    },
    LoadFailed(String),
    /// `pidfd` is `None` if no descriptor was left for it.
    Spawned {
        worker: u32,
        pid: u32,
        pidfd: Option<OwnedFd>,
    },
    SpawnFailed {
        worker: u32,
        cause: io::Error,
    },
    Exited {
        worker: u32,
        pid: u32,
        exit: Exit,
    },
    /// The process has exited. The last event.
    Gone(Option<ExitStatus>),
}

impl ZygoteLink {
    /// Executes a zygote. `on_event` gets every event of it.
    pub(crate) fn launch(
        settings: &Launch,
        context: &Rc<LogPipeContext>,
        on_event: impl Fn(ZygoteEvent) + 'static,
    ) -> io::Result<Self> {
        let (ours, theirs) = Link::pair()?;
        ours.set_nonblocking()?;
        let (pipes, writers) = log_pipe::Pipes::open()?;
        let mut command = Command::new("/proc/self/exe");
        systemd::VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        let child = command
            .arg0(NAME)
            .args(settings.arguments())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(writers.stdout)
            .stderr(writers.stderr)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.ok_or(io::ErrorKind::NotFound)?;
        let waited_for = AwaitedChild::new(pid);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let pid = pid.as_raw_nonzero().get().cast_unsigned();
        let name = Process { name: "zygote", worker: None, generation: settings.generation, pid };
        let guard = pipes.log(context, name, move |Line { level, text, part }| {
            name.log(level, None, LineMetadata { part, ..LineMetadata::default() }, text)
        });
        let link = Rc::new(async_fd::watch(ours)?);
        tokio::task::spawn_local(listen(
            Rc::clone(&link),
            name,
            child,
            (waited_for, guard),
            Rc::clone(context),
            on_event,
        ));
        Ok(Self { generation: settings.generation, link, pidfd })
    }

    /// Orders the fork of a worker. The descriptors are its link, its standard output, its standard error, its lifeline, and the memory
    /// of its lane if it has one.
    pub(crate) fn spawn(&self, worker: u32, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(ToZygote::Spawn { worker }, descriptors)
    }

    /// Lets a zygote exit once the last of its workers has.
    pub(crate) fn shut_down(&self) {
        // After a failure the zygote has exited, or is killed at the exit of the gateway.
        let _ = self.send(ToZygote::Shutdown, &[]);
    }

    /// Interrupts a load that takes too long. The zygote reports its Lua stack as the reason of the failure.
    pub(crate) fn interrupt(&self) {
        let interrupt = Interrupt { kind: Kind::Timeout, serial: Serial::default() };
        // A zygote that has exited needs no interrupt. A zygote that ignores the interrupt is killed soon.
        let _ = interrupt::send(self.pidfd.as_fd(), interrupt.encode());
    }

    /// Kills a zygote that may be stuck in the application's code.
    pub(crate) fn kill(&self) {
        // Fails if the zygote has exited.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    fn send(&self, message: ToZygote, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut packet = Vec::with_capacity(8);
        message.encode(&mut packet);
        self.link.get_ref().send(&packet, descriptors)
    }
}

/// Reads the messages of a zygote until it has exited and all its messages are read.
async fn listen(
    link: Rc<AsyncFd<Link>>,
    name: Process,
    mut child: Child,
    _until_it_ends: (AwaitedChild, ProcessGuard),
    context: Rc<LogPipeContext>,
    on_event: impl Fn(ZygoteEvent),
) {
    let mut buffer = vec![0; MAX_PACKET];
    let (mut status, mut after_end) = (None, 0);
    let mut turn = Turn::begin(Instant::now);
    loop {
        if turn.is_over() {
            context.yield_queue.wait_turn().await;
            turn = Turn::begin(Instant::now);
        }
        let received = if status.is_none() {
            tokio::select! {
                ready = link.readable() => match ready {
                    Ok(mut ready) => match ready.try_io(|link| receive(link.get_ref(), name, &mut buffer, &mut turn, &on_event)) {
                        Ok(received) => received,
                        Err(_would_block) => {
                            turn = Turn::begin(Instant::now);
                            continue;
                        }
                    },
                    Err(error) => Err(error),
                },
                // A process that the application started may keep the link open, so the end of the link is not awaited.
                ended = child.wait() => {
                    status = Some(ended.ok());
                    continue;
                }
            }
        } else if after_end == MAX_PACKETS_IN_LINK {
            break;
        } else {
            after_end += 1;
            receive(link.get_ref(), name, &mut buffer, &mut turn, &on_event)
        };
        match received {
            Ok(true) => {}
            // It exited with an unread `Spawn` in its link. Its earlier messages still follow.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Ok(false) | Err(_) => break,
        }
    }
    if status.is_none() {
        // Its link is closed, or it broke the protocol: either way it is of no more use.
        let _ = child.start_kill();
        status = Some(child.wait().await.ok());
    }
    on_event(ZygoteEvent::Gone(status.flatten()));
}

/// Receives one packet, and passes its events to `on_event`. Returns false at the end of the link.
fn receive(
    link: &Link,
    name: Process,
    buffer: &mut [u8],
    turn: &mut Turn,
    on_event: &impl Fn(ZygoteEvent),
) -> io::Result<bool> {
    let mut descriptors = Vec::new();
    let length = match link.receive(buffer, &mut descriptors)? {
        Received::Packet(length) => length,
        Received::WakeUp => return Err(io::Error::other("a wake-up")),
        Received::Closed => return Ok(false),
    };
    turn.goes_on_after(length);
    let (mut packet, mut descriptors, mut lines) = (&buffer[..length], descriptors.into_iter(), 0);
    while !packet.is_empty() {
        let message = FromZygote::decode(&mut packet).map_err(io::Error::other)?;
        if let FromZygote::Log { level, message, fields } = message {
            // Like a worker, a zygote sends each line at once, so a packet holds few.
            lines += 1;
            if lines > MAX_LINES {
                return Err(io::Error::other("too many log lines at once"));
            }
            name.log(level, None, LineMetadata { fields, ..LineMetadata::default() }, message);
        } else if let Some(event) = event_of(message, &mut descriptors) {
            on_event(event);
        }
    }
    Ok(true)
}

/// The event of a message; `None` for a log line.
fn event_of(message: FromZygote<'_>, descriptors: &mut impl Iterator<Item = OwnedFd>) -> Option<ZygoteEvent> {
    Some(match message {
        FromZygote::Log { .. } => return None,
        FromZygote::Loaded { preloaded, micros } => {
            ZygoteEvent::Loaded { preloaded, took: Duration::from_micros(micros) }
        }
        FromZygote::LoadFailed { message } => ZygoteEvent::LoadFailed(escape::text(message).into_owned()),
        FromZygote::Spawned { worker, pid } => {
            ZygoteEvent::Spawned { worker, pid, pidfd: descriptors.next() }
        }
        FromZygote::SpawnFailed { worker, errno } => {
            let cause = io::Error::from_raw_os_error(errno.cast_signed());
            ZygoteEvent::SpawnFailed { worker, cause }
        }
        FromZygote::Exited { worker, pid, exit } => ZygoteEvent::Exited { worker, pid, exit },
    })
}

/// A worker that was requested from a zygote and is not announced yet: the gateway's ends of its socket and pipes.
#[derive(Debug)]
pub(crate) struct PendingWorker {
    pub(crate) generation: u32,
    pub(crate) link: Link,
    pub(crate) output: Pipes,
    pub(crate) lifeline: OwnedFd,
    pub(crate) lane: Option<GatewayLane<SharedMemory>>,
}

impl PendingWorker {
    /// Creates the socket, the pipes and the memory of the lane, and requests the worker from `zygote`. Without the memory the worker has
    /// the socket alone; `refused` is then called with the cause.
    pub(crate) fn request(
        worker: u32,
        zygote: &ZygoteLink,
        refused: impl FnOnce(io::Error),
    ) -> io::Result<Self> {
        let (link, their_link) = Link::pair()?;
        let (output, theirs) = Pipes::open()?;
        let (their_lifeline, lifeline) = io::pipe()?;
        let (lane, memory) = match SharedMemory::create("nibiru-lane", lane::WORDS) {
            Ok((lane, memory)) => (Some(GatewayLane::new(lane)), Some(memory)),
            Err(error) => {
                refused(error);
                (None, None)
            }
        };
        let theirs =
            [their_link.as_fd(), theirs.stdout.as_fd(), theirs.stderr.as_fd(), their_lifeline.as_fd()];
        let theirs: Vec<_> = theirs.into_iter().chain(memory.as_ref().map(AsFd::as_fd)).collect();
        zygote.spawn(worker, &theirs)?;
        Ok(Self { generation: zygote.generation, link, output, lifeline: lifeline.into(), lane })
    }
}
