//! The truth rule: a failure before the head becomes a whole error response; a response that fails after its head never passes
//! for a complete one.

use std::io::Read;

use crate::support::wire::{ABORT_REQUEST, Connection, STDERR, STDOUT, get, record};
use crate::support::{Gate, Kind, Proxy, Reply, Server};

/// Through every proxy: a whole page with this status, from nibiru and not from the proxy.
#[track_caller]
fn whole_page(path: &str, status: u16) {
    let server = Server::start();
    let direct = server.get(path);
    assert_eq!(direct.status(), status, "{direct:?}\n{}", server.log());
    for proxy in Proxy::every(&server) {
        let reply = proxy.curl([], path).expect(status);
        assert_eq!(reply.body, direct.body(), "{:?} shows a page of its own", proxy.kind);
        assert!(!reply.body.is_empty());
        assert!(reply.header("Content-Type").is_some(), "{reply:?}");
        proxy.curl([], "/hello").expect(200);
    }
}

#[test]
fn a_worker_killed_before_the_head_is_a_502_page_from_nibiru() {
    whole_page("/fail/killed_before_head", 502);
}

#[test]
fn os_exit_is_a_500_page_from_nibiru() {
    whole_page("/fail/exit", 500);
}

#[test]
fn an_error_is_a_500_page_from_nibiru_without_the_traceback() {
    whole_page("/fail/error", 500);
    let server = Server::start();
    let response = server.get("/fail/error");
    let page = response.text();
    assert!(!page.contains("deliberate failure") && !page.contains(".lua"), "{page}");
    server.logged(&["parts/fail.lua", "deliberate failure"]);
}

#[test]
fn an_error_that_is_a_table_is_a_500_page_from_nibiru() {
    whole_page("/fail/error_table", 500);
}

#[test]
fn a_header_with_a_line_break_is_a_500_page_and_no_header() {
    whole_page("/fail/header_with_line_break", 500);
    let server = Server::start();
    let response = server.get("/fail/header_with_line_break");
    assert!(!response.head().contains("stolen"), "{}", response.head());
    server.logged(&["X-Bad"]);
}

#[test]
fn a_worker_killed_in_a_body_with_a_length_breaks_the_transfer() {
    let server = Server::start();
    for proxy in Proxy::every(&server) {
        // Workers that die before they have answered anything would count as failing.
        proxy.curl([], "/hello").expect(200);
        let reply = killed_in_body(&proxy, "/fail/killed_in_body_with_length");
        assert_ne!(reply.exit, 0, "{:?} passed a short body as whole: {reply:?}", proxy.kind);
    }
}

#[test]
fn a_worker_killed_in_a_body_without_a_length_breaks_the_transfer() {
    let server = Server::start();
    for kind in [Kind::Nginx, Kind::NewCaddy, Kind::HaProxy, Kind::Apache, Kind::Lighttpd] {
        let proxy = Proxy::start(kind, &server);
        proxy.curl([], "/hello").expect(200);
        let reply = killed_in_body(&proxy, "/fail/killed_in_body_without_length");
        assert_ne!(reply.exit, 0, "{kind:?} passed a short body as whole: {reply:?}");
    }
}

/// Nothing a FastCGI server can send makes Caddy 2.6 break such a transfer, but it writes a line to its log.
/// When this fails, that has changed: move the version to the test above and change the documentation.
#[test]
fn caddy_2_6_passes_a_broken_body_without_a_length_as_whole_and_logs_it() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::OldCaddy, &server);
    let reply = killed_in_body(&proxy, "/fail/killed_in_body_without_length").expect(200);
    assert_eq!(reply.text(), "only the beginning\n");
    crate::support::wait_for("Caddy logs the broken response", || {
        proxy.log().lines().any(|line| line.contains("\"level\":\"error\"")).then_some(())
    });
}

#[test]
fn another_request_on_the_same_connection_survives_a_broken_one() {
    let server = Server::start();
    let (mut connection, held) = broken_beside_another(&server);
    held.open("go");
    assert_eq!(connection.response(1).expect("the other request goes on").body(), b"waited\n");
    assert!(connection.response_breaks(), "the connection breaks with what is left on it");
}

#[test]
fn a_client_that_gives_a_broken_request_up_keeps_the_connection() {
    let server = Server::start();
    let (mut connection, held) = broken_beside_another(&server);
    connection.send(&record(ABORT_REQUEST, 2, b""));
    connection.response(2).expect("the end of the broken request");
    held.open("go");
    assert_eq!(connection.response(1).expect("the other request goes on").body(), b"waited\n");
    assert_eq!(connection.get("/hello").body(), b"Hello, World!\n");
}

/// A connection on which request 1 waits at a gate, and the answer to request 2 has broken off. It has no end: that would
/// look complete.
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

/// Asks for `path`, lets the worker die once the first chunk has come, and gives what curl made of it.
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
