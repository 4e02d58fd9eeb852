//! The truth rule: a failure before the response head is a complete error response; a response that fails after its
//! head never looks complete.

use std::io::Read;

use crate::support::wire::{ABORT_REQUEST, Connection, STDERR, STDOUT, get, record};
use crate::support::{Gate, Kind, Proxy, Reply, Server};

/// Expects, through every proxy, a complete error page with this status that is nibiru's own.
#[track_caller]
fn is_nibirus_error_page(path: &str, status: u16) {
    let server = Server::start();
    let direct = server.get(path);
    assert_eq!(direct.status(), status, "{direct:?}\n{}", server.log());
    for proxy in Proxy::all_kinds(&server) {
        let reply = proxy.curl([], path).expect(status);
        assert_eq!(reply.body, direct.body(), "{:?} replaces the error page", proxy.kind);
        assert!(!reply.body.is_empty());
        assert!(reply.header("Content-Type").is_some(), "{reply:?}");
        proxy.curl([], "/hello").expect(200);
    }
}

#[test]
fn a_worker_killed_before_the_head_is_a_502_page_from_nibiru() {
    is_nibirus_error_page("/fail/killed_before_head", 502);
}

#[test]
fn os_exit_is_a_500_page_from_nibiru() {
    is_nibirus_error_page("/fail/exit", 500);
}

#[test]
fn an_error_is_a_500_page_from_nibiru_without_the_traceback() {
    is_nibirus_error_page("/fail/error", 500);
    let server = Server::start();
    let response = server.get("/fail/error");
    let page = response.text();
    assert!(!page.contains("deliberate failure") && !page.contains(".lua"), "{page}");
    server.logged(&["parts/fail.lua", "deliberate failure"]);
}

#[test]
fn an_error_that_is_a_table_is_a_500_page_from_nibiru() {
    is_nibirus_error_page("/fail/error_table", 500);
}

#[test]
fn a_header_with_a_line_break_is_a_500_page_without_the_header() {
    is_nibirus_error_page("/fail/header_with_line_break", 500);
    let server = Server::start();
    let response = server.get("/fail/header_with_line_break");
    assert!(!response.head().contains("stolen"), "{}", response.head());
    server.logged(&["X-Bad"]);
}

#[test]
fn a_worker_killed_in_a_body_with_a_length_breaks_the_transfer() {
    let server = Server::start();
    for proxy in Proxy::all_kinds(&server) {
        // Workers that die before their first response would count as failing.
        proxy.curl([], "/hello").expect(200);
        let reply = killed_in_body(&proxy, "/fail/killed_in_body_with_length");
        assert_ne!(reply.exit, 0, "{:?} passed a short body as complete: {reply:?}", proxy.kind);
    }
}

#[test]
fn a_worker_killed_in_a_body_without_a_length_breaks_the_transfer() {
    let server = Server::start();
    for kind in [Kind::Nginx, Kind::NewCaddy, Kind::HaProxy, Kind::Apache, Kind::Lighttpd] {
        let proxy = Proxy::start(kind, &server);
        proxy.curl([], "/hello").expect(200);
        let reply = killed_in_body(&proxy, "/fail/killed_in_body_without_length");
        assert_ne!(reply.exit, 0, "{kind:?} passed a short body as complete: {reply:?}");
    }
}

/// A FastCGI server cannot make Caddy 2.6 break such a transfer off; Caddy logs the error. A failure of this test means
/// that Caddy has changed: move the version to the test above and update the documentation.
#[test]
fn caddy_2_6_passes_a_broken_body_without_a_length_as_complete_and_logs_it() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::OldCaddy, &server);
    let reply = killed_in_body(&proxy, "/fail/killed_in_body_without_length").expect(200);
    assert_eq!(reply.text(), "only the beginning\n");
    crate::support::wait_for("Caddy logs the broken response", || {
        proxy.log().lines().any(|line| line.contains("\"level\":\"error\"")).then_some(())
    });
}

#[test]
fn a_broken_response_leaves_other_requests_on_its_connection_undisturbed() {
    let server = Server::start();
    let (mut connection, held) = broken_beside_another(&server);
    held.open("go");
    assert_eq!(connection.response(1).expect("the response of the other request").body(), b"waited\n");
    assert!(connection.response_breaks(), "the connection breaks off after the last whole response");
}

#[test]
fn a_client_that_aborts_a_broken_request_keeps_its_connection() {
    let server = Server::start();
    let (mut connection, held) = broken_beside_another(&server);
    connection.send(&record(ABORT_REQUEST, 2, b""));
    connection.response(2).expect("END_REQUEST of the broken request");
    held.open("go");
    assert_eq!(connection.response(1).expect("the response of the other request").body(), b"waited\n");
    assert_eq!(connection.get("/hello").body(), b"Hello, World!\n");
}

/// A connection on which request 1 waits at a gate and the response to request 2 has broken off. It gets no
/// END_REQUEST, which would make it look complete.
fn broken_beside_another(server: &Server) -> (Connection, Gate) {
    let (broken, held) = (Gate::new(), Gate::new());
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &held.url("/wait"), true));
    held.announced("started");
    connection.send(&get(2, &broken.url("/fail/killed_in_body_without_length"), true));
    broken.open("seen1");
    let kinds = std::iter::from_fn(|| connection.record().map(|record| (record.id, record.kind)));
    let first = kinds.take_while(|record| *record != (2, STDERR)).collect::<Vec<_>>();
    assert!(first.iter().all(|record| *record == (2, STDOUT)), "{first:?}");
    connection.settle();
    (connection, held)
}

/// Requests `path`, lets the worker die after the first chunk, and returns the response as curl saw it.
#[track_caller]
fn killed_in_body(proxy: &Proxy, path: &str) -> Reply {
    let gate = Gate::new();
    let mut curl = proxy.curl_command([], &gate.url(path)).spawn().unwrap();
    let mut output = curl.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    while !seen.ends_with(b"only the beginning\n") {
        let length = output.read(&mut piece).unwrap();
        assert_ne!(length, 0, "{:?} ended before the first chunk", proxy.kind);
        seen.extend_from_slice(&piece[..length]);
    }
    gate.open("seen1");
    output.read_to_end(&mut seen).unwrap();
    let mut end = curl.wait_with_output().unwrap();
    end.stdout = seen;
    Reply::from_curl(end)
}
