//! The requests of a load and their outcomes: every request has its own nonce, from which its only correct response
//! follows.
//!
//! Clients record outcomes here, and scenarios read them. This module never connects to a server.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

/// The width of a nonce in a body, which repeats it without separators.
const DIGITS: usize = 16;

/// The form of a request and its response. See `tests/apps/parts/nonce.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A response in one packet from worker to gateway: it is complete or absent.
    Small,
    /// As [`Self::Small`], after some work.
    Work,
    /// A streamed response without a Content-Length.
    Stream,
    /// A short body that is echoed.
    Post,
    /// A body that is echoed and large enough to be spooled.
    Upload,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) nonce: u64,
    pub(super) form: Form,
}

impl Form {
    /// Whether the request has a body.
    pub(super) fn posts(self) -> bool {
        matches!(self, Self::Post | Self::Upload)
    }
}

impl Asked {
    fn times(self) -> usize {
        match self.form {
            Form::Small | Form::Work | Form::Post => 1 + usize::try_from(self.nonce % 16).unwrap(),
            Form::Stream | Form::Upload => 256 * (20 + usize::try_from(self.nonce % 20).unwrap()),
        }
    }

    /// The body of the only correct response.
    pub(super) fn body(self) -> Vec<u8> {
        format!("{:0DIGITS$x}", self.nonce).repeat(self.times()).into_bytes()
    }
}

/// A response, as far as a client has it.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// 0 without a head.
    pub(super) status: u16,
    pub(super) nonce: Option<String>,
    pub(super) body: Vec<u8>,
    /// Whether the response ended as a complete one does.
    pub(super) complete: bool,
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The correct response.
    Whole,
    /// A complete error response with this status.
    Failed(u16),
    /// A response that visibly broke off.
    Broken,
    /// The client has left, or has aborted its request.
    Aborted,
    /// A violation of a promise, which must never happen.
    Lost(&'static str),
}

/// The response, or a part of it, belongs to another request.
pub(super) const FOREIGN: Outcome = Outcome::Lost("bytes of another response");

impl Observed {
    pub(super) fn outcome(&self, asked: Asked) -> Outcome {
        if self.status == 0 {
            return Outcome::Lost("no response");
        }
        if self.status >= 500 {
            return if self.complete { Outcome::Failed(self.status) } else { Outcome::Broken };
        }
        if self.status != 200 {
            return Outcome::Lost("another status");
        }
        let expected = asked.body();
        if !expected.starts_with(&self.body)
            || self.nonce.as_ref().is_none_or(|nonce| *nonce != format!("{:0DIGITS$x}", asked.nonce))
        {
            return FOREIGN;
        }
        match self.complete {
            false => Outcome::Broken,
            true if self.body.is_empty() => Outcome::Lost("an empty 200"),
            true if self.body.len() < expected.len() => {
                Outcome::Lost("part of a response that looks complete")
            }
            true => Outcome::Whole,
        }
    }
}

/// The requests and outcomes of a load.
#[derive(Debug)]
pub(super) struct Books {
    directory: TempDir,
    next: AtomicU64,
    /// The nonce, the way and the outcome of each request.
    outcomes: Mutex<Vec<(u64, &'static str, Outcome)>>,
}

impl Books {
    pub(super) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), next: AtomicU64::new(1), outcomes: Mutex::default() }
    }

    pub(super) fn ask(&self, form: Form) -> Asked {
        Asked { nonce: self.next.fetch_add(1, Ordering::Relaxed), form }
    }

    pub(super) fn url(&self, asked: Asked) -> String {
        let form = match asked.form {
            Form::Small => "small",
            Form::Work => "work",
            Form::Stream => "stream",
            Form::Post | Form::Upload => "upload",
        };
        let (directory, times) = (self.directory.path().display(), asked.times());
        format!("/nonce?dir={directory}&n={:0DIGITS$x}&k={times}&f={form}", asked.nonce)
    }

    pub(super) fn record(&self, way: &'static str, asked: Asked, outcome: Outcome) {
        self.outcomes.lock().unwrap().push((asked.nonce, way, outcome));
    }

    /// The number of requests that have an outcome.
    pub(super) fn over(&self) -> usize {
        self.outcomes.lock().unwrap().len()
    }

    /// The number of executions of each nonce, from the files that the workers wrote.
    fn executions(&self) -> HashMap<u64, u32> {
        let mut executions = HashMap::new();
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
                *executions.entry(u64::from_str_radix(line, 16).unwrap()).or_default() += 1;
            }
        }
        executions
    }

    /// Compares outcomes with executions, and sums them up.
    pub(super) fn close(&self) -> Account {
        let executions = self.executions();
        let ran = |nonce: &u64| executions.get(nonce).copied().unwrap_or(0);
        let mut account = Account::default();
        let mut lost = BTreeMap::<String, u64>::new();
        for (nonce, way, outcome) in self.outcomes.lock().unwrap().iter() {
            account.count += 1;
            *account.ways.entry(way).or_default() += 1;
            match outcome {
                Outcome::Whole if ran(nonce) == 0 => {
                    *lost.entry(format!("a response without an execution ({way})")).or_default() += 1
                }
                Outcome::Whole => account.whole += 1,
                Outcome::Failed(status) => {
                    *account.failed.entry(*status).or_default() += 1;
                    *account.failed_by_way.entry((way, *status)).or_default() += 1;
                    account.failed_after_running += u64::from(ran(nonce) > 0);
                }
                Outcome::Broken => account.broken += 1,
                Outcome::Aborted => account.aborted += 1,
                Outcome::Lost(how) => *lost.entry(format!("{how} ({way})")).or_default() += 1,
            }
        }
        let twice = executions.values().filter(|times| **times > 1).count() as u64;
        if twice > 0 {
            lost.insert("executed twice".to_owned(), twice);
        }
        account.lost = lost.into_iter().collect();
        account
    }
}

/// The sums of a load.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) count: u64,
    /// The number of requests by way.
    pub(super) ways: BTreeMap<&'static str, u64>,
    pub(super) whole: u64,
    /// Complete error responses, by status.
    pub(super) failed: BTreeMap<u16, u64>,
    pub(super) failed_by_way: BTreeMap<(&'static str, u16), u64>,
    /// Complete error responses to requests that had been executed.
    pub(super) failed_after_running: u64,
    /// Responses that visibly broke off.
    pub(super) broken: u64,
    pub(super) aborted: u64,
    /// Each kind of lost request, and its number.
    pub(super) lost: Vec<(String, u64)>,
}

impl Account {
    /// The number of complete error responses.
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}
