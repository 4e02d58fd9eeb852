//! The rules between gateway, zygote and workers, tested with real signals.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::wire::{Connection, get};
use crate::support::{
    Gate, Kind, Proxy, Reply, Server, children, descriptors, is_stopped, output, runs, signal, wait_for,
    wait_within,
};

/// The most time until all processes of a killed gateway are gone. The documented bound is one second; the rest allows
/// for a machine that runs other tests at the same time.
const ORPHANS_GONE_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn a_waiting_request_delays_no_other_request() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let gate = Gate::new();
    let mut slow = proxy.curl_command([], &gate.url("/wait")).spawn().unwrap();
    gate.announced("started");
    for _ in 0..20 {
        proxy.curl([], "/hello").expect(200);
    }
    assert!(slow.try_wait().unwrap().is_none(), "the slow request ended by itself");
    gate.open("go");
    assert_eq!(Reply::from_curl(slow.wait_with_output().unwrap()).expect(200).text(), "waited\n");
}

#[test]
fn workers_draw_different_random_numbers() {
    let server = Server::start();
    let answers = from_both_workers(&server, "/random");
    assert_ne!(answers[0].1, answers[1].1, "both workers drew {:?}", answers[0]);
}

#[test]
fn a_worker_holds_no_descriptor_of_its_sibling() {
    let server = Server::builder().workers("3").start();
    let workers = server.workers(3);
    // Every worker runs a request, so each has opened all its descriptors.
    let connections: Vec<_> = hold_every_worker(&server, 3);
    let mut seen = BTreeSet::new();
    for worker in &workers {
        for (number, target) in descriptors(*worker) {
            // Sockets and pipes are named by inode. The test's log as standard output and error is shared.
            if number > 2 && (target.starts_with("socket:") || target.starts_with("pipe:")) {
                assert!(seen.insert(target.clone()), "two workers hold {target}");
            }
        }
    }
    assert!(!seen.is_empty(), "each worker has a socket to the gateway");
    for (_, gate) in &connections {
        gate.open("go");
    }
}

#[test]
fn a_worker_holds_neither_the_listening_socket_nor_a_connection_of_a_client() {
    let server = Server::builder().inspectable().start();
    let mut held = Connection::open(&server.socket());
    assert_eq!(held.get("/hello").status(), 200);
    let mut listening = server.sockets_in_state("01");
    assert_eq!(listening.len(), 1);
    listening.extend(server.connections());
    assert_eq!(listening.len(), 2);
    for worker in server.workers(2) {
        for (_, target) in descriptors(worker) {
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            assert!(inode.is_none_or(|inode| !listening.contains(inode)), "worker {worker} holds {target}");
        }
    }
}

#[test]
fn a_killed_worker_fails_its_own_request_with_502_and_is_replaced() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let gate = Gate::new();
    let held = proxy.curl_command([], &gate.url("/wait")).spawn().unwrap();
    let victim: u32 = gate.announced("started").parse().unwrap();
    std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            for _ in 0..50 {
                proxy.curl([], "/hello").expect(200);
            }
        });
        signal(victim, Signal::KILL);
        Reply::from_curl(held.wait_with_output().unwrap()).expect(502);
        others.join().unwrap();
    });
    assert!(!server.workers(2).contains(&victim));
}

#[test]
fn an_idle_worker_that_is_killed_is_replaced() {
    let server = Server::start();
    let before = server.workers(2);
    for worker in &before {
        signal(*worker, Signal::KILL);
    }
    wait_for("both workers are new", || server.workers(2).is_disjoint(&before).then_some(()));
    assert_eq!(server.get("/hello").status(), 200);
}

#[test]
fn a_request_that_its_killed_worker_never_read_runs_once_on_another() {
    let server = Server::builder().workers("1").start();
    let gate = Gate::new();
    let worker = *server.workers(1).first().unwrap();
    // The worker is ready: stopped before that, it would delay the start.
    assert_eq!(server.get("/hello").status(), 200);
    signal(worker, Signal::STOP);
    // A worker that gets the request and the signal at the same time could still read the request.
    wait_for("the worker is stopped", || is_stopped(worker).then_some(()));
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &gate.url("/count"), true));
    // The gateway has read the request, so the stopped worker has it.
    connection.settle();
    connection.settle();
    signal(worker, Signal::KILL);
    let response = connection.response(1).expect("a response");
    assert_eq!((response.status(), response.body()), (200, &b"counted\n"[..]), "{}", server.log());
    assert_eq!(gate.said("executions").as_deref(), Some("x"));
}

#[test]
fn zygote_and_workers_end_with_a_killed_gateway_even_in_an_endless_loop() {
    let mut server = Server::start();
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &gate.url("/spin"), true));
    gate.announced("started");
    let zygote = server.zygote();
    let mut tree = server.workers(2);
    tree.insert(zygote);
    server.signal(Signal::KILL);
    server.wait();
    let left = || tree.iter().copied().filter(|pid| runs(*pid)).collect::<Vec<_>>();
    let gone = wait_within(ORPHANS_GONE_WITHIN, || left().is_empty().then_some(()));
    let left = left();
    for pid in &left {
        signal(*pid, Signal::KILL);
    }
    assert!(gone.is_some(), "still running: {left:?}");
}

#[test]
fn a_killed_zygote_is_replaced_and_fails_no_request() {
    let server = Server::start();
    let (mut held, gate) = server.hold();

    let zygote = server.zygote();
    let workers = server.workers(2);
    signal(zygote, Signal::KILL);
    for _ in 0..20 {
        assert_eq!(server.get("/hello").status(), 200);
    }
    let new = wait_for("the zygote is replaced", || {
        let mut others = children(server.pid()).into_iter();
        others.find(|pid| *pid != zygote && !workers.contains(pid))
    });
    gate.open("go");
    assert_eq!(held.response(1).expect("a response").body(), b"waited\n");

    // The new zygote can fork: a worker that dies is replaced.
    let victim: u32 = String::from_utf8(server.get("/pid").body().to_vec()).unwrap().parse().unwrap();
    signal(victim, Signal::KILL);
    wait_for("the new zygote has forked a worker", || (!children(new).is_empty()).then_some(()));
    assert_eq!(server.get("/hello").status(), 200);
}

#[test]
fn a_server_without_standard_descriptors_serves_and_handles_failures_and_commands() {
    let server = Server::builder().after("exec <&- >&- 2>&-").start();
    assert_eq!(server.get("/hello").body(), b"Hello, World!\n");
    assert_eq!(server.get("/fail/error").status(), 500);
    assert_eq!(server.get("/fail/killed_before_head").status(), 502);
    assert_eq!(server.get("/hello").body(), b"Hello, World!\n");
    assert_eq!(output(&mut server.command(&["status"])).status.code(), Some(0));
}

/// Starts `count` requests that wait at gates, so that each of `count` workers runs one.
fn hold_every_worker(server: &Server, count: usize) -> Vec<(Connection, Gate)> {
    let held: Vec<(Connection, Gate)> = (0..count)
        .map(|_| {
            let gate = Gate::new();
            let mut connection = Connection::open(&server.socket());
            connection.send(&get(1, &gate.url("/wait"), true));
            (connection, gate)
        })
        .collect();
    for (_, gate) in &held {
        gate.announced("started");
    }
    held
}

/// The responses to `path` of two workers, each split at the colon after the pid. The other worker is kept busy
/// meanwhile.
fn from_both_workers(server: &Server, path: &str) -> Vec<(String, String)> {
    let ask = || {
        let response = server.get(path);
        let text = String::from_utf8(response.body().to_vec()).unwrap();
        text.split_once(':').map(|(pid, rest)| (pid.to_owned(), rest.to_owned())).expect("pid:rest")
    };
    // Neither worker has drawn a number before: without separate seeds both would start the same sequence.
    let gate = Gate::new();
    let mut held = Connection::open(&server.socket());
    held.send(&get(1, &gate.url("/wait"), true));
    let busy = gate.announced("started");
    let one = ask();
    assert_ne!(one.0, busy);
    let other_gate = Gate::new();
    let mut other_held = Connection::open(&server.socket());
    other_held.send(&get(1, &other_gate.url("/wait"), true));
    other_gate.announced("started");
    gate.open("go");
    held.response(1).expect("the first worker is idle again");
    let two = ask();
    assert_eq!(two.0, busy);
    other_gate.open("go");
    other_held.response(1).expect("the second worker is idle again");
    vec![one, two]
}
