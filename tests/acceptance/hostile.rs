//! Hostile workers: C code in the application writes illegal messages to its worker's link (`tests/apps/hostile/hostile.c`).
//! Only that request and that worker are lost.

use std::path::PathBuf;
use std::sync::LazyLock;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::wire::{Connection, get};
use crate::support::{
    Gate, Server, ServerBuilder, descriptors, library_of, peak_memory, repository, runs, signal, wait_for,
};

/// What the client of the hostile request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    /// A whole response with this status.
    Status(u16),
    /// A head, and then a transfer that breaks off.
    Broken,
}

use Gets::{Broken, Status};

/// Each trick, what its client gets, and what the log has to say of it.
const TRICKS: &[(&str, Gets, &str)] = &[
    ("garbage", Status(502), "worker sent a malformed message; killing it"),
    ("unknown_tag", Status(502), "worker sent a malformed message; killing it"),
    ("past_the_end", Status(502), "worker sent a malformed message; killing it"),
    ("truncated", Status(502), "worker sent a malformed message; killing it"),
    ("empty_body", Status(502), "worker sent a malformed message; killing it"),
    ("long_body", Broken, "worker sent a malformed message; killing it"),
    ("oversized", Status(502), "worker sent an oversized packet; killing it"),
    ("descriptor", Status(502), "worker sent a descriptor; killing it"),
    ("descriptors", Status(502), "worker sent a descriptor; killing it"),
    ("ready", Status(502), "worker sent ready in the middle of a request; killing it"),
    ("start_failed", Status(502), "worker sent a failed start after its start; killing it"),
    ("measured", Status(502), "worker sent figures that nobody asked for; killing it"),
    ("stack", Status(502), "worker sent a stack that nobody asked for; killing it"),
    ("stack_timeout", Status(502), "worker sent a stack that nobody asked for; killing it"),
    ("many_lines", Status(502), "worker sent too many log lines at once; killing it"),
    ("early", Status(502), "worker sent an answer to a request that it does not have; killing it"),
    ("nameless", Status(502), "worker sent an answer to a request that it does not have; killing it"),
    ("end_twice", Status(200), "worker sent an answer to a request that it does not have; killing it"),
    ("late", Status(200), "worker sent an answer to a request that it does not have; killing it"),
    ("body_first", Status(502), "worker sent a response body without a head; killing it"),
    ("end_first", Status(502), "worker sent an end without a response head; killing it"),
    ("two_heads", Broken, "worker sent a second response head; killing it"),
    ("longer", Broken, "worker sent a response body longer than its Content-Length; killing it"),
    ("shorter", Broken, "worker sent a response body shorter than its Content-Length; killing it"),
    ("bare_cr", Status(502), "worker sent a response head with a control character; killing it"),
    ("nul", Status(502), "worker sent a response head with a control character; killing it"),
    ("split", Status(502), "worker sent a malformed response head; killing it"),
    ("no_head", Status(502), "worker sent a response head with a line that is no field; killing it"),
    ("transfer_encoding", Status(502), "worker sent a response head with Transfer-Encoding; killing it"),
];

/// The C code, as a library that Lua loads.
fn library() -> PathBuf {
    static BUILT: LazyLock<TempDir> =
        LazyLock::new(|| library_of(&repository("tests/apps/hostile/hostile.c"), &[]));
    BUILT.path().join("hostile.so")
}

fn server() -> ServerBuilder {
    Server::builder()
        .application(repository("tests/apps/hostile"), "app:application")
        .environment("HOSTILE", library())
        .environment("LUA_PATH", repository("tests/apps/?.lua;;"))
}

/// Sends a hostile request; gives its connection, and the worker that has it.
fn send(server: &Server, trick: &str) -> (Connection, u32) {
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &gate.url(&format!("/do/{trick}")), true));
    let worker = gate.announced(trick).parse().unwrap();
    (connection, worker)
}

/// What becomes of the transfer.
fn outcome(connection: &mut Connection) -> Gets {
    match connection.try_response(1) {
        Ok(response) => Status(response.status()),
        Err(_) => Broken,
    }
}

#[test]
fn every_trick_costs_its_own_request_and_its_own_worker() {
    // So many lines of one kind the log takes at once.
    for tricks in TRICKS.chunks(5) {
        play(tricks);
    }
}

fn play(tricks: &[(&str, Gets, &str)]) {
    let server = server().looked_into().start();
    assert_eq!(server.get("/").status(), 200);
    let mut workers = server.workers(2);
    server.idle(2);
    server.left_alone();
    let fresh = descriptors(server.pid()).len();
    for (trick, gets, line) in tricks {
        let gate = Gate::new();
        let mut neighbour = Connection::open(&server.socket());
        neighbour.send(&get(1, &gate.url("/wait"), true));
        let other: u32 = gate.announced("started").parse().unwrap();
        let lines = server.log().matches(line).count();

        let (mut connection, worker) = send(&server, trick);
        assert_ne!(worker, other);
        assert_eq!(outcome(&mut connection), *gets, "{trick}");
        wait_for(&format!("{trick}: the log has another {line:?}"), || {
            (server.log().matches(line).count() > lines).then_some(())
        });
        wait_for(&format!("{trick}: the worker is gone"), || (!runs(worker)).then_some(()));
        let now = server.workers(2);
        assert!(now.contains(&other), "{trick}: the other worker is gone as well");
        assert!(workers.contains(&worker) && !now.contains(&worker), "{trick}");
        workers = now;

        gate.open("go");
        let response = neighbour.response(1).expect("a response");
        assert_eq!((response.status(), response.body()), (200, &b"hello\n"[..]), "{trick}");
    }
    // Connections that have been closed, and what the dead workers had.
    wait_for("the gateway holds what it held when it was fresh", || {
        (descriptors(server.pid()).len() <= fresh).then_some(())
    });
    assert!(!server.log().contains("panicked"));
}

/// It says no more than that: an empty packet cannot be told from it.
#[test]
fn a_worker_that_closes_its_link_and_lives_on_is_killed() {
    for trick in ["empty", "shutdown", "close"] {
        let server = server().start();
        let (mut connection, worker) = send(&server, trick);
        assert_eq!(outcome(&mut connection), Status(502), "{trick}");
        server.logged(&["worker ended in the middle of its request", &format!("pid={worker}")]);
        wait_for(&format!("{trick}: the worker is gone"), || (!runs(worker)).then_some(()));
        server.workers(2);
        assert_eq!(server.get("/").status(), 200, "{trick}");
    }
}

/// One worker: so the request that waits is handed to it the moment that it claims to be ready, and the answer
/// which it has sent ahead is there already.
#[test]
fn an_answer_that_was_sent_ahead_is_no_answer_to_the_next_request() {
    let server = server().workers("1").start();
    let (mut holder, gate) = server.hold();
    // Both wait: first the hostile one, then the victim.
    let directory = Gate::new();
    let (mut hostile, mut victim) = (Connection::open(&server.socket()), Connection::open(&server.socket()));
    hostile.send(&get(1, &directory.url("/do/late"), true));
    hostile.settle();
    victim.send(&get(1, "/", true));
    victim.settle();
    gate.open("go");
    assert_eq!(holder.response(1).expect("a response").status(), 200);
    assert_eq!(hostile.response(1).expect("a response").body(), b"honest\n");
    let response = victim.response(1).expect("a response");
    assert_eq!(response.status(), 502, "{}", String::from_utf8_lossy(response.body()));
    assert_eq!(server.get("/").status(), 200);
}

#[test]
fn a_request_that_is_taken_and_never_answered_meets_its_deadline() {
    let server =
        server().arguments(["--request-timeout", "500ms", "--kill-after", "100ms"]).workers("1").start();
    let (mut connection, thief) = send(&server, "thief");
    assert_eq!(outcome(&mut connection), Status(200));
    assert_eq!(server.get("/").status(), 504);
    wait_for("the thief is gone", || (!runs(thief)).then_some(()));
    assert_eq!(server.get("/").status(), 200);
}

/// Whatever floods the gateway, it serves the others meanwhile, and its memory is bounded.
#[track_caller]
fn withstands(trick: &str, client_leaves: bool) {
    let server = server().arguments(["--request-timeout", "2s", "--kill-after", "100ms"]).start();
    // The other worker, and all that a first request takes.
    assert_eq!(server.get("/").status(), 200);
    let before = peak_memory(server.pid());
    let (connection, worker) = send(&server, trick);
    let connection = (!client_leaves).then_some(connection);
    for _ in 0..50 {
        assert_eq!(server.get("/").status(), 200, "{trick}");
    }
    assert!(runs(worker), "{trick}: nobody else was served before the flood was over");
    if let Some(mut connection) = connection {
        assert_eq!(outcome(&mut connection), Status(504), "{trick}");
    }
    wait_for("the worker is gone", || (!runs(worker)).then_some(()));
    server.logged(&["(--request-timeout)"]);
    let grown = peak_memory(server.pid()) - before;
    assert!(grown < 16 * 1024, "{trick}: {grown} KiB more");
    server.workers(2);
}

#[test]
fn a_flood_of_log_lines_starves_nobody() {
    withstands("lines", false);
}

#[test]
fn a_flood_of_large_log_lines_starves_nobody() {
    withstands("large_lines", false);
}

#[test]
fn a_flood_of_an_answer_whose_client_has_left_starves_nobody() {
    withstands("bodies", true);
}

/// A child that the worker forked holds its link, and goes on when the worker has gone.
#[test]
fn a_flood_that_outlives_its_worker_ends_with_it() {
    let server = server().start();
    let (mut connection, worker) = send(&server, "heir");
    assert_eq!(outcome(&mut connection), Status(502));
    assert!(!runs(worker));
    for _ in 0..50 {
        assert_eq!(server.get("/").status(), 200);
    }
    assert!(!server.workers(2).contains(&worker));
}

/// Where nobody takes the log, what waits for it is bounded in bytes.
#[test]
fn a_flood_of_log_lines_that_nobody_reads_takes_no_memory() {
    let scratch = tempfile::tempdir().unwrap();
    let fifo = scratch.path().join("log");
    let shell = format!("mkfifo {0} && exec 2<>{0}", fifo.display());
    let server = server()
        .after(&shell)
        .arguments(["--request-timeout", "2s", "--kill-after", "100ms", "--log-level", "debug"])
        .start();
    assert_eq!(server.get("/").status(), 200);
    let before = peak_memory(server.pid());
    let (mut connection, worker) = send(&server, "large_lines");
    assert_eq!(outcome(&mut connection), Status(504));
    wait_for("the worker is gone", || (!runs(worker)).then_some(()));
    let grown = peak_memory(server.pid()) - before;
    assert!(grown < 64 * 1024, "{grown} KiB more");
    // It would wait for its log to the last.
    signal(server.pid(), Signal::KILL);
}
