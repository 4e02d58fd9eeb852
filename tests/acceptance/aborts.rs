//! Aborted requests, by ABORT_REQUEST or by a close of the connection: at every stage of a request, and at random
//! moments.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::support::wire::{
    ABORT_REQUEST, Connection, END_REQUEST, GET_VALUES, GET_VALUES_RESULT, PARAMS, RESPONDER, STDIN, STDOUT,
    begin, get, get_params, pair, record, stream,
};
use crate::support::{Gate, Server, pace, wait_for};

/// A server with one worker, which no request deadline frees.
fn one_worker_without_a_deadline() -> Server {
    Server::builder().workers("1").arguments(["--request-timeout", "off"]).start()
}

fn abort(id: u16) -> Vec<u8> {
    record(ABORT_REQUEST, id, b"")
}

/// Expects the END_REQUEST of request 1 without a byte of STDOUT before it.
#[track_caller]
fn ends_without_a_response(connection: &mut Connection) {
    let end = connection.response(1).expect("END_REQUEST");
    assert_eq!((&end.stdout[..], end.app_status, end.protocol_status), (&b""[..], 0, 0), "{end:?}");
}

#[track_caller]
fn serves_hello(connection: &mut Connection, server: &Server) {
    let response = connection.get("/hello");
    assert_eq!((response.status(), response.body()), (200, &b"Hello, World!\n"[..]), "{}", server.log());
}

#[test]
fn a_request_aborted_while_it_arrives_never_runs_and_frees_its_id() {
    let (server, gate) = (one_worker_without_a_deadline(), Gate::new());
    let mut connection = Connection::open(&server.socket());
    let params = [get_params(&gate.url("/count")), pair(b"CONTENT_LENGTH", b"10")].concat();
    let whole = [begin(1, RESPONDER, true), stream(PARAMS, 1, &params), record(STDIN, 1, b"12345")].concat();
    // After BEGIN_REQUEST, within PARAMS, after PARAMS, within STDIN.
    for (cut, late) in [
        (begin(1, RESPONDER, true), &[][..]),
        ([begin(1, RESPONDER, true), record(PARAMS, 1, &params[..40])].concat(), &params[40..]),
        ([begin(1, RESPONDER, true), stream(PARAMS, 1, &params)].concat(), &[]),
        (whole, &[]),
    ] {
        connection.send(&[cut, abort(1)].concat());
        ends_without_a_response(&mut connection);
        // Records of the aborted request that were still on their way are ignored.
        connection.send(&[stream(PARAMS, 1, late), stream(STDIN, 1, b"67890")].concat());
        serves_hello(&mut connection, &server);
    }
    assert_eq!(gate.said("executions"), None);
}

#[test]
fn a_request_aborted_in_the_queue_never_runs_and_frees_its_place_in_the_queue() {
    let server = Server::builder()
        .workers("1")
        .arguments(["--request-timeout", "off", "--queue", "1", "--queue-timeout", "10m"])
        .start();
    let (held, gone) = (Gate::new(), Gate::new());
    let mut busy = Connection::open(&server.socket());
    busy.send(&get(1, &held.url("/wait"), true));
    held.announced("started");

    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, &gone.url("/count"), true));
    waiting.settle();
    assert_eq!(server.get("/hello").status(), 503, "the queue is full");
    waiting.send(&abort(1));
    ends_without_a_response(&mut waiting);
    // A second request takes the same place in the queue, on the same connection, under the same id.
    waiting.send(&get(1, &gone.url("/count"), true));
    waiting.settle();
    assert_eq!(server.get("/hello").status(), 503, "the queue is full");
    drop(waiting);
    let mut next = Connection::open(&server.socket());
    wait_for("the place in the queue is free", || {
        next.send(&get(1, "/hello", true));
        // The request is refused before GET_VALUES is answered, or it is still queued by then.
        next.send(&record(GET_VALUES, 0, &pair(b"FCGI_MPXS_CONNS", b"")));
        let first = next.record().expect("a response");
        if first.kind == GET_VALUES_RESULT {
            return Some(());
        }
        while next.record().expect("the rest").kind != GET_VALUES_RESULT {}
        None
    });
    held.open("go");
    assert_eq!(next.response(1).expect("a response").body(), b"Hello, World!\n");
    assert_eq!(busy.response(1).expect("a response").body(), b"waited\n");
    assert_eq!(gone.said("executions"), None);
}

#[test]
fn a_request_aborted_before_its_head_is_closed_and_its_response_is_discarded() {
    let server = one_worker_without_a_deadline();
    for how in ["whole", "write_late"] {
        let gate = Gate::new();
        let mut connection = Connection::open(&server.socket());
        connection.send(&get(1, &gate.url(&format!("/flow/{how}")), true));
        gate.announced("started");
        connection.send(&abort(1));
        // END_REQUEST comes while the application still waits.
        ends_without_a_response(&mut connection);
        gate.open("go");
        serves_hello(&mut connection, &server);
        assert_eq!(gate.said("closed").as_deref(), Some("closed\n"), "{how}\n{}", server.log());
        if how == "whole" {
            gate.announced("after");
        } else {
            let said = gate.said("write").unwrap();
            assert!(said.starts_with("false ") && said.ends_with("the client went away\n"), "{said}");
        }
    }
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn a_request_aborted_during_its_response_is_stopped_and_its_body_is_closed_once() {
    let server = one_worker_without_a_deadline();
    for how in ["tick", "tick_write", "tick_sized", "poll", "flood", "flood_large"] {
        let gate = Gate::new();
        let mut connection = Connection::open(&server.socket());
        connection.send(&get(1, &gate.url(&format!("/flow/{how}")), true));
        assert_eq!(connection.record().unwrap().kind, STDOUT);
        connection.send(&abort(1));
        let end = connection.response(1).expect("END_REQUEST");
        assert_eq!((end.app_status, end.protocol_status), (0, 0), "{how}");
        serves_hello(&mut connection, &server);
        assert_eq!(gate.said("closed").as_deref(), Some("closed\n"), "{how}\n{}", server.log());
    }
    assert!(!server.log().contains("ERROR"), "{}", server.log());
}

#[test]
fn an_abort_after_end_request_is_ignored() {
    let (server, gate) = (one_worker_without_a_deadline(), Gate::new());
    let mut connection = Connection::open(&server.socket());
    for _ in 0..100 {
        serves_hello(&mut connection, &server);
        connection.send(&abort(1));
    }
    // The same while the worker still runs the `after_response` hooks.
    gate.open("go");
    let response = connection.get(&gate.url("/flow/after_small"));
    assert_eq!(response.body(), b"small\n");
    connection.send(&abort(1));
    serves_hello(&mut connection, &server);
    assert_eq!(gate.said("order").as_deref(), Some("first\nsecond\nthird\n"));
}

#[test]
fn an_abort_on_a_multiplexed_connection_ends_only_its_request() {
    let server = Server::builder().workers("2").arguments(["--request-timeout", "off"]).start();
    let (stopped, lives) = (Gate::new(), Gate::new());
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &stopped.url("/flow/tick"), true));
    connection.send(&get(2, &lives.url("/flow/tick"), true));
    let mut seen = [0, 0];
    while seen.contains(&0) {
        let (kind, id) = next_record_with_content(&mut connection);
        assert_eq!(kind, STDOUT);
        seen[usize::from(id) - 1] += 1;
    }
    connection.send(&abort(1));
    while next_record_with_content(&mut connection) != (END_REQUEST, 1) {}
    // No record of request 1 follows, and request 2 goes on.
    for _ in 0..20 {
        assert_eq!(next_record_with_content(&mut connection), (STDOUT, 2));
    }
    wait_for("the body is closed", || stopped.said("closed"));
    assert_eq!(lives.said("closed"), None);
    connection.send(&get(1, "/hello", true));
    loop {
        let record = connection.record().unwrap();
        if (record.kind, record.id) == (STDOUT, 1) && record.content.ends_with(b"Hello, World!\n") {
            break;
        }
        assert_ne!((record.kind, record.id), (END_REQUEST, 1));
    }
}

/// Type and request id of the next record with content: the ends of streams are skipped.
#[track_caller]
fn next_record_with_content(connection: &mut Connection) -> (u8, u16) {
    loop {
        let record = connection.record().expect("the connection is open");
        if !record.content.is_empty() {
            return (record.kind, record.id);
        }
    }
}

/// php-fpm 8.2 sends the response, too.
#[test]
fn a_unix_client_that_shuts_down_its_writing_side_gets_its_responses() {
    let server = Server::builder().inspectable().workers("3").arguments(["--request-timeout", "off"]).start();
    for keep in [true, false] {
        let gates = [Gate::new(), Gate::new()];
        let mut connection = Connection::open(&server.socket());
        connection.send(&get(1, &gates[0].url("/wait"), keep));
        connection.send(&get(2, &gates[1].url("/wait"), keep));
        // A third request stays incomplete.
        connection.send(&[begin(3, RESPONDER, keep), stream(PARAMS, 3, &get_params("/count"))].concat());
        gates.iter().for_each(|gate| drop(gate.announced("started")));
        connection.finish_sending();
        let end = connection.record().unwrap();
        while end.id == 3 && connection.record().unwrap().kind != END_REQUEST {}
        for (gate, id) in gates.iter().zip([1, 2]) {
            gate.open("go");
            assert_eq!(connection.response(id).expect("a response").body(), b"waited\n", "keep {keep}");
        }
        assert!(connection.closes());
    }
    // A small response, and one larger than the socket's buffer, to a client that shuts its writing side down right
    // after the request.
    let gate = Gate::new();
    gate.open("go");
    for url in ["/hello".to_owned(), gate.url("/flow/after_large")] {
        let mut connection = Connection::open(&server.socket());
        connection.send(&get(1, &url, true));
        connection.finish_sending();
        let response = connection.response(1).expect("a response");
        let length: usize = response.header("Content-Length").unwrap().parse().unwrap();
        assert_eq!((response.status(), response.body().len()), (200, length), "{url}");
        assert!(connection.closes());
    }
    wait_for("all connections are closed", || server.connections().is_empty().then_some(()));
}

#[test]
fn a_unix_client_that_shuts_down_its_writing_side_and_then_closes_aborts_its_request() {
    let server = Server::builder().inspectable().workers("2").arguments(["--request-timeout", "off"]).start();
    for how in ["tick", "poll_first"] {
        let (gate, other) = (Gate::new(), Gate::new());
        let mut connection = Connection::open(&server.socket());
        connection.send(&get(1, &gate.url(&format!("/flow/{how}")), true));
        gate.announced("started");
        if how == "poll_first" {
            // No response data is written to this client, so only the close itself shows that it has gone.
            connection.send(&get(2, &other.url("/wait"), true));
            other.announced("started");
        }
        connection.finish_sending();
        if how == "poll_first" {
            // When this response comes, the server has seen that the client has shut its writing side down.
            other.open("go");
            assert_eq!(connection.response(2).expect("a response").body(), b"waited\n");
        } else {
            // The response goes on.
            for _ in 0..3 {
                assert_eq!(connection.record().unwrap().kind, STDOUT);
            }
        }
        assert_eq!(gate.said("closed"), None);
        drop(connection);
        wait_for("the body is closed", || gate.said("closed"));
        wait_for("the connection is closed", || server.connections().is_empty().then_some(()));
    }
}

/// php-fpm 8.2 sends the response in this case, too, since it never checks the connection: also to a client that has
/// closed it.
#[test]
fn a_tcp_client_that_shuts_down_its_writing_side_aborts_its_request() {
    let address = format!("127.0.0.1:{}", crate::support::free_port());
    let listen = format!("tcp:{address}");
    let server =
        Server::builder().workers("1").arguments(["--request-timeout", "off", "--listen", &listen]).start();
    for how in ["tick", "poll_first"] {
        let gate = Gate::new();
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(&get(1, &gate.url(&format!("/flow/{how}")), true)).unwrap();
        gate.announced("started");
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        // The stream of ticks is endless, so an end of file shows the abort.
        let _ = stream.read_to_end(&mut rest);
        serves_hello(&mut Connection::open(&server.socket()), &server);
        assert_eq!(gate.said("closed").as_deref(), Some("closed\n"), "{how}");
    }
}

#[test]
fn aborted_requests_are_logged_and_counted() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("access.log");
    let server = Server::builder()
        .workers("1")
        .arguments(["--request-timeout", "off", "--access-log", path.to_str().unwrap()])
        .start();
    let line = |what: &str| {
        wait_for(&format!("the access log has a line about {what}"), || {
            let log = fs::read_to_string(&path).unwrap_or_default();
            log.lines().find(|line| line.contains(what)).map(str::to_owned)
        })
    };
    let gate = Gate::new();
    let mut running = Connection::open(&server.socket());
    running.send(&get(1, &gate.url("/flow/tick"), true));
    running.record().unwrap();
    let mut queued = Connection::open(&server.socket());
    queued.send(&get(1, "/hello?queued", true));
    queued.settle();
    let mut arriving = Connection::open(&server.socket());
    arriving.send(&[begin(1, RESPONDER, true), stream(PARAMS, 1, &get_params("/hello?arriving"))].concat());
    for (connection, what) in
        [(&mut queued, "queued"), (&mut arriving, "arriving"), (&mut running, "/flow/tick")]
    {
        connection.send(&abort(1));
        connection.response(1).expect("END_REQUEST");
        let line = line(what);
        assert!(line.contains(" aborted"), "{line}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
    let status = server.status();
    assert_eq!(status["requests"]["aborted"], 3, "{status}");
}

/// A request of the race below, with the STDOUT that has come so far.
struct Open {
    id: u16,
    nonce: String,
    aborted: bool,
    stdout: Vec<u8>,
}

#[test]
fn aborts_at_random_moments_end_each_request_once_and_mix_up_no_responses() {
    const ROUNDS: usize = 500;
    const SHARE: u16 = 4;
    /// 64 KiB of nonces.
    const TIMES: usize = 4096;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (server, gate) = (Server::start(), Gate::new());
    let workers = server.workers(2);
    let mut connection = Connection::open(&server.socket());
    let mut whole = 0;
    for _ in 0..ROUNDS {
        let mut open: Vec<Open> = (1..=SHARE)
            .map(|id| {
                let nonce = format!("{:016x}", random.u64(..));
                let form = random.choice(["small", "work", "stream"]).unwrap();
                let url = gate.url("/nonce") + &format!("&n={nonce}&k={TIMES}&f={form}");
                connection.send(&get(id, &url, true));
                Open { id, nonce, aborted: false, stdout: Vec::new() }
            })
            .collect();
        for request in &mut open {
            if random.bool() {
                // From before the worker has the request until after its end.
                pace(std::time::Duration::from_micros(random.u64(..2000)));
                connection.send(&abort(request.id));
                request.aborted = true;
            }
        }
        while !open.is_empty() {
            let record = connection.record().expect("the connection is open");
            let at = open.iter().position(|request| request.id == record.id);
            let at = at.unwrap_or_else(|| panic!("a record of a request that has ended: {record:?}"));
            match record.kind {
                STDOUT => open[at].stdout.extend(record.content),
                END_REQUEST => {
                    let Open { nonce, aborted, stdout, .. } = open.swap_remove(at);
                    assert_eq!(record.content[..5], [0; 5], "{nonce}");
                    let expected = nonce.repeat(TIMES);
                    let head = stdout.windows(4).position(|window| window == b"\r\n\r\n");
                    let (head, body) = head.map_or((&b""[..], &b""[..]), |end| stdout.split_at(end + 4));
                    let head = String::from_utf8_lossy(head);
                    assert!(head.is_empty() || head.contains(&format!("X-Nonce: {nonce}")), "{head}");
                    assert!(
                        expected.as_bytes().starts_with(body),
                        "bytes of another response in the response to {nonce}"
                    );
                    assert!(
                        aborted || body.len() == expected.len(),
                        "the response to {nonce}, which was not aborted, has {} bytes",
                        body.len()
                    );
                    whole += usize::from(aborted && body.len() == expected.len());
                }
                _ => panic!("unexpected {record:?}"),
            }
        }
    }
    eprintln!("{whole} responses were complete when their abort came");
    assert_eq!(server.workers(2), workers, "{}", server.log());
    serves_hello(&mut connection, &server);
    let log = server.log().replace("WARN  gateway workers run as root", "");
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}
