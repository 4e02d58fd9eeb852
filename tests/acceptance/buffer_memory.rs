//! `--buffer-memory`: all clients' requests together take so much memory and no more, whatever comes in halves.

use std::fs;

use serde_json::Value;

use crate::support::{Server, wait_for};
use crate::wire::{Connection, PARAMS, RESPONDER, STDIN, begin, get, get_params, pair, record};

const STATUS: &str = "/-/status";
const HEALTH: &str = "/-/health";

/// The smallest there may be.
const BOUND: u64 = 1 << 20;

const CONNECTIONS: usize = 20;
const REQUESTS: u16 = 64;

/// What a flood may make the process grow by: the bound, what never counts of each connection, and what an allocator and the
/// tables of so many requests add.
const MOST_GROWTH: u64 = 16 << 20;

fn start() -> Server {
    let bound = BOUND.to_string();
    let arguments = ["--buffer-memory", &bound, "--status-path", STATUS, "--health-path", HEALTH];
    let server = Server::builder().workers("1").arguments(arguments).start();
    server.logged(&["gateway ready"]);
    server
}

fn used(server: &Server) -> u64 {
    let response = Connection::open(&server.socket()).get(&format!("{STATUS}?json"));
    assert_eq!(response.status(), 200, "{response:?}");
    let status: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(status["buffer_memory"]["max"], BOUND);
    status["buffer_memory"]["bytes"].as_u64().unwrap()
}

fn resident(server: &Server) -> u64 {
    let pages = fs::read_to_string(format!("/proc/{}/statm", server.pid())).unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Connections with as many requests each as there may be, all but the end of their `bytes` sent.
fn halves(server: &Server, bytes: impl Fn(u16) -> Vec<u8>) -> Vec<Connection> {
    let one = || {
        let mut connection = Connection::open(&server.socket());
        (1..=REQUESTS).for_each(|id| connection.send(&bytes(id)));
        connection
    };
    (0..CONNECTIONS).map(|_| one()).collect()
}

#[test]
fn half_requests_take_so_much_memory_and_the_newest_are_answered_with_503() {
    let server = start();
    let before = resident(&server);
    let mut params = get_params("/hello");
    params.extend(pair(b"HTTP_COOKIE", &[b'c'; 50_000]));
    let mut flood = halves(&server, |id| [begin(id, RESPONDER, true), record(PARAMS, id, &params)].concat());
    // None is closed before all have been asked: that would make room for what the next has still to send.
    for connection in &mut flood {
        // The newest is refused at its end, and all that came before it has been read by then.
        connection.send(&record(PARAMS, REQUESTS, b""));
        connection.send(&record(STDIN, REQUESTS, b""));
        let refused = connection.response(REQUESTS).unwrap();
        assert_eq!((refused.status(), refused.header("Retry-After").as_deref()), (503, Some("1")));
        assert!(used(&server) <= BOUND, "{} bytes", used(&server));
        let grown = resident(&server).saturating_sub(before);
        assert!(grown < MOST_GROWTH, "the gateway has grown by {grown} bytes");
        assert_eq!(Connection::open(&server.socket()).get(HEALTH).status(), 200);
    }
    drop(flood);
    wait_for("all is given back", || (used(&server) == 0).then_some(()));
    assert_eq!(Connection::open(&server.socket()).get("/hello").status(), 200);
    server.logged(&["request refused: no memory is left for", "(--buffer-memory)", "status=503"]);
}

#[test]
fn half_bodies_take_so_much_memory_and_the_newest_are_refused() {
    let server = start();
    let before = resident(&server);
    let mut params = crate::wire::params("POST", "/echo");
    params.extend(pair(b"CONTENT_LENGTH", b"60001"));
    let flood = halves(&server, |id| {
        let head =
            [begin(id, RESPONDER, true), record(PARAMS, id, &params), record(PARAMS, id, b"")].concat();
        [head, record(STDIN, id, &[b'b'; 60_000])].concat()
    });
    let mut last = flood.into_iter().next_back().unwrap();
    assert_eq!(last.response(1).unwrap().status(), 503);
    assert!(used(&server) <= BOUND);
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < MOST_GROWTH, "the gateway has grown by {grown} bytes");
    drop(last);
    wait_for("all is given back", || (used(&server) == 0).then_some(()));
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, "/hello", false));
    assert_eq!(connection.response(1).unwrap().status(), 200);
}
