//! Slow clients that send or read below the limits, one test for each option: the log line, and that other clients are
//! unaffected. `src/proto/connection/tests/timeouts.rs` and `src/proto/rate.rs` have the tests of when each timer expires.

use std::time::Duration;

use crate::support::http::Http;
use crate::support::wire::{self, Connection, END_REQUEST, RESPONDER, STDIN, begin};
use crate::support::{App, Kind, Proxy, Server, pace, wait_for};

/// The smallest value of the timeouts.
const LIMITS: [&str; 6] = ["--header-timeout", "100ms", "--body-timeout", "100ms", "--send-timeout", "100ms"];

fn server() -> Server {
    Server::builder().arguments(LIMITS).start()
}

/// A POST without its body.
fn post_without_body(id: u16, length: usize, keep_connection: bool) -> Vec<u8> {
    let whole = wire::post(id, "/echo", &vec![b'x'; length], keep_connection);
    let body = wire::stream(STDIN, id, &vec![b'x'; length]);
    whole[..whole.len() - body.len()].to_vec()
}

#[test]
fn a_connection_that_sends_no_request_is_closed() {
    let server = server();
    let mut silent = Connection::open(&server.socket());
    assert!(silent.closes());
    server.logged(&["the client sent no request (--header-timeout)"]);
}

#[test]
fn late_requests_on_a_shared_connection_fail_alone_and_are_not_logged_as_aborted() {
    let server = server();
    let (mut connection, gate) = server.hold();
    connection.send(&begin(2, RESPONDER, true));
    connection.send(&post_without_body(3, 10, true));
    let (mut ended, mut late) = (Vec::new(), Vec::new());
    while ended.len() < 2 {
        let record = connection.record().expect("the connection is open");
        match record.kind {
            END_REQUEST => ended.push(record.id),
            _ => late.extend(record.content),
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [2, 3]);
    assert!(late.starts_with(b"Status: 408 "), "{}", String::from_utf8_lossy(&late));
    gate.open("go");
    assert_eq!(connection.response(1).unwrap().body(), b"waited\n");
    server.logged(&["request ended: its parameters took too long (--header-timeout)"]);
    server.logged(&["status=408", "the body came too slowly: 0 bytes so far (--body-timeout)"]);
    assert!(!server.log().contains("aborted"), "{}", server.log());
}

/// An application with a response of 16 MiB, and with a short one.
const LARGE: &str = r#"
return { application = function(environ)
  if environ.PATH_INFO ~= "/large" then return 200, {}, "short" end
  local left = 256
  return 200, {}, function()
    left = left - 1
    return left >= 0 and ("x"):rep(65536) or nil
  end
end }
"#;

#[test]
fn a_client_that_reads_nothing_is_closed_and_its_worker_is_idle() {
    let app = App::new(LARGE);
    let builder = Server::builder().application(app.root(), "app").workers("1").arguments(LIMITS);
    let server = builder.start();
    let mut connection = Connection::open(&server.socket());
    connection.send(&wire::get(1, "/large", true));
    server.logged(&["the client took its answer too slowly (--send-timeout)"]);
    assert!(connection.response_breaks());
    assert_eq!(server.get("/short").body(), b"short");
}

/// nginx does not buffer the request.
#[test]
fn a_trickling_upload_through_nginx_is_408() {
    let server = server();
    let proxy = Proxy::with_edits(Kind::Nginx, &server, |site| {
        site.replace("fastcgi_request_buffering on;", "fastcgi_request_buffering off;")
    });
    let mut client = Http::connect(proxy.port());
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
    wait_for("nginx sends a response", || {
        client.send(b"x");
        // The client is never silent for as long as --body-timeout.
        pace(Duration::from_millis(50));
        (client.unread() > 0).then_some(())
    });
    assert_eq!(client.response(false).expect("a response").status, 408);
}
