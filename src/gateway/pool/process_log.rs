//! Lines of the zygote's and the workers' in the log, each under the name of the process that it is from.
//!
//! Called with what the processes print and with what they send over their links. Escapes nothing itself: [`escape`] does.

use tracing::{debug, error, info, warn};

use crate::link::message::LogLevel;
use crate::log::escape;
use crate::proto::request_end::Named;

/// The process that a line is from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process {
    /// Its kind: `worker` or `zygote`.
    pub(crate) name: &'static str,
    /// The worker's number.
    pub(crate) worker: Option<u32>,
    pub(crate) generation: u32,
    pub(crate) pid: u32,
}

/// What a line has beside its text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct More<'a> {
    /// The number of this piece of a long line.
    pub(crate) part: Option<u32>,
    /// The application's fields, as JSON; empty where it gave none.
    pub(crate) fields: &'a [u8],
    /// How many lines like it were not written before this one, where any were not.
    pub(crate) left_out: Option<u64>,
}

impl Process {
    /// Logs a line. One below the level costs no look at its bytes.
    pub(crate) fn log(self, level: LogLevel, request: Option<Named<'_>>, more: More<'_>, line: &[u8]) {
        let Self { name: process, worker, generation: r#gen, pid } = self;
        let (request, trace_id) =
            (request.map(|named| named.request), request.and_then(|named| named.trace_id));
        let (More { part, fields, left_out }, line) = (more, escape::Text(line));
        let fields = || (!fields.is_empty()).then(|| String::from_utf8_lossy(fields));
        // The level is part of tracing's call site, and the fields are looked at where that is enabled.
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
