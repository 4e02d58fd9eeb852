//! The ways to listen beside a Unix socket of nibiru's own.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::support::{Server, free_port, nibiru, repository, signal, wait_for};
use crate::wire::{Connection, get};

/// A child that is stopped when the test ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        signal(self.0.id(), Signal::TERM);
        let _ = self.0.wait();
    }
}

fn serve(mut command: Command, listen: &str) -> Running {
    command
        .args(["--workers", "1", "--listen", listen, "--root"])
        .arg(repository("examples/hello"))
        .arg("app");
    Running(command.stdout(Stdio::null()).spawn().unwrap())
}

fn answers(mut connection: Connection) {
    let response = connection.get("/");
    assert_eq!((response.status(), response.body()), (200, &b"Hello, World!\n"[..]));
}

/// As spawn-fcgi, mod_fcgid and lighttpd start a FastCGI application.
#[test]
fn a_listening_socket_on_descriptor_0_is_served() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("app.sock");
    let socket = UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        let mut command = nibiru();
        command.arg("serve").stdin(OwnedFd::from(socket.try_clone().unwrap()));
        let server = serve(command, "fd:0");
        answers(Connection::open(&path));
        drop(server);
        assert!(path.exists(), "a socket that others made is left to them");
    }
}

/// systemd-socket-activate does for a command what systemd does for a unit.
#[test]
fn a_socket_that_systemd_passes_is_served() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("app.sock");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(&path).arg(nibiru().get_program()).arg("serve").stdin(Stdio::null());
    let _server = serve(command, "systemd");
    // The file is there a moment before the socket listens.
    let stream = wait_for("systemd listens", || UnixStream::connect(&path).ok());
    answers(Connection::from(stream));
}

#[test]
fn without_a_socket_from_systemd_the_start_fails_with_the_reason() {
    let mut command = nibiru();
    command.args(["serve", "--listen", "systemd", "--root"]).arg(repository("examples/hello")).arg("app");
    let output = crate::support::output(&mut command);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("nibiru: cannot listen on systemd: systemd passed no socket"), "{message}");
}

/// FastCGI 1.0 §3.2.
#[test]
fn over_tcp_only_the_named_web_servers_are_answered() {
    for (allowed, answered) in [("127.0.0.1", true), ("192.0.2.1,127.0.0.1", true), ("192.0.2.1", false)] {
        let port = free_port();
        let listen = format!("tcp:127.0.0.1:{port}");
        let _server = Server::builder()
            .environment("FCGI_WEB_SERVER_ADDRS", allowed)
            .arguments(["--listen", &listen])
            .start();
        let mut client = wait_for("it listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        // One that is not answered may be closed before it has sent.
        let _ = client.write_all(&get(1, "/hello", false));
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        assert_eq!(!answer.is_empty(), answered, "{allowed}");
    }
}
