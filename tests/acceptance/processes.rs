//! The rules between gateway, zygote and workers, tried with real signals.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::wire::{Connection, get};
use crate::support::{
    App, Gate, Kind, Need, Proxy, Reply, Server, children, descriptors, is_stopped, lacks, nibiru, runs,
    signal, status_field, wait_for, wait_within, zombies,
};

/// The promise is one second; the rest is for a machine that runs other tests at the same time.
const ORPHANS_GONE_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn others_go_on_while_one_request_waits() {
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
fn two_workers_draw_different_random_numbers() {
    let server = Server::start();
    let answers = from_both_workers(&server, "/random");
    assert_ne!(answers[0].1, answers[1].1, "both workers drew {:?}", answers[0]);
}

#[test]
fn a_worker_holds_no_descriptor_of_its_sibling() {
    let server = Server::builder().workers("3").start();
    let workers = server.workers(3);
    // All have answered, so all have opened what they need.
    let connections: Vec<_> = hold_every_worker(&server, 3);
    let mut seen = BTreeSet::new();
    for worker in &workers {
        for (number, target) in descriptors(*worker) {
            // Sockets and pipes are named by inode; the log that the test gave as stdout and stderr is shared.
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
    let server = Server::builder().looked_into().start();
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
fn a_request_that_its_worker_never_read_runs_once_on_another() {
    let server = Server::builder().workers("1").start();
    let gate = Gate::new();
    let worker = *server.workers(1).first().unwrap();
    // One that is stopped before it is ready holds up the start.
    assert_eq!(server.get("/hello").status(), 200);
    signal(worker, Signal::STOP);
    // A worker that is woken by the request and by the signal at once would still read it.
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
fn nothing_remains_when_the_gateway_is_killed_not_even_an_endless_loop() {
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
fn requests_go_on_when_the_zygote_is_killed_and_a_new_one_comes() {
    let server = Server::start();
    let gate = Gate::new();
    let mut held = Connection::open(&server.socket());
    held.send(&get(1, &gate.url("/wait"), true));
    gate.announced("started");

    let zygote = server.zygote();
    let workers = server.workers(2);
    signal(zygote, Signal::KILL);
    for _ in 0..20 {
        assert_eq!(server.get("/hello").status(), 200);
    }
    let new = wait_for("there is a new zygote", || {
        let mut others = children(server.pid()).into_iter();
        others.find(|pid| *pid != zygote && !workers.contains(pid))
    });
    gate.open("go");
    assert_eq!(held.response(1).expect("the request that was running").body(), b"waited\n");

    // The new zygote can fork: a worker that dies is replaced.
    let victim: u32 = String::from_utf8(server.get("/pid").body().to_vec()).unwrap().parse().unwrap();
    signal(victim, Signal::KILL);
    wait_for("the new zygote has a worker", || (!children(new).is_empty()).then_some(()));
    assert_eq!(server.get("/hello").status(), 200);
}

#[test]
fn a_graceful_stop_lets_the_running_request_finish() {
    let mut server = Server::start();
    let socket = server.socket();
    let gate = Gate::new();
    let mut connection = Connection::open(&socket);
    connection.send(&get(1, &gate.url("/wait"), true));
    gate.announced("started");
    server.signal(Signal::TERM);
    wait_for("no new connection is taken", || {
        std::os::unix::net::UnixStream::connect(&socket).is_err().then_some(())
    });
    gate.open("go");
    let response = connection.response(1).expect("the running request");
    assert_eq!((response.status(), response.body()), (200, &b"waited\n"[..]));
    drop(connection);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(!socket.exists(), "the socket file is left behind");
}

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
    let socket = server.socket();
    server.signal(Signal::TERM);
    wait_for("no new connection is taken", || {
        std::os::unix::net::UnixStream::connect(&socket).is_err().then_some(())
    });
    server.signal(Signal::TERM);
    server.wait();
}

/// Sends the signal to a server that runs a request, whose answer must still come; then the server ends.
fn ends_gracefully(number: Signal) {
    let mut server = Server::start();
    let (socket, gate) = (server.socket(), Gate::new());
    let mut connection = Connection::open(&socket);
    connection.send(&get(1, &gate.url("/wait"), true));
    gate.announced("started");
    server.signal(number);
    wait_for("no new connection is taken", || UnixStream::connect(&socket).is_err().then_some(()));
    gate.open("go");
    assert_eq!(connection.response(1).expect("the running request").body(), b"waited\n");
    drop(connection);
    assert_eq!(server.wait().code(), Some(0), "{number:?}: {}", server.log());
    assert!(!socket.exists(), "{number:?}");
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
        let status = wait_for(case, || server.try_wait().unwrap());
        assert_eq!(status.code(), Some(code), "{case}");
        let left: Vec<_> =
            fs::read_dir(app.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["app.lua"], "{case}");
    }
}

#[test]
fn as_process_1_it_reaps_orphans_and_still_learns_how_its_zygote_ended() {
    if lacks(Need::Root) {
        return;
    }
    // Each request leaves ten processes that outlive their parent, and says where they wait.
    let app = App::new(
        "return function(environ)\n\
         \x20 for _ = 1, 10 do os.execute('sleep 0.01 &') end\n\
         \x20 return 200, {}, (io.open('/proc/self/stat'):read('a'):match('%) %S (%d+)'))\n\
         end",
    );
    let namespace = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let server = Server::builder().application(app.root(), "app").workers("1").through(namespace).start();
    let gateway = children(server.pid())[0];
    let inner = status_field(gateway, "NSpid");
    assert!(inner.ends_with("\t1"), "it is process 1: {inner}");
    for _ in 0..3 {
        assert_eq!(server.get("/").status(), 200);
    }
    // The sleeps, and nothing else, are the gateway's children beside its zygote while they run.
    wait_for("all have ended and been reaped", || {
        (children(gateway).len() == 1 && zombies(gateway) == 0).then_some(())
    });

    let zygote = children(gateway)[0];
    signal(zygote, Signal::KILL);
    server.logged(&["zygote ended; launching another", "signal: 9"]);
    // Its worker is an orphan now.
    wait_for("the dead are reaped", || (zombies(gateway) == 0).then_some(()));
    let again = wait_for("there is a new zygote", || {
        children(gateway).into_iter().find(|pid| children(*pid).is_empty() && *pid != zygote)
    });
    assert_ne!(again, zygote);
    assert_eq!(server.get("/").status(), 200);
}

/// As an entry point of a container does that starts a helper and then executes nibiru; with an init of its own there, nibiru
/// is not process 1. nginx and php-fpm reap them as well, since they wait for any child.
#[test]
fn children_of_the_script_that_has_executed_it_are_reaped() {
    let server = Server::builder().after("{ sleep 0.01 & }").start();
    let gateway = server.pid();
    // It listens before it has loaded, and ends when that fails.
    server.logged(&["gateway ready"]);
    wait_for("the helper has ended and been reaped", || {
        (children(gateway).len() == 1 && zombies(gateway) == 0).then_some(())
    });
    let zygote = children(gateway)[0];
    signal(zygote, Signal::KILL);
    server.logged(&["zygote ended; launching another", "signal: 9"]);
    assert_eq!(server.get("/hello").status(), 200);
}

#[test]
fn starts_with_the_standard_descriptors_closed() {
    let server = Server::builder().after("exec <&- >&- 2>&-").start();
    assert_eq!(server.get("/hello").body(), b"Hello, World!\n");
    assert_eq!(server.get("/fail/error").status(), 500);
    assert_eq!(server.get("/fail/killed_before_head").status(), 502);
    assert_eq!(server.get("/hello").body(), b"Hello, World!\n");
}

#[test]
fn a_full_queue_is_503_with_retry_after() {
    let server = Server::builder().workers("1").arguments(["--queue", "1"]).start();
    let gate = Gate::new();
    let mut running = Connection::open(&server.socket());
    running.send(&get(1, &gate.url("/wait"), true));
    gate.announced("started");
    let mut queued = Connection::open(&server.socket());
    queued.send(&get(1, "/hello", true));
    queued.settle();
    let refused = server.get("/hello");
    assert_eq!(refused.status(), 503, "{refused:?}");
    let retry_after: u32 = refused.header("Retry-After").expect("a Retry-After").parse().expect("in seconds");
    assert!(retry_after > 0);
    gate.open("go");
    assert_eq!(running.response(1).expect("the running one").status(), 200);
    assert_eq!(queued.response(1).expect("the queued one").status(), 200);
}

#[test]
fn the_socket_is_for_its_owner_and_group_only() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start();
    let mode = fs::metadata(server.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn a_socket_file_that_nobody_listens_on_is_replaced() {
    let mut first = Server::start();
    let socket = first.socket();
    let listen = format!("unix:{}", socket.display());
    first.signal(Signal::KILL);
    first.wait();
    assert!(socket.exists());
    let second = Server::builder().arguments(["--listen", &listen]).start();
    // It listens there a moment after it listens on its own socket.
    let stream = wait_for("the second one listens", || UnixStream::connect(&socket).ok());
    assert_eq!(Connection::from(stream).get("/hello").status(), 200, "{}", second.log());
}

/// Keeps `count` workers busy at once, so that each has answered a call.
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

/// What `path` says in each of two workers, with the pid in front of a colon: one is kept busy meanwhile.
fn from_both_workers(server: &Server, path: &str) -> Vec<(String, String)> {
    let ask = || {
        let response = server.get(path);
        let text = String::from_utf8(response.body().to_vec()).unwrap();
        text.split_once(':').map(|(pid, rest)| (pid.to_owned(), rest.to_owned())).expect("pid:rest")
    };
    // Neither has drawn before: without a seed of its own each would start the same sequence.
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
    held.response(1).expect("the first worker is free again");
    let two = ask();
    assert_eq!(two.0, busy);
    other_gate.open("go");
    other_held.response(1).expect("the second worker is free again");
    vec![one, two]
}
