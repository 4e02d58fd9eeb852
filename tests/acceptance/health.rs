//! The verdict on the server in every view, and the answers of the health path: while the application loads, while every worker
//! is stuck, while no worker starts, and in the delay before a stop.

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

/// Waits for the health to have this status and verdict; the reason.
#[track_caller]
fn healthy(server: &Server, status: u16, verdict: &str) -> String {
    wait_for(&format!("the health is {status} {verdict}"), || {
        let response = server.get(HEALTH);
        let text = response.text();
        let reason = text.strip_prefix(verdict)?.strip_prefix(": ")?.strip_suffix('\n')?;
        (response.status() == status).then(|| reason.to_owned())
    })
}

/// That every view says the same: `nibiru status` in both forms, the page, JSON, the metrics.
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
    // Whatever the verdict, or Prometheus would drop it.
    let metrics = server.get(&format!("{STATUS}?openmetrics"));
    assert_eq!(metrics.status(), 200);
    for name in ["ok", "starting", "degraded", "down", "stopping"] {
        let line = format!("\nnibiru_verdict{{verdict=\"{name}\"}} {}\n", u8::from(name == verdict));
        assert!(metrics.text().contains(&line), "{line} is not in {}", metrics.text());
    }
}

#[test]
fn the_health_is_small_may_not_be_kept_and_names_nothing() {
    let server = server().workers("2").start();
    // Both workers have started.
    wait_for("both are ready", || (server.get(HEALTH).text() == "ok: 2 workers are ready\n").then_some(()));
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
        connection.response(1).expect("an answer")
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
fn while_the_application_loads_it_is_alive_and_not_ready_and_requests_wait() {
    let gate = tempfile::tempdir().unwrap();
    let go = gate.path().join("go");
    let app =
        App::new(&format!("while not io.open('{}') do os.execute('sleep 0.02') end\n{FINE}", go.display()));
    // Requests that come now wait for the load, however long that takes.
    let server = serving(&app, "1").arguments(["--queue-timeout", "2s"]).start();
    // One for the worker, and one that waits for it in the queue.
    let mut waiting = [(); 2].map(|()| Connection::open(&server.socket()));
    waiting.iter_mut().for_each(|connection| connection.send(&get(1, "/", true)));
    assert_eq!(healthy(&server, 503, "starting"), "the application is being loaded");
    assert_eq!(server.get(&format!("{HEALTH}?live")).status(), 200);
    every_view_says(&server, "starting", "the application is being loaded");
    wait_for("they have waited for longer than a request may", || {
        let status: Value = serde_json::from_slice(server.get(&format!("{STATUS}?json")).body()).unwrap();
        (status["queue"]["oldest_wait"].as_f64()? > 2.5 && status["queue"]["length"] == 2).then_some(())
    });
    fs::write(&go, "").unwrap();
    for mut connection in waiting {
        assert_eq!(connection.response(1).expect("an answer").text(), "fine", "{}", server.log());
    }
    healthy(&server, 200, "ok");
}

#[test]
fn whoever_waits_for_an_application_that_does_not_load_is_told_so() {
    let gate = tempfile::tempdir().unwrap();
    let go = gate.path().join("go");
    let app = App::new(&format!(
        "while not io.open('{}') do os.execute('sleep 0.02') end error('x')",
        go.display()
    ));
    let mut server = serving(&app, "1").start();
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/", true));
    healthy(&server, 503, "starting");
    fs::write(&go, "").unwrap();
    let response = waiting.response(1).expect("an answer");
    assert_eq!((response.status(), response.header("Retry-After").is_some()), (503, true), "{response:?}");
    assert!(response.text().contains("the application does not load"), "{response:?}");
    assert_eq!(server.wait().code(), Some(3));
    assert!(!server.socket().exists());
}

#[test]
fn a_stop_while_the_application_loads_tells_whoever_waits() {
    let app = App::new("while true do end");
    let mut server = serving(&app, "1").start();
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/", true));
    healthy(&server, 503, "starting");
    server.signal(Signal::TERM);
    let response = waiting.response(1).expect("an answer");
    assert_eq!(response.status(), 503);
    assert!(response.text().contains("the server is stopping"), "{response:?}");
    assert_eq!(server.wait().code(), Some(0));
}

/// php-src#10314: every child is stuck, and nobody is left who could say so.
#[test]
fn a_pool_whose_workers_are_stuck_says_so_and_recovers() {
    let limits =
        ["--request-timeout", "1s", "--kill-after", "100ms", "--queue", "1", "--queue-timeout", "1m"];
    let server = server().workers("1").arguments(limits).start();
    healthy(&server, 200, "ok");
    let worker = *server.workers(1).first().unwrap();
    // Nobody replaces the worker that is killed.
    let zygote = server.zygote();
    signal(zygote, Signal::STOP);
    wait_for("the zygote is stopped", || is_stopped(zygote).then_some(()));
    let (_stuck, _gate) = server.hold();
    // Not even a Lua error gets through to it.
    signal(worker, Signal::STOP);
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/hello", true));
    waiting.settle();
    assert_eq!(server.get("/hello").status(), 503, "the queue is full");
    // Full queue and no worker: degraded at once, down when it lasts.
    let reason = healthy(&server, 503, "down");
    assert!(reason.contains("no worker has become free"), "{reason}");
    assert!(!runs(worker));
    assert_eq!(server.get(&format!("{HEALTH}?live")).status(), 200);
    every_view_says(&server, "down", &reason);
    // Also when the one who waited has given up: nothing has changed for the next.
    drop(waiting);
    assert_eq!(healthy(&server, 503, "down"), reason);
    signal(zygote, Signal::CONT);
    healthy(&server, 200, "ok");
    assert_eq!(server.get("/hello").status(), 200);
    every_view_says(&server, "ok", "1 worker is ready");
}

#[test]
fn a_pool_whose_workers_all_stream_is_not_down() {
    let app = App::new(
        "return function() return 200, {}, function() require('nibiru').sleep(0.05) return 'x' end end",
    );
    let limits = ["--request-timeout", "1s", "--kill-after", "10ms", "--queue-timeout", "1m"];
    let server = serving(&app, "1").arguments(limits).start();
    let mut stream = Connection::open(&server.socket());
    stream.send(&get(1, "/", true));
    stream.record().unwrap();
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/", true));
    waiting.settle();
    // Some three seconds of it, where two and 10 ms would be too long for a request that does not move.
    for _ in 0..60 {
        assert_eq!(stream.record().expect("it goes on").kind, wire::STDOUT);
        let health = server.get(HEALTH);
        assert_eq!(health.status(), 200, "{health:?}");
    }
}

#[test]
fn workers_that_do_not_start_are_down_and_recover_by_themselves() {
    let app = App::new(&format!(
        "require('nibiru').on_worker_start(function() if not io.open('app.ok') then error('no') end end)\n{FINE}"
    ));
    let good = app.root().join("app.ok");
    fs::write(&good, "").unwrap();
    let server = serving(&app, "2").start();
    let workers = server.workers(2);
    fs::remove_file(&good).unwrap();
    workers.iter().for_each(|worker| signal(*worker, Signal::KILL));
    healthy(&server, 503, "down");
    let down = output(&mut server.command(&["status"]));
    assert_eq!(down.status.code(), Some(1), "{down:?}");
    assert_eq!(server.get("/").status(), 503);
    fs::write(&good, "").unwrap();
    healthy(&server, 200, "ok");
}

#[test]
fn code_that_does_not_load_any_more_is_degraded_while_the_old_code_answers() {
    let app = App::new(FINE);
    let server = serving(&app, "1").start();
    healthy(&server, 200, "ok");
    app.write("return {");
    assert_eq!(output(&mut server.command(&["reload"])).status.code(), Some(3));
    every_view_says(&server, "degraded", "the last reload failed; the code before it answers");
    healthy(&server, 200, "degraded");
    // The fork server is gone as well, and cannot come back.
    signal(server.zygote(), Signal::KILL);
    let cannot = "the application does not load any more; workers that end are not replaced";
    wait_for("it says so", || (healthy(&server, 200, "degraded") == cannot).then_some(()));
    signal(*worker_of(&server).first().unwrap(), Signal::KILL);
    assert_eq!(healthy(&server, 503, "down"), "the application does not load");
    app.write(FINE);
    wait_for("it is mended", || (server.get("/").status() == 200).then_some(()));
    assert!(output(&mut server.command(&["reload"])).status.success());
    every_view_says(&server, "ok", "1 worker is ready");
}

/// The workers' pids as the status has them: they may have lost their parent.
fn worker_of(server: &Server) -> Vec<u32> {
    let status = server.status();
    let pids = status["workers"].as_array().unwrap().iter();
    pids.map(|worker| worker["pid"].as_u64().unwrap().try_into().unwrap()).collect()
}

#[test]
fn a_pool_that_is_scaled_to_zero_is_ready() {
    let server = server().workers("0-2").arguments(["--idle-timeout", "100ms"]).start();
    let none = || (healthy(&server, 200, "ok") == "no request has needed a worker lately").then_some(());
    wait_for("there is no worker", none);
    assert_eq!(server.get("/hello").status(), 200);
    wait_for("there is no worker again", none);
}

#[test]
fn in_the_delay_before_a_stop_everything_is_served_and_the_health_sends_clients_elsewhere() {
    let mut server = server().workers("1").arguments(["--drain-delay", "10m"]).start();
    healthy(&server, 200, "ok");
    server.signal(Signal::TERM);
    assert_eq!(
        healthy(&server, 503, "stopping"),
        "a stop is announced; requests are still served (--drain-delay)"
    );
    assert_eq!(server.get(&format!("{HEALTH}?live")).status(), 200);
    assert_eq!(server.get("/hello").status(), 200);
    let stopping = output(&mut server.command(&["reload"]));
    assert_eq!(stopping.status.code(), Some(3), "{stopping:?}");
    // It is a whole server until then: a worker that ends is replaced.
    let worker = *server.workers(1).first().unwrap();
    signal(worker, Signal::KILL);
    wait_for("there is another", || (!server.workers(1).contains(&worker)).then_some(()));
    assert_eq!(server.get("/hello").status(), 200);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn after_the_delay_the_ordinary_stop_begins() {
    let mut server = server().workers("1").arguments(["--drain-delay", "100ms"]).start();
    healthy(&server, 200, "ok");
    let (mut running, gate) = server.hold();
    server.signal(Signal::TERM);
    server.refuses();
    gate.open("go");
    assert_eq!(running.response(1).expect("an answer").status(), 200);
    drop(running);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    let log = server.log();
    assert!(log.find("stop announced").unwrap() < log.find("gateway stopping").unwrap(), "{log}");
}

#[test]
fn a_second_signal_ends_the_delay_and_the_server() {
    let mut server = server().arguments(["--drain-delay", "10m"]).start();
    healthy(&server, 200, "ok");
    server.signal(Signal::TERM);
    healthy(&server, 503, "stopping");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(UnixStream::connect(server.socket()).is_err());
    server.logged(&["stopping now"]);
}

/// As the how-to has it for each. Caddy 2.6 was seen to panic in its own check of a FastCGI server, and to take it for healthy.
#[test]
fn a_proxy_that_looks_at_the_health_sends_no_request_to_a_server_that_is_not_ready() {
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
        wait_for("it is served", || (proxy.curl([], "/hello").status == 200).then_some(()));
        server.signal(Signal::TERM);
        wait_for("the proxy knows", || (proxy.curl([], "/hello").status == 503).then_some(()));
        assert_eq!(server.get("/hello").status(), 200, "{kind:?}");
        server.signal(Signal::TERM);
        server.wait();
    }
}
