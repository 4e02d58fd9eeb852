//! Streamed responses: each piece reaches the client before the next is made, the stream of a client that has gone is stopped,
//! and the limits apply.

use std::time::{Duration, Instant};

use crate::support::http::Http;
use crate::support::wire::{Connection, STDOUT, get};
use crate::support::{Gate, Kind, Proxy, Server, nothing_happens_for, wait_until_still};

/// Sees each of three chunks while the application waits before the next, and then the end of the answer.
#[track_caller]
fn sees_each_chunk(mut client: Http, gate: &Gate, end: &str) {
    for chunk in 1..=3 {
        client.sees(&format!("chunk {chunk}\n"));
        gate.open(&format!("seen{chunk}"));
    }
    client.sees(end);
}

/// So much of a response that its client does not read is kept before its worker waits: the least that is soon full.
const SPOOLED: [&str; 2] = ["--spool-response", "1M"];

/// One worker, which no deadline frees.
fn patient() -> Server {
    Server::builder().workers("1").arguments(["--request-timeout", "off"]).arguments(SPOOLED).start()
}

/// The only worker is free again: it answers, and `close` has run once.
#[track_caller]
fn stopped_and_closed(server: &Server, gate: &Gate, what: &str) {
    assert_eq!(server.get("/hello").status(), 200, "{what}\n{}", server.log());
    assert_eq!(gate.said("closed").as_deref(), Some("closed\n"), "{what}\n{}", server.log());
}

#[test]
fn each_chunk_reaches_the_client_before_the_next_is_made() {
    let server = Server::start();
    for proxy in Proxy::each(&server) {
        for how in ["function", "write", "for", "events"] {
            eprintln!("{how} through {:?}", proxy.kind);
            let gate = Gate::new();
            let client = Http::begin(proxy.port(), &gate.url(&format!("/flow/{how}")));
            sees_each_chunk(client, &gate, "\r\n0\r\n\r\n");
        }
        eprintln!("sized through {:?}", proxy.kind);
        let gate = Gate::new();
        sees_each_chunk(Http::begin(proxy.port(), &gate.url("/flow/sized")), &gate, "chunk 3\n");
    }
}

#[test]
fn a_stream_whose_client_leaves_the_proxy_is_stopped_and_closed_once() {
    let server = patient();
    for proxy in Proxy::each(&server) {
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
            stopped_and_closed(&server, &gate, how);
            if how == "tick_write" {
                let said = gate.said("write").unwrap();
                assert!(said.ends_with("the client went away\n") && said.lines().count() == 1, "{said}");
            }
        }
    }
}

#[test]
fn a_stream_that_waits_learns_that_its_client_has_gone_from_an_empty_chunk() {
    let server = patient();
    let nginx = Proxy::start(Kind::Nginx, &server);
    for how in ["poll", "poll_first"] {
        let gate = Gate::new();
        let mut client = Http::begin(nginx.port(), &gate.url(&format!("/flow/{how}")));
        match how {
            "poll" => client.sees("first\n"),
            _ => drop(gate.announced("started")),
        }
        drop(client);
        stopped_and_closed(&server, &gate, how);
    }
    // With a body, collected by nginx or passed on as it comes.
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
        stopped_and_closed(&server, &gate, buffering);
    }
}

/// Caddy looks at its client when it has something to write. When this fails, that has changed: add Caddy to the test
/// above and change the documentation.
#[test]
fn caddy_tells_that_a_client_has_gone_only_when_there_is_something_to_send() {
    let server = patient();
    for kind in [Kind::OldCaddy, Kind::NewCaddy] {
        let (proxy, gate) = (Proxy::start(kind, &server), Gate::new());
        let mut client = Http::begin(proxy.port(), &gate.url("/flow/poll"));
        client.sees("first\n");
        drop(client);
        let told = format!("{kind:?} tells that its client has gone");
        nothing_happens_for(Duration::from_millis(300), &told, || gate.said("closed"));
        gate.open("go");
        stopped_and_closed(&server, &gate, "poll");
    }
}

/// Waits until the application has stopped making chunks, since nobody takes any more.
fn blocked(gate: &Gate) {
    gate.announced("made");
    wait_until_still("the client's buffers are full", || gate.said("made"));
}

#[test]
fn a_worker_that_waits_for_a_client_which_does_not_read_is_free_when_that_has_gone() {
    let server = patient();
    for proxy in Proxy::each(&server) {
        for how in ["flood", "flood_large"] {
            eprintln!("{how} through {:?}", proxy.kind);
            let gate = Gate::new();
            let client = Http::begin(proxy.port(), &gate.url(&format!("/flow/{how}")));
            blocked(&gate);
            drop(client);
            stopped_and_closed(&server, &gate, how);
        }
    }
}

#[test]
fn straight_over_fastcgi_a_closed_connection_stops_a_stream() {
    let server = patient();
    for how in ["tick", "tick_write", "poll", "poll_first", "flood", "flood_large"] {
        let gate = Gate::new();
        let mut connection = Connection::open(&server.socket());
        connection.send(&get(1, &gate.url(&format!("/flow/{how}")), true));
        match how {
            "poll_first" => drop(gate.announced("started")),
            "flood" | "flood_large" => blocked(&gate),
            _ => assert_eq!(connection.record().unwrap().kind, STDOUT),
        }
        drop(connection);
        stopped_and_closed(&server, &gate, how);
    }
}

#[test]
fn a_stream_that_sleeps_is_woken_when_its_client_goes() {
    let server = patient();
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
            stopped_and_closed(&server, &gate, how);
            assert_eq!(gate.said("slept").as_deref(), Some("false\n"));
        }
    }
}

#[test]
fn sleep_takes_its_time_where_nobody_goes() {
    let (server, gate) = (patient(), Gate::new());
    let begun = Instant::now();
    let response = server.get(&gate.url("/flow/sleep_after"));
    assert_eq!(response.body(), b"true\n");
    assert_eq!(gate.announced("after"), "true");
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
}

// Deadlines. When which is due is shown in memory (`src/proto/run.rs`); here are the application's own clock, the log's lines, and the
// worker that goes on.

/// A server with one worker, which is not killed, and these limits.
fn limited(limits: [&str; 2]) -> Server {
    let builder = Server::builder().workers("1").arguments(limits).arguments(SPOOLED);
    builder.arguments(["--kill-after", "10m"]).start()
}

#[test]
fn a_request_that_sleeps_is_looked_at_and_reaches_its_deadline() {
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
    assert_eq!(gate.announced("started"), server.answering_worker().to_string(), "the same worker goes on");
    assert!(!server.log().contains("in C code"), "{}", server.log());
    assert_eq!(gate.said("slept"), None);
}

#[test]
fn a_stream_that_stands_still_is_cut_at_the_request_timeout() {
    let server = limited(["--request-timeout", "300ms"]);
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    // Empty chunks are no progress.
    connection.send(&get(1, &gate.url("/flow/poll"), true));
    assert_eq!(connection.record().unwrap().kind, STDOUT);
    assert!(connection.response_breaks(), "the transfer breaks");
    server.logged(&["ERROR", "GET /flow/poll", "has sent nothing for ", "(--request-timeout)"]);
    stopped_and_closed(&server, &gate, "poll");
    assert_eq!(gate.announced("started"), server.answering_worker().to_string(), "the same worker goes on");
}

#[test]
fn a_client_that_reads_nothing_is_told_apart_from_a_silent_application() {
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
    stopped_and_closed(&server, &gate, "flood");
    assert_eq!(gate.announced("started"), server.answering_worker().to_string(), "the same worker goes on");
}

#[test]
fn a_stream_that_moves_on_is_cut_at_the_stream_timeout() {
    let server = limited(["--stream-timeout", "200ms"]);
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &gate.url("/flow/tick"), true));
    assert!(connection.response_breaks(), "the transfer breaks");
    server.logged(&["ERROR", "GET /flow/tick", "has streamed for ", "(--stream-timeout)"]);
    stopped_and_closed(&server, &gate, "tick");
    assert_eq!(gate.announced("started"), server.answering_worker().to_string(), "the same worker goes on");
}

#[test]
fn the_request_timeout_is_for_a_piece_of_a_stream_and_as_long_for_what_goes_on_after_it() {
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
    assert_eq!(gate.announced("started"), server.answering_worker().to_string(), "the same worker goes on");
}

// After the response.

#[test]
fn the_client_has_its_whole_answer_while_after_response_still_runs() {
    let server = patient();
    for proxy in Proxy::each(&server) {
        for (how, length) in [("small", 6), ("large", 6_000_000), ("stream", 24)] {
            eprintln!("{how} through {:?}", proxy.kind);
            let gate = Gate::new();
            // curl ends when the answer has, and the function waits for longer than that.
            let reply = proxy.curl([], &gate.url(&format!("/flow/after_{how}"))).expect(200);
            assert_eq!(reply.body.len(), length);
            gate.announced("after");
            assert_eq!(gate.said("done"), None);
            gate.open("go");
            gate.announced("done");
            // In the order in which they were registered, after `close`, and none is lost to another's error.
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
