//! `--buffer-memory`: the limit on the memory of all clients' requests together, including requests that arrive in parts.

use std::path::Path;

use serde_json::Value;

use crate::support::wire::{
    Connection, PARAMS, RESPONDER, STDIN, begin, get, get_params, pair, record, stream,
};
use crate::support::{App, Server, ServerBuilder, descriptors, nibiru, output, resident_memory, wait_for};

const STATUS: &str = "/-/status";
const HEALTH: &str = "/-/health";

/// The smallest --buffer-memory that is accepted, in bytes.
const BOUND: u64 = 1 << 20;

const CONNECTIONS: usize = 20;
const REQUESTS: u16 = 64;

/// The most resident memory that a flood may add, in bytes: the bound, the part of each connection that never counts,
/// and the overhead of the allocator and of the tables of so many requests.
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

/// Bytes of --buffer-memory in use, from the status.
fn used(server: &Server) -> u64 {
    let response = server.get(&format!("{STATUS}?json"));
    assert_eq!(response.status(), 200, "{response:?}");
    let status: Value = serde_json::from_slice(response.body()).unwrap();
    assert_eq!(status["buffer_memory"]["max"], BOUND);
    status["buffer_memory"]["bytes"].as_u64().unwrap()
}

/// Resident memory of the gateway, in bytes.
fn resident(server: &Server) -> u64 {
    resident_memory(server.pid()) << 10
}

/// Opens `CONNECTIONS` connections with [`REQUESTS`] incomplete requests each: `bytes` gives the records for a request
/// id.
fn halves(server: &Server, bytes: impl Fn(u16) -> Vec<u8>) -> Vec<Connection> {
    some_halves(server, REQUESTS, bytes)
}

/// The same as [`halves`] with `requests` on each connection.
fn some_halves(server: &Server, requests: u16, bytes: impl Fn(u16) -> Vec<u8>) -> Vec<Connection> {
    let one = || {
        let mut connection = Connection::open(&server.socket());
        (1..=requests).for_each(|id| connection.send(&bytes(id)));
        connection
    };
    (0..CONNECTIONS).map(|_| one()).collect()
}

#[test]
fn half_requests_stay_within_buffer_memory_and_the_newest_are_503() {
    let server = start();
    let before = resident(&server);
    let mut params = get_params("/hello");
    params.extend(pair(b"HTTP_COOKIE", &[b'c'; 50_000]));
    let mut flood = halves(&server, |id| [begin(id, RESPONDER, true), record(PARAMS, id, &params)].concat());
    // All connections stay open until each has been checked: a close would make room for the rest of the next.
    for connection in &mut flood {
        // The newest request is refused at its end, and everything sent before has been read by then.
        connection.send(&record(PARAMS, REQUESTS, b""));
        connection.send(&record(STDIN, REQUESTS, b""));
        let refused = connection.response(REQUESTS).unwrap();
        assert_eq!((refused.status(), refused.header("Retry-After").as_deref()), (503, Some("1")));
        assert!(used(&server) <= BOUND, "{} bytes", used(&server));
        let grown = resident(&server).saturating_sub(before);
        assert!(grown < MOST_GROWTH, "the gateway has grown by {grown} bytes");
        assert_eq!(server.get(HEALTH).status(), 200);
    }
    drop(flood);
    wait_for("no buffer memory is in use", || (used(&server) == 0).then_some(()));
    assert_eq!(server.get("/hello").status(), 200);
    server.logged(&["request refused: no memory is left for", "(--buffer-memory)", "status=503"]);
}

/// A request with a body of 60,001 bytes, without the last byte.
fn without_the_last_byte(id: u16) -> Vec<u8> {
    let mut params = crate::support::wire::params("POST", "/echo");
    params.extend(pair(b"CONTENT_LENGTH", b"60001"));
    let head = [begin(id, RESPONDER, true), record(PARAMS, id, &params), record(PARAMS, id, b"")].concat();
    [head, record(STDIN, id, &[b'b'; 60_000])].concat()
}

#[test]
fn half_bodies_stay_within_buffer_memory_and_the_newest_are_503_when_the_spool_is_full_too() {
    let server = builder().arguments(["--max-spool", "128K"]).start();
    server.logged(&["gateway ready"]);
    let before = resident(&server);
    let mut flood = halves(&server, without_the_last_byte);
    assert_eq!(flood.last_mut().unwrap().response(1).unwrap().status(), 503);
    assert!(used(&server) <= BOUND);
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < MOST_GROWTH, "the gateway has grown by {grown} bytes");
    drop(flood);
    wait_for("no buffer memory is in use", || (used(&server) == 0).then_some(()));
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, "/hello", false));
    assert_eq!(connection.response(1).unwrap().status(), 200);
}

#[test]
fn bodies_beyond_buffer_memory_go_to_files_and_none_is_refused() {
    let server = start();
    let before = resident(&server);
    // So few that their parameters, which never go to files, fit.
    const REQUESTS: u16 = 8;
    let mut all = some_halves(&server, REQUESTS, without_the_last_byte);
    assert!(used(&server) <= BOUND, "{} bytes", used(&server));
    let grown = resident(&server).saturating_sub(before);
    assert!(grown < MOST_GROWTH, "the gateway has grown by {grown} bytes");
    // Bodies may take three quarters of the memory, and on their way to files more. A new request needs an eighth that is free.
    wait_for("the other bodies are in files", || (used(&server) < BOUND / 16 * 13).then_some(()));
    assert_eq!(server.get("/hello").status(), 200);
    let right = [&[b'b'; 60_000][..], b"c"].concat();
    for connection in &mut all {
        for id in 1..=REQUESTS {
            connection.send(&record(STDIN, id, b"c"));
            connection.send(&record(STDIN, id, b""));
            let response = connection.response(id).unwrap();
            assert_eq!(response.status(), 200, "{response:?}");
            assert!(response.body() == right, "the body came back changed");
        }
    }
    drop(all);
    wait_for("no buffer memory is in use", || (used(&server) == 0).then_some(()));
    assert!(!server.log().contains("request refused"), "{}", server.log());
}

/// An application that answers with the length and the letter of a body of one repeated letter, or 500 for any other
/// body.
const ONE_LETTER: &str = r#"
return function(environ)
  local input, length, letter = environ["wsgi.input"], 0, nil
  for piece in function() return input:read(65536) end do
    letter = letter or piece:sub(1, 1)
    if piece ~= letter:rep(#piece) then return 500, {}, "mixed" end
    length = length + #piece
  end
  return 200, {}, length .. (letter or "")
end
"#;

const SENDERS: u8 = 60;

#[test]
fn uploads_go_on_while_half_bodies_hold_all_buffer_memory() {
    let app = App::new(ONE_LETTER);
    let arguments = ["--buffer-memory", "4M"];
    let server = Server::builder().application(app.root(), "app").arguments(arguments).start();
    let flood = some_halves(&server, 16, without_the_last_byte);
    let most = |what: &str| {
        let used = server.status()["buffer_memory"]["bytes"].as_u64().unwrap();
        assert!(used <= 4 << 20, "{used} bytes {what}");
        used
    };
    wait_for("the half bodies hold all that bodies may hold", || {
        (most("of halves") > 22 << 17).then_some(())
    });
    // More senders than there is room for pieces of their bodies.
    let senders: Vec<Connection> = (0..SENDERS)
        .map(|_| {
            let mut connection = Connection::open(&server.socket());
            let params =
                [crate::support::wire::params("POST", "/"), pair(b"CONTENT_LENGTH", b"3000000")].concat();
            let begun = [begin(1, RESPONDER, true), record(PARAMS, 1, &params), record(PARAMS, 1, b"")];
            connection.send(&begun.concat());
            connection.settle();
            connection
        })
        .collect();
    std::thread::scope(|scope| {
        for (letter, mut connection) in (b'0'..).zip(senders) {
            scope.spawn(move || {
                connection.send(&stream(STDIN, 1, &vec![letter; 3_000_000]));
                let response = connection.response(1).unwrap();
                assert_eq!(response.status(), 200, "{}", response.head());
                assert_eq!(response.body(), format!("3000000{}", char::from(letter)).as_bytes());
            });
        }
        for _ in 0..20 {
            most("while others upload");
        }
    });
    assert!(!server.log().contains("request refused"), "{}", server.log());
    drop(flood);
    wait_for("no buffer memory is in use", || (most("at the end") == 0).then_some(()));
}

/// A connection with a request whose body of `length` + 1 bytes lacks the last one.
fn half_body(server: &Server, length: usize) -> Connection {
    let mut params = crate::support::wire::params("POST", "/echo");
    params.extend(pair(b"CONTENT_LENGTH", (length + 1).to_string().as_bytes()));
    let mut connection = Connection::open(&server.socket());
    let head = [begin(1, RESPONDER, false), record(PARAMS, 1, &params), record(PARAMS, 1, b"")];
    connection.send(&head.concat());
    for piece in vec![b'b'; length].chunks(60_000) {
        // A request that is refused gets its response while it still sends.
        if connection.try_send(&record(STDIN, 1, piece)).is_err() {
            break;
        }
    }
    connection
}

/// The unnamed file that the gateway has open in `directory`.
fn file_in(server: &Server, directory: &Path) -> Option<String> {
    let open = descriptors(server.pid()).into_iter().map(|(_, target)| target);
    open.into_iter().find(|target| Path::new(target).starts_with(directory) && target.ends_with("(deleted)"))
}

#[test]
fn spool_files_in_a_tmpfs_count_as_memory_and_the_start_warns() {
    // A tmpfs on every Linux system.
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let spool = directory.path().display().to_string();
    let warning = ["WARN", "--spool-dir is in memory (tmpfs)", "--buffer-memory", &spool];
    let server = builder().arguments(["--spool-dir", &spool]).start();
    server.logged(&warning);
    let first = half_body(&server, 400_000);
    wait_for("the file of the first body counts as memory", || (used(&server) >= 400_000).then_some(()));
    let mut second = half_body(&server, 400_000);
    let refused = second.response(1).unwrap();
    assert_eq!((refused.status(), refused.header("Retry-After").as_deref()), (503, Some("1")));
    server.logged(&["request refused: no memory is left for its body", "(--buffer-memory)", "status=503"]);
    drop((first, second));
    wait_for("no buffer memory is in use", || (used(&server) == 0).then_some(()));
    assert_eq!(server.get("/hello").status(), 200);

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
fn spool_files_are_in_var_tmp_by_default_and_in_tmpdir_if_it_is_set() {
    // The least that is usual: the file counts in it, too, on a tmpfs.
    let builder = || Server::builder().workers("1").arguments(["--buffer-memory", "16M"]);
    let on = |directory: &str, server: Server| {
        let _half = half_body(&server, 600_000);
        wait_for(&format!("the gateway has an unnamed file in {directory}"), || {
            file_in(&server, Path::new(directory))
        });
        // The log is written by a thread of its own. What is said about the directory is said before.
        server.logged(&[" ready "]);
        server.log()
    };
    let without = builder().inspectable().through(["env", "--unset", "TMPDIR"]).start();
    let log = on("/var/tmp", without);
    assert!(!log.contains("--spool-dir"), "{log}");
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let log = on(
        &directory.path().display().to_string(),
        builder().inspectable().environment("TMPDIR", directory.path()).start(),
    );
    assert!(log.contains("--spool-dir is in memory"), "{log}");
}

/// The most free memory, in bytes, that the gateway keeps from the system: see `gateway/trim.rs`.
const KEPT: u64 = 24 << 20;

/// The gateway looks for free memory every five seconds, so that one server shows it for both kinds.
#[test]
fn memory_of_half_parameters_and_half_bodies_returns_to_the_system() {
    let mut params = get_params("/hello");
    params.extend(pair(b"HTTP_COOKIE", &[b'c'; 50_000]));
    let half = |id: u16| match id % 2 {
        0 => [begin(id, RESPONDER, true), record(PARAMS, id, &params)].concat(),
        _ => without_the_last_byte(id),
    };
    let server = Server::builder().workers("1").arguments(["--buffer-memory", "256M"]).start();
    server.logged(&["gateway ready"]);
    let before = resident(&server);
    let flood = halves(&server, half);
    // This connection's memory lies above that of the flood in the heap, and stays allocated.
    let mut healthy = Connection::open(&server.socket());
    assert_eq!(healthy.get("/hello").status(), 200);
    wait_for("the flood has taken memory", || (resident(&server) > before + 2 * KEPT).then_some(()));
    drop(flood);
    wait_for("the system has the memory back", || (resident(&server) < before + KEPT).then_some(()));
    assert_eq!(healthy.get("/hello").status(), 200);
}
