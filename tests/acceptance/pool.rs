//! Workers that start and end: by load, age, memory, failures of the application, and commands.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use rustix::fs::{FileType, Mode};
use rustix::process::Signal;

use crate::support::wire::{Connection, PARAMS, RESPONDER, STDIN, begin, get, get_params, pair, stream};
use crate::support::{App, Gate, Server, nibiru, output, runs, signal, wait_for, wait_for_exit};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The standard output of a command that succeeds.
#[track_caller]
fn said<const N: usize>(server: &Server, arguments: [&str; N]) -> String {
    let done = output(&mut server.command(&arguments));
    assert!(done.status.success(), "{}", stderr(&done));
    stdout(&done)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The pid of a worker that runs a request, the gate at which the request waits, and its connection.
fn hold(server: &Server) -> (u32, Gate, Connection) {
    let (connection, gate) = server.hold();
    (gate.announced("started").parse().unwrap(), gate, connection)
}

#[test]
fn a_pool_grows_from_zero_with_waiting_requests_and_shrinks_when_idle() {
    let server = Server::builder().workers("0-3").arguments(["--idle-timeout", "100ms"]).start();
    server.workers(0);
    let held: Vec<_> = (0..3).map(|_| hold(&server)).collect();
    let busy: BTreeSet<u32> = held.iter().map(|(worker, ..)| *worker).collect();
    assert_eq!((busy.len(), server.workers(3)), (3, busy));
    // A fourth request waits: the pool's maximum is 3.
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/hello", true));
    waiting.settle();
    for (_, gate, mut connection) in held {
        gate.open("go");
        assert_eq!(connection.response(1).expect("a response").body(), b"waited\n");
    }
    assert_eq!(waiting.response(1).expect("a response").status(), 200);
    server.workers(0);
    assert_eq!(server.get("/hello").status(), 200);
}

#[test]
fn scale_ttin_and_ttou_resize_the_pool_until_a_reload() {
    let server = Server::builder().workers("2").start();
    server.workers(2);
    assert_eq!(said(&server, ["scale", "4"]), "4 workers\n");
    server.workers(4);
    server.signal(Signal::TTOU);
    server.workers(3);
    server.signal(Signal::TTIN);
    server.workers(4);
    assert_eq!(said(&server, ["scale", "1"]), "1 worker\n");
    server.workers(1);
    server.signal(Signal::TTOU);
    server.logged(&["scaled", "workers=\"1\""]);
    assert_eq!(server.get("/hello").status(), 200, "the last worker stays");
    assert!(output(&mut server.command(&["reload"])).status.success());
    server.workers(2);
    let wrong = output(&mut server.command(&["scale", "0"]));
    assert_eq!(wrong.status.code(), Some(2), "{}", stderr(&wrong));
}

#[test]
fn a_worker_is_replaced_after_max_requests_without_a_failed_request() {
    let server = Server::builder().workers("1").arguments(["--max-requests", "20"]).start();
    let mut connection = Connection::open(&server.socket());
    let (mut pids, mut requests) = (BTreeSet::new(), 0);
    wait_for("five workers have answered", || {
        let response = connection.get("/pid");
        assert_eq!(response.status(), 200, "{}", server.log());
        pids.insert(response.body().to_vec());
        requests += 1;
        (pids.len() >= 5).then_some(())
    });
    // A worker serves until its successor is ready, so each serves at least --max-requests.
    assert!(requests > 4 * 20, "five workers for {requests} requests");
    assert!(!server.log().contains("ended"), "{}", server.log());
}

#[test]
fn with_max_requests_1_every_request_gets_a_fresh_lua_state() {
    let app = App::new("local n = 0 return function() n = n + 1 return 200, {}, tostring(n) end");
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("2")
        .arguments(["--max-requests", "1"])
        .start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = Connection::open(&server.socket());
                for _ in 0..100 {
                    let response = connection.get("/");
                    assert_eq!((response.status(), response.body()), (200, &b"1"[..]), "{}", server.log());
                }
            });
        }
    });
}

#[test]
fn workers_are_replaced_at_max_age() {
    let server = Server::builder().workers("2").arguments(["--max-age", "1s"]).start();
    let first = server.workers(2);
    wait_for("both workers are replaced", || {
        assert_eq!(server.get("/hello").status(), 200);
        first.iter().all(|worker| !runs(*worker)).then_some(())
    });
}

#[test]
fn a_worker_beyond_max_memory_is_replaced_after_its_request() {
    let app = App::new(
        "return function(e) if e.PATH_INFO == '/grow' then kept = ('x'):rep(64e6) end return 200, {}, 'fine' end",
    );
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--max-memory", "32M"])
        .start();
    let worker = *server.workers(1).first().unwrap();
    assert_eq!(server.get("/").status(), 200);
    assert!(runs(worker));
    assert_eq!(server.get("/grow").status(), 200);
    wait_for("the worker is gone", || (!runs(worker)).then_some(()));
    server.logged(&["too large", "--max-memory", "pss="]);
    assert_eq!(server.get("/").status(), 200);
}

#[test]
fn memory_limit_fails_only_the_request_that_exceeds_it() {
    let app = App::new(
        "return function(e)\n\
         \x20 if e.PATH_INFO == '/bomb' then local t = {} while true do t[#t + 1] = ('x'):rep(1e6) .. #t end end\n\
         \x20 return 200, {}, 'fine'\nend",
    );
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("2")
        .arguments(["--memory-limit", "64M"])
        .start();
    let before = server.workers(2);
    for _ in 0..3 {
        let status = server.get("/bomb").status();
        // With LuaJIT the process may reach its own limit, which may end it.
        let expected: &[u16] = if cfg!(feature = "luajit") { &[500, 502] } else { &[500] };
        assert!(expected.contains(&status), "{status}");
        assert_eq!(server.get("/").body(), b"fine");
    }
    assert!(cfg!(feature = "luajit") || server.workers(2) == before, "no worker was replaced");
}

#[test]
fn an_application_that_kills_its_worker_in_every_request_is_503_until_it_is_fixed() {
    let app = App::new("return function() os.execute('kill -9 $PPID') end");
    let server = Server::builder().application(app.root(), "app").workers("2").start();
    let first = wait_for("the application counts as failing", || {
        let response = server.get("/");
        match response.status() {
            502 => None,
            503 => Some(response),
            status => panic!("{status}"),
        }
    });
    assert!(first.header("Retry-After").is_some(), "{first:?}");
    // The 503 comes at once, not for --queue-timeout.
    assert!(String::from_utf8_lossy(first.body()).contains("the application does not start"), "{first:?}");
    app.write("return function() return 200, {}, 'mended' end");
    wait_for("the fixed code serves", || {
        let response = server.get("/");
        (response.status() == 200).then(|| assert_eq!(response.body(), b"mended"))
    });
    server.workers(2);
}

#[test]
fn workers_that_do_not_start_log_at_most_a_line_a_second_and_recover_when_the_code_is_fixed() {
    let app = App::new(
        "require('nibiru').on_worker_start(function() if not io.open('app.ok') then error('no database') end end)\n\
         return function() return 200, {}, 'fine' end",
    );
    let good = app.root().join("app.ok");
    fs::write(&good, "").unwrap();
    // One worker, whose end is no failed start: the first tries follow each other soon.
    let server = Server::builder().application(app.root(), "app").workers("1").start();
    assert_eq!(server.get("/").status(), 200);
    fs::remove_file(&good).unwrap();
    server.workers(1).into_iter().for_each(|worker| signal(worker, Signal::KILL));
    wait_for("the application counts as failing", || (server.get("/").status() == 503).then_some(()));
    let begin = std::time::Instant::now();
    let lines_before = server.log().lines().count();
    wait_for("three starts have failed", || (server.log().matches("no database").count() >= 3).then_some(()));
    let (lines, seconds) =
        (server.log().lines().filter(|line| line.starts_with("20")).count(), begin.elapsed());
    let most = lines_before as u64 + 6 + seconds.as_secs();
    assert!(lines as u64 <= most, "{lines} lines, at most {most} expected:\n{}", server.log());
    fs::write(&good, "").unwrap();
    wait_for("the fixed code serves", || (server.get("/").status() == 200).then_some(()));
}

#[test]
fn reload_returns_when_the_new_code_serves_or_with_the_load_error() {
    let app = App::new("return function() return 200, {}, 'one' end");
    let server = Server::builder().application(app.root(), "app").workers("1").start();
    assert_eq!(server.get("/").body(), b"one");
    app.write("return function() return 200, {}, 'two' end");
    assert_eq!(said(&server, ["reload"]), "generation 2 serves\n");
    assert_eq!(server.get("/").body(), b"two");
    app.write("local function deep() error('on purpose') end\ndeep()");
    let failed = output(&mut server.command(&["reload"]));
    assert_eq!(failed.status.code(), Some(3));
    for part in ["nibiru: ", "app.lua:1: on purpose", "stack traceback:", "in main chunk"] {
        assert!(stderr(&failed).contains(part), "{}", stderr(&failed));
    }
    assert_eq!(stdout(&failed), "the old code goes on serving (generation 2)\n");
    assert_eq!(server.get("/").body(), b"two");
}

#[test]
fn a_reload_beyond_start_timeout_fails_and_the_old_code_serves() {
    let app = App::new("return function() return 200, {}, 'one' end");
    let file = app.root().join("settings.toml");
    fs::write(&file, "").unwrap();
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--config", file.to_str().unwrap()])
        .start();
    // The server listens before it has loaded the application.
    assert_eq!(server.get("/").body(), b"one");
    // For the reloads alone: long enough that they get as far as the code.
    fs::write(&file, "start-timeout = '300ms'").unwrap();
    for hang in [
        "while true do end",
        "require('nibiru').on_worker_start(function() while true do end end) return print",
    ] {
        app.write(hang);
        let failed = output(&mut server.command(&["reload"]));
        assert_eq!(failed.status.code(), Some(3), "{}", stderr(&failed));
        assert!(stderr(&failed).contains("longer than 300 ms"), "{}", stderr(&failed));
        assert_eq!(server.get("/").body(), b"one");
    }
}

/// A server with one worker and a configuration file, whose path is the second part.
fn configured(app: &App, settings: &str) -> (Server, PathBuf) {
    let file = app.root().join("settings.toml");
    fs::write(&file, settings).unwrap();
    let config = file.display().to_string();
    let builder = Server::builder().application(app.root(), "app").workers("1");
    (builder.arguments(["--config", &config]).start(), file)
}

#[test]
fn a_reload_reads_the_settings_again_and_names_those_that_need_a_restart() {
    let app = App::new("return function() return 200, {}, 'fine' end");
    let (server, file) = configured(&app, "max-body = '10'\nlog-level = 'info'");
    let post = || {
        let mut connection = Connection::open(&server.socket());
        let params = [get_params("/"), pair(b"CONTENT_LENGTH", b"12")].concat();
        let parts =
            [begin(1, RESPONDER, true), stream(PARAMS, 1, &params), stream(STDIN, 1, b"twelve bytes")];
        connection.send(&parts.concat());
        connection.response(1).expect("a response").status()
    };
    assert_eq!(post(), 413);
    fs::write(&file, "max-body = '20'\nlog-level = 'debug'").unwrap();
    assert_eq!(
        said(&server, ["reload"]),
        "generation 2 serves\nlog-level cannot change while running: restart\n"
    );
    assert_eq!(post(), 200);
    server.logged(&["log-level changed", "restart"]);
    fs::write(&file, "max-bodi = '20'").unwrap();
    let failed = output(&mut server.command(&["reload"]));
    assert_eq!(failed.status.code(), Some(3));
    assert!(stderr(&failed).contains("max-bodi"), "{}", stderr(&failed));
    assert_eq!(stdout(&failed), "the old code goes on serving (generation 2)\n");
    server.logged(&["cannot reload", "settings.toml"]);
    assert_eq!(post(), 200);
}

#[test]
fn a_reload_with_wrong_settings_during_the_start_does_not_stop_it() {
    let app = App::new("io.open('gate'):read(1) return function() return 200, {}, 'fine' end");
    let gate = app.root().join("gate");
    rustix::fs::mknodat(rustix::fs::CWD, &gate, FileType::Fifo, Mode::RWXU, 0).unwrap();
    // The server listens before it has loaded the application.
    let (server, file) = configured(&app, "");
    wait_for("the control socket", || {
        output(&mut server.command(&["status"])).status.success().then_some(())
    });
    fs::write(&file, "max-bodi = '20'").unwrap();
    let failed = output(&mut server.command(&["reload"]));
    assert_eq!(failed.status.code(), Some(3));
    assert!(stderr(&failed).contains("max-bodi"), "{}", stderr(&failed));
    assert_eq!(stdout(&failed), "", "no old code serves");
    server.logged(&["the start goes on"]);
    fs::write(&gate, "x").unwrap();
    assert_eq!(server.get("/").body(), b"fine");
    fs::write(&file, "").unwrap();
    let mut reload = server.command(&["reload"]).stdout(Stdio::null()).spawn().unwrap();
    fs::write(&gate, "x").unwrap();
    assert!(wait_for_exit(&mut reload).success());
}

#[test]
fn status_shows_the_running_request_of_each_worker_and_the_queue() {
    let server = Server::builder().workers("1").start();
    let (worker, gate, mut running) = hold(&server);
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/hello", true));
    waiting.settle();
    let shown = output(&mut server.command(&["status"]));
    let text = String::from_utf8(shown.stdout).unwrap();
    for part in [
        "site:application",
        "1: 0 idle, 1 busy",
        "1 of 1024, the oldest for",
        "GET /wait?dir=",
        &worker.to_string(),
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let json = server.status();
    assert_eq!((&json["queue"]["length"], &json["workers"][0]["pid"]), (&1.into(), &worker.into()));
    gate.open("go");
    assert_eq!(running.response(1).expect("a response").status(), 200);
    assert_eq!(waiting.response(1).expect("a response").status(), 200);
    let nobody = output(nibiru().args(["status", "--control", "unix:/nonexistent/nibiru.ctl"]));
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("/nonexistent/nibiru.ctl: no such file"), "{}", stderr(&nobody));
}

#[test]
fn a_queued_request_whose_client_leaves_never_runs() {
    let server = Server::builder().workers("1").start();
    let (_, gate, mut running) = hold(&server);
    let gone = Gate::new();
    let mut leaver = Connection::open(&server.socket());
    leaver.send(&get(1, &gone.url("/count"), true));
    leaver.settle();
    drop(leaver);
    let queued = || server.status()["queue"]["length"].as_u64();
    wait_for("the queue is empty", || (queued() == Some(0)).then_some(()));
    gate.open("go");
    assert_eq!(running.response(1).expect("a response").status(), 200);
    assert_eq!(server.get("/hello").status(), 200);
    assert_eq!(gone.said("executions"), None);
}

#[test]
fn stop_returns_when_the_server_has_ended() {
    let mut server = Server::start();
    let (_, gate, mut running) = hold(&server);
    let mut stop = server.command(&["stop"]).stdout(Stdio::piped()).spawn().unwrap();
    server.logged(&["stopping"]);
    assert!(stop.try_wait().unwrap().is_none(), "stop waits for the running request");
    gate.open("go");
    assert_eq!(running.response(1).expect("a response").status(), 200);
    drop(running);
    assert!(wait_for_exit(&mut stop).success());
    assert_eq!(stdout(&stop.wait_with_output().unwrap()), "stopped\n");
    assert_eq!(server.wait().code(), Some(0));
    let again = output(&mut server.command(&["stop"]));
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("cannot reach the server at"), "{}", stderr(&again));
}

#[test]
fn the_control_socket_has_mode_0600_and_refuses_malformed_commands() {
    use std::io::{Read as _, Write as _};
    let server = Server::start();
    let path = server.socket().with_extension("sock.ctl");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for nonsense in [&b"frobnicate\n"[..], b"scale many\n", b"\xff\xfe\n", b"\n", &[b'x'; 5000], b"reload"] {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        // The command may be refused before all of it is written.
        let _ = stream.write_all(nonsense);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"{\"ok\":false,\"error\":"), "{answer:?}");
    }
    assert!(!server.log().contains("reloading"));
    assert_eq!(server.get("/hello").status(), 200);
}
