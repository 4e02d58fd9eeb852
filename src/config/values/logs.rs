//! The files of the log and the access log, and the part of a query that the latter has.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;

use super::value::{Value, expected};

/// The destination of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    Stdout,
    /// This file, to which lines are appended; USR1 opens it anew.
    File(PathBuf),
}

impl fmt::Display for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("on standard output"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for AccessLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err(expected::<Self>()),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl Value for AccessLog {
    const EXPECTED: &'static str = "the name of a file, or - for standard output";
}

/// The destination of the log: a file, or `None` for standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget(pub Option<PathBuf>);

impl FromStr for LogTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err(expected::<Self>()),
            // Other settings can be off, so an operator may try it.
            "off" => Err("a server is never without its log; /dev/null keeps nothing".to_owned()),
            "-" => Ok(Self(None)),
            path => Ok(Self(Some(PathBuf::from(path)))),
        }
    }
}

impl Value for LogTarget {
    const EXPECTED: &'static str = "the name of a file, or - for standard error";
}

/// The part of a request's query in the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLogQuery {
    /// All of it, as it came
    On,
    /// Without the values that look like secrets
    Redact,
    /// None of it
    Off,
}
