//! Signals to the gateway: stops, graceful or at once, and reloads; and the files that remain after its end.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use rustix::process::Signal;

use crate::support::wire::{Connection, get};
use crate::support::{App, Gate, Server, ends, nibiru, runs, signal, wait_for};

#[test]
fn an_idle_kept_connection_does_not_hold_up_a_stop() {
    let mut server = Server::start();
    let mut connection = Connection::open(&server.socket());
    assert_eq!(connection.get("/hello").status(), 200);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(connection.closes());
}

#[test]
fn no_process_is_left_after_a_stop() {
    let mut server = Server::start();
    let mut tree = server.workers(2);
    tree.insert(server.zygote());
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(0));
    wait_for("the whole tree is gone", || tree.iter().all(|pid| !runs(*pid)).then_some(()));
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut server = Server::start();
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &gate.url("/spin"), true));
    gate.announced("started");
    server.signal(Signal::TERM);
    server.refuses();
    server.signal(Signal::TERM);
    server.wait();
}

/// Sends the signal to a server that runs a request, whose answer must still come; then the server ends.
fn ends_gracefully(number: Signal) {
    let mut server = Server::start();
    let (mut connection, gate) = server.hold();
    server.signal(number);
    server.refuses();
    gate.open("go");
    let response = connection.response(1).expect("the running request");
    assert_eq!((response.status(), response.body()), (200, &b"waited\n"[..]));
    drop(connection);
    assert_eq!(server.wait().code(), Some(0), "{number:?}: {}", server.log());
    assert!(!server.socket().exists(), "{number:?}: the socket file is left behind");
}

#[test]
fn quit_stops_gracefully_as_term_and_int_do() {
    for number in [Signal::TERM, Signal::INT, Signal::QUIT] {
        ends_gracefully(number);
    }
}

#[test]
fn usr2_reloads_as_hup_does_and_winch_does_nothing() {
    let server = Server::builder().workers("1").start();
    // What is reloaded while it starts is the start, and not said to be a reload.
    server.logged(&["gateway ready"]);
    let mut before = server.workers(1);
    for number in [Signal::USR2, Signal::HUP] {
        server.signal(Signal::WINCH);
        server.signal(number);
        wait_for("the worker is another", || {
            let now = server.workers(1);
            now.is_disjoint(&before).then(|| before = now)
        });
    }
    wait_for("each reload is in the log", || {
        (server.log().matches(" reloaded gen=").count() == 2).then_some(())
    });
}

/// How a gateway can end, but for SIGKILL and a crash: what it was started with, what makes it end, its exit code.
#[test]
fn whatever_ends_the_gateway_removes_its_socket_files() {
    let good = "return function() return 200, {}, 'fine' end";
    let stop = |app: &App, server: &mut Child, times: u32| {
        let socket = app.root().join("app.sock");
        wait_for("it listens", || UnixStream::connect(&socket).ok());
        for _ in 0..times {
            signal(server.id(), Signal::TERM);
        }
    };
    let stuck = "while true do end";
    type Trigger<'a> = &'a dyn Fn(&App, &mut Child);
    let cases: [(&str, &str, &[&str], Trigger<'_>, i32); 7] = [
        ("a stop", good, &[], &|app, server| stop(app, server, 1), 0),
        ("a second signal", good, &[], &|app, server| stop(app, server, 2), 0),
        ("a stop while the application loads", stuck, &[], &|app, server| stop(app, server, 1), 0),
        ("an application that does not load", "return {", &[], &|_, _| {}, 3),
        ("an application that loads for too long", stuck, &["--start-timeout", "200ms"], &|_, _| {}, 3),
        ("a second address that is in use", good, &["--listen", "fd:99"], &|_, _| {}, 1),
        ("an access log that cannot be opened", good, &["--access-log", "/nonexistent/log"], &|_, _| {}, 1),
    ];
    for (case, text, arguments, trigger, code) in cases {
        let app = App::new(text);
        let listen = format!("unix:{}", app.root().join("app.sock").display());
        let mut command = nibiru();
        command.args(["serve", "--workers", "1", "--listen", &listen]).args(arguments);
        command.arg("--root").arg(app.root()).arg("app").stderr(Stdio::null());
        let mut server = command.spawn().unwrap();
        trigger(&app, &mut server);
        let status = ends(&mut server);
        assert_eq!(status.code(), Some(code), "{case}");
        let left: Vec<_> =
            fs::read_dir(app.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["app.lua"], "{case}");
    }
}
