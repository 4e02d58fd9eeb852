//! `nibiru request`: it prints a response as it arrives, and its exit code tells an incomplete response from a complete
//! one.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use crate::support::wire;
use crate::support::{App, Gate, Server, nibiru, output, peak_memory, wait_for_exit};

fn request(server: &Server, arguments: &[&str]) -> Command {
    let mut command = nibiru();
    command.arg("request").args(arguments).arg("--to").arg(format!("unix:{}", server.socket().display()));
    command
}

/// Starts the command, and returns it with its standard output.
fn begin(mut command: Command) -> (Child, BufReader<ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    (child, stdout)
}

#[track_caller]
fn line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line
}

#[test]
fn each_chunk_of_a_stream_is_printed_before_the_next_is_made() {
    let (server, gate) = (Server::start(), Gate::new());
    let (mut child, mut stdout) = begin(request(&server, &["--include", "GET", &gate.url("/flow/function")]));
    assert_eq!(line(&mut stdout), "Status: 200 OK\r\n");
    while line(&mut stdout) != "\r\n" {}
    for chunk in 1..=3 {
        assert_eq!(line(&mut stdout), format!("chunk {chunk}\n"));
        gate.open(&format!("seen{chunk}"));
    }
    assert_eq!(line(&mut stdout), "");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_response_that_breaks_off_is_printed_and_is_exit_code_1() {
    let server = Server::start();
    for (path, bytes) in [("killed_in_body_with_length", 19), ("killed_in_body_without_length", 19)] {
        let gate = Gate::new();
        gate.open("seen1");
        let url = gate.url(&format!("/fail/{path}"));
        let output = output(&mut request(&server, &["--include", "GET", &url]));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with("Status: 200 OK\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nonly the beginning\n"), "{text}");
        let message = String::from_utf8_lossy(&output.stderr);
        let expected = format!("nibiru: the answer is broken off after {bytes} bytes of its body: ");
        assert!(message.starts_with(&expected), "{message}");
    }
}

/// Servers other than nibiru may close the connection within a response head.
#[test]
fn a_response_that_ends_within_its_head_is_printed_and_is_exit_code_1() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&wire::record(wire::STDOUT, 1, b"Status: 200 OK\r\nX-A: 1")).unwrap();
        // The rest of the request is read, since the close would be a reset otherwise.
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    });
    let to = format!("unix:{}", path.display());
    let output = output(nibiru().args(["request", "--include", "GET", "/", "--to", &to]));
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"Status: 200 OK\r\nX-A: 1");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        message,
        "nibiru: the answer is broken off within its head: the server closed the connection\n"
    );
}

#[test]
fn a_large_response_takes_little_memory_and_ends_with_its_reader() {
    let app = App::new(
        "return function()\n  local n = 0\n\
         \x20 return 200, {}, function() n = n + 1 if n <= 800 then return ('x'):rep(65536) end end\nend",
    );
    let server = Server::builder().application(app.root(), "app").workers("1").start();
    let (mut child, mut stdout) = begin(request(&server, &["GET", "/"]));
    // Most of the response is read; the pipe cannot hold the rest, so the command still runs.
    stdout.read_exact(&mut vec![0; 700 * 65536]).unwrap();
    let peak = peak_memory(child.id());
    assert!(peak < 32 << 10, "{peak} KiB for a response of 50 MiB");
    drop(stdout);
    let status = wait_for_exit(&mut child);
    let mut complaint = String::new();
    child.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert_eq!((status.code(), complaint.as_str()), (Some(0), ""));
}

#[test]
fn the_bytes_of_a_response_are_printed_unchanged_to_a_pipe() {
    let app = App::new("return function() return 200, {}, '\\0\\27[2J\\255\\r\\n\\155' end");
    let server = Server::builder().application(app.root(), "app").workers("1").start();
    let output = output(&mut request(&server, &["GET", "/"]));
    assert_eq!(output.stdout, b"\0\x1b[2J\xff\r\n\x9b");
}
