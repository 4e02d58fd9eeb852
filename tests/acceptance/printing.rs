//! The output of every command into a closed pipe and onto a full disk: no panic, and the exit code reports lost output.
//!
//! For comparison: ripgrep ends with 0 and prints no error in `rg x | true`; git ends by SIGPIPE, which a shell shows as 141.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::Signal;

use crate::support::{App, Server, free_port, nibiru, signal, wait_for, wait_for_exit};

/// A sink whose writes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    /// `| true`, once `true` has ended.
    ClosedPipe,
    /// `/dev/full`: every write fails with ENOSPC, as on a full disk.
    FullDisk,
}

impl Sink {
    const ALL: [Self; 2] = [Self::ClosedPipe, Self::FullDisk];

    fn open(self) -> Stdio {
        match self {
            Self::ClosedPipe => io::pipe().unwrap().1.into(),
            Self::FullDisk => OpenOptions::new().write(true).open("/dev/full").unwrap().into(),
        }
    }
}

/// Runs a command whose standard output is `sink`, and whose standard error is, too, with `deaf`. Returns its exit code
/// and standard error.
#[track_caller]
fn run(command: &mut Command, sink: Sink, deaf: bool) -> (Option<i32>, String) {
    let mut errors = tempfile::tempfile().unwrap();
    command.stdout(sink.open());
    command.stderr(if deaf { sink.open() } else { errors.try_clone().unwrap().into() });
    let mut child = Ended(command.spawn().unwrap());
    let status = child.wait();
    (status.code(), text(&mut errors))
}

fn text(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// A child process that is killed at the end of the test.
struct Ended(Child);

impl Ended {
    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        wait_for_exit(&mut self.0)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Expects that the command ends with `code` when the reader of its output has gone. On a full disk it reports the lost
/// output and ends with 1 in place of 0.
#[track_caller]
fn reports_lost_output(arguments: &[&str], code: i32) {
    for sink in Sink::ALL {
        let lost = sink == Sink::FullDisk;
        let expected = if lost && code == 0 { 1 } else { code };
        let (got, said) = run(nibiru().args(arguments), sink, false);
        assert_eq!(got, Some(expected), "{arguments:?} {sink:?}: {said}");
        assert!(!said.contains("panicked"), "{arguments:?} {sink:?}: {said}");
        let complaint = "nibiru: cannot write to standard output: no space left on device\n";
        assert_eq!(said.contains(complaint), lost, "{arguments:?} {sink:?}: {said}");
        if code == 0 && !lost {
            assert_eq!(said, "", "{arguments:?} {sink:?}");
        }
        let (got, _) = run(nibiru().args(arguments), sink, true);
        assert_eq!(got, Some(expected), "{arguments:?}, and standard error too: {sink:?}");
    }
}

#[test]
fn lost_output_of_help_and_version_is_reported() {
    for arguments in [&["--help"][..], &["-h"], &["help", "serve"], &["serve", "--help"], &["--version"]] {
        reports_lost_output(arguments, 0);
    }
    // Messages on standard error only.
    for sink in Sink::ALL {
        for arguments in [&[][..], &["serve", "--no-such-flag"], &["no-such-command"]] {
            assert_eq!(run(nibiru().args(arguments), sink, true).0, Some(2), "{arguments:?} {sink:?}");
        }
    }
}

#[test]
fn lost_output_of_check_is_reported() {
    let app = App::new("return function() return 200, {}, 'fine' end");
    let root = app.root().display().to_string();
    let listen = format!("unix:{root}/app.sock");
    reports_lost_output(&["check", "--root", &root, "--listen", &listen, "app"], 0);
    app.write("error('on purpose')");
    for sink in Sink::ALL {
        let command = &mut nibiru();
        command.args(["check", "--root", &root, "--listen", &listen, "app"]);
        assert_eq!(run(command, sink, true).0, Some(3), "{sink:?}");
    }
}

#[test]
fn lost_output_of_control_commands_and_request_is_reported() {
    let app = App::new("return function() return 200, {}, 'fine' end");
    let server = Server::builder().application(app.root(), "app").start();
    let control = server.control();
    let to = format!("unix:{}", server.socket().display());
    reports_lost_output(&["status", "--control", &control], 0);
    reports_lost_output(&["status", "--json", "--control", &control], 0);
    reports_lost_output(&["scale", "1", "--control", &control], 0);
    reports_lost_output(&["reload", "--control", &control], 0);
    reports_lost_output(&["request", "GET", "/", "--to", &to], 0);
    reports_lost_output(&["request", "--include", "GET", "/", "--to", &to], 0);
    app.write("error('on purpose')");
    reports_lost_output(&["reload", "--control", &control], 3);
}

#[test]
fn lost_output_of_stop_is_reported() {
    for (sink, code) in [(Sink::ClosedPipe, 0), (Sink::FullDisk, 1)] {
        let mut server = Server::start();
        let control = server.control();
        let (got, said) = run(nibiru().args(["stop", "--control", &control]), sink, false);
        assert_eq!(got, Some(code), "{sink:?}: {said}");
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn serve_and_dev_with_a_lost_log_serve() {
    let app = App::new("return function() print('said') return 200, {}, 'fine' end");
    let root = app.root().display().to_string();
    for sink in Sink::ALL {
        let socket = app.root().join("app.sock");
        let mut command = nibiru();
        command.args(["serve", "--root", &root, "--access-log", "-", "app"]);
        command.arg("--listen").arg(format!("unix:{}", socket.display()));
        let mut server = Ended(command.stdout(sink.open()).stderr(sink.open()).spawn().unwrap());
        wait_for("the server listens", || UnixStream::connect(&socket).ok());
        for _ in 0..3 {
            assert_eq!(crate::support::wire::Connection::open(&socket).get("/").body(), b"fine", "{sink:?}");
        }
        signal(server.0.id(), Signal::TERM);
        assert_eq!(server.wait().code(), Some(0), "serve {sink:?}");

        let port = free_port();
        let mut command = nibiru();
        command.args(["dev", "--root", &root, "--http", &port.to_string(), "app"]);
        let mut server = Ended(command.stdout(sink.open()).stderr(sink.open()).spawn().unwrap());
        let mut client = wait_for("the server listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        client.write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nfine"), "dev {sink:?}: {answer}");
        signal(server.0.id(), Signal::TERM);
        assert_eq!(server.wait().code(), Some(0), "dev {sink:?}");
    }
}
