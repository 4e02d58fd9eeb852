//! What was asked and what came of it: every request carries a nonce of its own, and its one right answer is known.
//!
//! Clients record here; scenarios read it. Never speaks to a server.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

/// Nonces of this width follow each other in a body without a mark between them.
const DIGITS: usize = 16;

/// How an answer is made. See `tests/apps/parts/nonce.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One packet from worker to gateway, head and all: it is answered whole or not at all.
    Small,
    /// The same, after some work.
    Work,
    /// Pieces without a Content-Length.
    Stream,
    /// The request's own body, a short one.
    Post,
    /// The same, large enough to be spooled.
    Upload,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) nonce: u64,
    pub(super) form: Form,
}

impl Form {
    /// Whether it sends a body.
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

    /// The body of the only right answer.
    pub(super) fn body(self) -> Vec<u8> {
        format!("{:0DIGITS$x}", self.nonce).repeat(self.times()).into_bytes()
    }
}

/// What a client has of an answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// 0 where there is no head.
    pub(super) status: u16,
    pub(super) nonce: Option<String>,
    pub(super) body: Vec<u8>,
    /// Whether it ended as a whole answer ends.
    pub(super) complete: bool,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The right answer.
    Whole,
    /// A whole answer that says it failed, with this status.
    Failed(u16),
    /// An answer that visibly broke off.
    Broken,
    /// The client has gone, or has taken its request back.
    Aborted,
    /// What must never be.
    Lost(&'static str),
}

/// The answer, or what there is of it, is not this request's.
pub(super) const FOREIGN: Outcome = Outcome::Lost("bytes of another answer");

impl Answer {
    pub(super) fn outcome(&self, asked: Asked) -> Outcome {
        if self.status == 0 {
            return Outcome::Lost("no answer");
        }
        if self.status >= 500 {
            return if self.complete { Outcome::Failed(self.status) } else { Outcome::Broken };
        }
        if self.status != 200 {
            return Outcome::Lost("an answer of another kind");
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
            true if self.body.len() < expected.len() => Outcome::Lost("part of an answer as if it were all"),
            true => Outcome::Whole,
        }
    }
}

/// The books of one load.
#[derive(Debug)]
pub(super) struct Books {
    directory: TempDir,
    next: AtomicU64,
    /// Each with its way.
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

    /// Requests that are over.
    pub(super) fn over(&self) -> usize {
        self.outcomes.lock().unwrap().len()
    }

    /// How often each nonce was run, from the files that the workers left.
    fn executions(&self) -> HashMap<u64, u32> {
        let mut executions = HashMap::new();
        for entry in fs::read_dir(self.directory.path()).unwrap() {
            for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
                *executions.entry(u64::from_str_radix(line, 16).unwrap()).or_default() += 1;
            }
        }
        executions
    }

    /// Closes the books: outcomes against executions.
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
                    *lost.entry(format!("an answer that nobody gave ({way})")).or_default() += 1
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

/// The sum of a load.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) count: u64,
    /// All of them, by their way.
    pub(super) ways: BTreeMap<&'static str, u64>,
    pub(super) whole: u64,
    /// Whole answers that say they failed, by status.
    pub(super) failed: BTreeMap<u16, u64>,
    pub(super) failed_by_way: BTreeMap<(&'static str, u16), u64>,
    /// Those among them whose application had begun.
    pub(super) failed_after_running: u64,
    /// Answers that visibly broke off.
    pub(super) broken: u64,
    pub(super) aborted: u64,
    /// What was lost, and how often.
    pub(super) lost: Vec<(String, u64)>,
}

impl Account {
    /// Failed with any status.
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}
