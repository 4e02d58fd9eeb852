//! The access log: one line for every request however it ends, a new file after USR1, and a full disk.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::wire::{self, Connection, get};
use crate::support::{
    App, Gate, Need, Server, ServerBuilder, lacks, nibiru, output, repository, signal, wait_for,
};

/// A server with an access log in a directory of its own.
struct Logged {
    server: Server,
    directory: TempDir,
}

impl Logged {
    fn start(workers: &'static str, arguments: &[&str]) -> Self {
        Self::of(Server::builder().workers(workers), arguments)
    }

    fn of(builder: ServerBuilder, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("access.log");
        let mut builder = builder.arguments(["--access-log", file.to_str().unwrap()]);
        for argument in arguments {
            builder = builder.arguments([argument]);
        }
        Self { server: builder.start(), directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("access.log")
    }

    /// Waits for the line about a request whose URI contains `uri`, and returns its columns.
    #[track_caller]
    fn line(&self, uri: &str) -> Vec<String> {
        wait_for(&format!("the access log has a line about {uri}"), || {
            let text = fs::read_to_string(self.file()).unwrap_or_default();
            text.lines().find(|line| line.contains(uri)).map(columns)
        })
    }

    fn open(&self) -> Connection {
        Connection::open(&self.server.socket())
    }
}

/// The columns of a line: time, address, request line, status, bytes, wait, service time, worker, generation, id, end.
fn columns(line: &str) -> Vec<String> {
    let mut quoted = line.split('"');
    let (front, request, back) = (quoted.next().unwrap(), quoted.next().unwrap(), quoted.next().unwrap());
    assert_eq!(quoted.next(), None, "{line}");
    let front = front.split_whitespace().map(str::to_owned);
    let columns: Vec<_> =
        front.chain([request.to_owned()]).chain(back.split_whitespace().map(str::to_owned)).collect();
    assert_eq!(columns.len(), 11, "{line}");
    columns
}

#[test]
fn every_end_of_a_request_leaves_one_line() {
    let logged = Logged::start("1", &["--max-body", "10", "--queue", "1"]);
    logged.open().get("/hello?ok");
    let line = logged.line("?ok");
    assert!(line[0].ends_with('Z') && line[0].len() == "2026-11-24T09:00:00.000Z".len(), "{line:?}");
    assert_eq!((line[1].as_str(), line[2].as_str()), ("127.0.0.1", "GET /hello?ok HTTP/1.1"));
    assert_eq!((line[3].as_str(), line[4].as_str()), ("200", "14"));
    let seconds = |text: &str| {
        assert_eq!(text.split_once('.').unwrap().1.len(), 6, "{text}");
        text.parse::<f64>().unwrap()
    };
    assert!(seconds(&line[5]) < 60.0 && seconds(&line[6]) > 0.0, "{line:?}");
    assert_eq!((line[7].as_str(), line[8].as_str(), line[10].as_str()), ("1", "1", "complete"));
    assert_eq!(line[9].len(), 16, "{line:?}");

    let mut large = logged.open();
    large.send(&wire::begin(1, wire::RESPONDER, false));
    let params = [wire::get_params("/hello?large"), wire::pair(b"CONTENT_LENGTH", b"11")].concat();
    large.send(&wire::stream(wire::PARAMS, 1, &params));
    assert_eq!(large.response(1).expect("a response").status(), 413);
    let line = logged.line("?large");
    assert_eq!((line[3].as_str(), line[5].as_str(), line[7].as_str()), ("413", "-", "-"), "{line:?}");
    assert_eq!(line[10], "body_too_large");
    // The main log names the request as well.
    logged.server.logged(&["request refused: the body has 11 bytes", &line[9], "GET /hello?large HTTP/1.1"]);

    logged.open().get("/fail/killed_before_head?before");
    let line = logged.line("?before");
    assert_eq!((line[3].as_str(), line[7].as_str(), line[10].as_str()), ("502", "1", "complete"), "{line:?}");

    let gate = Gate::new();
    let mut cut = logged.open();
    cut.send(&get(1, &gate.url("/fail/killed_in_body_with_length"), true));
    cut.record();
    gate.open("seen1");
    assert!(cut.response_breaks());
    let line = logged.line("killed_in_body");
    assert_eq!((line[3].as_str(), line[4].as_str(), line[10].as_str()), ("200", "19", "broken"), "{line:?}");

    let gate = Gate::new();
    let mut gone = logged.open();
    gone.send(&get(1, &gate.url("/wait"), true));
    gate.announced("started");
    let mut waiting = logged.open();
    waiting.send(&get(1, "/hello?left", true));
    waiting.settle();
    assert_eq!(logged.open().get("/hello?full").status(), 503);
    let line = logged.line("?full");
    assert_eq!(
        (line[3].as_str(), line[6].as_str(), line[10].as_str()),
        ("503", "-", "queue_full"),
        "{line:?}"
    );
    drop(waiting);
    let line = logged.line("?left");
    assert_eq!((line[3].as_str(), line[7].as_str(), line[10].as_str()), ("-", "-", "aborted"), "{line:?}");
    gone.hang_up();
    gate.open("go");
    let line = logged.line("/wait?");
    assert_eq!((line[3].as_str(), line[7].as_str(), line[10].as_str()), ("-", "1", "aborted"), "{line:?}");

    let text = fs::read_to_string(logged.file()).unwrap();
    assert_eq!(text.lines().count(), 7, "{text}");
}

#[test]
fn the_line_of_a_request_that_is_too_long_in_the_queue_has_its_wait() {
    let logged = Logged::start("1", &["--queue-timeout", "50ms"]);
    let gate = Gate::new();
    let mut running = logged.open();
    running.send(&get(1, &gate.url("/wait"), true));
    gate.announced("started");
    assert_eq!(logged.open().get("/hello?late").status(), 503);
    let line = logged.line("?late");
    assert!(line[5].parse::<f64>().unwrap() >= 0.05, "{line:?}");
    assert_eq!((line[6].as_str(), line[10].as_str()), ("-", "queue_timeout"), "{line:?}");
    gate.open("go");
}

#[test]
fn control_characters_in_a_uri_are_escaped_and_forge_no_line() {
    let logged = Logged::start("1", &[]);
    logged.open().get("/hello?\" 200\n2026-11-24T09:00:00.000Z evil \x1b[2J\\é");
    let line = logged.line("evil");
    let shown = r"GET /hello?\x22\x20200\x0A2026-11-24T09:00:00.000Z\x20evil\x20\x1B[2J\x5C\xC3\xA9 HTTP/1.1";
    assert_eq!(line[2], shown);
    assert_eq!(fs::read_to_string(logged.file()).unwrap().lines().count(), 1);
}

#[test]
fn with_log_format_json_each_line_is_an_object() {
    let logged = Logged::start("1", &["--log-format", "json"]);
    logged.open().get("/hello?\"\n");
    let line = wait_for("the access log has a line", || {
        fs::read_to_string(logged.file()).unwrap().lines().next().map(str::to_owned)
    });
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["method"], &line["status"], &line["bytes"]), (&"GET".into(), &200.into(), &14.into()));
    assert_eq!((&line["uri"], &line["remote"]), (&r"/hello?\x22\x0A".into(), &"127.0.0.1".into()));
    assert_eq!((&line["worker"], &line["gen"], &line["end"]), (&1.into(), &1.into(), &"complete".into()));
    assert!(line["service_time"].as_f64().unwrap() > 0.0 && line["queue_wait"].is_number(), "{line}");
}

#[test]
fn usr1_reopens_the_access_log() {
    let logged = Logged::start("2", &[]);
    logged.open().get("/hello?first");
    logged.line("?first");
    assert_eq!(fs::metadata(logged.file()).unwrap().permissions().mode() & 0o777 & !0o640, 0);
    let old = logged.directory.path().join("access.log.1");
    fs::rename(logged.file(), &old).unwrap();
    // Before USR1, lines still go to the renamed file.
    logged.open().get("/hello?second");
    wait_for("the line is in the old file", || {
        fs::read_to_string(&old).unwrap().contains("?second").then_some(())
    });
    send_usr1(&logged);
    logged.open().get("/hello?third");
    assert_eq!(logged.line("?third")[3], "200");
    assert_eq!(fs::read_to_string(&old).unwrap().lines().count(), 2);
    assert_eq!(fs::read_to_string(logged.file()).unwrap().lines().count(), 1);
}

/// The new file appears without another request, so the old one can be compressed.
fn send_usr1(logged: &Logged) {
    logged.server.signal(Signal::USR1);
    wait_for("the new file exists", || logged.file().exists().then_some(()));
}

#[test]
fn a_failed_reopen_is_logged_once_and_loses_no_line_and_is_tried_again() {
    let logged = Logged::start("1", &[]);
    let moved = logged.directory.path().join("access.log.1");
    fs::rename(logged.file(), &moved).unwrap();
    fs::create_dir(logged.file()).unwrap();
    logged.server.signal(Signal::USR1);
    logged.server.logged(&["cannot reopen the access log", "is a directory"]);
    logged.open().get("/hello?kept");
    wait_for("the line is in the old file", || {
        fs::read_to_string(&moved).unwrap().contains("?kept").then_some(())
    });
    fs::remove_dir(logged.file()).unwrap();
    wait_for("the log is reopened without another signal", || {
        logged.open().get("/hello?again");
        fs::read_to_string(logged.file()).is_ok_and(|text| text.contains("?again")).then_some(())
    });
    let log = logged.server.log();
    assert_eq!(log.matches("cannot reopen").count(), 1, "{log}");
}

#[test]
fn a_full_disk_under_the_access_log_fails_no_request_and_counts_the_dropped_lines() {
    let server = Server::builder()
        .workers("1")
        .arguments(["--access-log", "/dev/full", "--status-path", "/-/status"])
        .start();
    for _ in 0..100 {
        assert_eq!(server.get("/hello").status(), 200);
    }
    wait_for("all 100 lines are counted as dropped", || {
        let response = server.get("/-/status?json");
        let status: Value = serde_json::from_slice(response.body()).unwrap();
        (status["access_log"]["dropped"] == 100).then_some(())
    });
    server.logged(&["cannot write the access log", "no space left on device"]);
    let log = server.log();
    assert_eq!(log.matches("cannot write the access log").count(), 1, "{log}");
}

#[test]
fn an_access_log_that_cannot_be_opened_at_the_start_is_exit_code_1() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("unix:{}", directory.path().join("app.sock").display());
    let log = directory.path().join("missing/access.log");
    let mut command = nibiru();
    command.args(["serve", "--listen", &listen, "--root"]).arg(repository("tests/apps"));
    let output = output(command.arg("--access-log").arg(&log).arg("site:application"));
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = format!(
        "nibiru: cannot open the access log {}: the directory {} does not exist",
        log.display(),
        log.parent().unwrap().display()
    );
    assert!(message.contains(&expected), "{message}");
}

#[test]
fn an_access_log_of_a_dash_goes_to_standard_output() {
    let server = Server::builder().workers("1").arguments(["--access-log", "-"]).start();
    server.get("/hello?stdout");
    server.logged(&["\"GET /hello?stdout HTTP/1.1\" 200 14 "]);
}

#[test]
fn a_stop_writes_every_buffered_line() {
    let mut logged = Logged::start("2", &[]);
    for number in 0..200 {
        logged.open().get(&format!("/hello?{number}"));
    }
    logged.server.signal(Signal::TERM);
    logged.server.wait();
    assert_eq!(fs::read_to_string(logged.file()).unwrap().lines().count(), 200);
}

#[test]
fn a_stop_writes_the_lines_of_responses_that_no_client_has_read() {
    let mut logged = Logged::start("1", &["--grace", "100ms"]);
    let mut client = logged.open();
    client.send(&get(1, "/unread", true));
    wait_for("the response has begun", || (client.unread() > 0).then_some(()));
    // The worker is idle again: the rest of the response is in a file.
    assert_eq!(logged.open().get("/hello").status(), 200);
    logged.server.signal(Signal::TERM);
    logged.server.wait();
    let text = fs::read_to_string(logged.file()).unwrap();
    assert!(text.contains("GET /hello") && text.contains("GET /unread"), "{text}");
}

#[test]
fn a_retried_request_leaves_one_line() {
    let logged = Logged::start("1", &[]);
    logged.open().get("/hello?ready");
    let worker = *logged.server.workers(1).first().unwrap();
    signal(worker, Signal::STOP);
    wait_for("the worker is stopped", || crate::support::is_stopped(worker).then_some(()));
    let mut connection = logged.open();
    connection.send(&get(1, "/hello?retried", true));
    connection.settle();
    signal(worker, Signal::KILL);
    assert_eq!(connection.response(1).expect("a response").status(), 200);
    let line = logged.line("?retried");
    assert_eq!((line[3].as_str(), line[10].as_str()), ("200", "complete"));
    assert_eq!(fs::read_to_string(logged.file()).unwrap().lines().count(), 2);
}

/// The gateway takes the responses of several requests at once, and the worker runs the next one meanwhile.
#[test]
fn a_service_time_is_no_shorter_than_the_request_ran_whenever_its_response_is_taken() {
    const SPIN: f64 = 100e-6;
    let app = App::new(&format!(
        "return function()
          local start = os.clock()
          repeat until os.clock() - start >= {SPIN}
          return 200, {{}}, 'done'
        end"
    ));
    let logged = Logged::of(Server::builder().application(app.root(), "app").workers("1"), &[]);
    let clients: Vec<_> = (0..8).map(|_| logged.open()).collect();
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || (0..100).for_each(|_| assert_eq!(client.get("/spin").text(), "done")));
        }
    });
    let lines = wait_for("all lines are written", || {
        let text = fs::read_to_string(logged.file()).unwrap();
        (text.lines().count() == 800).then_some(text)
    });
    for line in lines.lines() {
        let service: f64 = columns(line)[6].parse().unwrap();
        // The clock of the CPU has microseconds, and so has the column.
        assert!(service >= SPIN - 2e-6, "{line}");
    }
}

/// Root may start a server whose log is in a directory of the application's user.
#[test]
fn a_symbolic_link_that_another_user_puts_in_place_of_the_access_log_is_not_followed() {
    if lacks(Need::Root) {
        return;
    }
    let logged = Logged::start("1", &[]);
    let precious = tempfile::tempdir().unwrap();
    let victim = precious.path().join("shadow");
    fs::write(&victim, "root's").unwrap();
    std::os::unix::fs::chown(logged.directory.path(), Some(12_345), None).unwrap();
    fs::remove_file(logged.file()).unwrap();
    std::os::unix::fs::symlink(&victim, logged.file()).unwrap();
    std::os::unix::fs::lchown(logged.file(), Some(12_345), None).unwrap();
    logged.server.signal(Signal::USR1);
    logged.server.logged(&["cannot reopen the access log", "is a symbolic link that user 12345 made"]);
    assert_eq!(logged.open().get("/hello").status(), 200);
    fs::remove_file(logged.file()).unwrap();
    wait_for("the access log is at its path again", || {
        logged.open().get("/hello?again");
        fs::read_to_string(logged.file()).is_ok_and(|text| text.contains("?again")).then_some(())
    });
    assert_eq!(fs::read_to_string(&victim).unwrap(), "root's");
}
