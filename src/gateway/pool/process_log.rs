//! The log lines of zygotes and workers, each with the identity of its process.
//!
//! Callers pass the output of the processes and the log messages of their links. [`escape`] does the escaping.

use tracing::{debug, error, info, warn};

use crate::link::message::LogLevel;
use crate::log::escape;
use crate::proto::request_end::RequestIds;

/// The process that wrote a line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    /// The kind of process: `worker` or `zygote`.
    pub(crate) name: &'static str,
    /// The number of the worker; `None` for a zygote.
    pub(crate) worker: Option<u32>,
    pub(crate) generation: u32,
    pub(crate) pid: u32,
}

/// The parts of a line beside its text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LineMetadata<'a> {
    /// The number of this piece of a long line, from 1; `None` for a whole line.
    pub(crate) part: Option<u32>,
    /// The fields of the application, as JSON; empty without fields.
    pub(crate) fields: &'a [u8],
    /// The number of lines left out before this one; `None` for zero.
    pub(crate) left_out: Option<u64>,
}

impl Process {
    /// Logs a line. Escapes it only if its level is enabled.
    pub(crate) fn log(
        self,
        level: LogLevel,
        request: Option<RequestIds<'_>>,
        metadata: LineMetadata<'_>,
        line: &[u8],
    ) {
        let Self { name: process, worker, generation: r#gen, pid } = self;
        let (request, trace_id) = (request.map(|ids| ids.request), request.and_then(|ids| ids.trace_id));
        let (LineMetadata { part, fields, left_out }, line) = (metadata, escape::Text(line));
        let fields = || (!fields.is_empty()).then(|| String::from_utf8_lossy(fields));
        // A macro, because the level is part of a call site of tracing. The fields are evaluated only where it is enabled.
        macro_rules! log_as {
            ($level:ident) => {
                $level!(
                    process,
                    worker,
                    r#gen,
                    pid,
                    request,
                    trace_id,
                    part,
                    left_out,
                    fields = fields().as_deref(),
                    "{line}"
                )
            };
        }
        match level {
            LogLevel::Debug => log_as!(debug),
            LogLevel::Info => log_as!(info),
            LogLevel::Warn => log_as!(warn),
            LogLevel::Error => log_as!(error),
        }
    }
}
