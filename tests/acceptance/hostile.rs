//! Hostile workers: C code in the application writes invalid messages to its worker's link, and whatever it likes into its
//! worker's lane (`tests/apps/hostile/hostile.c`, `lane.h`). Only that request fails, and only that worker is replaced.

use std::path::PathBuf;
use std::sync::LazyLock;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::wire::{Connection, get};
use crate::support::{
    Gate, Server, ServerBuilder, descriptors, library_of, peak_memory, repository, runs, signal, wait_for,
};

/// The outcome of the hostile request for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    /// A complete response with this status.
    Status(u16),
    /// A response head, and then a transfer that breaks off.
    Broken,
}

use Gets::{Broken, Status};

/// For each trick: the outcome for its client, and the line of the log.
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
    ("file_missing", Broken, "worker sent a file without its descriptor; killing it"),
    ("file_twice", Broken, "worker sent a file that it was not asked for; killing it"),
    ("file_part", Broken, "worker sent a file that is not the rest of the body; killing it"),
    ("file_and_body", Broken, "worker sent a response body longer than its Content-Length; killing it"),
    ("file_nothing", Broken, "worker sent a malformed message; killing it"),
    ("file_beyond", Broken, "worker sent a malformed message; killing it"),
    ("lane_noise", Status(502), "worker sent more packets than its lane holds; killing it"),
    ("lane_more_claims", Status(502), "worker sent claims of requests that it does not have; killing it"),
    ("lane_fewer_claims", Status(502), "worker sent claims of requests that it does not have; killing it"),
    ("lane_pushed", Status(502), "worker sent claims of requests that it does not have; killing it"),
    ("lane_taken_back", Status(502), "worker sent claims of requests that it does not have; killing it"),
    ("lane_unclaimed", Status(502), "worker sent an answer to a request that it does not have; killing it"),
    ("lane_early", Status(502), "worker sent an answer to a request that it does not have; killing it"),
    ("lane_written_back", Status(502), "worker sent more packets than its lane holds; killing it"),
    ("lane_written_far", Status(502), "worker sent more packets than its lane holds; killing it"),
    ("lane_long", Status(502), "worker sent a packet that is longer than its lane; killing it"),
    ("lane_beyond", Status(502), "worker sent a packet that is longer than its lane; killing it"),
    ("lane_empty", Status(502), "worker sent an empty packet; killing it"),
    ("lane_order_back", Status(502), "worker sent packets in the wrong order; killing it"),
    ("lane_malformed", Status(502), "worker sent a malformed message; killing it"),
    ("lane_end_twice", Status(200), "worker sent an answer to a request that it does not have; killing it"),
];

/// The path of the C code, built as a library that Lua loads.
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

/// Sends a hostile request, and returns its connection and the worker that runs it.
fn send(server: &Server, trick: &str) -> (Connection, u32) {
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &gate.url(&format!("/do/{trick}")), true));
    let worker = gate.announced(trick).parse().unwrap();
    (connection, worker)
}

/// The outcome of request 1.
fn outcome(connection: &mut Connection) -> Gets {
    match connection.try_response(1) {
        Ok(response) => Status(response.status()),
        Err(_) => Broken,
    }
}

#[test]
fn each_invalid_message_fails_only_its_own_request_and_replaces_only_its_own_worker() {
    // The log writes only five lines of a kind at once.
    for tricks in TRICKS.chunks(5) {
        play(tricks);
    }
}

fn play(tricks: &[(&str, Gets, &str)]) {
    let server = server().inspectable().start();
    assert_eq!(server.get("/").status(), 200);
    let mut workers = server.workers(2);
    server.wait_for_idle(2);
    server.wait_for_no_client();
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
    // The descriptors of closed connections and dead workers are closed.
    wait_for("the gateway has as many descriptors as at the start", || {
        (descriptors(server.pid()).len() <= fresh).then_some(())
    });
    assert!(!server.log().contains("panicked"));
}

/// The worker is not at fault for a file that shrinks, so it is not killed for a file that is none.
#[test]
fn a_descriptor_that_is_no_file_of_that_length_breaks_the_transfer() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("short"), [b'x'; 999]).unwrap();
    let (fifo, mode) = (rustix::fs::FileType::Fifo, 0o600.into());
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), fifo, mode, 0).unwrap();
    for (what, path, cause) in [
        ("short", path("short"), "it is shorter than it was"),
        ("device", PathBuf::from("/dev/zero"), "it is no regular file"),
        ("directory", directory.path().to_owned(), "it is no regular file"),
        ("pipe", path("pipe"), "it is no regular file"),
    ] {
        let server = server().environment(what, path).start();
        let (mut connection, _) = send(&server, &format!("file_{what}"));
        assert_eq!(outcome(&mut connection), Broken, "{what}");
        server.logged(&["connection broken off: a file of the application's cannot be sent", cause]);
        assert_eq!(server.get("/").status(), 200, "{what}");
    }
}

/// The log has no more precise reason, since an empty packet looks the same as a closed link.
#[test]
fn a_worker_that_closes_its_link_and_keeps_running_is_killed() {
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

/// The C code knows the lane's layout, or its tricks would show nothing.
#[test]
fn a_packet_that_the_c_code_writes_into_the_lane_is_an_answer() {
    let server = server().arguments(["--request-timeout", "300ms", "--kill-after", "10ms"]).start();
    let (mut connection, worker) = send(&server, "lane_honest");
    let response = connection.response(1).expect("a response");
    assert_eq!((response.status(), response.body()), (200, &b"honest\n"[..]));
    // It never says that it is ready for another.
    wait_for("the worker is gone", || (!runs(worker)).then_some(()));
    assert_eq!(server.get("/").status(), 200);
}

/// The gateway waits for the packet of the socket that is said to come first.
#[test]
fn an_answer_in_the_lane_that_comes_after_a_packet_that_never_comes_is_504() {
    let server = server().arguments(["--request-timeout", "300ms", "--kill-after", "10ms"]).start();
    let (mut connection, worker) = send(&server, "lane_order_ahead");
    assert_eq!(outcome(&mut connection), Status(504));
    wait_for("the worker is gone", || (!runs(worker)).then_some(()));
    assert_eq!(server.get("/").status(), 200);
}

/// While a thread of the worker writes random words over the lane, or says and unsays that its request is claimed.
#[test]
fn a_lane_that_is_scribbled_on_without_an_end_fails_only_the_request_of_its_worker() {
    let parts = ["all", "claims", "controls", "written", "requests", "responses"];
    let tricks = parts.map(|part| format!("lane_scribble_{part}")).into_iter();
    for trick in tricks.chain(["lane_claim_and_not".to_owned()]) {
        let server = server().arguments(["--request-timeout", "500ms", "--kill-after", "10ms"]).start();
        assert_eq!(server.get("/").status(), 200);
        let (mut connection, worker) = send(&server, &trick);
        for _ in 0..50 {
            let response = server.get("/");
            assert_eq!((response.status(), response.body()), (200, &b"hello\n"[..]), "{trick}");
        }
        let gets = outcome(&mut connection);
        assert!(matches!(gets, Status(502 | 504)), "{trick}: {gets:?}");
        wait_for(&format!("{trick}: the worker is gone"), || (!runs(worker)).then_some(()));
        assert!(!server.workers(2).contains(&worker), "{trick}");
        for _ in 0..50 {
            assert_eq!(server.get("/").body(), b"hello\n", "{trick}");
        }
        assert!(!server.log().contains("panicked"), "{trick}");
    }
}

/// With one worker, the queued request goes to it as soon as it claims to be ready, and its premature response is in
/// the link by then.
#[test]
fn a_response_that_was_sent_ahead_is_not_taken_for_the_next_requests() {
    let server = server().workers("1").start();
    let (mut holder, gate) = server.hold();
    // The hostile request is queued before the victim's.
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
fn a_request_that_a_worker_takes_and_never_answers_is_504() {
    let server =
        server().arguments(["--request-timeout", "300ms", "--kill-after", "10ms"]).workers("1").start();
    let (mut connection, thief) = send(&server, "thief");
    assert_eq!(outcome(&mut connection), Status(200));
    assert_eq!(server.get("/").status(), 504);
    wait_for("the thief is gone", || (!runs(thief)).then_some(()));
    assert_eq!(server.get("/").status(), 200);
}

/// Expects that the gateway serves other requests during the flood `trick`, and that its memory stays bounded.
#[track_caller]
fn withstands(trick: &str, client_leaves: bool) {
    let server = server().arguments(["--request-timeout", "1s", "--kill-after", "10ms"]).start();
    // The memory of the first request is not part of the measured growth.
    assert_eq!(server.get("/").status(), 200);
    let before = peak_memory(server.pid());
    let (connection, worker) = send(&server, trick);
    let connection = (!client_leaves).then_some(connection);
    for _ in 0..20 {
        assert_eq!(server.get("/").status(), 200, "{trick}");
    }
    assert!(runs(worker), "{trick}: the flood was over before the other requests were served");
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
fn a_flood_of_log_lines_delays_no_other_request() {
    withstands("lines", false);
}

#[test]
fn a_flood_of_large_log_lines_delays_no_other_request() {
    withstands("large_lines", false);
}

#[test]
fn a_flood_of_body_data_for_a_client_that_has_left_delays_no_other_request() {
    withstands("bodies", true);
}

#[test]
fn a_flood_of_log_lines_in_the_lane_delays_no_other_request() {
    withstands("lane_lines", false);
}

#[test]
fn a_flood_of_body_data_in_the_lane_for_a_client_that_has_left_delays_no_other_request() {
    withstands("lane_bodies", true);
}

/// Packets that have no byte, and cost nothing to write, would be a turn without an end.
#[test]
fn a_flood_of_empty_packets_in_the_lane_ends_its_worker() {
    let server = server().start();
    let (mut connection, worker) = send(&server, "lane_empties");
    assert_eq!(outcome(&mut connection), Status(502));
    wait_for("the worker is gone", || (!runs(worker)).then_some(()));
    assert_eq!(server.get("/").status(), 200);
}

/// Those that were in the lane before the socket's packet was sent are relayed before it, and no later ones.
#[test]
fn a_flood_of_body_data_in_the_lane_before_a_packet_of_the_socket_takes_bounded_memory() {
    let server = server().start();
    assert_eq!(server.get("/").status(), 200);
    let before = peak_memory(server.pid());
    let (mut connection, worker) = send(&server, "lane_before_a_packet");
    assert_eq!(outcome(&mut connection), Broken);
    wait_for("the worker is gone", || (!runs(worker)).then_some(()));
    server.logged(&["worker sent packets in the wrong order; killing it"]);
    let grown = peak_memory(server.pid()) - before;
    assert!(grown < 16 * 1024, "{grown} KiB more");
    assert_eq!(server.get("/").status(), 200);
}

/// A child that the worker forked keeps the lane, against its default, and floods it after the worker's death.
#[test]
fn a_lane_that_a_forked_child_floods_is_closed_with_its_worker() {
    let server = server().start();
    let (mut connection, worker) = send(&server, "lane_heir");
    assert_eq!(outcome(&mut connection), Status(502));
    assert!(!runs(worker));
    for _ in 0..50 {
        assert_eq!(server.get("/").status(), 200);
    }
    assert!(!server.workers(2).contains(&worker));
}

/// A child that the worker forked holds the worker's link and floods it after the worker's death.
#[test]
fn a_link_that_a_forked_child_floods_is_closed_with_its_worker() {
    let server = server().start();
    let (mut connection, worker) = send(&server, "heir");
    assert_eq!(outcome(&mut connection), Status(502));
    assert!(!runs(worker));
    for _ in 0..50 {
        assert_eq!(server.get("/").status(), 200);
    }
    assert!(!server.workers(2).contains(&worker));
}

/// The bytes that wait for a log whose reader has stopped are bounded.
#[test]
fn a_flood_of_log_lines_into_a_blocked_log_takes_bounded_memory() {
    let scratch = tempfile::tempdir().unwrap();
    let fifo = scratch.path().join("log");
    let shell = format!("mkfifo {0} && exec 2<>{0}", fifo.display());
    let server = server()
        .after(&shell)
        .arguments(["--request-timeout", "1s", "--kill-after", "10ms", "--log-level", "debug"])
        .start();
    assert_eq!(server.get("/").status(), 200);
    let before = peak_memory(server.pid());
    let (mut connection, worker) = send(&server, "large_lines");
    assert_eq!(outcome(&mut connection), Status(504));
    wait_for("the worker is gone", || (!runs(worker)).then_some(()));
    let grown = peak_memory(server.pid()) - before;
    assert!(grown < 64 * 1024, "{grown} KiB more");
    // A stop would wait for the blocked log.
    signal(server.pid(), Signal::KILL);
}
