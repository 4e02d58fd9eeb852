//! Streamed responses: each chunk reaches the client before the next is made, the stream of a client that has left is
//! stopped, and the deadlines apply.

use std::time::{Duration, Instant};

use crate::support::http::Http;
use crate::support::wire::{Connection, STDOUT, get};
use crate::support::{Gate, Kind, Proxy, Server, nothing_happens_for, wait_until_still};

/// Expects each of three chunks while the application waits before the next, and then the end of the response.
#[track_caller]
fn expect_each_chunk(mut client: Http, gate: &Gate, end: &str) {
    for chunk in 1..=3 {
        client.sees(&format!("chunk {chunk}\n"));
        gate.open(&format!("seen{chunk}"));
    }
    client.sees(end);
}

/// A spool so small that the worker of a client that does not read soon waits.
const SPOOLED: [&str; 2] = ["--spool-response", "1M"];

/// A server with one worker, which no request deadline frees.
fn one_worker_without_a_deadline() -> Server {
    Server::builder().workers("1").arguments(["--request-timeout", "off"]).arguments(SPOOLED).start()
}

/// Expects that the only worker is idle again, and that `close` has run once.
#[track_caller]
fn expect_stopped_and_closed_once(server: &Server, gate: &Gate, what: &str) {
    assert_eq!(server.get("/hello").status(), 200, "{what}\n{}", server.log());
    assert_eq!(gate.said("closed").as_deref(), Some("closed\n"), "{what}\n{}", server.log());
}

#[test]
fn each_chunk_reaches_the_client_before_the_next_is_made() {
    let server = Server::start();
    for proxy in Proxy::main_kinds(&server) {
        for how in ["function", "write", "for", "events"] {
            eprintln!("{how} through {:?}", proxy.kind);
            let gate = Gate::new();
            let client = Http::begin(proxy.port(), &gate.url(&format!("/flow/{how}")));
            expect_each_chunk(client, &gate, "\r\n0\r\n\r\n");
        }
        eprintln!("sized through {:?}", proxy.kind);
        let gate = Gate::new();
        expect_each_chunk(Http::begin(proxy.port(), &gate.url("/flow/sized")), &gate, "chunk 3\n");
    }
}

#[test]
fn a_stream_is_stopped_and_closed_once_when_its_client_leaves_the_proxy() {
    let server = one_worker_without_a_deadline();
    for proxy in Proxy::main_kinds(&server) {
        for how in ["tick", "tick_buffered", "tick_sized", "tick_write"] {
            eprintln!("{how} through {:?}", proxy.kind);
            let gate = Gate::new();
            let mut client = Http::begin(proxy.port(), &gate.url(&format!("/flow/{how}")));
            if how == "tick_buffered" && proxy.kind == Kind::Nginx {
                gate.announced("started");
            } else {
                client.sees("tick\n");
            }
            drop(client);
            expect_stopped_and_closed_once(&server, &gate, how);
            if how == "tick_write" {
                let said = gate.said("write").unwrap();
                assert!(said.ends_with("the client went away\n") && said.lines().count() == 1, "{said}");
            }
        }
    }
}

#[test]
fn an_empty_chunk_tells_a_waiting_stream_that_its_client_has_left() {
    let server = one_worker_without_a_deadline();
    let nginx = Proxy::start(Kind::Nginx, &server);
    for how in ["poll", "poll_first"] {
        let gate = Gate::new();
        let mut client = Http::begin(nginx.port(), &gate.url(&format!("/flow/{how}")));
        match how {
            "poll" => client.sees("first\n"),
            _ => drop(gate.announced("started")),
        }
        drop(client);
        expect_stopped_and_closed_once(&server, &gate, how);
    }
    // With a request body, with and without request buffering in nginx.
    for buffering in ["on", "off"] {
        let nginx = Proxy::with_edits(Kind::Nginx, &server, |site| {
            site.replace("fastcgi_request_buffering on;", &format!("fastcgi_request_buffering {buffering};"))
        });
        let gate = Gate::new();
        let mut client = Http::connect(nginx.port());
        let url = gate.url("/flow/poll");
        let head = format!("POST {url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n");
        client.send(&[head.as_bytes(), &[b'x'; 100_000]].concat());
        client.sees("first\n");
        drop(client);
        expect_stopped_and_closed_once(&server, &gate, buffering);
    }
}

/// Caddy checks its client only when it writes. A failure of this test means that Caddy has changed: add it to the test
/// above and update the documentation.
#[test]
fn caddy_reports_that_its_client_has_left_only_when_it_writes() {
    let server = one_worker_without_a_deadline();
    for kind in [Kind::OldCaddy, Kind::NewCaddy] {
        let (proxy, gate) = (Proxy::start(kind, &server), Gate::new());
        let mut client = Http::begin(proxy.port(), &gate.url("/flow/poll"));
        client.sees("first\n");
        drop(client);
        let told = format!("{kind:?} tells that its client has gone");
        nothing_happens_for(Duration::from_millis(300), &told, || gate.said("closed"));
        gate.open("go");
        expect_stopped_and_closed_once(&server, &gate, "poll");
    }
}

/// Waits until the application makes no more chunks, since all buffers are full.
fn wait_until_blocked(gate: &Gate) {
    gate.announced("made");
    wait_until_still("the client's buffers are full", || gate.said("made"));
}

#[test]
fn a_worker_blocked_by_a_client_that_does_not_read_is_idle_when_the_client_leaves() {
    let server = one_worker_without_a_deadline();
    for proxy in Proxy::main_kinds(&server) {
        for how in ["flood", "flood_large"] {
            eprintln!("{how} through {:?}", proxy.kind);
            let gate = Gate::new();
            let client = Http::begin(proxy.port(), &gate.url(&format!("/flow/{how}")));
            wait_until_blocked(&gate);
            drop(client);
            expect_stopped_and_closed_once(&server, &gate, how);
        }
    }
}

#[test]
fn a_closed_fastcgi_connection_stops_its_stream() {
    let server = one_worker_without_a_deadline();
    for how in ["tick", "tick_write", "poll", "poll_first", "flood", "flood_large"] {
        let gate = Gate::new();
        let mut connection = Connection::open(&server.socket());
        connection.send(&get(1, &gate.url(&format!("/flow/{how}")), true));
        match how {
            "poll_first" => drop(gate.announced("started")),
            "flood" | "flood_large" => wait_until_blocked(&gate),
            _ => assert_eq!(connection.record().unwrap().kind, STDOUT),
        }
        drop(connection);
        expect_stopped_and_closed_once(&server, &gate, how);
    }
}

#[test]
fn a_sleeping_stream_is_woken_when_its_client_leaves() {
    let server = one_worker_without_a_deadline();
    let nginx = Proxy::start(Kind::Nginx, &server);
    for how in ["sleep", "sleep_first"] {
        for proxied in [true, false] {
            let gate = Gate::new();
            let url = gate.url(&format!("/flow/{how}"));
            if proxied {
                let _client = Http::begin(nginx.port(), &url);
                gate.announced("asleep");
            } else {
                let mut connection = Connection::open(&server.socket());
                connection.send(&get(1, &url, true));
                gate.announced("asleep");
            }
            expect_stopped_and_closed_once(&server, &gate, how);
            assert_eq!(gate.said("slept").as_deref(), Some("false\n"));
        }
    }
}

#[test]
fn sleep_lasts_its_full_time_while_the_client_stays() {
    let (server, gate) = (one_worker_without_a_deadline(), Gate::new());
    let begun = Instant::now();
    let response = server.get(&gate.url("/flow/sleep_after"));
    assert_eq!(response.body(), b"true\n");
    assert_eq!(gate.announced("after"), "true");
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
}

// Deadlines. `src/proto/run.rs` has the tests of when each is due. These tests cover sleeping applications, the lines
// of the log, and the worker that keeps running.

/// A server with these limits and one worker, which is not killed within any test.
fn limited(limits: [&str; 2]) -> Server {
    let builder = Server::builder().workers("1").arguments(limits).arguments(SPOOLED);
    builder.arguments(["--kill-after", "10m"]).start()
}

#[test]
fn a_sleeping_request_is_in_the_slow_log_and_is_504_at_its_deadline() {
    let limits = ["--slow-log", "100ms", "--request-timeout", "400ms", "--kill-after", "10m"];
    let server = Server::builder().workers("1").arguments(limits).start();
    let gate = Gate::new();
    let response = server.get(&gate.url("/flow/sleep_first"));
    assert_eq!(response.status(), 504, "{}", server.log());
    server.logged(&["parts/flow.lua:", "in function"]);
    server.logged(&[
        "ERROR",
        "GET /flow/sleep_first",
        ": the request has run for too long (--request-timeout)",
    ]);
    assert_eq!(gate.announced("started"), server.answering_worker().to_string(), "the same worker serves on");
    assert!(!server.log().contains("in C code"), "{}", server.log());
    assert_eq!(gate.said("slept"), None);
}

#[test]
fn a_stream_without_progress_is_broken_off_at_request_timeout() {
    let server = limited(["--request-timeout", "300ms"]);
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    // Empty chunks do not count as progress.
    connection.send(&get(1, &gate.url("/flow/poll"), true));
    assert_eq!(connection.record().unwrap().kind, STDOUT);
    assert!(connection.response_breaks(), "the transfer breaks off");
    server.logged(&["ERROR", "GET /flow/poll", "has sent nothing for ", "(--request-timeout)"]);
    expect_stopped_and_closed_once(&server, &gate, "poll");
    assert_eq!(gate.announced("started"), server.answering_worker().to_string(), "the same worker serves on");
}

#[test]
fn a_deadline_during_a_wait_for_the_client_is_logged_as_such() {
    let server = limited(["--request-timeout", "300ms"]);
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &gate.url("/flow/flood"), true));
    server.logged(&[
        "ERROR",
        "GET /flow/flood",
        "has waited for its client to read for ",
        "(--request-timeout)",
    ]);
    expect_stopped_and_closed_once(&server, &gate, "flood");
    assert_eq!(gate.announced("started"), server.answering_worker().to_string(), "the same worker serves on");
}

#[test]
fn a_stream_with_progress_is_broken_off_at_stream_timeout() {
    let server = limited(["--stream-timeout", "200ms"]);
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &gate.url("/flow/tick"), true));
    assert!(connection.response_breaks(), "the transfer breaks off");
    server.logged(&["ERROR", "GET /flow/tick", "has streamed for ", "(--stream-timeout)"]);
    expect_stopped_and_closed_once(&server, &gate, "tick");
    assert_eq!(gate.announced("started"), server.answering_worker().to_string(), "the same worker serves on");
}

#[test]
fn request_timeout_applies_to_each_chunk_and_again_after_the_response() {
    let server = limited(["--request-timeout", "500ms"]);
    let gate = Gate::new();
    // Longer than that in all.
    let response = server.get(&gate.url("/flow/after_stuck"));
    assert_eq!(response.body(), "tick\n".repeat(12).as_bytes(), "{}", server.log());
    gate.announced("after");
    server.logged(&[
        "ERROR",
        "GET /flow/after_stuck",
        "has gone on after its answer for ",
        "(--request-timeout)",
    ]);
    assert_eq!(gate.announced("started"), server.answering_worker().to_string(), "the same worker serves on");
}

// After the response.

#[test]
fn the_client_has_the_complete_response_while_after_response_still_runs() {
    let server = one_worker_without_a_deadline();
    for proxy in Proxy::main_kinds(&server) {
        for (how, length) in [("small", 6), ("large", 6_000_000), ("stream", 24)] {
            eprintln!("{how} through {:?}", proxy.kind);
            let gate = Gate::new();
            // curl exits with the end of the response, and the function still waits then.
            let reply = proxy.curl([], &gate.url(&format!("/flow/after_{how}"))).expect(200);
            assert_eq!(reply.body.len(), length);
            gate.announced("after");
            assert_eq!(gate.said("done"), None);
            gate.open("go");
            gate.announced("done");
            // The functions run in the order of their registration, after `close`, and an error in one does not prevent
            // the others.
            let close = if how == "stream" { "close\n" } else { "" };
            assert_eq!(gate.said("order"), Some(format!("{close}first\nsecond\nthird\n")));
            server.logged(&[
                "ERROR",
                &format!("GET /flow/after_{how}"),
                "error in after_response: ",
                "deliberate",
            ]);
        }
    }
}
