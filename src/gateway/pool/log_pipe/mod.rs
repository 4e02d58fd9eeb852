//! The pipes from the standard output and standard error of zygotes and workers to the log.
//!
//! Each process has two pipes, because the two have log levels of their own: the message of a C library before it aborts must
//! be in the log at any level. Each pipe keeps its order; lines of the two are logged in the order of reading.

mod lines;

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::unix::pipe;
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::info;

use crate::gateway::frontend::budget::LINGERING_PIPES;
pub(crate) use crate::gateway::pool::log_pipe::lines::Line;
use crate::gateway::pool::log_pipe::lines::{Lines, READ};
use crate::gateway::pool::process_log::Process;
use crate::gateway::yield_queue::YieldQueue;
use crate::link::message::LogLevel;
use crate::log::rate_limit::LogRateLimiter;
use crate::proto::turn::Turn;

/// Most bytes in a pipe (`/proc/sys/fs/pipe-max-size`, as a process without privileges may set it).
const MAX_PIPE: usize = 1 << 20;

/// Time for which a pipe is kept after the exit of its process, for output of the child processes that it started.
const LINGER: Duration = Duration::from_secs(5);

/// Longest wait for the unread output of processes at the end of the gateway.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The reading ends of the two pipes of a process.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The writing ends, for the process.
#[derive(Debug)]
pub(crate) struct Writers {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The guard of a running process. Its drop tells the readers that the process has exited.
#[derive(Debug)]
pub(crate) struct ProcessGuard(#[expect(dead_code, reason = "only its end matters")] watch::Sender<()>);

/// The guard of a pipe that is not drained. Its reader drops it when all output of the process is read.
pub(crate) type DrainGuard = mpsc::Sender<Infallible>;
pub(crate) type WeakDrainGuard = mpsc::WeakSender<Infallible>;

/// The readers of all pipes, counted by their guards.
#[derive(Debug)]
pub(crate) struct Readers {
    drain_guard: DrainGuard,
    drained: mpsc::Receiver<Infallible>,
}

impl Readers {
    pub(crate) fn new() -> Self {
        let (drain_guard, drained) = mpsc::channel(1);
        Self { drain_guard, drained }
    }

    /// The guard that each reader upgrades to a share of its own.
    pub(crate) fn drain_guard(&self) -> WeakDrainGuard {
        self.drain_guard.downgrade()
    }

    /// Waits until the output of all exited processes is in the log. The output is in the pipes already, but the reading tasks
    /// may not have had a turn.
    pub(crate) async fn finish(mut self) {
        drop(self.drain_guard);
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, self.drained.recv()).await;
    }
}

/// State shared by the readers of all pipes.
#[derive(Debug)]
pub(crate) struct LogPipeContext {
    drain_guard: WeakDrainGuard,
    pub(crate) yield_queue: Rc<YieldQueue>,
    /// Permits for pipes that are kept after the exit of their process.
    lingering: Semaphore,
    /// Rate limit of lines about pipes closed early.
    closed_early: RefCell<LogRateLimiter>,
}

impl LogPipeContext {
    pub(crate) fn new(drain_guard: WeakDrainGuard, yield_queue: Rc<YieldQueue>) -> Rc<Self> {
        let closed_early = RefCell::new(LogRateLimiter::new(Instant::now()));
        Rc::new(Self { drain_guard, yield_queue, lingering: Semaphore::new(LINGERING_PIPES), closed_early })
    }
}

impl Pipes {
    pub(crate) fn open() -> io::Result<(Self, Writers)> {
        let ((stdout, their_stdout), (stderr, their_stderr)) = (io::pipe()?, io::pipe()?);
        let ours = Self { stdout: stdout.into(), stderr: stderr.into() };
        Ok((ours, Writers { stdout: their_stdout.into(), stderr: their_stderr.into() }))
    }

    /// Passes every line to `log`, until the last writer has closed the pipe or the process has exited. A last line without a
    /// line end is passed at the exit. Child processes of the process may keep the pipes open; their output is read for
    /// [`LINGER`] after the exit.
    pub(crate) fn log(
        self,
        context: &Rc<LogPipeContext>,
        process: Process,
        log: impl Fn(Line<'_>) + Clone + 'static,
    ) -> ProcessGuard {
        let (process_guard, exited) = watch::channel(());
        for (pipe, level) in [(self.stdout, LogLevel::Info), (self.stderr, LogLevel::Error)] {
            let (context, log, exited) = (Rc::clone(context), log.clone(), exited.clone());
            let drain_guard = context.drain_guard.upgrade();
            tokio::task::spawn_local(async move {
                let log = |text: &[u8], part| log(Line { level, text, part });
                // An error ends the reading. Its likely cause, the exit of the process, is logged elsewhere.
                if let Ok(pipe) = pipe::Receiver::from_owned_fd(pipe) {
                    let reader = Reader { pipe, lines: Lines::default(), context: &context, log };
                    let _ = reader.read(exited, drain_guard, process).await;
                }
            });
        }
        ProcessGuard(process_guard)
    }
}

/// The reader of one pipe.
struct Reader<'o, L> {
    pipe: pipe::Receiver,
    lines: Lines,
    context: &'o LogPipeContext,
    log: L,
}

impl<L: FnMut(&[u8], Option<u32>)> Reader<'_, L> {
    async fn read(
        mut self,
        mut exited: watch::Receiver<()>,
        drain_guard: Option<DrainGuard>,
        process: Process,
    ) -> io::Result<()> {
        tokio::select! {
            biased;
            // Nothing is ever sent, so this is the drop of the sender.
            _ = exited.changed() => {}
            read = self.read_to_end() => return read,
        }
        let until = tokio::time::Instant::now() + LINGER;
        let permit = self.context.lingering.try_acquire();
        let drained = tokio::time::timeout_at(until, self.drain()).await;
        self.lines.end(&mut self.log);
        drop(drain_guard);
        if matches!(drained, Ok(Ok(true))) {
            return Ok(());
        }
        if permit.is_ok()
            && let Ok(read) = tokio::time::timeout_at(until, self.read_to_end()).await
        {
            return read;
        }
        self.lines.end(&mut self.log);
        let allowed = self.context.closed_early.borrow_mut().allow(Instant::now());
        if let Some(left_out) = allowed {
            let Process { name: process, worker, generation: r#gen, pid } = process;
            info!(
                process,
                worker,
                r#gen,
                pid,
                left_out,
                "the output of a process that has ended is closed, though something it has started still has it"
            );
        }
        Ok(())
    }

    /// Reads until the last writer has closed the pipe. Bytes that are read and not logged stay in `lines` if this future is
    /// dropped.
    async fn read_to_end(&mut self) -> io::Result<()> {
        let mut turn = Turn::begin(Instant::now);
        loop {
            self.take(&mut turn).await;
            self.lines.make_room();
            match self.pipe.try_read_buf(&mut self.lines.buffer) {
                Ok(0) => {
                    self.lines.end(&mut self.log);
                    return Ok(());
                }
                Ok(read) => {
                    turn.goes_on_after(read);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.pipe.readable().await?;
                    turn = Turn::begin(Instant::now);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the rest of the output of an exited process, which is in the pipe even if tokio has not noticed. Bytes beyond
    /// [`MAX_PIPE`] must come from another process. Returns whether the last writer has closed the pipe.
    async fn drain(&mut self) -> io::Result<bool> {
        let (mut turn, mut left, mut piece) = (Turn::begin(Instant::now), MAX_PIPE, [0; READ]);
        while left > 0 {
            self.take(&mut turn).await;
            let read = match rustix::io::read(&self.pipe, &mut piece) {
                Ok(0) => return Ok(true),
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
                read => read?,
            };
            self.lines.buffer.extend_from_slice(&piece[..read]);
            turn.goes_on_after(read);
            left = left.saturating_sub(read);
        }
        self.take(&mut turn).await;
        Ok(false)
    }

    /// Logs all complete lines, in as many turns as they take.
    async fn take(&mut self, turn: &mut Turn) {
        while !self.lines.take(turn, &mut self.log) || turn.is_over() {
            self.context.yield_queue.wait_turn().await;
            *turn = Turn::begin(Instant::now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    use crate::gateway::runtime;

    const PROCESS: Process = Process { name: "worker", worker: Some(1), generation: 1, pid: 1 };

    /// The pipes of a process, and the lines read from them.
    struct Printing {
        readers: Readers,
        context: Rc<LogPipeContext>,
        process_guard: Option<ProcessGuard>,
        writers: Writers,
        found: mpsc::UnboundedReceiver<(LogLevel, String)>,
    }

    impl Printing {
        fn begin() -> Self {
            let readers = Readers::new();
            let context = LogPipeContext::new(readers.drain_guard(), Rc::new(YieldQueue::new()));
            let (pipes, writers) = Pipes::open().unwrap();
            let (sender, found) = mpsc::unbounded_channel();
            let guard = pipes.log(&context, PROCESS, move |line| {
                let _ = sender.send((line.level, String::from_utf8_lossy(line.text).into_owned()));
            });
            Self { readers, context, process_guard: Some(guard), writers, found }
        }

        fn print(&self, text: &str) -> io::Result<()> {
            File::from(self.writers.stdout.try_clone()?).write_all(text.as_bytes())
        }

        /// Ends the process. Returns its lines.
        async fn end(&mut self) -> Vec<(LogLevel, String)> {
            self.process_guard = None;
            std::mem::replace(&mut self.readers, Readers::new()).finish().await;
            let mut lines = Vec::new();
            while let Ok(line) = self.found.try_recv() {
                lines.push(line);
            }
            lines.sort_by_key(|(level, _)| *level as u8);
            lines
        }
    }

    fn run(test: impl Future) {
        runtime::new().unwrap().block_on(test);
    }

    fn line(level: LogLevel, text: &str) -> (LogLevel, String) {
        (level, text.to_owned())
    }

    #[test]
    fn all_output_is_logged_at_the_exit_even_if_a_child_keeps_the_pipe_open() {
        run(async {
            let mut printing = Printing::begin();
            printing.print("out\nno end").unwrap();
            File::from(printing.writers.stderr.try_clone().unwrap()).write_all(b"last words").unwrap();
            let expected = [
                line(LogLevel::Info, "out"),
                line(LogLevel::Info, "no end"),
                line(LogLevel::Error, "last words"),
            ];
            assert_eq!(printing.end().await, expected);
            // The output of the child is read for a while.
            printing.print("late\n").unwrap();
            assert_eq!(printing.found.recv().await, Some(line(LogLevel::Info, "late")));
        });
    }

    #[test]
    fn a_pipe_beyond_the_permits_is_closed_as_soon_as_it_is_drained() {
        run(async {
            let mut printing = Printing::begin();
            printing.context.lingering.forget_permits(LINGERING_PIPES);
            printing.print("last words").unwrap();
            assert_eq!(printing.end().await, [line(LogLevel::Info, "last words")]);
            // Both readers have dropped their senders.
            assert_eq!(printing.found.recv().await, None);
            assert_eq!(printing.print("more").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }

    #[test]
    fn a_child_that_prints_without_end_is_logged_for_a_pipe_s_size_at_most() {
        run(async {
            let mut printing = Printing::begin();
            printing.context.lingering.forget_permits(LINGERING_PIPES);
            let mut child = File::from(printing.writers.stdout.try_clone().unwrap());
            let child = std::thread::spawn(move || while child.write_all(&[b'x'; 4096]).is_ok() {});
            printing.process_guard = None;
            let mut bytes = 0;
            while let Some((_, text)) = printing.found.recv().await {
                bytes += text.len();
            }
            child.join().unwrap();
            assert!(bytes <= 2 * MAX_PIPE, "{bytes}");
        });
    }
}
