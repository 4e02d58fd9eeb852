//! The status path: its formats, its availability when every worker is stuck, the escaping of request data in HTML, and
//! the charts of the page's script.

use std::io::Write as _;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::wire::{self, Connection, Response, get};
use crate::support::{Gate, Kind, Proxy, Server, output, repository, signal, wait_for};

const PATH: &str = "/-/status";

fn start(workers: &'static str, arguments: &[&str]) -> Server {
    let mut builder = Server::builder().workers(workers).arguments(["--status-path", PATH]);
    for argument in arguments {
        builder = builder.arguments([argument]);
    }
    builder.start()
}

/// Requests the status with a method, a query and an Accept header.
fn ask(server: &Server, method: &str, query: &str, accept: &str) -> Response {
    let variables = [
        ("REQUEST_METHOD", method),
        ("SCRIPT_NAME", "/-"),
        ("PATH_INFO", "/status"),
        ("QUERY_STRING", query),
        ("HTTP_ACCEPT", accept),
    ];
    let params: Vec<u8> =
        variables.iter().flat_map(|(name, value)| wire::pair(name.as_bytes(), value.as_bytes())).collect();
    let mut connection = Connection::open(&server.socket());
    connection.send(&wire::begin(1, wire::RESPONDER, false));
    connection.send(&wire::stream(wire::PARAMS, 1, &params));
    connection.send(&wire::record(wire::STDIN, 1, b""));
    connection.response(1).expect("a response")
}

fn text(response: &Response) -> String {
    assert_eq!(response.status(), 200, "{response:?}");
    assert_eq!(response.header("Content-Length"), Some(response.body().len().to_string()));
    String::from_utf8(response.body().to_vec()).unwrap()
}

fn status(server: &Server) -> Value {
    serde_json::from_str(&text(&server.get(&format!("{PATH}?json")))).unwrap()
}

#[test]
fn each_format_of_the_status_has_its_content_type_and_is_uncacheable() {
    let server = start("2", &[]);
    let browser = "text/html,application/xhtml+xml,*/*;q=0.8";
    for (query, accept, kind) in [
        ("", "*/*", "application/json"),
        ("html", "*/*", "text/html; charset=utf-8"),
        ("", browser, "text/html; charset=utf-8"),
        ("json", browser, "application/json"),
        (
            "",
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ] {
        let response = ask(&server, "GET", query, accept);
        assert!(!text(&response).is_empty());
        assert_eq!(response.header("Content-Type").as_deref(), Some(kind));
        assert_eq!(response.header("Cache-Control").as_deref(), Some("no-store"));
        assert_eq!(response.header("X-Content-Type-Options").as_deref(), Some("nosniff"));
        let policy = response.header("Content-Security-Policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");

        let head = ask(&server, "HEAD", query, accept);
        assert_eq!((head.status(), head.body()), (200, &b""[..]));
        assert_eq!(head.header("Content-Type").as_deref(), Some(kind));
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let response = ask(&server, method, "", "*/*");
        assert_eq!(response.status(), 405);
        assert_eq!(response.header("Allow").as_deref(), Some("GET, HEAD"));
    }
    let other = server.get(&format!("{PATH}/more"));
    assert_eq!(other.body(), b"Hello, World!\n", "a longer path goes to the application");
}

#[test]
fn without_status_path_the_path_goes_to_the_application() {
    let server = Server::start();
    assert_eq!(server.get("/hello/-/status?json").body(), b"Hello, World!\n");
}

#[test]
fn the_status_is_served_while_every_worker_is_busy_and_the_queue_is_full() {
    let server = start("1", &["--queue", "1"]);
    let gate = Gate::new();
    let mut running = Connection::open(&server.socket());
    running.send(&get(1, &gate.url("/wait"), true));
    let pid: u64 = gate.announced("started").parse().unwrap();
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/hello?waits", true));
    waiting.settle();
    assert_eq!(server.get("/hello").status(), 503);

    for format in ["html", "openmetrics"] {
        text(&server.get(&format!("{PATH}?{format}")));
    }
    let now = status(&server);
    assert_eq!((&now["queue"]["length"], &now["queue"]["capacity"]), (&1.into(), &1.into()), "{now}");
    assert!(now["queue"]["oldest_wait"].as_f64().unwrap() > 0.0, "{now}");
    assert_eq!((&now["pool"]["busy"], &now["pool"]["idle"]), (&1.into(), &0.into()), "{now}");
    let worker = &now["workers"][0];
    assert_eq!((&worker["pid"], &worker["state"]), (&pid.into(), &"busy".into()), "{now}");
    assert!(worker["request"]["line"].as_str().unwrap().starts_with("GET /wait?dir="), "{now}");
    assert_eq!(worker["request"]["remote"], "127.0.0.1");
    assert!(worker["request"]["time"].as_f64().unwrap() > 0.0, "{now}");
    assert_eq!(now["requests"]["refused"]["queue_full"], 1, "{now}");
    assert_eq!(
        now["requests"]["total"], 1,
        "neither the running request nor the status itself counts: {now}"
    );

    gate.open("go");
    assert_eq!(running.response(1).expect("a response").status(), 200);
    assert_eq!(waiting.response(1).expect("a response").status(), 200);
    let then = status(&server);
    assert_eq!(then["requests"]["by_status"]["2xx"], 2, "{then}");
    assert_eq!(then["workers"][0]["requests"], 2, "{then}");
    assert_eq!(then["workers"][0].get("request"), None, "{then}");
    assert_eq!((&then["service_time"]["count"], &then["queue_wait"]["count"]), (&2.into(), &2.into()));
    assert!(
        then["queue_wait"]["p99"].as_f64().unwrap() >= now["queue"]["oldest_wait"].as_f64().unwrap() / 3.0
    );
}

#[test]
fn every_end_of_a_request_is_counted_once() {
    let server = start("2", &["--max-body", "10"]);
    let gate = Gate::new();
    let socket = server.socket();
    Connection::open(&socket).get("/hello");
    Connection::open(&socket).get("/nowhere");
    Connection::open(&socket).get("/fail/error");
    Connection::open(&socket).get("/fail/killed_before_head");
    let mut cut = Connection::open(&socket);
    cut.send(&get(1, &gate.url("/fail/killed_in_body_without_length"), true));
    cut.record();
    gate.open("seen1");
    assert!(cut.response_breaks());
    for (name, value) in [(&b"CONTENT_LENGTH"[..], &b"11"[..]), (b"CONTENT_LENGTH", b"x")] {
        let mut refused = Connection::open(&socket);
        refused.send(&wire::begin(1, wire::RESPONDER, false));
        let params = [wire::get_params("/hello"), wire::pair(name, value)].concat();
        refused.send(&wire::stream(wire::PARAMS, 1, &params));
        refused.response(1).expect("a response");
    }
    // A client that leaves while its request runs, and one that leaves while it arrives.
    let gate = Gate::new();
    let mut gone = Connection::open(&socket);
    gone.send(&get(1, &gate.url("/wait"), true));
    gate.announced("started");
    gone.hang_up();
    gate.open("go");
    let mut gone = Connection::open(&socket);
    gone.send(&wire::begin(1, wire::RESPONDER, false));
    gone.send(&wire::stream(wire::PARAMS, 1, &wire::get_params("/hello")));
    gone.settle();
    drop(gone);

    let now = wait_for("all requests have ended", || {
        Some(status(&server)).filter(|status| status["requests"]["total"] == 9)
    });
    let requests = &now["requests"];
    let by_status = serde_json::json!({"1xx": 0, "2xx": 2, "3xx": 0, "4xx": 3, "5xx": 2, "none": 2});
    assert_eq!(requests["by_status"], by_status, "{now}");
    assert_eq!((&requests["aborted"], &requests["broken"]), (&2.into(), &1.into()), "{now}");
    assert_eq!(requests["refused"]["body_too_large"], 1, "{now}");
    assert_eq!(requests["refused"]["variables"], 1, "{now}");
    assert_eq!(now["pool"]["ended"]["died"], 2, "{now}");
}

#[test]
fn the_histograms_of_the_server_survive_a_reload() {
    let server = start("1", &[]);
    for _ in 0..3 {
        server.get("/hello");
    }
    let worker = *server.workers(1).first().unwrap();
    server.signal(Signal::HUP);
    let now = wait_for("the old worker is gone", || {
        Some(status(&server))
            .filter(|now| now["generation"] == 2 && now["workers"].as_array().unwrap().len() == 1)
            .filter(|now| now["workers"][0]["state"] == "idle" && now["workers"][0]["pid"] != worker)
    });
    assert_eq!(now["generations"].as_array().unwrap().len(), 1, "{now}");
    assert_eq!(now["generations"][0]["service_time"]["count"], 0, "{now}");
    assert_eq!(now["service_time"]["count"], 3, "{now}");
    assert_eq!((&now["reloads"]["ok"], &now["pool"]["ended"]["asked"]), (&2.into(), &1.into()), "{now}");
}

#[test]
fn a_request_line_is_escaped_in_the_status_page() {
    let server = start("1", &[]);
    let gate = Gate::new();
    let attack = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\"'\r\nX: y\u{e9}";
    let mut running = Connection::open(&server.socket());
    running.send(&get(1, &format!("{}&{attack}", gate.url("/wait")), true));
    gate.announced("started");
    for format in ["html", "json", "openmetrics"] {
        let page = text(&server.get(&format!("{PATH}?{format}")));
        assert!(!page.contains("onerror=alert(1)>") || format == "json", "{page}");
        if format == "html" {
            assert!(
                page.contains("&lt;img\\x20src=x\\x20onerror=alert(1)&gt;\\x22&#39;\\x0D\\x0AX:"),
                "{page}"
            );
            assert_eq!(page.matches("<script").count(), 1, "{page}");
        }
    }
    let line = status(&server)["workers"][0]["request"]["line"].as_str().unwrap().to_owned();
    assert!(line.contains("<script>document.title='owned'</script>"), "{line}");
    assert!(!line.contains(['\r', '\n', '"']), "{line}");
    gate.open("go");
}

#[test]
fn the_metrics_pass_prometheus_own_parser() {
    let server = start("2", &["--access-log", "/dev/null"]);
    for path in ["/hello", "/nowhere", "/fail/error"] {
        server.get(path);
    }
    let metrics = text(&server.get(&format!("{PATH}?openmetrics")));
    let parser = "import sys\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
        for family in parse(sys.stdin.read()):\n\
        \x20for sample in family.samples: print(family.type, sample.name, sample.labels, sample.value)\n";
    let mut python = Command::new("python3")
        .args(["-c", parser])
        .env("PYTHONPATH", repository("target/tools/openmetrics"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{metrics}");
    let samples = String::from_utf8(output.stdout).unwrap();
    for sample in [
        "counter nibiru_requests_total {'status': '2xx'} 1",
        "counter nibiru_requests_total {'status': '5xx'} 1",
        "histogram nibiru_service_time_seconds_count {} 3",
        "histogram nibiru_service_time_seconds_bucket {'le': '+Inf'} 3",
        "counter nibiru_refused_requests_total {'reason': 'queue_full'} 0",
        "gauge nibiru_workers {'state': 'leaving'} 0",
        "counter nibiru_access_log_dropped_lines_total {} 0",
    ] {
        assert!(samples.contains(sample), "{sample} is not in\n{samples}");
    }
    // The counts of both workers of the first generation.
    for name in ["queue_wait", "service_time"] {
        let counts = samples.lines().filter(|line| {
            line.starts_with(&format!("histogram nibiru_worker_{name}_seconds_count"))
                && line.contains("'generation': '1'")
        });
        let sum: f64 = counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum();
        assert!((sum - 3.0).abs() < f64::EPSILON, "{sum} requests in {name} of\n{samples}");
    }
}

#[test]
fn the_status_page_draws_its_charts_and_shows_the_running_request() {
    let server = start("2", &[]);
    let proxy = Proxy::start(Kind::Nginx, &server);
    let gate = Gate::new();
    let mut running = Connection::open(&server.socket());
    running.send(&get(1, &format!("{}&<b>", gate.url("/wait")), true));
    gate.announced("started");
    for _ in 0..20 {
        proxy.curl([], "/hello").expect(200);
    }
    let profile = tempfile::tempdir().unwrap();
    let mut chromium = Command::new("chromium");
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
    chromium.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
    chromium.arg(format!("--user-data-dir={}", profile.path().display()));
    chromium.args(["--virtual-time-budget=6000", "--dump-dom", &proxy.url(&format!("{PATH}?html"))]);
    let page = output(&mut chromium);
    let page = String::from_utf8_lossy(&page.stdout);
    assert!(page.contains("class=\"js\""), "the script has run: {page}");
    assert!(page.contains(r#"class="on">live<"#), "{page}");
    let drawn = page.split("data-samples=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let samples: Vec<u32> = drawn.map(|number| number.parse().unwrap()).collect();
    // The charts of requests, latency, busy workers and queue. No request ended while the page was open, so the latency
    // has no samples.
    assert_eq!(samples.len(), 4, "{page}");
    assert!(samples[0] >= 2 && samples[2] >= 3 && samples[3] >= 3, "{samples:?}");
    assert!(page.contains("class=\"area\" d=\"M"), "{page}");
    assert!(page.contains("&lt;b&gt; HTTP/1.1</code>"), "{page}");
    gate.open("go");
}

#[test]
fn a_killed_worker_is_replaced_in_the_status() {
    let server = start("1", &[]);
    // The worker is ready: killed before that, it would not count as started.
    server.get("/hello");
    let worker = *server.workers(1).first().unwrap();
    signal(worker, Signal::KILL);
    let now = wait_for("the worker is replaced", || {
        Some(status(&server)).filter(|now| now["pool"]["started"] == 2 && now["pool"]["idle"] == 1)
    });
    assert_eq!(now["pool"]["ended"]["died"], 1, "{now}");
    assert_ne!(now["workers"][0]["pid"], worker, "{now}");
}

/// The commented lines of `deploy/` that restrict access are enabled.
#[test]
fn the_proxys_access_rule_for_the_status_holds_for_every_spelling_of_the_path() {
    let server = start("1", &[]);
    let locked = |kind, allowed: &str| {
        Proxy::with_edits(kind, &server, |site| {
            let (before, block) = site.split_once("# nibiru's own status").unwrap();
            let (block, after) = block.split_once("\n\n").unwrap();
            let lines = block.lines().filter_map(|line| line.trim_start().strip_prefix('#'));
            // The last line of the explanation is not configuration.
            let lines = lines.filter(|line| line.trim() != "read it.").collect::<Vec<_>>().join("\n");
            format!("{before}\n{}\n\n{after}", lines.replace("127.0.0.1", allowed))
        })
    };
    for kind in [Kind::Nginx, Kind::OldCaddy, Kind::NewCaddy] {
        let proxy = locked(kind, "127.0.0.1");
        let reply = proxy.curl([], &format!("{PATH}?json")).expect(200);
        assert_eq!(reply.header("Content-Type"), Some("application/json"), "{kind:?}");

        let proxy = locked(kind, "192.0.2.1");
        proxy.curl([], PATH).expect(403);
        for spelt in [
            "/-//status",
            "//-/status",
            "/-/./status",
            "/x/../-/status",
            "/-/%73tatus",
            "/-%2fstatus",
            "/-/STATUS",
        ] {
            let reply = proxy.curl([], &format!("{spelt}?json"));
            assert!(!reply.text().contains("uptime"), "{kind:?} lets {spelt} in: {reply:?}");
        }
        proxy.curl([], "/hello").expect(200);
    }
}
