//! The access log: a line for each request, written by a thread of its own.
//!
//! The metrics provides the request and its end. A full, slow or missing disk stops no request: lines are dropped then, and
//! counted. All text of clients is escaped.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::sync::Notify;
use tracing::warn;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::config::{self, AccessLogQuery};
use crate::gateway::telemetry::request_line::RequestLine;
use crate::log::escape::Word;
use crate::log::file::{self, LogFile, ReportLoss, Shared, WRITE_SIZE, count_lines};
use crate::log::{Format, timestamp};
use crate::proto::request_end::{RequestEnd, RequestIds};

/// Delay of a line, to gather more lines. A wake-up and a write for each line would cost half as much as the request itself; no
/// reader of a log needs lines sooner.
const GATHER: Duration = Duration::from_millis(20);

/// Most batches of lines that wait for a blocked disk: ten seconds of a quiet server, and 32 MiB of a busy one. More would only
/// delay the drops.
const BATCHES: usize = 512;

/// Name of the log in messages.
const NAME: &str = "access log";

/// The access log's end in the event loop, which passes lines to the writing thread.
#[derive(Debug)]
pub(crate) struct AccessLog {
    format: Format,
    query: AccessLogQuery,
    writer: RefCell<NonBlocking>,
    /// Lines of the next batch.
    lines: RefCell<String>,
    /// Signal that the next batch has its first line.
    gathering: Notify,
    /// Count of dropped batches.
    overflown: ErrorCounter,
    shared: Arc<Shared>,
    _guard: WorkerGuard,
}

/// The entry of one request.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) line: RequestLine<'a>,
    pub(crate) ids: RequestIds<'a>,
    pub(crate) status: Option<u16>,
    /// Bytes of the body that were sent.
    pub(crate) bytes: u64,
    /// Wait for a worker, or until the request was given up; `None` for an incomplete request.
    pub(crate) wait: Option<Duration>,
    pub(crate) service: Option<Duration>,
    /// Number and generation of the worker.
    pub(crate) worker: Option<(u32, u32)>,
    pub(crate) end: RequestEnd,
}

impl AccessLog {
    /// Opens the log. Fails if its file cannot be opened now.
    pub(crate) fn open(
        target: &config::AccessLog,
        format: Format,
        query: AccessLogQuery,
    ) -> io::Result<Self> {
        let report_loss: ReportLoss = |line, left_out| warn!(left_out, "{line}");
        let file = match target {
            config::AccessLog::Stdout => LogFile::stream(NAME, io::stdout().as_fd(), report_loss)?,
            config::AccessLog::File(path) => LogFile::open(NAME, path, report_loss)?,
        };
        let shared = file.shared();
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(BATCHES)
            .lossy(true)
            .thread_name("access-log")
            .finish(file);
        let overflown = writer.error_counter();
        Ok(Self {
            format,
            query,
            writer: RefCell::new(writer),
            lines: RefCell::default(),
            gathering: Notify::new(),
            overflown,
            shared,
            _guard: guard,
        })
    }

    /// Whether [`Self::open`] would succeed. Leaves no file behind.
    pub(crate) fn try_out(target: &config::AccessLog) -> io::Result<()> {
        match target {
            config::AccessLog::Stdout => Ok(()),
            config::AccessLog::File(path) => file::try_out(path),
        }
    }

    /// Writes the line of a request. Never blocks.
    pub(crate) fn write(&self, entry: &Entry<'_>) {
        let full = {
            let lines = &mut *self.lines.borrow_mut();
            if lines.is_empty() {
                self.gathering.notify_one();
            }
            // Writing to a string cannot fail.
            let _ = match self.format {
                Format::Text => entry.write_columns(lines, self.query),
                Format::Json => {
                    let object = Object::new(entry, self.query);
                    lines.push_str(&serde_json::to_string(&object).unwrap_or_default());
                    lines.write_char('\n')
                }
            };
            lines.len() >= WRITE_SIZE
        };
        if full {
            self.hand_over();
        }
    }

    /// Passes gathered lines to the writing thread while the gateway lives.
    pub(crate) async fn gather(&self) {
        loop {
            self.gathering.notified().await;
            tokio::time::sleep(GATHER).await;
            self.hand_over();
        }
    }

    /// Passes all lines to the writing thread. Drops and counts them if it has too many batches already.
    fn hand_over(&self) {
        let lines = &mut *self.lines.borrow_mut();
        if lines.is_empty() {
            return;
        }
        let before = self.overflown.dropped_lines();
        // The channel does not fail: it counts dropped batches.
        let _ = self.writer.borrow_mut().write_all(lines.as_bytes());
        if self.overflown.dropped_lines() != before {
            self.shared.lose(count_lines(lines.as_bytes()));
        }
        lines.clear();
    }

    /// Reopens the file after a rename.
    pub(crate) fn reopen(&self) {
        self.hand_over();
        self.shared.reopen();
        // An empty line wakes the writing thread.
        let _ = self.writer.borrow_mut().write_all(b"");
    }

    /// Lines that were dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.lost()
    }
}

/// Writes the lines gathered so far.
impl Drop for AccessLog {
    fn drop(&mut self) {
        self.hand_over();
    }
}

impl Entry<'_> {
    /// Writes the line as text; `-` stands for a missing value.
    fn write_columns(&self, f: &mut String, query: AccessLogQuery) -> fmt::Result {
        write!(f, "{} {} \"", timestamp(SystemTime::now()), self.line.remote())?;
        self.line.write(f, query)?;
        f.push('"');
        match self.status {
            Some(status) => write!(f, " {status}")?,
            None => f.write_str(" -")?,
        }
        write!(f, " {}", self.bytes)?;
        for time in [self.wait, self.service] {
            match time {
                Some(time) => write!(f, " {}.{:06}", time.as_secs(), time.subsec_micros())?,
                None => f.write_str(" -")?,
            }
        }
        match self.worker {
            Some((worker, generation)) => write!(f, " {worker} {generation}")?,
            None => f.write_str(" - -")?,
        }
        writeln!(f, " {} {}", self.ids.request, self.end.name())
    }
}

/// The entry as a JSON object.
#[derive(Serialize)]
struct Object<'a> {
    time: String,
    remote: String,
    method: String,
    uri: String,
    protocol: String,
    status: Option<u16>,
    bytes: u64,
    queue_wait: Option<f64>,
    service_time: Option<f64>,
    worker: Option<u32>,
    r#gen: Option<u32>,
    request: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    end: &'static str,
}

impl<'a> Object<'a> {
    fn new(entry: &Entry<'a>, query: AccessLogQuery) -> Self {
        let shown = |bytes: &[u8]| Word(bytes).to_string();
        // Microseconds, as in the text: further digits are noise.
        let seconds = |time: Duration| {
            Duration::from_micros(time.as_micros().try_into().unwrap_or(u64::MAX)).as_secs_f64()
        };
        Self {
            time: timestamp(SystemTime::now()).to_string(),
            remote: entry.line.remote().to_string(),
            method: shown(entry.line.method),
            uri: shown(&entry.line.uri.shown(query)),
            protocol: shown(entry.line.protocol),
            status: entry.status,
            bytes: entry.bytes,
            queue_wait: entry.wait.map(seconds),
            service_time: entry.service.map(seconds),
            worker: entry.worker.map(|(worker, _)| worker),
            r#gen: entry.worker.map(|(_, generation)| generation),
            request: entry.ids.request,
            trace_id: entry.ids.trace_id,
            end: entry.end.name(),
        }
    }
}
