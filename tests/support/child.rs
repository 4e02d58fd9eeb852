//! Child processes of a test: commands that end by themselves, and programs that run until the test ends.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::proc::signal;
use super::wait::{GIVE_UP, wait_for, wait_within};

/// The most bytes at the end of a log that a failing test shows.
const SHOWN: usize = 4 << 20;

/// Builds `NAME.c` as the library `NAME.so`, which Lua can load, in a scratch directory.
pub(crate) fn library_of(source: &Path, flags: &[&str]) -> TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]).args(flags).arg("-o");
    compiler.arg(scratch.path().join(source.with_extension("so").file_name().unwrap())).arg(source);
    let built = output(&mut compiler);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    scratch
}

/// A program that Debian installs in `/usr/sbin`, which only root has in PATH.
pub(crate) fn system_program(name: &str) -> Command {
    let path = Path::new("/usr/sbin").join(name);
    Command::new(if path.exists() { path } else { name.into() })
}

/// A command of the nibiru under test, to be run with [`output`].
pub(crate) fn nibiru() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nibiru"));
    command.stdin(Stdio::null());
    command
}

/// Waits for a child to end. A child that does not end is killed and fails the test.
#[track_caller]
pub(crate) fn wait_for_exit(child: &mut Child) -> ExitStatus {
    end(child).expect("the child ends")
}

/// Exit status of a child; `None` if it did not end and was killed.
fn end(child: &mut Child) -> Option<ExitStatus> {
    let ended = wait_within(GIVE_UP, || child.try_wait().unwrap());
    if ended.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    ended
}

/// Output of a command that has ended. A command that does not end is killed and fails the test.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> Output {
    let mut files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    command.stdout(files[0].try_clone().unwrap()).stderr(files[1].try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let ended = end(&mut child);
    let [stdout, stderr] = files.each_mut().map(|file| {
        let mut text = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut text).unwrap();
        text
    });
    let Some(status) = ended else {
        panic!("the command does not end: {command:?}\n{}", String::from_utf8_lossy(&stderr));
    };
    Output { status, stdout, stderr }
}

/// A child process whose output goes to a file.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    pub(crate) fn start(name: &'static str, scratch: &Path, command: Command) -> Self {
        Self::with_stdin(name, scratch, command, Stdio::null())
    }

    pub(crate) fn with_stdin(name: &'static str, scratch: &Path, mut command: Command, stdin: Stdio) -> Self {
        let log = scratch.join(format!("{name}.log"));
        let file = fs::File::create(&log).unwrap();
        command.stdin(stdin).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { name, child, log, status: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status
    }

    /// Waits until `ready` returns true. Panics with the log if the process ends before.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self, mut ready: impl FnMut() -> bool) {
        let name = self.name;
        wait_for(&format!("{name} is ready"), || {
            if let Some(status) = self.ended() {
                panic!("{name} ended while starting, {status}:\n{}", self.log());
            }
            ready().then_some(())
        });
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        signal(self.pid(), Signal::TERM);
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let name = self.name;
        wait_for(&format!("{name} ends"), || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            signal(self.pid(), Signal::TERM);
            if wait_within(Duration::from_secs(10), || self.ended()).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        if std::thread::panicking() {
            let log = self.log();
            let beyond = log.len().saturating_sub(SHOWN);
            let end = String::from_utf8_lossy(&log.as_bytes()[beyond..]);
            eprintln!("--- log of {} (beyond {beyond} bytes):\n{end}", self.name);
        }
    }
}
