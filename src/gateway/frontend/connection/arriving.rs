//! A request whose bodies are on their way: to us, or from us to their files.

use std::fmt;
use std::time::Instant;

use crate::cgi::arrival::{Arrival, Completeness};
use crate::cgi::request::Head;
use crate::fastcgi::Role;
use crate::gateway::spool::Body;
use crate::proto::rate::Pace;

#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) head: Head,
    pub(super) role: Role,
    pub(super) stdin: Incoming,
    /// Of a Filter.
    pub(super) data: Option<Box<Incoming>>,
    /// When its parameters were complete.
    pub(super) since: Instant,
    /// The promised body is larger than `--max-body`. It is refused with its first byte, or soon: the proxy may keep it to
    /// itself, as nginx does for the page that it shows for a body which is too large.
    pub(super) too_large: bool,
    pub(super) pace: Pace,
}

/// STDIN or DATA.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) arrival: Arrival,
    pub(super) body: Body,
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stdin,
    Data,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdin => "the body",
            Self::Data => "the data to filter",
        })
    }
}

impl Arriving {
    pub(super) fn from(&mut self, source: Source) -> Option<&mut Incoming> {
        match source {
            Source::Stdin => Some(&mut self.stdin),
            Source::Data => self.data.as_deref_mut(),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Incoming> {
        std::iter::once(&self.stdin).chain(self.data.as_deref())
    }

    /// The bodies that are on their way to their files.
    pub(super) fn writing(&mut self) -> impl Iterator<Item = &mut Body> {
        let all = std::iter::once(&mut self.stdin).chain(self.data.as_deref_mut());
        all.map(|incoming| &mut incoming.body).filter(|body| body.writing_since().is_some())
    }

    /// Since when a thread has had something to write.
    pub(super) fn writing_since(&self) -> Option<Instant> {
        self.all().filter_map(|incoming| incoming.body.writing_since()).min()
    }

    pub(super) fn is_full(&self) -> bool {
        self.all().any(|incoming| incoming.body.is_full())
    }

    /// Bytes of memory that the bodies take.
    pub(super) fn held(&self) -> usize {
        self.all().map(|incoming| incoming.body.held()).sum()
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.all().map(|incoming| incoming.body.len()).sum()
    }

    /// Whether all has come; a part may still be on its way to its file.
    pub(super) fn is_complete(&self) -> bool {
        self.all().all(|incoming| {
            matches!(incoming.arrival.completeness(), Completeness::Complete | Completeness::Withheld { .. })
        })
    }

    /// Whether all has come and is where it stays.
    pub(super) fn is_kept(&self) -> bool {
        self.all().all(|incoming| incoming.body.is_kept())
    }
}
