//! Conditions of the machine that only some tests need, and the record of tests that a missing condition skips.
//!
//! A program that `tests/install` installs is no such condition: a test without it fails. A skipped test is named on standard
//! error and in `target/skipped-tests`, which `tests/run` shows at its end; there a skip fails unless [`EXCUSED`] lists its
//! condition.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::panic::Location;
use std::process::Command;
use std::thread;

use super::child::output;
use super::repository;

/// A condition that a test needs of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Root,
    /// File systems that are mounted in a mount namespace.
    Mounts,
    /// A file that is mounted as a disk, through a loop device.
    LoopDisk,
    /// The namespaces in which a systemd boots.
    Machine,
}

/// Conditions without which a complete run (`tests/run`) still passes, and why.
const EXCUSED: &[(Need, &str)] =
    &[(Need::Root, "an ordinary user may start tests/run; the same run by root has these tests")];

/// The environment variable by which `tests/run` asks for every test.
const COMPLETE: &str = "NIBIRU_EVERY_TEST";

/// Whether this test runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the machine lacks a condition, in which case the calling test is recorded as skipped.
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
        skip(
            need,
            &format!("nothing can be mounted here: {}", String::from_utf8_lossy(&tried.stderr).trim()),
        );
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
    // `eprintln` would be kept by the test harness.
    let _ = std::io::stderr().write_all(line.as_bytes());
    fs::create_dir_all(repository("target")).unwrap();
    let mut record =
        OpenOptions::new().append(true).create(true).open(repository("target/skipped-tests")).expect(&line);
    record.write_all(line.as_bytes()).unwrap();
    let excused = EXCUSED.iter().any(|(of, _)| *of == need);
    assert!(excused || std::env::var_os(COMPLETE).is_none(), "{COMPLETE} asks for every test, {line}");
}
