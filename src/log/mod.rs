//! Logging: configures tracing to write one record a line (text) or one object a line (JSON), to standard error or a file.
//!
//! Only the gateway writes the log. Lines of the zygote and the workers reach it as messages or through their output pipes, and
//! the gateway adds the process: `worker … worker=3 gen=2 pid=4711 request=…`. The module `escape` escapes text, `redact`
//! removes secrets of requests, `span` and `size` show spans of time and sizes.

mod cause;
pub mod escape;
pub mod fields;
pub mod file;
mod level;
pub mod rate_limit;
mod record;
pub mod redact;
mod size;
mod span;

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use serde_json::{Map, Value};
use thiserror::Error;
use tracing::error;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

pub use cause::cause;
pub use level::Level;
pub use record::Format;
pub(crate) use record::timestamp;
pub use size::ByteSize;
pub use span::Span;

use self::file::{LogFile, Shared};
use self::record::Record;

/// Most lines that wait for a slow reader of the log: some seconds of a busy server, a few MiB.
const BUFFERED_LINES: usize = 10_000;

/// Most bytes of waiting lines. An application may write lines of 64 KiB.
const BUFFERED_BYTES: usize = 16 << 20;

/// Name of the log in messages.
const NAME: &str = "log";

/// The log of this process, for [`reopen`].
static LOG: OnceLock<(QueueSender, Arc<Shared>)> = OnceLock::new();

/// The guard of the log: its drop writes the waiting lines, for a second at most.
#[must_use = "the log is written for as long as this lives"]
#[derive(Debug)]
pub struct Guard {
    writer: Option<WorkerGuard>,
    state: Arc<QueueState>,
    in_file: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let writer = self.writer.take();
        if !self.state.used.load(Ordering::Relaxed) {
            // No line waits. The end of the thread is not awaited, because both sides of that meeting spin, on a busy machine
            // for hundreds of system calls.
            std::mem::forget(writer);
        }
    }
}

impl Guard {
    /// Logs the reason for the end of this process. Does nothing if the log is standard error, where the caller prints the
    /// reason.
    pub fn log_fatal(&self, reason: &dyn fmt::Display) {
        if self.in_file {
            error!("{reason}");
        }
    }
}

/// Error: the log cannot be opened.
#[derive(Debug, Error)]
#[error("cannot open the log {}: {}", .0.display(), cause(.1))]
pub struct OpenError(PathBuf, io::Error);

/// Whether [`init`] could open `file`. Creates no file.
pub fn try_out(file: &Path) -> Result<(), OpenError> {
    file::try_out(file).map_err(|error| OpenError(file.to_owned(), error))
}

/// Starts logging to `file`, or to standard error without one. Called once, before the first event.
///
/// A thread of its own writes, so that a blocked terminal, pipe or disk delays no request; lines beyond [`BUFFERED_LINES`] or
/// [`BUFFERED_BYTES`] are dropped and counted.
pub fn init(format: Format, level: Level, file: Option<&Path>) -> Result<Guard, OpenError> {
    let level = LevelFilter::from(level);
    let to = match file {
        Some(path) => LogFile::open(NAME, path, |line, left_out| {
            let more = left_out.map(|count| format!(" left_out={count}")).unwrap_or_default();
            // Not logged, because the log is what fails. The error is ignored: standard error may be closed.
            let _ = writeln!(io::stderr(), "nibiru: {line}{more}");
        }),
        None => LogFile::stream(NAME, io::stderr().as_fd(), |_, _| {}),
    };
    let to =
        to.map_err(|error| OpenError(file.unwrap_or(Path::new("on standard error")).to_owned(), error))?;
    let shared = to.shared();
    let (sender, guard) = start(to, format, file.is_some());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(sender.clone())
        .with_ansi(false)
        // Off, because errors would be reported on the failing stream, by a macro that panics.
        .log_internal_errors(false)
        .event_format(Record(format))
        .finish();
    // Not `init`, which also collects the lines that libraries write through the `log` crate, which are not for operators.
    tracing::subscriber::set_global_default(subscriber).expect("the log is started once");
    let _ = LOG.set((sender, shared));
    Ok(guard)
}

/// Starts the thread that writes to `to`. `in_file`: that is a file.
fn start(to: impl Write + Send + 'static, format: Format, in_file: bool) -> (QueueSender, Guard) {
    let state = Arc::new(QueueState::default());
    let (queue, writer) = NonBlockingBuilder::default()
        .buffered_lines_limit(BUFFERED_LINES)
        .lossy(true)
        .thread_name("log")
        .finish(QueueWriter { to, format, state: Arc::clone(&state), written: 0 });
    let guard = Guard { writer: Some(writer), state: Arc::clone(&state), in_file };
    (QueueSender { queue, state }, guard)
}

/// Reopens the log file after a rename.
pub fn reopen() {
    if let Some((sender, shared)) = LOG.get() {
        shared.reopen();
        // An empty line wakes the writing thread.
        let _ = sender.clone().send(b"");
    }
}

/// The bytes of [`BUFFERED_BYTES`] that a waiting line takes. Has a minimum, so that the byte limit is reached before the line
/// limit.
fn weight(line: &[u8]) -> usize {
    line.len().max(BUFFERED_BYTES.div_ceil(BUFFERED_LINES))
}

/// State shared by both ends of the queue.
#[derive(Debug, Default)]
struct QueueState {
    /// Bytes of [`BUFFERED_BYTES`] taken by waiting lines.
    taken: AtomicUsize,
    /// Lines dropped since the last record about dropped lines.
    left_out: AtomicU64,
    /// Whether anything was ever sent.
    used: AtomicBool,
}

/// The sending end of the queue. Drops lines beyond [`BUFFERED_BYTES`].
#[derive(Clone, Debug)]
struct QueueSender {
    queue: NonBlocking,
    state: Arc<QueueState>,
}

impl QueueSender {
    fn send(&mut self, line: &[u8]) -> io::Result<usize> {
        let (weight, state) = (weight(line), &self.state);
        state.used.store(true, Ordering::Relaxed);
        if state.taken.fetch_add(weight, Ordering::Relaxed) + weight > BUFFERED_BYTES {
            state.taken.fetch_sub(weight, Ordering::Relaxed);
            state.left_out.fetch_add(u64::from(!line.is_empty()), Ordering::Relaxed);
            return Ok(line.len());
        }
        self.queue.write(line)
    }
}

impl Write for QueueSender {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.send(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for QueueSender {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The receiving end of the queue, in the writing thread.
struct QueueWriter<W> {
    to: W,
    format: Format,
    state: Arc<QueueState>,
    /// Lines written since the last check of [`QueueState::left_out`].
    written: usize,
}

impl<W: Write> QueueWriter<W> {
    /// Writes the number of dropped lines straight to the log, because the queue may be full. Lines are dropped only when the
    /// queue is full, so there is at most one such record for some thousands of lines.
    fn write_left_out(&mut self) -> io::Result<()> {
        self.written = 0;
        match self.state.left_out.swap(0, Ordering::Relaxed) {
            0 => Ok(()),
            count => self.to.write_all(left_out(self.format, SystemTime::now(), count).as_bytes()),
        }
    }
}

impl<W: Write> Write for QueueWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    /// Called once for each line.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.to.write_all(line);
        self.state.taken.fetch_sub(weight(line), Ordering::Relaxed);
        self.written += 1;
        if self.written >= BUFFERED_LINES {
            self.write_left_out()?;
        }
        written
    }

    /// Called when no more lines wait.
    fn flush(&mut self) -> io::Result<()> {
        self.write_left_out()?;
        self.to.flush()
    }
}

/// The record about dropped lines.
fn left_out(format: Format, now: SystemTime, count: u64) -> String {
    const MESSAGE: &str = "lines of the log were left out, which came faster than they could be written";
    let time = timestamp(now);
    match format {
        Format::Text => format!("{time} WARN  gateway {MESSAGE} left_out={count}\n"),
        Format::Json => {
            let fields: [(&str, Value); 5] = [
                ("time", time.to_string().into()),
                ("level", "warn".into()),
                ("process", "gateway".into()),
                ("message", MESSAGE.into()),
                ("left_out", count.into()),
            ];
            let object: Map<String, Value> =
                fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
            format!("{}\n", Value::Object(object))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A writer that blocks until it is released.
    struct Stuck(std::sync::mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_for_a_stuck_reader_are_bounded_in_number_and_bytes_and_the_rest_is_counted() {
        const LINES: usize = 2 * BUFFERED_LINES;
        for (length, format) in [(2, Format::Text), (100, Format::Json), (100_000, Format::Text)] {
            let (go, stuck) = std::sync::mpsc::channel();
            let (state, written) = (Arc::new(QueueState::default()), Arc::default());
            let writer = QueueWriter {
                to: Stuck(stuck, Arc::clone(&written)),
                format,
                state: Arc::clone(&state),
                written: 0,
            };
            let builder = NonBlockingBuilder::default().buffered_lines_limit(BUFFERED_LINES).lossy(true);
            let (queue, guard) = builder.finish(writer);
            let dropped = queue.error_counter();
            let mut sender = QueueSender { queue, state: Arc::clone(&state) };
            let line = format!("{}\n", "x".repeat(length - 1));
            for _ in 0..LINES {
                sender.write_all(line.as_bytes()).unwrap();
            }
            // An empty line wakes the writing thread and is not written.
            let _ = sender.send(b"");
            assert_eq!(dropped.dropped_lines(), 0, "the queue was full before its bytes were");
            drop((go, guard));
            assert_eq!(state.taken.load(Ordering::Relaxed), 0, "lines of {length} bytes");
            let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
            let (lines, said): (Vec<&str>, Vec<&str>) =
                written.lines().partition(|line| line.starts_with('x'));
            assert_eq!(lines.len(), BUFFERED_BYTES / weight(line.as_bytes()));
            let count = LINES - lines.len();
            let expected = match format {
                Format::Text => format!(
                    " WARN  gateway lines of the log were left out, which came faster than they could be written left_out={count}"
                ),
                Format::Json => format!("\"left_out\":{count}"),
            };
            assert!(said.len() == 1 && said[0].contains(&expected), "{said:?}");
        }
    }

    #[test]
    fn the_end_of_the_log_is_awaited_where_a_line_may_wait_and_only_there() {
        for used in [true, false] {
            let (go, stuck) = std::sync::mpsc::channel();
            let written = Arc::default();
            let (mut sender, guard) = start(Stuck(stuck, Arc::clone(&written)), Format::Text, false);
            if used {
                sender.write_all(b"line\n").unwrap();
            }
            // From here on the writer is not stuck.
            drop(go);
            drop(guard);
            assert_eq!(written.lock().unwrap().is_empty(), !used);
            // The thread has ended, or still waits for lines.
            let line = b"later\n";
            let _ = sender.queue.write(line);
            let is_written = || written.lock().unwrap().ends_with(line);
            let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while !used && !is_written() && std::time::Instant::now() < until {
                std::thread::yield_now();
            }
            assert_eq!(is_written(), !used);
        }
    }

    #[test]
    fn a_cause_reads_as_the_end_of_a_sentence() {
        assert_eq!(cause(&io::Error::from_raw_os_error(13)), "permission denied");
        assert_eq!(cause(&io::Error::other("Odd thing")), "odd thing");
    }
}
