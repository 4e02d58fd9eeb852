//! `--buffer-memory`: all clients' requests together take so much memory and no more, whatever comes in halves.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Server, ServerBuilder, descriptors, nibiru, output, wait_for};
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

fn builder() -> ServerBuilder {
    let bound = BOUND.to_string();
    let arguments = ["--buffer-memory", &bound, "--status-path", STATUS, "--health-path", HEALTH];
    Server::builder().workers("1").arguments(arguments)
}

fn start() -> Server {
    let server = builder().start();
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

/// A request of which the last byte of its body is to come.
fn half_body(server: &Server, length: usize) -> Connection {
    let mut params = crate::wire::params("POST", "/echo");
    params.extend(pair(b"CONTENT_LENGTH", (length + 1).to_string().as_bytes()));
    let mut connection = Connection::open(&server.socket());
    let head = [begin(1, RESPONDER, false), record(PARAMS, 1, &params), record(PARAMS, 1, b"")];
    connection.send(&head.concat());
    for piece in vec![b'b'; length].chunks(60_000) {
        // One that is refused is told while it sends.
        if connection.try_send(&record(STDIN, 1, piece)).is_err() {
            break;
        }
    }
    connection
}

/// The file that the gateway has made, without a name, in `directory`.
fn file_in(server: &Server, directory: &Path) -> Option<String> {
    let open = descriptors(server.pid()).into_iter().map(|(_, target)| target);
    open.into_iter().find(|target| Path::new(target).starts_with(directory) && target.ends_with("(deleted)"))
}

#[test]
fn files_in_memory_count_as_memory_and_the_start_says_so() {
    // A tmpfs, everywhere.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let spool = directory.path().display().to_string();
    let warning = ["WARN", "--spool-dir is in memory (tmpfs)", "--buffer-memory", &spool];
    let server = builder().arguments(["--spool-dir", &spool]).start();
    server.logged(&warning);
    let first = half_body(&server, 400_000);
    wait_for("its file counts", || (used(&server) >= 400_000).then_some(()));
    let mut second = half_body(&server, 400_000);
    let refused = second.response(1).unwrap();
    assert_eq!((refused.status(), refused.header("Retry-After").as_deref()), (503, Some("1")));
    server.logged(&["request refused: no memory is left for its body", "(--buffer-memory)", "status=503"]);
    drop((first, second));
    wait_for("all is given back", || (used(&server) == 0).then_some(()));
    assert_eq!(Connection::open(&server.socket()).get("/hello").status(), 200);

    let root = crate::support::repository("tests/apps");
    let listen = format!("unix:{spool}/free");
    let mut check = nibiru();
    check.args(["check", "--spool-dir", &spool, "--listen", &listen, "--root"]).arg(root);
    let check = output(check.arg("site:application"));
    assert!(check.status.success(), "{check:?}");
    let log = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(log.lines().any(|line| warning.iter().all(|part| line.contains(part))), "{log}");
}

#[test]
fn files_are_on_a_disk_by_default_and_where_tmpdir_says_if_it_is_set() {
    let on = |directory: &str, server: Server| {
        let _half = half_body(&server, 600_000);
        wait_for(&format!("there is a file in {directory}"), || file_in(&server, Path::new(directory)));
        server.log()
    };
    let without = builder().looked_into().through(["env", "--unset", "TMPDIR"]).start();
    let log = on("/var/tmp", without);
    assert!(!log.contains("--spool-dir"), "{log}");
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let log = on(
        &directory.path().display().to_string(),
        builder().looked_into().environment("TMPDIR", directory.path()).start(),
    );
    assert!(log.contains("--spool-dir is in memory"), "{log}");
}

/// More than that is not asked back by the allocator: see `gateway/trim.rs`.
const KEPT: u64 = 24 << 20;

/// Fills the memory with half requests, each of which is `bytes`, and looks what is left of it when they have gone.
fn is_given_back(bytes: impl Fn(u16) -> Vec<u8>) {
    let server = Server::builder().workers("1").arguments(["--buffer-memory", "256M"]).start();
    server.logged(&["gateway ready"]);
    let before = resident(&server);
    let flood = halves(&server, bytes);
    // What it allocates lies behind what the flood has taken, and stays.
    let mut healthy = Connection::open(&server.socket());
    assert_eq!(healthy.get("/hello").status(), 200);
    wait_for("the memory is taken", || (resident(&server) > before + 2 * KEPT).then_some(()));
    drop(flood);
    wait_for("it is given back", || (resident(&server) < before + KEPT).then_some(()));
    assert_eq!(healthy.get("/hello").status(), 200);
}

#[test]
fn memory_of_half_parameters_is_given_back_to_the_system() {
    let mut params = get_params("/hello");
    params.extend(pair(b"HTTP_COOKIE", &[b'c'; 50_000]));
    is_given_back(|id| [begin(id, RESPONDER, true), record(PARAMS, id, &params)].concat());
}

#[test]
fn memory_of_half_bodies_is_given_back_to_the_system() {
    let mut params = crate::wire::params("POST", "/echo");
    params.extend(pair(b"CONTENT_LENGTH", b"60001"));
    is_given_back(|id| {
        let head =
            [begin(id, RESPONDER, true), record(PARAMS, id, &params), record(PARAMS, id, b"")].concat();
        [head, record(STDIN, id, &[b'b'; 60_000])].concat()
    });
}
