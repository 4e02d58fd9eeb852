//! The level of a log line, from the application's `nibiru.log` to `--log-level`, with conversions to the level in messages
//! between processes and to tracing's.

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;

use crate::link::message::LogLevel;

/// The level of a log line; as a setting, the least level that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Level {
    /// A request or a worker failed
    Error,
    /// Odd, and survived
    Warn,
    /// Normal operation
    Info,
    /// Every connection and worker
    Debug,
}

/// The level in a message from a worker or the zygote.
impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::Error,
            Level::Warn => Self::Warn,
            Level::Info => Self::Info,
            Level::Debug => Self::Debug,
        }
    }
}

/// The filter that passes lines of this level and of graver ones.
impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
        }
    }
}
