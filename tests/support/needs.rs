//! Conditions of the machine that only some tests need, and the record of tests that are skipped without them.
//!
//! A program that `tests/install` installs is not such a condition: a test without it fails. A skipped test is named on
//! standard error and in `target/skipped-tests`, which `tests/run` shows at its end. In `tests/run`, a skip fails
//! unless [`EXCUSED`] lists its condition.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::panic::Location;
use std::process::Command;
use std::thread;

use super::child::output;
use super::repository;

/// A condition of the machine that a test needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Root,
    /// Mounts in a mount namespace.
    Mounts,
    /// A file that is mounted as a disk through a loop device.
    LoopDisk,
    /// The namespaces for a systemd that boots.
    Machine,
}

/// The conditions without which a complete run (`tests/run`) passes, each with the reason.
const EXCUSED: &[(Need, &str)] =
    &[(Need::Root, "an ordinary user may start tests/run; the same run by root has these tests")];

/// The environment variable by which `tests/run` requires every test.
const COMPLETE: &str = "NIBIRU_EVERY_TEST";

/// Whether the test runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the machine lacks a condition. If so, the calling test is recorded as skipped.
#[track_caller]
pub(crate) fn lacks(need: Need) -> bool {
    if !is_root() {
        skip(Need::Root, "needs root");
        return true;
    }
    let namespaces: &[&str] = match need {
        Need::Root | Need::LoopDisk => return false,
        Need::Mounts => &["--mount"],
        Need::Machine => &["--mount", "--pid", "--fork", "--net", "--cgroup"],
    };
    let directory = tempfile::tempdir().unwrap();
    let mut mount = Command::new("unshare");
    mount.args(namespaces).args(["mount", "-t", "tmpfs", "none"]).arg(directory.path());
    let tried = output(&mut mount);
    if !tried.status.success() {
        skip(need, &format!("cannot mount: {}", String::from_utf8_lossy(&tried.stderr).trim()));
    }
    !tried.status.success()
}

/// Records the calling test as skipped. Panics in a complete run unless the condition is excused.
#[track_caller]
pub(crate) fn skip(need: Need, missing: &str) {
    let (place, thread) = (Location::caller(), thread::current());
    let test = thread.name().unwrap_or("a thread of a test");
    let missing = missing.lines().next().unwrap_or_default();
    let line = format!("skipped: {test} ({}:{}): {missing}\n", place.file(), place.line());
    // The test harness would capture `eprintln`.
    let _ = std::io::stderr().write_all(line.as_bytes());
    fs::create_dir_all(repository("target")).unwrap();
    let mut record =
        OpenOptions::new().append(true).create(true).open(repository("target/skipped-tests")).expect(&line);
    record.write_all(line.as_bytes()).unwrap();
    let excused = EXCUSED.iter().any(|(of, _)| *of == need);
    assert!(excused || std::env::var_os(COMPLETE).is_none(), "{COMPLETE} requires every test, {line}");
}
