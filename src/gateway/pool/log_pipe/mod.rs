//! What the zygote and the workers write to standard output and standard error: lines for the log.
//!
//! Two pipes from each process, so that the two have levels of their own: what a C library says before it aborts must be
//! in the log at any level. Each keeps its order; between the two it is as they are read.

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

use crate::gateway::frontend::budget::OUTLIVING;
pub(crate) use crate::gateway::pool::log_pipe::lines::Line;
use crate::gateway::pool::log_pipe::lines::{Lines, READ};
use crate::gateway::pool::process_log::Process;
use crate::gateway::turnstile::Turnstile;
use crate::link::message::LogLevel;
use crate::log::rate_limit::LogRateLimiter;
use crate::proto::turn::Turn;

/// The most that a pipe holds (`/proc/sys/fs/pipe-max-size`, as a process without privileges may set it).
const MAX_PIPE: usize = 1 << 20;

/// How long a pipe is kept after its process has ended, for the last words of what the process has started.
const KEPT: Duration = Duration::from_secs(5);

/// The two pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// The ends that the process has.
#[derive(Debug)]
pub(crate) struct Writers {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Held by the task that waits for the process's end, and dropped then.
#[derive(Debug)]
pub(crate) struct Alive(#[expect(dead_code, reason = "only its end matters")] watch::Sender<()>);

/// Held by each reader until it has read all that its process has written.
pub(crate) type Unread = mpsc::Sender<Infallible>;
pub(crate) type WeakUnread = mpsc::WeakSender<Infallible>;

/// How long the gateway's end waits for the last output of its processes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The readers of every process's output, counted.
#[derive(Debug)]
pub(crate) struct Readers {
    unread: Unread,
    all_read: mpsc::Receiver<Infallible>,
}

impl Readers {
    pub(crate) fn new() -> Self {
        let (unread, all_read) = mpsc::channel(1);
        Self { unread, all_read }
    }

    /// Gives each reader that the end has to wait for its share of the count.
    pub(crate) fn counted(&self) -> WeakUnread {
        self.unread.downgrade()
    }

    /// Waits until the output of the processes that have ended is in the log. It is in their pipes already, but the tasks that
    /// read those may not have had a turn.
    pub(crate) async fn finish(mut self) {
        drop(self.unread);
        let _ = tokio::time::timeout(LAST_WORDS, self.all_read.recv()).await;
    }
}

/// What the readers of all processes' output share.
#[derive(Debug)]
pub(crate) struct Outputs {
    unread: WeakUnread,
    pub(crate) turnstile: Rc<Turnstile>,
    /// Pipes that may be kept after the end of their processes.
    outliving: Semaphore,
    /// Lines about those that are closed.
    told: RefCell<LogRateLimiter>,
}

impl Outputs {
    pub(crate) fn new(unread: WeakUnread, turnstile: Rc<Turnstile>) -> Rc<Self> {
        let told = RefCell::new(LogRateLimiter::new(Instant::now()));
        Rc::new(Self { unread, turnstile, outliving: Semaphore::new(OUTLIVING), told })
    }
}

impl Pipes {
    pub(crate) fn open() -> io::Result<(Self, Writers)> {
        let ((stdout, their_stdout), (stderr, their_stderr)) = (io::pipe()?, io::pipe()?);
        let ours = Self { stdout: stdout.into(), stderr: stderr.into() };
        Ok((ours, Writers { stdout: their_stdout.into(), stderr: their_stderr.into() }))
    }

    /// Gives every line that arrives to `log`, until the last writer is gone or `process` has ended. What the process has written
    /// without a line end is a line as soon as it ends. What it has started may keep the pipes open for long, and has
    /// [`KEPT`] to write more.
    pub(crate) fn log(
        self,
        outputs: &Rc<Outputs>,
        process: Process,
        log: impl Fn(Line<'_>) + Clone + 'static,
    ) -> Alive {
        let (alive, ended) = watch::channel(());
        for (pipe, level) in [(self.stdout, LogLevel::Info), (self.stderr, LogLevel::Error)] {
            let (outputs, log, ended) = (Rc::clone(outputs), log.clone(), ended.clone());
            let unread = outputs.unread.upgrade();
            tokio::task::spawn_local(async move {
                let log = |text: &[u8], part| log(Line { level, text, part });
                // An error ends the reading. The log has the end of the process, which is the likely cause.
                if let Ok(pipe) = pipe::Receiver::from_owned_fd(pipe) {
                    let reader = Reader { pipe, lines: Lines::default(), outputs: &outputs, log };
                    let _ = reader.read(ended, unread, process).await;
                }
            });
        }
        Alive(alive)
    }
}

/// One pipe on its way to the log.
struct Reader<'o, L> {
    pipe: pipe::Receiver,
    lines: Lines,
    outputs: &'o Outputs,
    log: L,
}

impl<L: FnMut(&[u8], Option<u32>)> Reader<'_, L> {
    async fn read(
        mut self,
        mut ended: watch::Receiver<()>,
        unread: Option<Unread>,
        process: Process,
    ) -> io::Result<()> {
        tokio::select! {
            biased;
            // Nothing is ever sent: its sender is gone.
            _ = ended.changed() => {}
            read = self.read_to_end() => return read,
        }
        let until = tokio::time::Instant::now() + KEPT;
        let kept = self.outputs.outliving.try_acquire();
        let drained = tokio::time::timeout_at(until, self.drain()).await;
        self.lines.end(&mut self.log);
        drop(unread);
        if matches!(drained, Ok(Ok(true))) {
            return Ok(());
        }
        if kept.is_ok()
            && let Ok(read) = tokio::time::timeout_at(until, self.read_to_end()).await
        {
            return read;
        }
        self.lines.end(&mut self.log);
        let allowed = self.outputs.told.borrow_mut().allow(Instant::now());
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

    /// Reads until the last writer is gone. What is read and not logged when this is dropped is still there.
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

    /// Reads what a process that has ended has left. That is in the pipe, whether or not tokio has noticed. What exceeds the
    /// size of a pipe is another process's, which still writes. Says whether the last writer is gone.
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

    /// Gives all lines that have ended, in as many turns as it takes.
    async fn take(&mut self, turn: &mut Turn) {
        while !self.lines.take(turn, &mut self.log) || turn.is_over() {
            self.outputs.turnstile.pass().await;
            *turn = Turn::begin(Instant::now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    const PROCESS: Process = Process { name: "worker", worker: Some(1), generation: 1, pid: 1 };

    /// A process's pipes, what comes of them, and when all that it had to say is read.
    struct Printing {
        readers: Readers,
        outputs: Rc<Outputs>,
        alive: Option<Alive>,
        writers: Writers,
        found: mpsc::UnboundedReceiver<(LogLevel, String)>,
    }

    impl Printing {
        fn begin() -> Self {
            let readers = Readers::new();
            let outputs = Outputs::new(readers.counted(), Rc::new(Turnstile::new()));
            let (pipes, writers) = Pipes::open().unwrap();
            let (sender, found) = mpsc::unbounded_channel();
            let alive = pipes.log(&outputs, PROCESS, move |line| {
                let _ = sender.send((line.level, String::from_utf8_lossy(line.text).into_owned()));
            });
            Self { readers, outputs, alive: Some(alive), writers, found }
        }

        fn print(&self, text: &str) -> io::Result<()> {
            File::from(self.writers.stdout.try_clone()?).write_all(text.as_bytes())
        }

        /// Ends the process, and gives what it had to say.
        async fn end(&mut self) -> Vec<(LogLevel, String)> {
            self.alive = None;
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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test);
    }

    fn line(level: LogLevel, text: &str) -> (LogLevel, String) {
        (level, text.to_owned())
    }

    #[test]
    fn last_words_are_logged_when_the_process_ends_though_its_child_keeps_the_pipe_open() {
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
            // For a while the child is heard, too.
            printing.print("late\n").unwrap();
            assert_eq!(printing.found.recv().await, Some(line(LogLevel::Info, "late")));
        });
    }

    #[test]
    fn where_too_many_are_kept_a_pipe_is_closed_as_soon_as_it_is_read() {
        run(async {
            let mut printing = Printing::begin();
            printing.outputs.outliving.forget_permits(OUTLIVING);
            printing.print("last words").unwrap();
            assert_eq!(printing.end().await, [line(LogLevel::Info, "last words")]);
            // Both readers let their senders go.
            assert_eq!(printing.found.recv().await, None);
            assert_eq!(printing.print("more").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }

    #[test]
    fn a_child_that_prints_without_end_is_logged_for_a_pipe_s_size_at_most() {
        run(async {
            let mut printing = Printing::begin();
            printing.outputs.outliving.forget_permits(OUTLIVING);
            let mut child = File::from(printing.writers.stdout.try_clone().unwrap());
            let child = std::thread::spawn(move || while child.write_all(&[b'x'; 4096]).is_ok() {});
            printing.alive = None;
            let mut bytes = 0;
            while let Some((_, text)) = printing.found.recv().await {
                bytes += text.len();
            }
            child.join().unwrap();
            assert!(bytes <= 2 * MAX_PIPE, "{bytes}");
        });
    }
}
