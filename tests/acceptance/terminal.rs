//! nibiru in the foreground of a terminal (made by `script`): Ctrl-C ends all processes, even a worker that reads from
//! the terminal.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;

use crate::support::wire::{Connection, get};
use crate::support::{App, Gate, Process, children, free_port, runs, wait_for};

/// The byte that Ctrl-C sends.
const CTRL_C: &[u8] = b"\x03";

const READS: &str = "return function(environ)\n\
    \x20 if environ.PATH_INFO == '/read' then\n\
    \x20   local terminal = assert(io.open(os.getenv('TERMINAL')))\n\
    \x20   local note = assert(io.open(os.getenv('GATE') .. '/started', 'w'))\n\
    \x20   note:write('x')\n\
    \x20   note:close()\n\
    \x20   terminal:read('*l')\n\
    \x20 end\n\
    \x20 return 200, {}, 'served'\n\
    end";

/// Runs nibiru with `arguments` in a new terminal. `read` sends the request whose worker reads from the terminal, and
/// returns its connection. `is_served` is whether the other worker answers a request.
fn ctrl_c_ends_everything<R>(arguments: &str, read: impl Fn() -> Option<R>, is_served: impl Fn() -> bool) {
    let (app, gate, scratch) = (App::new(READS), Gate::new(), tempfile::tempdir().unwrap());
    let (stdin, mut keys) = std::io::pipe().unwrap();
    let mut command = Command::new("script");
    let shell = format!("TERMINAL=$(tty) exec '{}' {arguments}", env!("CARGO_BIN_EXE_nibiru"));
    command.args(["-q", "-e", "-f", "-c", &shell, "/dev/null"]).env("GATE", gate.directory());
    command.current_dir(app.root());
    let mut terminal = Process::with_stdin("script", scratch.path(), command, stdin.into());
    let mut reading = None;
    terminal.wait_ready(|| {
        reading = read();
        reading.is_some()
    });
    gate.announced("started");
    assert!(is_served(), "{}", terminal.log());

    let gateway = children(terminal.pid());
    let zygotes: Vec<u32> = gateway.iter().copied().flat_map(children).collect();
    let workers: Vec<u32> = zygotes.iter().copied().flat_map(children).collect();
    assert_eq!((gateway.len(), zygotes.len(), workers.len()), (1, 1, 2), "{}", terminal.log());
    keys.write_all(CTRL_C).unwrap();
    terminal.wait();
    let all = || gateway.iter().chain(&zygotes).chain(&workers);
    wait_for("all processes have ended", || all().all(|pid| !runs(*pid)).then_some(()));
}

#[test]
fn ctrl_c_ends_serve_while_a_worker_reads_from_the_terminal() {
    let scratch = tempfile::tempdir().unwrap();
    let socket = scratch.path().join("app.sock");
    let read = || {
        UnixStream::connect(&socket).ok()?;
        let mut connection = Connection::open(&socket);
        connection.send(&get(1, "/read", true));
        Some(connection)
    };
    let is_served = || Connection::open(&socket).get("/").body() == b"served";
    let arguments = format!("serve --listen unix:{} --workers 2 --grace 200ms app", socket.display());
    ctrl_c_ends_everything(&arguments, read, is_served);
}

#[test]
fn ctrl_c_ends_dev_while_a_worker_reads_from_the_terminal() {
    let port = free_port();
    let request = |path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).ok()?;
        Some(stream)
    };
    let is_served = || {
        let mut answer = String::new();
        request("/").unwrap().read_to_string(&mut answer).unwrap();
        answer.contains("served")
    };
    let arguments = format!("dev --http {port} --workers 2 --grace 200ms app");
    ctrl_c_ends_everything(&arguments, || request("/read"), is_served);
}
