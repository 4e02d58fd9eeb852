//! Signals to the gateway: stops, graceful or at once, and reloads; and the socket files after its end.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use rustix::process::Signal;

use crate::support::wire::{Connection, get};
use crate::support::{App, Gate, Server, nibiru, runs, signal, wait_for, wait_for_exit};

#[test]
fn an_idle_kept_connection_does_not_delay_a_stop() {
    let mut server = Server::start();
    let mut connection = Connection::open(&server.socket());
    assert_eq!(connection.get("/hello").status(), 200);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(connection.closes());
}

#[test]
fn zygote_and_workers_have_ended_after_a_stop() {
    let mut server = Server::start();
    let mut tree = server.workers(2);
    tree.insert(server.zygote());
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(0));
    wait_for("zygote and workers are gone", || tree.iter().all(|pid| !runs(*pid)).then_some(()));
}

#[test]
fn a_second_signal_stops_at_once_despite_a_running_request() {
    // Neither limit ends the request within any test.
    let limits = ["--grace", "10m", "--request-timeout", "off"];
    let mut server = Server::builder().arguments(limits).start();
    let gate = Gate::new();
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, &gate.url("/spin"), true));
    gate.announced("started");
    server.signal(Signal::TERM);
    server.wait_for_refusal();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    server.logged(&["stopping now"]);
}

/// Expects that the signal `number` stops a server gracefully: the running request is answered before the server ends.
fn ends_gracefully(number: Signal) {
    let mut server = Server::start();
    let (mut connection, gate) = server.hold();
    server.signal(number);
    server.wait_for_refusal();
    gate.open("go");
    let response = connection.response(1).expect("the response of the running request");
    assert_eq!((response.status(), response.body()), (200, &b"waited\n"[..]));
    drop(connection);
    assert_eq!(server.wait().code(), Some(0), "{number:?}: {}", server.log());
    assert!(!server.socket().exists(), "{number:?}: the socket file is removed");
}

#[test]
fn term_int_and_quit_stop_gracefully() {
    for number in [Signal::TERM, Signal::INT, Signal::QUIT] {
        ends_gracefully(number);
    }
}

#[test]
fn usr2_and_hup_reload_and_winch_is_ignored() {
    let server = Server::builder().workers("1").start();
    // A reload during the start would not be logged as a reload.
    server.logged(&["gateway ready"]);
    let mut before = server.workers(1);
    for number in [Signal::USR2, Signal::HUP] {
        server.signal(Signal::WINCH);
        server.signal(number);
        wait_for("the worker is replaced", || {
            let now = server.workers(1);
            now.is_disjoint(&before).then(|| before = now)
        });
    }
    wait_for("both reloads are logged", || {
        (server.log().matches(" reloaded gen=").count() == 2).then_some(())
    });
}

/// Every end of a gateway other than SIGKILL and a crash.
#[test]
fn every_end_of_the_gateway_removes_its_socket_files() {
    let good = "return function() return 200, {}, 'fine' end";
    let stop = |app: &App, server: &mut Child, times: u32| {
        let socket = app.root().join("app.sock");
        wait_for("the server listens", || UnixStream::connect(&socket).ok());
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
        let status = wait_for_exit(&mut server);
        assert_eq!(status.code(), Some(code), "{case}");
        let left: Vec<_> =
            fs::read_dir(app.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["app.lua"], "{case}");
    }
}
