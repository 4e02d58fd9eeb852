//! The lanes between the gateway and its workers: requests that wait behind others, and systems that refuse the memory or the scheduling.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use crate::support::wire::{Connection, get};
use crate::support::{App, Gate, Server, seccomp};

/// Sends requests to `path` on one kept connection each from so many clients, until `more` is false after a response.
fn load(socket: &Path, clients: usize, path: &str, more: impl Fn() -> bool + Sync) {
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut client = Connection::open(socket);
                while more() {
                    assert_eq!(client.get(path).status(), 200);
                }
            });
        }
    });
}

/// A function that is true for so many calls.
fn times(count: u32) -> impl Fn() -> bool + Sync {
    let done = AtomicU32::new(0);
    move || done.fetch_add(1, Ordering::Relaxed) < count
}

/// With two workers, of which one is held, the other answers everything, also what waited in the lane of the held one.
#[test]
fn requests_behind_a_slow_one_go_to_another_worker() {
    let server = Server::builder().workers("2").start();
    let socket = &server.socket();
    for _ in 0..5 {
        // Many short requests, so that further ones wait in lanes.
        let (held, beside) = (AtomicBool::new(false), AtomicU32::new(0));
        let more = || !held.load(Ordering::Relaxed) || beside.fetch_add(1, Ordering::Relaxed) < 500;
        thread::scope(|scope| {
            let load = scope.spawn(|| load(socket, 8, "/hello", more));
            let (mut holder, gate) = server.hold();
            held.store(true, Ordering::Relaxed);
            // A request that is stuck behind the held one would keep its client here.
            load.join().unwrap();
            gate.open("go");
            assert_eq!(holder.response(1).expect("a response").status(), 200);
        });
    }
}

/// The lane may have answers that nobody has read when the worker's end is seen.
#[test]
fn an_answer_is_not_lost_with_the_worker_that_exits_after_it() {
    let server = Server::builder().workers("2").start();
    let (socket, over) = (&server.socket(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| load(socket, 8, "/hello", || !over.load(Ordering::Relaxed)));
        let mut client = Connection::open(socket);
        let statuses: Vec<u16> = (0..200).map(|_| client.get("/fail/exit").status()).collect();
        over.store(true, Ordering::Relaxed);
        assert!(statuses.iter().all(|status| *status == 500), "{statuses:?}");
    });
}

/// The only worker is busy, and only a second one can answer what waits in its lane.
#[test]
fn a_request_that_is_taken_back_from_a_lane_makes_the_pool_grow() {
    let server = Server::builder().workers("1-2").start();
    load(&server.socket(), 2, "/hello", times(300));
    let gate = Gate::new();
    let mut client = Connection::open(&server.socket());
    client.send(&[get(1, &gate.url("/wait"), true), get(2, "/hello", true)].concat());
    assert_eq!(client.response(2).expect("a response").status(), 200);
    gate.open("go");
    assert_eq!(client.response(1).expect("a response").status(), 200);
}

/// Short requests, which would wait in lanes.
#[test]
fn with_max_requests_1_no_request_waits_behind_another() {
    let app = App::new(
        "local count = 0
        return function() count = count + 1 return 200, {}, tostring(count) end",
    );
    let server = Server::builder().application(app.root(), "app").arguments(["--max-requests", "1"]).start();
    let socket = &server.socket();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = Connection::open(socket);
                for _ in 0..25 {
                    let response = client.get("/");
                    assert_eq!((response.status(), response.text().as_str()), (200, "1"));
                }
            });
        }
    });
}

#[test]
fn a_system_that_refuses_the_memory_or_the_scheduling_is_named_once_and_serves() {
    for (call, line) in [
        (seccomp::MEMFD_CREATE, "workers get no shared memory"),
        (seccomp::SCHED_SETSCHEDULER, "processes are not scheduled in batches"),
    ] {
        let wrapper = seccomp::without(call, &[]);
        let server = Server::builder().workers("4").through(wrapper.each_ref().map(String::as_str)).start();
        // Long enough that the scheduling is to change, wherever it may.
        let (log, requests) = (|| server.log(), AtomicU32::new(0));
        load(&server.socket(), 10, "/hello", || {
            requests.fetch_add(1, Ordering::Relaxed) < 500 || !log().contains(line)
        });
        server.logged(&[line, "not permitted"]);
        load(&server.socket(), 10, "/hello", times(500));
        server.logged_between(line, 1..2);
        assert_eq!(server.get_text("/hello"), "Hello, World!\n", "{line}");
    }
}
