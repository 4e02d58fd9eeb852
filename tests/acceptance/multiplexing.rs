//! Many requests on one FastCGI connection, sent by the test itself: each gets its own answer, and waits only for data that was
//! ready before its own.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::wire::{Connection, END_REQUEST, Record, get, in_pieces, interleaved, post};
use crate::support::{Gate, Server, pace, title, wait_for};

/// As many as nibiru takes on one connection.
const MOST: u16 = 64;

/// What a small answer that is ready may have to let pass on its connection: what the kernel has taken (208 KiB), what waits to be
/// written (128 KiB and a packet), and a packet of each download (64 KiB), twice over.
const AHEAD: usize = 1 << 20;

#[test]
fn sixty_four_bodies_that_come_in_pieces_among_each_other_go_to_their_own_requests() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let server = Server::builder().looked_into().workers("4").start();
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

/// Empty, one byte, and up to some that go through a file; the last is several records long.
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
fn downloads_do_not_keep_a_small_answer_that_is_ready_from_their_connection() {
    const LENGTH: usize = 8 << 20;
    let server = Server::builder().workers("3").start();
    let mut most = 0;
    for _ in 0..5 {
        // Those of the last round may not have ended yet.
        three_are_idle(&server);
        let (small, downloads) = (Gate::new(), Gate::new());
        let mut connection = Connection::open(&server.socket());
        connection.send(&get(3, &small.url("/wait"), true));
        small.announced("started");
        let third =
            server.workers(3).into_iter().find(|pid| !is_idle(*pid)).expect("one runs the small answer");
        for id in [1, 2] {
            let url = downloads.url("/nonce") + &format!("&n={id:016x}&f=small&k={}", LENGTH / 16);
            connection.send(&get(id, &url, true));
        }
        // Nothing is read, so both wait for room; behind them the answer of the third worker, which has given it away.
        wait_for("the downloads have begun", || (connection.unread() > 100_000).then_some(()));
        small.open("go");
        wait_for("the third worker is idle", || is_idle(third).then_some(()));
        most = most.max(passed_before_the_third(&mut connection, Duration::ZERO));
    }
    assert!(most <= AHEAD, "{most} bytes of downloads went before a small answer");
}

/// Where the client is what all wait for, that is: it reads 64 KiB every 3 ms.
#[test]
fn an_answer_of_some_packets_has_its_share_beside_downloads() {
    const LENGTH: usize = 24 << 20;
    const SOME: usize = 400_000;
    let server = Server::builder().workers("3").start();
    let mut most = 0;
    for _ in 0..5 {
        three_are_idle(&server);
        let gate = Gate::new();
        let mut connection = Connection::open(&server.socket());
        let asked = [(1, LENGTH), (2, LENGTH), (3, SOME)].map(|(id, length)| {
            let url = gate.url("/nonce") + &format!("&n={id:016x}&f=small&k={}", length / 16);
            get(id, &url, true)
        });
        connection.send(&asked.concat());
        wait_for("the answers have begun", || (connection.unread() > 100_000).then_some(()));
        most = most.max(passed_before_the_third(&mut connection, Duration::from_millis(3)));
    }
    // Two shares of the same size and what was ahead are less than 2 MiB; a third of a second may pass until its worker has a
    // processor. A download that is not made to wait sends all of itself.
    assert!(most <= 8 << 20, "{most} bytes of downloads went before {SOME}");
}

/// Bytes of other answers that come before the end of the answer to request 3, to a client with this pause after each record.
#[track_caller]
fn passed_before_the_third(connection: &mut Connection, pause: Duration) -> usize {
    let mut passed = 0;
    loop {
        let Record { kind, id, content } = connection.record().expect("the connection stays");
        match (id, kind) {
            (3, END_REQUEST) => return passed,
            (3, _) => {}
            (_, _) => passed += content.len(),
        }
        pace(pause);
    }
}

/// A server is ready with its first worker; before the third there is no answer that could have a share.
#[track_caller]
fn three_are_idle(server: &Server) {
    server.idle(3);
    wait_for("and say so", || server.workers(3).into_iter().all(is_idle).then_some(()));
}

/// Whether a worker says in `ps` that it has nothing to do.
fn is_idle(worker: u32) -> bool {
    title(worker).ends_with(" idle")
}

#[test]
fn one_request_too_many_on_a_connection_is_503_and_the_others_are_answered() {
    let server = Server::builder().workers("1").start();
    let (mut connection, gate) = server.hold();
    for id in 2..=MOST {
        connection.send(&get(id, "/hello", true));
    }
    // Its body comes when it is refused already.
    connection.send(&post(MOST + 1, "/echo", &[b'x'; 100_000], true));
    let refused = connection.response(MOST + 1).expect("the refusal");
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
