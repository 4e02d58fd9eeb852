//! Many requests on one FastCGI connection, sent by the test itself: each gets its own response, and waits only for
//! data that was ready before its own.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::wire::{Connection, END_REQUEST, Record, get, in_pieces, interleaved, post};
use crate::support::{Gate, Server, pace, title, wait_for};

/// The most concurrent requests on one connection that nibiru accepts.
const MOST: u16 = 64;

/// The most bytes of other responses before a small response that is ready: the socket's buffer (208 KiB), the write
/// buffer (128 KiB and a packet), and a packet of each download (64 KiB), times two.
const AHEAD: usize = 1 << 20;

#[test]
fn interleaved_bodies_of_64_requests_reach_their_own_requests() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let server = Server::builder().inspectable().workers("4").start();
    let bodies: BTreeMap<u16, Vec<u8>> = (1..=MOST).map(|id| (id, body(&mut random, id))).collect();
    let posts = bodies.iter().map(|(id, body)| in_pieces(&post(*id, "/echo", body, true), &mut random));
    let bytes = interleaved(posts.collect(), &mut random);

    let mut connection = Connection::open(&server.socket());
    let mut sender = connection.sender();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.send(&bytes));
        let mut open = BTreeMap::new();
        for _ in 0..MOST {
            let (id, response) = connection.any_response(&mut open);
            assert_eq!((response.status(), response.app_status), (200, 0), "request {id}");
            assert!(response.body() == bodies[&id], "the body of request {id} changed on its way");
        }
        assert!(open.is_empty(), "records without a request: {open:?}");
    });
    assert_eq!(server.connections().len(), 1);
}

/// A random body for request `id`: the first is empty, the second one byte, every eighth goes through a file, and the
/// last is several records long.
fn body(random: &mut fastrand::Rng, id: u16) -> Vec<u8> {
    let length = match id {
        1 => 0,
        2 => 1,
        MOST => 3_000_000,
        _ if id.is_multiple_of(8) => random.usize(65_537..200_000),
        _ => random.usize(2..5000),
    };
    let mut body = vec![0; length];
    random.fill(&mut body);
    body
}

#[test]
fn a_small_response_that_is_ready_overtakes_downloads_on_its_connection() {
    const LENGTH: usize = 8 << 20;
    let server = Server::builder().workers("3").start();
    let mut most = 0;
    for _ in 0..5 {
        // Requests of the last round may not have ended yet.
        wait_for_three_idle_workers(&server);
        let (small, downloads) = (Gate::new(), Gate::new());
        let mut connection = Connection::open(&server.socket());
        connection.send(&get(3, &small.url("/wait"), true));
        small.announced("started");
        let third = server
            .workers(3)
            .into_iter()
            .find(|pid| !is_idle(*pid))
            .expect("a worker runs the small request");
        for id in [1, 2] {
            let url = downloads.url("/nonce") + &format!("&n={id:016x}&f=small&k={}", LENGTH / 16);
            connection.send(&get(id, &url, true));
        }
        // The client reads nothing, so both downloads wait for room. The small response waits behind them, and its
        // worker is idle.
        wait_for("the downloads have begun", || (connection.unread() > 100_000).then_some(()));
        small.open("go");
        wait_for("the third worker is idle", || is_idle(third).then_some(()));
        most = most.max(bytes_before_response_3(&mut connection, Duration::ZERO));
    }
    assert!(most <= AHEAD, "{most} bytes of downloads came before the small response");
}

/// The client is the bottleneck: it reads a record of up to 64 KiB every 3 ms.
#[test]
fn a_response_of_several_packets_gets_its_share_of_the_connection_beside_downloads() {
    const LENGTH: usize = 24 << 20;
    const SOME: usize = 400_000;
    let server = Server::builder().workers("3").start();
    let mut most = 0;
    for _ in 0..5 {
        wait_for_three_idle_workers(&server);
        let gate = Gate::new();
        let mut connection = Connection::open(&server.socket());
        let asked = [(1, LENGTH), (2, LENGTH), (3, SOME)].map(|(id, length)| {
            let url = gate.url("/nonce") + &format!("&n={id:016x}&f=small&k={}", length / 16);
            get(id, &url, true)
        });
        connection.send(&asked.concat());
        wait_for("the responses have begun", || (connection.unread() > 100_000).then_some(()));
        most = most.max(bytes_before_response_3(&mut connection, Duration::from_millis(3)));
    }
    // Two shares of the same size and the bytes ahead are less than 2 MiB. The rest of the bound allows a third of a
    // second until the worker gets a processor. Without fair shares a download would send all its bytes first.
    assert!(most <= 8 << 20, "{most} bytes of downloads came before the response of {SOME} bytes");
}

/// The bytes of other responses before the end of response 3, for a client that pauses after each record.
#[track_caller]
fn bytes_before_response_3(connection: &mut Connection, pause: Duration) -> usize {
    let mut passed = 0;
    loop {
        let Record { kind, id, content } = connection.record().expect("the connection is open");
        match (id, kind) {
            (3, END_REQUEST) => return passed,
            (3, _) => {}
            (_, _) => passed += content.len(),
        }
        pace(pause);
    }
}

/// Waits for three idle workers: a server is ready with its first one, and a request without a worker has no share.
#[track_caller]
fn wait_for_three_idle_workers(server: &Server) {
    server.wait_for_idle(3);
    wait_for("the process titles of three workers say idle", || {
        server.workers(3).into_iter().all(is_idle).then_some(())
    });
}

/// Whether the worker's process title says that it is idle.
fn is_idle(worker: u32) -> bool {
    title(worker).ends_with(" idle")
}

#[test]
fn a_request_beyond_the_limit_of_a_connection_is_503_and_the_others_are_answered() {
    let server = Server::builder().workers("1").start();
    let (mut connection, gate) = server.hold();
    for id in 2..=MOST {
        connection.send(&get(id, "/hello", true));
    }
    // The body comes after the refusal.
    connection.send(&post(MOST + 1, "/echo", &[b'x'; 100_000], true));
    let refused = connection.response(MOST + 1).expect("a response");
    assert_eq!((refused.status(), refused.protocol_status), (503, 0), "{refused:?}");
    assert!(refused.header("Retry-After").is_some(), "{refused:?}");
    gate.open("go");
    let mut open = BTreeMap::new();
    for _ in 1..=MOST {
        let (id, response) = connection.any_response(&mut open);
        assert_eq!(response.status(), 200, "request {id}");
    }
    assert_eq!(connection.get("/hello").status(), 200);
    server.logged(&["request refused", "64 requests share the connection"]);
}
