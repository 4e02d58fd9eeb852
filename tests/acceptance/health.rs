//! The verdict on the server in every view, and the responses of the health path: while the application loads, while
//! every worker is stuck, while no worker starts, and in the delay before a stop.

use std::fs;
use std::os::unix::net::UnixStream;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::wire::{self, Connection, get};
use crate::support::{App, Kind, Proxy, Server, ServerBuilder, is_stopped, output, runs, signal, wait_for};

const HEALTH: &str = "/-/health";
const STATUS: &str = "/-/status";

const FINE: &str = "return function() return 200, {}, 'fine' end";

fn server() -> ServerBuilder {
    Server::builder().arguments(["--health-path", HEALTH, "--status-path", STATUS])
}

fn serving(app: &App, workers: &'static str) -> ServerBuilder {
    server().application(app.root(), "app").workers(workers)
}

/// Waits for a health response with this status and verdict, and returns its reason.
#[track_caller]
fn health_is(server: &Server, status: u16, verdict: &str) -> String {
    wait_for(&format!("the health is {status} {verdict}"), || {
        let response = server.get(HEALTH);
        let text = response.text();
        let reason = text.strip_prefix(verdict)?.strip_prefix(": ")?.strip_suffix('\n')?;
        (response.status() == status).then(|| reason.to_owned())
    })
}

/// Expects the verdict and the reason in every view: `nibiru status` in both forms, the page, JSON, the metrics.
#[track_caller]
fn every_view_says(server: &Server, verdict: &str, reason: &str) {
    let down = verdict == "down";
    let text = output(&mut server.command(&["status"]));
    assert_eq!(text.status.code(), Some(i32::from(down)), "{text:?}");
    let shown = String::from_utf8(text.stdout).unwrap();
    assert!(shown.contains(&format!("\nverdict      {verdict}: {reason}\n")), "{shown}");
    let json = output(&mut server.command(&["status", "--json"]));
    assert_eq!(json.status.code(), Some(i32::from(down)));
    let page = server.get(&format!("{STATUS}?html"));
    let path = server.get(&format!("{STATUS}?json"));
    for (what, json) in [("control", &json.stdout[..]), ("path", path.body())] {
        let json: Value = serde_json::from_slice(json).unwrap();
        assert_eq!((&json["verdict"], &json["reason"]), (&verdict.into(), &reason.into()), "{what}");
    }
    let code = if down { 503 } else { 200 };
    assert_eq!((page.status(), path.status()), (code, code));
    let shown = format!("<p id=\"verdict\" class=\"{verdict}\"><b>{verdict}</b>: <span>{reason}</span></p>");
    assert!(page.text().contains(&shown), "{}", page.text());
    // The metrics are 200 with every verdict: Prometheus drops any other response.
    let metrics = server.get(&format!("{STATUS}?openmetrics"));
    assert_eq!(metrics.status(), 200);
    for name in ["ok", "starting", "degraded", "down", "stopping"] {
        let line = format!("\nnibiru_verdict{{verdict=\"{name}\"}} {}\n", u8::from(name == verdict));
        assert!(metrics.text().contains(&line), "{line} is not in {}", metrics.text());
    }
}

#[test]
fn the_health_path_is_small_uncacheable_and_not_counted() {
    let server = server().workers("2").start();
    wait_for("both workers are ready", || {
        (server.get(HEALTH).text() == "ok: 2 workers are ready\n").then_some(())
    });
    let response = server.get(HEALTH);
    assert_eq!(response.status(), 200);
    for (name, value) in [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", "24"),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ] {
        assert_eq!(response.header(name).as_deref(), Some(value));
    }
    let json: Value = serde_json::from_slice(server.get(&format!("{HEALTH}?json")).body()).unwrap();
    assert_eq!(json, serde_json::json!({ "verdict": "ok", "reason": "2 workers are ready" }));
    let method = |method: &str| {
        let mut connection = Connection::open(&server.socket());
        connection.send(&wire::begin(1, wire::RESPONDER, false));
        connection.send(&wire::stream(wire::PARAMS, 1, &wire::params(method, HEALTH)));
        connection.send(&wire::record(wire::STDIN, 1, b""));
        connection.response(1).expect("a response")
    };
    assert_eq!((method("HEAD").status(), method("HEAD").body()), (200, &b""[..]));
    assert_eq!(
        (method("POST").status(), method("POST").header("Allow")),
        (405, Some("GET, HEAD".to_owned()))
    );
    every_view_says(&server, "ok", "2 workers are ready");
    let status: Value = serde_json::from_slice(server.get(&format!("{STATUS}?json")).body()).unwrap();
    assert_eq!(status["requests"]["total"], 0, "neither health nor status counts: {status}");
    assert_eq!(server.get("/-/health/more").text(), "Hello, World!\n", "the application has the rest");
}

#[test]
fn while_the_application_loads_the_server_is_live_but_not_ready_and_requests_wait() {
    let gate = tempfile::tempdir().unwrap();
    let go = gate.path().join("go");
    let app =
        App::new(&format!("while not io.open('{}') do os.execute('sleep 0.02') end\n{FINE}", go.display()));
    // Requests wait for the load without a limit of time, also beyond --queue-timeout.
    let server = serving(&app, "1").arguments(["--queue-timeout", "500ms"]).start();
    // Two requests for one worker.
    let mut waiting = [(); 2].map(|()| Connection::open(&server.socket()));
    waiting.iter_mut().for_each(|connection| connection.send(&get(1, "/", true)));
    assert_eq!(health_is(&server, 503, "starting"), "the application is being loaded");
    assert_eq!(server.get(&format!("{HEALTH}?live")).status(), 200);
    every_view_says(&server, "starting", "the application is being loaded");
    wait_for("both requests have waited for longer than --queue-timeout", || {
        let status: Value = serde_json::from_slice(server.get(&format!("{STATUS}?json")).body()).unwrap();
        (status["queue"]["oldest_wait"].as_f64()? > 0.6 && status["queue"]["length"] == 2).then_some(())
    });
    fs::write(&go, "").unwrap();
    for mut connection in waiting {
        assert_eq!(connection.response(1).expect("a response").text(), "fine", "{}", server.log());
    }
    health_is(&server, 200, "ok");
}

#[test]
fn a_request_that_waits_for_an_application_that_does_not_load_is_503() {
    let gate = tempfile::tempdir().unwrap();
    let go = gate.path().join("go");
    let app = App::new(&format!(
        "while not io.open('{}') do os.execute('sleep 0.02') end error('x')",
        go.display()
    ));
    let mut server = serving(&app, "1").start();
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/", true));
    health_is(&server, 503, "starting");
    fs::write(&go, "").unwrap();
    let response = waiting.response(1).expect("a response");
    assert_eq!((response.status(), response.header("Retry-After").is_some()), (503, true), "{response:?}");
    assert!(response.text().contains("the application does not load"), "{response:?}");
    assert_eq!(server.wait().code(), Some(3));
    assert!(!server.socket().exists());
}

#[test]
fn a_request_that_waits_for_the_load_is_503_at_a_stop() {
    let app = App::new("while true do end");
    let mut server = serving(&app, "1").start();
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/", true));
    health_is(&server, 503, "starting");
    server.signal(Signal::TERM);
    let response = waiting.response(1).expect("a response");
    assert_eq!(response.status(), 503);
    assert!(response.text().contains("the server is stopping"), "{response:?}");
    assert_eq!(server.wait().code(), Some(0));
}

/// php-src#10314: with every child of php-fpm stuck, its status does not answer either.
#[test]
fn a_pool_whose_workers_are_stuck_is_down_and_recovers() {
    let limits =
        ["--request-timeout", "300ms", "--kill-after", "10ms", "--queue", "1", "--queue-timeout", "1m"];
    let server = server().workers("1").arguments(limits).start();
    health_is(&server, 200, "ok");
    let worker = *server.workers(1).first().unwrap();
    // A stopped zygote does not replace the killed worker.
    let zygote = server.zygote();
    signal(zygote, Signal::STOP);
    wait_for("the zygote is stopped", || is_stopped(zygote).then_some(()));
    let (_stuck, _gate) = server.hold();
    // A stopped worker does not see the interrupt.
    signal(worker, Signal::STOP);
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/hello", true));
    waiting.settle();
    assert_eq!(server.get("/hello").status(), 503, "the queue is full");
    // A full queue without an idle worker is degraded at once, and down when it lasts.
    let reason = health_is(&server, 503, "down");
    assert!(reason.contains("no worker has become free"), "{reason}");
    assert!(!runs(worker));
    assert_eq!(server.get(&format!("{HEALTH}?live")).status(), 200);
    every_view_says(&server, "down", &reason);
    // The verdict stays when the queued request is aborted: the next one would be stuck as well.
    drop(waiting);
    assert_eq!(health_is(&server, 503, "down"), reason);
    signal(zygote, Signal::CONT);
    health_is(&server, 200, "ok");
    assert_eq!(server.get("/hello").status(), 200);
    every_view_says(&server, "ok", "1 worker is ready");
}

#[test]
fn a_pool_whose_workers_all_stream_is_not_down() {
    let app = App::new(
        "return function() return 200, {}, function() require('nibiru').sleep(0.05) return 'x' end end",
    );
    let limits = ["--request-timeout", "300ms", "--kill-after", "10ms", "--queue-timeout", "1m"];
    let server = serving(&app, "1").arguments(limits).start();
    let mut stream = Connection::open(&server.socket());
    stream.send(&get(1, "/", true));
    stream.record().unwrap();
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/", true));
    waiting.settle();
    // 30 chunks take more than 1.5 s; a request without progress would be down after 1.31 s.
    for _ in 0..30 {
        assert_eq!(stream.record().expect("the stream goes on").kind, wire::STDOUT);
        let health = server.get(HEALTH);
        assert_eq!(health.status(), 200, "{health:?}");
    }
}

#[test]
fn a_pool_whose_workers_do_not_start_is_down_and_recovers() {
    let app = App::new(&format!(
        "require('nibiru').on_worker_start(function() if not io.open('app.ok') then error('no') end end)\n{FINE}"
    ));
    let good = app.root().join("app.ok");
    fs::write(&good, "").unwrap();
    let server = serving(&app, "2").start();
    let workers = server.workers(2);
    fs::remove_file(&good).unwrap();
    workers.iter().for_each(|worker| signal(*worker, Signal::KILL));
    health_is(&server, 503, "down");
    let down = output(&mut server.command(&["status"]));
    assert_eq!(down.status.code(), Some(1), "{down:?}");
    assert_eq!(server.get("/").status(), 503);
    fs::write(&good, "").unwrap();
    health_is(&server, 200, "ok");
}

#[test]
fn a_failed_reload_is_degraded_while_the_old_code_serves() {
    let app = App::new(FINE);
    let server = serving(&app, "1").start();
    health_is(&server, 200, "ok");
    app.write("return {");
    assert_eq!(output(&mut server.command(&["reload"])).status.code(), Some(3));
    every_view_says(&server, "degraded", "the last reload failed; the code before it answers");
    health_is(&server, 200, "degraded");
    // The zygote is gone as well, and cannot be replaced.
    signal(server.zygote(), Signal::KILL);
    let cannot = "the application does not load any more; workers that end are not replaced";
    wait_for("the reason names the missing zygote", || {
        (health_is(&server, 200, "degraded") == cannot).then_some(())
    });
    signal(*worker_pids(&server).first().unwrap(), Signal::KILL);
    assert_eq!(health_is(&server, 503, "down"), "the application does not load");
    app.write(FINE);
    wait_for("the mended code serves", || (server.get("/").status() == 200).then_some(()));
    assert!(output(&mut server.command(&["reload"])).status.success());
    every_view_says(&server, "ok", "1 worker is ready");
}

/// The workers' pids from the status: after the zygote's death they are no longer its children.
fn worker_pids(server: &Server) -> Vec<u32> {
    let status = server.status();
    let pids = status["workers"].as_array().unwrap().iter();
    pids.map(|worker| worker["pid"].as_u64().unwrap().try_into().unwrap()).collect()
}

#[test]
fn a_pool_that_has_shrunk_to_zero_workers_is_ready() {
    let server = server().workers("0-2").arguments(["--idle-timeout", "100ms"]).start();
    let none = || (health_is(&server, 200, "ok") == "no request has needed a worker lately").then_some(());
    wait_for("the pool has no worker", none);
    assert_eq!(server.get("/hello").status(), 200);
    wait_for("the pool has no worker again", none);
}

#[test]
fn during_drain_delay_requests_are_served_and_the_health_is_503() {
    let mut server = server().workers("1").arguments(["--drain-delay", "10m"]).start();
    health_is(&server, 200, "ok");
    server.signal(Signal::TERM);
    assert_eq!(
        health_is(&server, 503, "stopping"),
        "a stop is announced; requests are still served (--drain-delay)"
    );
    assert_eq!(server.get(&format!("{HEALTH}?live")).status(), 200);
    assert_eq!(server.get("/hello").status(), 200);
    let stopping = output(&mut server.command(&["reload"]));
    assert_eq!(stopping.status.code(), Some(3), "{stopping:?}");
    // A worker that ends during the delay is still replaced.
    let worker = *server.workers(1).first().unwrap();
    signal(worker, Signal::KILL);
    wait_for("the worker is replaced", || (!server.workers(1).contains(&worker)).then_some(()));
    assert_eq!(server.get("/hello").status(), 200);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn the_stop_begins_after_drain_delay() {
    let mut server = server().workers("1").arguments(["--drain-delay", "100ms"]).start();
    health_is(&server, 200, "ok");
    let (mut running, gate) = server.hold();
    server.signal(Signal::TERM);
    server.wait_for_refusal();
    gate.open("go");
    assert_eq!(running.response(1).expect("a response").status(), 200);
    drop(running);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    let log = server.log();
    assert!(log.find("stop announced").unwrap() < log.find("gateway stopping").unwrap(), "{log}");
}

#[test]
fn a_second_sigterm_during_drain_delay_stops_at_once() {
    let mut server = server().arguments(["--drain-delay", "10m"]).start();
    health_is(&server, 200, "ok");
    server.signal(Signal::TERM);
    health_is(&server, 503, "stopping");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(UnixStream::connect(server.socket()).is_err());
    server.logged(&["stopping now"]);
}

/// The health checks of the how-to. Caddy 2.6 is left out: its check of a FastCGI server panicked, and the server
/// counted as healthy.
#[test]
fn a_proxy_with_a_health_check_sends_no_request_to_a_server_that_is_not_ready() {
    for kind in [Kind::NewCaddy, Kind::HaProxy] {
        let mut server = server().arguments(["--drain-delay", "10m"]).start();
        let socket = server.socket().display().to_string();
        let proxy = Proxy::with_edits(kind, &server, |site| {
            let (before, after) = match kind {
                Kind::HaProxy => {
                    let line = site.lines().find(|line| line.trim_start().starts_with("server ")).unwrap();
                    let check = format!("    option httpchk\n    http-check send meth GET uri {HEALTH}\n");
                    (line.to_owned(), format!("{check}{line} check inter 200ms fall 1"))
                }
                _ => {
                    let health = format!("health_uri {HEALTH}\n\t\t\thealth_interval 200ms");
                    let upstream = format!("reverse_proxy unix/{socket} {{\n\t\t\t{health}\n");
                    let block = format!(
                        "\troute {{\n\t\t{upstream}\t\t\timport nibiru_transport \"\"\n\t\t}}\n\t}}\n"
                    );
                    (format!("\timport nibiru {socket}\n"), block)
                }
            };
            assert!(site.contains(&before), "{site}");
            site.replace(&before, &after)
        });
        wait_for("the proxy serves", || (proxy.curl([], "/hello").status == 200).then_some(()));
        server.signal(Signal::TERM);
        wait_for("the health check has failed", || (proxy.curl([], "/hello").status == 503).then_some(()));
        assert_eq!(server.get("/hello").status(), 200, "{kind:?}");
        server.signal(Signal::TERM);
        server.wait();
    }
}
