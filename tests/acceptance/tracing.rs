//! The Server-Timing header (`--server-timing`), and the trace of a request (`traceparent`).

use std::fs;

use serde_json::Value;

use crate::support::wire::{self, Connection, Response};
use crate::support::{App, Kind, Proxy, Server, repository, wait_for};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// An application that writes each kind of log line that belongs to a request, and answers with its trace id.
const TALKS: &str = "local nibiru = require('nibiru')\n\
    return function(environ)\n\
    \x20 local path = environ.PATH_INFO\n\
    \x20 nibiru.log.warn('logged in ' .. path, { trace_id = 'my own' })\n\
    \x20 environ['wsgi.errors']:write('told in ' .. path .. '\\n')\n\
    \x20 print('printed in ' .. path)\n\
    \x20 if path == '/failing' then error('deliberate') end\n\
    \x20 if path == '/dying' then os.execute('kill -9 $PPID') end\n\
    \x20 return 200, {}, tostring(environ['nibiru.trace_id'])\n\
    end";

/// The response to a GET with the additional parameters `more`. With a CONTENT_LENGTH among them, STDIN is not sent.
fn ask(server: &Server, url: &str, more: &[(&str, &str)]) -> Response {
    let mut connection = Connection::open(&server.socket());
    let params = [wire::get_params(url), wire::pairs(more)].concat();
    connection.send(&wire::begin(1, wire::RESPONDER, false));
    connection.send(&wire::stream(wire::PARAMS, 1, &params));
    if more.iter().all(|(name, _)| *name != "CONTENT_LENGTH") {
        connection.send(&wire::record(wire::STDIN, 1, b""));
    }
    connection.response(1).expect("a response")
}

#[test]
fn a_valid_traceparent_is_in_both_logs_and_in_environ_and_an_invalid_one_is_ignored() {
    let (app, directory) = (App::new(TALKS), tempfile::tempdir().unwrap());
    let (log, access) = (directory.path().join("log"), directory.path().join("access.log"));
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--log", log.to_str().unwrap(), "--access-log", access.to_str().unwrap()])
        .arguments(["--log-format", "json", "--max-body", "10"])
        .start();
    let traced = [("HTTP_TRACEPARENT", PARENT)];
    assert_eq!(ask(&server, "/traced", &traced).body(), TRACE.as_bytes());
    assert_eq!(ask(&server, "/failing", &traced).status(), 500);
    assert_eq!(ask(&server, "/dying", &traced).status(), 502);
    assert_eq!(ask(&server, "/large", &[traced[0], ("CONTENT_LENGTH", "11")]).status(), 413);
    for (url, bad) in [
        ("/invalid/version", format!("ff{}", &PARENT[2..])),
        ("/invalid/zeros", PARENT.replace(TRACE, &"0".repeat(32))),
        ("/invalid/case", PARENT.to_uppercase()),
        ("/invalid/twice", format!("{PARENT}, {PARENT}")),
    ] {
        assert_eq!(ask(&server, url, &[("HTTP_TRACEPARENT", &bad)]).body(), b"nil", "{url}");
    }
    assert_eq!(ask(&server, "/none", &[]).body(), b"nil");
    let future = format!("01{}-more", &PARENT[2..]);
    assert_eq!(ask(&server, "/future", &[("HTTP_TRACEPARENT", &future)]).body(), TRACE.as_bytes());

    let line = |file: &std::path::Path, part: &str| -> Value {
        let line = wait_for(&format!("{} has a line with {part}", file.display()), || {
            let text = fs::read_to_string(file).unwrap_or_default();
            text.lines().find(|line| line.contains(part)).map(str::to_owned)
        });
        serde_json::from_str(&line).unwrap()
    };
    for part in [
        "logged in /traced",
        "told in /traced",
        "GET /failing HTTP/1.1",
        "worker ended in the middle of its request",
        "request refused: the body has 11 bytes",
        "logged in /future",
    ] {
        assert_eq!(line(&log, part)["trace_id"], TRACE, "{part}");
    }
    // Standard output comes through a pipe, and may be read after the end of its request.
    let printed = line(&log, "printed in /dying");
    assert_eq!(printed["request"].is_string(), printed["trace_id"] == TRACE, "{printed}");
    assert_eq!(line(&log, "logged in /traced")["fields.trace_id"], "my own");
    for url in ["/traced", "/failing", "/dying", "/large", "/future"] {
        assert_eq!(line(&access, &format!("\"uri\":\"{url}\""))["trace_id"], TRACE, "{url}");
    }
    for url in ["/invalid/version", "/invalid/zeros", "/invalid/case", "/invalid/twice", "/none"] {
        assert_eq!(line(&access, &format!("\"uri\":\"{url}\"")).get("trace_id"), None, "{url}");
        assert_eq!(line(&log, &format!("logged in {url}")).get("trace_id"), None, "{url}");
    }
}

/// The durations of a Server-Timing header, in milliseconds. Expects exactly the metrics `names`.
#[track_caller]
fn durations<const N: usize>(value: &str, names: [&str; N]) -> [f64; N] {
    let metrics: Vec<_> = value.split(", ").map(|metric| metric.split_once(";dur=").unwrap()).collect();
    assert_eq!(metrics.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names, "{value}");
    names.map(|name| metrics.iter().find(|metric| metric.0 == name).unwrap().1.parse().unwrap())
}

#[test]
fn server_timing_has_the_times_in_queue_and_application() {
    let server = Server::builder()
        .workers("1")
        .arguments(["--server-timing", "on", "--queue-timeout", "50ms", "--max-body", "10"])
        .start();
    let (mut running, gate) = server.hold();
    // This request never reaches a worker.
    let refused = ask(&server, "/hello", &[]);
    assert_eq!(refused.status(), 503);
    let [queue] = durations(&refused.header("Server-Timing").unwrap(), ["queue"]);
    assert!(queue >= 50.0, "{refused:?}");
    gate.open("go");
    let waited = running.response(1).unwrap();
    let [queue, app] = durations(&waited.header("Server-Timing").unwrap(), ["queue", "app"]);
    assert!(queue < app && app >= 50.0, "{waited:?}");
    let failed = ask(&server, "/fail/killed_before_head", &[]);
    assert_eq!(failed.status(), 502);
    durations(&failed.header("Server-Timing").unwrap(), ["queue", "app"]);
    // This request is refused before it is complete.
    let large = ask(&server, "/hello", &[("CONTENT_LENGTH", "11")]);
    assert_eq!((large.status(), large.header("Server-Timing")), (413, None));
}

#[test]
fn server_timing_is_off_by_default() {
    let server = Server::start();
    assert_eq!(ask(&server, "/hello", &[]).header("Server-Timing"), None);
}

#[test]
fn server_timing_of_the_application_is_kept() {
    let app = App::new("return function() return 200, { ['Server-Timing'] = 'db;dur=53' }, 'fine' end");
    let server =
        Server::builder().application(app.root(), "app").arguments(["--server-timing", "on"]).start();
    for proxy in Proxy::all_kinds(&server) {
        let reply = proxy.curl([], "/").expect(200);
        let mut metrics: Vec<_> =
            reply.headers("Server-Timing").into_iter().flat_map(|value| value.split(", ")).collect();
        metrics.sort_unstable();
        let names: Vec<_> = metrics.iter().map(|metric| metric.split(';').next().unwrap()).collect();
        assert_eq!(names, ["app", "db", "queue"], "{:?}: {}", proxy.kind, reply.text());
        assert!(metrics.contains(&"db;dur=53"), "{:?}: {metrics:?}", proxy.kind);
    }
}

/// The two blocks of nginx configuration in `docs/how-to/tracing.md`.
fn nginx_blocks() -> [String; 2] {
    let page = fs::read_to_string(repository("docs/how-to/tracing.md")).unwrap();
    let blocks = page.split("```nginx\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.collect::<Vec<_>>().try_into().expect("two blocks")
}

#[test]
fn nginx_starts_a_trace_for_a_request_without_a_valid_traceparent() {
    let app = App::new("return function(environ) return 200, {}, tostring(environ['nibiru.trace_id']) end");
    let server = Server::builder().application(app.root(), "app").start();
    let [maps, parameter] = nginx_blocks();
    let proxy = Proxy::with_edits(Kind::Nginx, &server, |site| {
        let include = "include nibiru_params;";
        format!("{maps}{}", site.replace(include, &format!("{include} {parameter}")))
    });
    let trace = |traceparent: &str| {
        let header = format!("traceparent: {traceparent}");
        proxy.curl(["--header", &header], "/").expect(200).text()
    };
    let begun = [trace(""), trace("00-what"), trace(&PARENT.to_uppercase())];
    for begun in &begun {
        assert!(begun.len() == 32 && begun.bytes().all(|byte| byte.is_ascii_hexdigit()), "{begun}");
    }
    assert_ne!(begun[0], begun[1]);
    assert_eq!(trace(PARENT), TRACE);
}
