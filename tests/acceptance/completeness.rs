//! The completeness of a request: it is complete with the last byte of its Content-Length, whether or not STDIN ends.
//! And requests that only look complete.

use std::io::Write;
use std::net::{Shutdown, TcpStream};

use crate::support::wire::{
    Connection, PARAMS, RESPONDER, STDIN, begin, get, get_params, pair, params, record, stream,
};
use crate::support::{App, Gate, Server, free_port, wait_for};

/// BEGIN_REQUEST and PARAMS of a POST to `url` with CONTENT_LENGTH `length`.
fn head(id: u16, url: &str, length: &str, keep: bool) -> Vec<u8> {
    let params = [params("POST", url), pair(b"CONTENT_LENGTH", length.as_bytes())].concat();
    [begin(id, RESPONDER, keep), stream(PARAMS, id, &params)].concat()
}

#[track_caller]
fn echoes(connection: &mut Connection, id: u16, body: &[u8]) {
    let response = connection.response(id).expect("a response");
    assert_eq!((response.status(), response.body()), (200, body), "{response:?}");
}

/// php-fpm 8.2 answers at once, too: it reads CONTENT_LENGTH bytes and no further.
#[test]
fn a_request_is_complete_with_content_length_bytes_without_the_end_of_stdin() {
    let server = Server::start();
    let mut connection = Connection::open(&server.socket());
    // HAProxy over HTTP/2 sends no STDIN record for a Content-Length of 0.
    connection.send(&head(1, "/echo", "0", true));
    echoes(&mut connection, 1, b"");
    connection.send(&[head(1, "/echo", "5", true), record(STDIN, 1, b"hello")].concat());
    echoes(&mut connection, 1, b"hello");
    // A body byte by byte, a body longer than CONTENT_LENGTH, and a body that goes to a file.
    connection.send(&head(1, "/echo", "3", true));
    for byte in [b"a", b"b", b"c"] {
        connection.settle();
        connection.send(&record(STDIN, 1, byte));
    }
    echoes(&mut connection, 1, b"abc");
    connection.send(&[head(1, "/echo", "3", true), record(STDIN, 1, b"abcdef")].concat());
    echoes(&mut connection, 1, b"abc");
    let large = vec![b'x'; 300_000];
    connection.send(&head(1, "/echo", "300000", true));
    large.chunks(60_000).for_each(|piece| connection.send(&record(STDIN, 1, piece)));
    echoes(&mut connection, 1, &large);
    assert_eq!(connection.get("/hello").body(), b"Hello, World!\n");
}

#[test]
fn late_stdin_records_change_neither_their_own_request_nor_the_next() {
    let server = Server::start();
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    // Late records while their request runs.
    connection.send(&[head(1, &gate.url("/wait"), "2", true), record(STDIN, 1, b"ab")].concat());
    gate.announced("started");
    connection.send(&[record(STDIN, 1, b"more"), record(STDIN, 1, b""), record(STDIN, 1, b"")].concat());
    connection.settle();
    gate.open("go");
    echoes(&mut connection, 1, b"waited\n");
    // A late end after END_REQUEST: before the next request with that id, after its BEGIN_REQUEST, after its PARAMS.
    let parts = |late: usize| {
        let whole = head(1, "/echo", "4", true);
        let (begun, rest) = whole.split_at(16);
        let end = record(STDIN, 1, b"");
        let mut parts = vec![begun.to_vec(), rest.to_vec(), record(STDIN, 1, b"next"), end.clone()];
        parts.insert(late, end);
        parts
    };
    for late in 0..=2 {
        connection.send(&[head(1, "/echo", "5", true), record(STDIN, 1, b"first")].concat());
        echoes(&mut connection, 1, b"first");
        for part in parts(late) {
            connection.send(&part);
            if part.ends_with(b"next") {
                // The request is complete; the rest may come at any time.
                break;
            }
            connection.settle();
        }
        echoes(&mut connection, 1, b"next");
        connection.send(&record(STDIN, 1, b""));
    }
    // A GET has only the end of STDIN.
    connection.send(&[head(1, "/echo", "5", true), record(STDIN, 1, b"first")].concat());
    echoes(&mut connection, 1, b"first");
    connection.send(&get(1, "/hello", true));
    echoes(&mut connection, 1, b"Hello, World!\n");
}

/// A close of a socket with unread data is a reset, which discards what the peer has not read yet.
#[test]
fn late_data_is_read_before_the_close_so_that_no_reset_discards_the_response() {
    let address = format!("127.0.0.1:{}", free_port());
    let listen = format!("tcp:{address}");
    let server = Server::builder().arguments(["--listen", &listen]).inspectable().start();
    let early = [head(1, "/echo", "5", false), record(STDIN, 1, b"hello")].concat();
    // More data beyond CONTENT_LENGTH than a socket's buffer holds, and the end of STDIN.
    let mut late: Vec<u8> = (0..20).flat_map(|_| record(STDIN, 1, &[b'x'; 60_000])).collect();
    late.extend(record(STDIN, 1, b""));

    let mut connection = Connection::open(&server.socket());
    connection.send(&early);
    wait_for("the response has come", || (connection.unread() > 100).then_some(()));
    connection.try_send(&late).expect("the server still reads");
    echoes(&mut connection, 1, b"hello");
    assert!(connection.closes());

    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(&early).unwrap();
    wait_for("the response has come", || (rustix::io::ioctl_fionread(&stream).unwrap() > 100).then_some(()));
    stream.write_all(&late).expect("the server still reads");
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut answer).expect("no reset");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("\r\n\r\n") && text.contains("hello"), "{text}");
    drop(connection);
    wait_for("all connections are closed", || server.connections().is_empty().then_some(()));
}

/// nginx requests its error page for a body that is too large in this way: the CONTENT_LENGTH is that of the refused
/// body.
#[test]
fn a_content_length_beyond_max_body_is_413_unless_the_proxy_sends_no_body() {
    let server = Server::builder().arguments(["--max-body", "1000"]).start();
    let mut connection = Connection::open(&server.socket());
    connection.send(&head(1, "/environ?only=nibiru.promised_length", "5000", true));
    connection.settle();
    connection.send(&record(STDIN, 1, b""));
    echoes(&mut connection, 1, b"5000");
    for bytes in [&b"x"[..], &[b'x'; 5000]] {
        connection.send(&[head(1, "/echo", "5000", true), record(STDIN, 1, bytes)].concat());
        let response = connection.response(1).expect("a response");
        assert_eq!(response.body(), b"413 Content Too Large: the body has 5000 bytes, --max-body is 1000\n");
        connection.send(&record(STDIN, 1, b""));
    }
}

#[test]
fn a_client_that_neither_ends_its_request_nor_closes_gets_a_half_close() {
    let server = Server::start();
    let mut connection = Connection::open(&server.socket());
    connection.send(&[head(1, "/echo", "5", false), record(STDIN, 1, b"hello")].concat());
    echoes(&mut connection, 1, b"hello");
    assert!(connection.closes(), "the client sees the end of the response at once");
}

/// php-fpm 8.2 runs such a request, too, and leaves CONTENT_LENGTH as it came. nginx sends it for `auth_request` with
/// `fastcgi_pass_request_body off`, for a page of `error_page`, for `mirror_request_body off`, with
/// `client_body_in_file_only`: see `configurations`.
#[test]
fn a_body_that_the_proxy_withholds_is_empty_and_its_length_is_nibiru_promised_length() {
    let server = Server::start();
    let mut connection = Connection::open(&server.socket());
    for method in ["GET", "POST", "HEAD"] {
        let only = |name: &str| format!("/environ?only={name}");
        for (name, expected) in [("CONTENT_LENGTH", "0"), ("nibiru.promised_length", "4000")] {
            let params = [params(method, &only(name)), pair(b"CONTENT_LENGTH", b"4000")].concat();
            connection.send(&[begin(1, RESPONDER, true), stream(PARAMS, 1, &params)].concat());
            connection.settle();
            connection.send(&record(STDIN, 1, b""));
            let response = connection.response(1).expect("a response");
            let expected = if method == "HEAD" { "" } else { expected };
            assert_eq!((response.status(), response.body()), (200, expected.as_bytes()), "{method} {name}");
        }
    }
    // `nibiru.promised_length` is absent for a body that was passed on.
    connection.send(&[head(1, "/environ", "2", true), stream(STDIN, 1, b"ab")].concat());
    let environ = connection.response(1).unwrap();
    assert!(!String::from_utf8_lossy(environ.body()).contains("nibiru.promised_length"), "{environ:?}");
    // A body that has begun and ends short was not withheld: it is 400.
    connection.send(&[head(1, "/echo", "4000", true), record(STDIN, 1, b"a")].concat());
    connection.settle();
    connection.send(&record(STDIN, 1, b""));
    assert_eq!(connection.response(1).unwrap().status(), 400);
    server.logged(&["the body ended after 1 of 4000 bytes"]);
}

/// php-fpm 8.2 runs such a request with an empty body where the client shuts its writing side.
#[test]
fn a_request_whose_client_leaves_before_the_body_is_logged_and_never_runs() {
    let server = Server::start();
    let gate = Gate::new();
    let whole = head(1, &gate.url("/count"), "4000", true);
    let shut = |connection: &mut Connection| connection.finish_sending();
    let close = |connection: &mut Connection| connection.hang_up();
    let abort = |connection: &mut Connection| connection.send(&record(2, 1, b""));
    for (before, go) in [shut as fn(&mut Connection), close, abort].into_iter().enumerate() {
        let mut connection = Connection::open(&server.socket());
        connection.send(&whole);
        connection.settle();
        go(&mut connection);
        wait_for("the log has a line about the abort", || {
            let lines = server.log().matches("with 0 of 4000 bytes of its body here").count();
            (lines == before + 1).then_some(())
        });
    }
    let mut connection = Connection::open(&server.socket());
    connection.send(&[begin(1, RESPONDER, true), record(PARAMS, 1, &get_params("/hello")[..20])].concat());
    connection.settle();
    drop(connection);
    server.logged(&["request aborted by the client before its parameters had come"]);
    assert_eq!(server.get("/hello").status(), 200);
    assert_eq!(gate.said("executions"), None);
}

/// Caddy sends the end of an empty body apart from the head. When that write fails, Caddy ignores the response that has
/// come, and its own client gets a 502 instead.
#[test]
fn the_end_of_stdin_can_be_written_after_any_kind_of_response() {
    let app = App::new(
        r#"
local ways = {
  ["/whole"] = function() return 200, {}, "hello" end,
  ["/error"] = function() error("deliberate failure") end,
  ["/killed"] = function() os.execute("kill -9 $PPID") end,
  ["/broken"] = function(start_response) start_response(200, {})("hello") error("deliberate failure") end,
  ["/killed_after_head"] = function(start_response) start_response(200, {})("hello") os.execute("kill -9 $PPID") end,
}

return function(environ, start_response)
  return ways[environ.PATH_INFO](start_response)
end
"#,
    );
    let server = Server::builder().application(app.root(), "app.lua").start();
    for url in ["/whole", "/error", "/killed", "/broken", "/killed_after_head"] {
        for keep in [false, true] {
            let mut connection = Connection::open(&server.socket());
            connection.send(&head(1, url, "0", keep));
            if keep && matches!(url, "/whole" | "/error" | "/killed") {
                connection.response(1).expect("a response");
            } else {
                assert!(connection.closes());
            }
            let ended = connection.try_send(&record(STDIN, 1, b""));
            assert!(ended.is_ok(), "{url}, kept {keep}: {ended:?}");
        }
    }
}
