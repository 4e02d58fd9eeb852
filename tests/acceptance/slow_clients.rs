//! Slow clients that send or read below the limits: each limit is enforced, for trickling clients too, and other clients are
//! unaffected.

use std::time::{Duration, Instant};

use crate::support::http::Http;
use crate::support::wire::{self, Connection, END_REQUEST, PARAMS, RESPONDER, STDIN, begin, record};
use crate::support::{App, GIVE_UP, Kind, Proxy, Server, pace, wait_for};

/// Far less than a trickling client takes in all.
const LIMITS: [&str; 6] = ["--header-timeout", "1s", "--body-timeout", "1s", "--send-timeout", "1s"];

/// Between two bytes of one that trickles: never silent for as long as a limit.
const TRICKLE: Duration = Duration::from_millis(50);

fn server() -> Server {
    Server::builder().arguments(LIMITS).start()
}

/// Sends `bytes` one by one until the server closes the connection; panics where it never does.
fn trickle_until_closed(connection: &mut Connection, bytes: impl Iterator<Item = Vec<u8>>) {
    let begun = Instant::now();
    for bytes in bytes {
        if connection.try_send(&bytes).is_err() {
            return;
        }
        assert!(begun.elapsed() < GIVE_UP, "never closed");
        pace(TRICKLE);
    }
    panic!("all was taken");
}

/// A POST whose body is still to come.
fn post_without_body(id: u16, length: usize, keep_connection: bool) -> Vec<u8> {
    let whole = wire::post(id, "/echo", &vec![b'x'; length], keep_connection);
    let body = wire::stream(STDIN, id, &vec![b'x'; length]);
    whole[..whole.len() - body.len()].to_vec()
}

#[test]
fn a_connection_that_sends_no_request_is_closed() {
    let server = server();
    let mut kept = Connection::open(&server.socket());
    assert_eq!(kept.get("/hello").status(), 200);
    let mut silent = Connection::open(&server.socket());
    assert!(silent.closes());
    server.logged(&["the client sent no request (--header-timeout)"]);
    // One that has sent a request waits for its next one as long as it likes.
    assert_eq!(kept.get("/hello").status(), 200);
}

#[test]
fn parameters_that_do_not_come_in_time_close_the_connection() {
    let server = server();
    let params = record(PARAMS, 1, &wire::get_params("/hello"));
    for part in [
        begin(1, RESPONDER, true)[..7].to_vec(),
        begin(1, RESPONDER, true),
        [begin(1, RESPONDER, true), params[..params.len() - 1].to_vec()].concat(),
    ] {
        let mut connection = Connection::open(&server.socket());
        connection.send(&part);
        assert!(connection.closes());
    }
    server.logged(&["the parameters took too long (--header-timeout)"]);
}

#[test]
fn parameters_that_do_not_come_in_time_end_their_request_alone_on_a_shared_connection() {
    let server = Server::builder().workers("1").arguments(["--header-timeout", "1s"]).start();
    let (mut connection, gate) = server.hold();
    connection.send(&begin(2, RESPONDER, true));
    let end = connection.response(2).expect("END_REQUEST");
    assert_eq!((&end.stdout[..], end.app_status), (&b""[..], 1), "{end:?}");
    server.logged(&["request ended: its parameters took too long (--header-timeout)"]);
    gate.open("go");
    assert_eq!(connection.response(1).expect("a response").body(), b"waited\n");
}

/// A deadline is told by its name, and the client is not said to have gone.
#[test]
fn what_a_deadline_cuts_is_not_logged_as_an_abort() {
    let server = server();
    let mut params = Connection::open(&server.socket());
    params.send(&begin(1, RESPONDER, true));
    let mut body = Connection::open(&server.socket());
    body.send(&post_without_body(1, 4000, true));
    assert!(params.closes());
    assert_eq!(body.response(1).unwrap().status(), 408);
    server.logged(&["the parameters took too long (--header-timeout)"]);
    server.logged(&["the body came too slowly: 0 bytes so far (--body-timeout)"]);
    assert!(!server.log().contains("aborted"), "{}", server.log());
}

#[test]
fn parameters_that_trickle_close_the_connection() {
    let server = server();
    let bytes = [begin(1, RESPONDER, true), record(PARAMS, 1, &wire::get_params("/hello"))].concat();
    let mut connection = Connection::open(&server.socket());
    trickle_until_closed(&mut connection, bytes.iter().map(|byte| vec![*byte]));
    // Nor does a kept connection get more time for a record that belongs to no request.
    let mut connection = Connection::open(&server.socket());
    assert_eq!(connection.get("/hello").status(), 200);
    let padded = [1, 9, 0, 0, 3, 0, 255, 0].into_iter().chain(std::iter::repeat_n(0, 1000));
    trickle_until_closed(&mut connection, padded.map(|byte| vec![byte]));
}

#[test]
fn a_body_that_does_not_come_in_time_is_408() {
    let server = server();
    for part in [0, 1, 65_536, 300_000] {
        let mut connection = Connection::open(&server.socket());
        connection.send(&post_without_body(1, 400_000, true));
        for piece in vec![b'x'; part].chunks(60_000) {
            connection.send(&record(STDIN, 1, piece));
        }
        let response = connection.response(1).unwrap();
        assert_eq!(response.status(), 408, "after {part} bytes");
        assert!(connection.closes(), "after {part} bytes");
    }
    server.logged(&["status=408", "the body came too slowly: 300000 bytes so far (--body-timeout)"]);
}

#[test]
fn a_body_that_trickles_is_408_and_one_that_is_merely_slow_is_not() {
    let server = server();
    let mut connection = Connection::open(&server.socket());
    connection.send(&post_without_body(1, 5000, false));
    // 20 bytes a second.
    let trickle = std::iter::repeat_with(|| record(STDIN, 1, b"x")).take(5000);
    trickle_until_closed(&mut connection, trickle);
    server.logged(&["status=408", "(--body-timeout)"]);

    // 2,000 bytes a second, for longer than the limit.
    let mut connection = Connection::open(&server.socket());
    connection.send(&post_without_body(1, 5000, true));
    for _ in 0..50 {
        connection.send(&record(STDIN, 1, &[b'x'; 100]));
        pace(TRICKLE);
    }
    connection.send(&record(STDIN, 1, b""));
    assert_eq!(connection.response(1).unwrap().status(), 200);
}

#[test]
fn a_late_request_ends_alone_on_a_connection_that_carries_others() {
    let server = server();
    let (mut connection, gate) = server.hold();
    connection.send(&begin(2, RESPONDER, true));
    connection.send(&post_without_body(3, 10, true));
    let (mut ended, mut late) = (Vec::new(), Vec::new());
    while ended.len() < 2 {
        let record = connection.record().expect("the connection lives");
        match record.kind {
            END_REQUEST => ended.push(record.id),
            _ => late.extend(record.content),
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [2, 3]);
    assert!(late.starts_with(b"Status: 408 "), "{}", String::from_utf8_lossy(&late));
    gate.open("go");
    assert_eq!(connection.response(1).unwrap().status(), 200);
    assert_eq!(connection.get("/hello").status(), 200);
}

/// Answers with 16 MiB.
const LARGE: &str = r#"
return { application = function()
  local left = 256
  return 200, {}, function()
    left = left - 1
    return left >= 0 and ("x"):rep(65536) or nil
  end
end }
"#;

#[test]
fn a_client_that_takes_nothing_or_a_little_now_and_then_is_cut_and_its_worker_free() {
    let app = App::new(LARGE);
    let builder = Server::builder().application(app.root(), "app").workers("1").arguments(LIMITS);
    let server = builder.start();
    for (cut, trickles) in [(1, false), (2, true)] {
        let mut connection = Connection::open(&server.socket());
        connection.send(&wire::get(1, "/", true));
        wait_for("the client is cut", || {
            if trickles {
                connection.take(1);
            }
            let lines =
                server.log().matches("the client took its answer too slowly (--send-timeout)").count();
            (lines == cut).then_some(())
        });
        assert!(connection.response_breaks());
    }
    let mut connection = Connection::open(&server.socket());
    assert_eq!(connection.get("/").body().len(), 16 << 20);
}

#[test]
fn a_trickling_upload_through_nginx_is_408() {
    let server = server();
    let proxy = Proxy::with_edits(Kind::Nginx, &server, |site| {
        site.replace("fastcgi_request_buffering on;", "fastcgi_request_buffering off;")
    });
    let mut client = Http::connect(proxy.port());
    client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
    wait_for("nginx answers", || {
        client.send(b"x");
        pace(TRICKLE);
        (client.unread() > 0).then_some(())
    });
    assert_eq!(client.answer(false).expect("an answer").status, 408);
}
