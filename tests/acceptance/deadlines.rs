//! Requests beyond their time limits: the soft deadline, the kill and the slow log, for each kind of code in which a
//! worker can be stuck. `src/proto/run.rs` has the tests of when each deadline is due.
//!
//! Tests in which the worker survives set a late kill.

use std::time::{Duration, Instant};

use nibiru::link::interrupt::{Interrupt, Kind as Interruption, Serial};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::support::wire::{Connection, Response, STDERR, STDOUT, get};
use crate::support::{Gate, Kind, Proxy, Server, is_stopped, runs, signal, wait_for};

/// `--request-timeout` of these tests: longer than an ordinary request takes, also on a busy machine.
const LIMIT: Duration = Duration::from_millis(300);

/// A server whose workers are not killed within any test.
fn soft(workers: &'static str) -> Server {
    let limits = ["--request-timeout", "300ms", "--kill-after", "10m"];
    Server::builder().workers(workers).arguments(limits).start()
}

/// A server that kills workers soon.
fn hard(workers: &'static str) -> Server {
    let limits = ["--request-timeout", "300ms", "--kill-after", "50ms"];
    Server::builder().inspectable().workers(workers).arguments(limits).start()
}

#[track_caller]
fn expect_504(response: &Response, server: &Server) {
    assert_eq!(response.status(), 504, "{response:?}\n{}", server.log());
    assert_eq!(response.body(), b"504 Gateway Timeout: the request ran for too long\n");
}

/// Expects that `/stuck/HOW` is a 504 and that its worker serves on. Returns the log from the error line on.
#[track_caller]
fn fails_softly(how: &str) -> String {
    let (server, gate) = (soft("1"), Gate::new());
    let before = server.answering_worker();
    let response = server.get(&gate.url(&format!("/stuck/{how}")));
    expect_504(&response, &server);
    server.logged(&["ERROR", &format!("GET /stuck/{how}"), "has run for ", "(--request-timeout)"]);
    let line = server.logged(&[
        "ERROR",
        "parts/stuck.lua:",
        ": the request has run for too long (--request-timeout)",
    ]);
    assert!(line.contains(&format!("GET /stuck/{how}")) && line.contains("request="), "{line}");
    assert_eq!(server.answering_worker(), before, "{}", server.log());
    let log = server.log();
    log[log.find(&line).unwrap()..].to_owned()
}

#[test]
fn an_endless_loop_is_504_and_its_worker_serves_on() {
    let log = fails_softly("loop");
    assert!(log.contains("stack traceback:\n"), "{log}");
    // The gateway logs the deadline with the stack, and the worker does not log it again.
    assert_eq!(log.matches("(--request-timeout)").count(), 1, "{log}");
}

#[test]
fn an_endless_loop_in_a_coroutine_is_504_and_its_worker_serves_on() {
    for how in ["resume", "wrap", "nested"] {
        let log = fails_softly(how);
        assert!(log.contains("(a coroutine, resumed by)\n"), "{how}: {log}");
    }
}

#[test]
fn the_application_can_catch_the_deadlines_error_and_its_next_error_is_logged() {
    let (server, gate) = (soft("1"), Gate::new());
    let response = server.get(&gate.url("/stuck/caught"));
    expect_504(&response, &server);
    let caught = gate.announced("caught");
    assert!(caught.starts_with("false ") && caught.contains("has run for too long"), "{caught}");
    server.logged(&["second thoughts"]);
}

#[test]
#[cfg(feature = "luajit")]
fn a_loop_that_luajit_has_compiled_is_504_and_its_worker_is_replaced() {
    let (server, gate) = (hard("1"), Gate::new());
    let response = server.get(&gate.url("/stuck/compiled"));
    expect_504(&response, &server);
    let worker: u32 = gate.announced("started").parse().unwrap();
    server.logged(&["ERROR", "GET /stuck/compiled", "(--kill-after): killed"]);
    wait_for("the worker is gone", || (!runs(worker)).then_some(()));
    assert_ne!(server.answering_worker(), worker);
}

#[test]
fn a_request_stuck_in_c_is_504_and_its_worker_is_replaced_while_others_serve() {
    let (server, gate) = (hard("2"), Gate::new());
    let mut stuck = Connection::open(&server.socket());
    stuck.send(&get(1, &gate.url("/stuck/c"), true));
    let worker: u32 = gate.announced("started").parse().unwrap();
    for _ in 0..20 {
        assert_ne!(server.answering_worker(), worker);
    }
    expect_504(&stuck.response(1).expect("a response"), &server);
    // The connection can carry another request.
    assert_eq!(stuck.get("/hello").status(), 200);
    server.logged(&["ERROR", "GET /stuck/c", "(--kill-after): killed"]);
    wait_for("the worker is gone", || (!runs(worker)).then_some(()));
    server.workers(2);
}

#[test]
fn a_504_is_sent_before_the_worker_is_killed() {
    let (server, gate) = (soft("1"), Gate::new());
    let start = Instant::now();
    let response = server.get(&gate.url("/stuck/c"));
    expect_504(&response, &server);
    assert!(start.elapsed() >= LIMIT);
    let worker: u32 = gate.announced("started").parse().unwrap();
    assert!(runs(worker), "{}", server.log());
    signal(worker, Signal::KILL);
}

#[test]
fn a_request_that_a_stopped_worker_never_read_is_504_and_never_runs() {
    let (server, gate) = (hard("1"), Gate::new());
    let worker = server.answering_worker();
    signal(worker, Signal::STOP);
    wait_for("the worker is stopped", || is_stopped(worker).then_some(()));
    let response = server.get(&gate.url("/wait"));
    expect_504(&response, &server);
    wait_for("the worker is gone", || (!runs(worker)).then_some(()));
    assert_ne!(server.answering_worker(), worker);
    assert_eq!(gate.said("started"), None, "{}", server.log());
}

#[test]
fn a_response_beyond_its_deadline_after_the_head_breaks_off_and_its_body_is_closed() {
    let (server, gate) = (soft("1"), Gate::new());
    let before = server.answering_worker();
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &gate.url("/stuck/body"), true));
    let record = connection.record().unwrap();
    assert_eq!(record.kind, STDOUT, "{record:?}");
    assert!(connection.closes(), "the transfer breaks off");
    gate.announced("closed");
    assert_eq!(server.answering_worker(), before, "{}", server.log());
}

#[test]
fn a_worker_stuck_in_c_after_its_response_is_replaced() {
    let (server, gate) = (hard("1"), Gate::new());
    let response = server.get(&gate.url("/stuck/after_in_c"));
    assert_eq!((response.status(), response.body()), (200, &b"done\n"[..]));
    let worker: u32 = gate.announced("started").parse().unwrap();
    server.logged(&["ERROR", "GET /stuck/after_in_c", "(--kill-after): killed"]);
    assert_ne!(server.answering_worker(), worker);
}

#[test]
fn a_slow_request_is_logged_with_its_stack_and_completes() {
    let server = Server::builder().workers("1").arguments(["--slow-log", "100ms"]).start();
    let gate = Gate::new();
    let mut slow = Connection::open(&server.socket());
    slow.send(&get(1, &gate.url("/stuck/busy"), true));
    let line = server.logged(&["WARN", "GET /stuck/busy", "has run for", "(--slow-log)"]);
    assert!(line.contains("request="), "{line}");
    wait_for("the stack is logged", || {
        let log = server.log();
        let stack = log[log.find(&line).unwrap()..].lines().nth(1).map(str::to_owned);
        stack.filter(|stack| stack.contains("stack traceback:"))
    });
    let log = server.log();
    assert!(log[log.find(&line).unwrap()..].contains("parts/stuck.lua:"), "{log}");
    gate.open("go");
    let response = slow.response(1).expect("a response");
    assert_eq!((response.status(), response.body()), (200, &b"busy\n"[..]));
    assert_eq!(server.log().matches("(--slow-log)").count(), 1, "{}", server.log());
}

#[test]
fn a_slow_request_in_c_is_logged_without_a_stack_and_completes() {
    let server = Server::builder().workers("1").arguments(["--slow-log", "100ms"]).start();
    let gate = Gate::new();
    let mut slow = Connection::open(&server.socket());
    slow.send(&get(1, &gate.url("/stuck/busy_in_c"), true));
    server.logged(&["WARN", "GET /stuck/busy_in_c", "(--slow-log)", "in C code"]);
    gate.open("go");
    assert_eq!(slow.response(1).expect("a response").status(), 200);
}

#[test]
fn a_late_interrupt_does_not_hit_the_next_request() {
    let server = Server::builder().arguments(["--slow-log", "300ms"]).workers("1").start();
    let (worker, gate) = (server.answering_worker(), Gate::new());
    let mut busy = Connection::open(&server.socket());
    busy.send(&get(1, &gate.url("/stuck/busy"), true));
    gate.announced("started");

    let pidfd = Pid::from_raw(i32::try_from(worker).unwrap()).unwrap();
    let pidfd = pidfd_open(pidfd, PidfdFlags::empty()).unwrap();
    let interrupt = |kind, serial| {
        let number = Interrupt { kind, serial }.encode();
        nibiru::os::interrupt::send(std::os::fd::AsFd::as_fd(&pidfd), number).unwrap();
    };
    let first = Serial::default().next();
    interrupt(Interruption::Timeout, first);
    interrupt(Interruption::Timeout, Serial::default());
    interrupt(Interruption::Timeout, first.next().next());
    // Signals of the same number are delivered in order, so these have been handled when the gateway's own signal has
    // the stack logged.
    server.logged(&["GET /stuck/busy", "has run for"]);
    gate.open("go");
    let response = busy.response(1).expect("a response");
    assert_eq!((response.status(), response.body()), (200, &b"busy\n"[..]), "{}", server.log());
    interrupt(Interruption::Timeout, first.next());
    assert_eq!(server.answering_worker(), worker, "{}", server.log());
    assert!(!server.log().contains("too long"), "{}", server.log());
}

#[test]
fn behind_nginx_a_504_reaches_the_client_and_nginx_keeps_its_connection() {
    let (server, gate) = (hard("2"), Gate::new());
    let proxy = Proxy::start(Kind::Nginx, &server);
    proxy.curl([], "/hello").expect(200);
    let connections = server.connections();
    for how in ["loop", "c"] {
        let reply = proxy.curl([], &gate.url(&format!("/stuck/{how}"))).expect(504);
        assert_eq!(reply.text(), "504 Gateway Timeout: the request ran for too long\n");
    }
    assert_eq!(server.connections(), connections);
    let reply = proxy.curl([], &gate.url("/stuck/body"));
    assert_ne!(reply.exit, 0, "nginx passed a body as whole that broke off: {reply:?}");
}

#[test]
fn without_limits_no_request_is_interrupted_and_no_stderr_record_is_sent() {
    let limits = ["--request-timeout", "off", "--slow-log", "off"];
    let server = Server::builder().workers("1").arguments(limits).start();
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &gate.url("/stuck/busy"), true));
    gate.announced("started");
    gate.open("go");
    loop {
        let record = connection.record().unwrap();
        assert_ne!(record.kind, STDERR);
        if record.kind != STDOUT {
            break;
        }
    }
    assert!(!server.log().contains("/stuck/busy"), "{}", server.log());
}
