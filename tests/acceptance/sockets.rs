//! Listening sockets in trouble: no descriptor left, a removed socket file, two servers at one path, a stop while clients keep
//! their connections.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::support::http::Http;
use crate::support::wire::{Connection, get};
use crate::support::{
    Gate, Kind, Proxy, Server, descriptors, nibiru, processor_share, repository, runs, signal, wait_for,
    wait_within,
};

/// The promise for a removed file is five seconds; the rest is for a machine that runs other tests at the same time.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);

fn answers(socket: &Path) {
    assert_eq!(Connection::open(socket).get("/hello").status(), 200);
}

/// How often the log has this text.
fn said(server: &Server, text: &str) -> usize {
    server.log().matches(text).count()
}

/// Asserts that the gateway takes less than a twentieth of a processor while `time` passes.
#[track_caller]
fn rests(server: &Server, time: Duration) {
    let share = processor_share(server.pid(), time);
    assert!(share < 0.05, "the gateway took {share} of a processor");
}

#[test]
fn a_full_server_under_a_low_limit_still_answers_replaces_and_reloads() {
    let server = Server::builder().after("ulimit -n 160").looked_into().start();
    server.logged(&["the limit of open files", "--max-connections 4096", "limit=160"]);
    let mut held = Connection::open(&server.socket());
    assert_eq!(held.get("/hello").status(), 200);

    // More than there is room for: the rest is connected, and waits.
    let idle: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(server.socket()).unwrap()).collect();
    server.logged(&["as many connections as there may be", "--max-connections"]);
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/hello", false));
    rests(&server, Duration::from_secs(2));
    assert_eq!(held.get("/hello").status(), 200);
    // A body of more than 64 KiB needs a file.
    held.send(&crate::support::wire::post(1, "/echo", &vec![b'x'; 200_000], true));
    assert_eq!(held.response(1).expect("a response").body().len(), 200_000);

    let before = server.workers(2);
    before.iter().for_each(|worker| signal(*worker, Signal::KILL));
    wait_for("both are replaced", || server.workers(2).is_disjoint(&before).then_some(()));
    assert_eq!(held.get("/hello").status(), 200);
    server.signal(Signal::HUP);
    server.reloaded();
    assert_eq!(held.get("/hello").status(), 200);
    assert_eq!(said(&server, "cannot accept"), 0, "descriptors ran out: {}", server.log());
    let open = descriptors(server.pid()).len();
    assert!(open < 150, "{open} descriptors are open");

    drop(idle);
    assert_eq!(waiting.response(1).expect("its turn has come").status(), 200);
    answers(&server.socket());
}

#[test]
fn spooled_bodies_take_no_descriptor_that_the_pool_needs() {
    // What the pool and 30 connections need, and hardly a file.
    let server = Server::builder().after("ulimit -n 162").start();
    let upload = crate::support::wire::post(1, "/echo", &vec![b'x'; 200_000], true);
    // Without the last bytes of its body, so that it is not complete and each holds its file.
    let (begun, rest) = upload.split_at(upload.len() - 100);
    let mut uploads: Vec<Connection> = (0..30).map(|_| Connection::open(&server.socket())).collect();
    for connection in &mut uploads {
        connection.send(begun);
    }
    let line = server.logged(&["request refused", "the limit of open files allows no more"]);
    assert!(line.contains("status=503"), "{line}");
    let before = server.workers(2);
    before.iter().for_each(|worker| signal(*worker, Signal::KILL));
    wait_for("both are replaced", || server.workers(2).is_disjoint(&before).then_some(()));
    let statuses: BTreeSet<u16> = uploads
        .iter_mut()
        .map(|connection| {
            connection.send(rest);
            connection.response(1).expect("a response").status()
        })
        .collect();
    assert_eq!(statuses, BTreeSet::from([200, 503]));
}

/// Each takes a second descriptor, by which it is seen to hang up.
#[test]
fn clients_that_have_shut_their_writing_side_take_no_descriptor_that_the_pool_needs() {
    let server = Server::builder().workers("1").after("ulimit -n 160").looked_into().start();
    let (gate, mut busy) = (Gate::new(), Connection::open(&server.socket()));
    busy.send(&get(1, &gate.url("/wait"), false));
    gate.announced("started");
    let idle = descriptors(server.pid()).len();
    let clients: Vec<Connection> = (0..30)
        .map(|_| {
            let mut client = Connection::open(&server.socket());
            client.send(&get(1, "/hello", false));
            client.finish_sending();
            client
        })
        .collect();
    server.logged(&["a client that has shut its side is not watched", "ulimit -n"]);
    let connected = idle + clients.len();
    let open = || descriptors(server.pid()).len();
    wait_for("all are connected, and some have a second descriptor", || (open() > connected).then_some(()));
    assert!(open() < connected + 10, "{} descriptors", open());
    gate.open("go");
    assert_eq!(busy.response(1).expect("a response").status(), 200);
    for mut client in clients {
        assert_eq!(client.response(1).expect("a response").status(), 200);
    }
}

#[test]
fn too_few_descriptors_for_the_workers_are_no_start() {
    let mut command = std::process::Command::new("sh");
    let root = repository("tests/apps");
    command.args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""]).arg(nibiru().get_program());
    command.args(["serve", "--listen", "tcp:127.0.0.1:0", "--workers", "8", "--root"]).arg(root);
    let output = crate::support::output(command.arg("site:application"));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("64 open files are too few for 8 workers"), "{message}");
}

#[test]
fn without_a_free_descriptor_accepting_pauses_and_recovers() {
    let server = Server::builder().workers("1").looked_into().start();
    let mut held = Connection::open(&server.socket());
    assert_eq!(held.get("/hello").status(), 200);
    server.workers(1);
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    // The lowest free number is the limit, so nothing more can be opened.
    let numbers: BTreeSet<u32> = descriptors(server.pid()).into_iter().map(|(number, _)| number).collect();
    let free = (0..).find(|number| !numbers.contains(number)).unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |current| Rlimit { current: Some(current), maximum };
    let old = prlimit(pid, Resource::Nofile, limit(u64::from(free))).unwrap();

    let begin = Instant::now();
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/hello", false));
    server.logged(&["cannot accept; new connections wait", "too many open files"]);
    rests(&server, Duration::from_secs(3));
    assert_eq!(held.get("/hello").status(), 200);
    let lines = said(&server, "cannot accept");
    // Five at once, then one a second.
    assert!(lines as u64 <= begin.elapsed().as_secs() + 6, "{}", server.log());
    assert_eq!(said(&server, "accepted again"), 0);

    prlimit(pid, Resource::Nofile, old).unwrap();
    assert_eq!(waiting.response(1).expect("a response").status(), 200);
    server.logged(&["connections are accepted again"]);
}

#[test]
fn a_socket_that_somebody_else_has_shut_down_does_not_keep_the_gateway_busy() {
    let directory = tempfile::tempdir().unwrap();
    let kept = std::os::unix::net::UnixListener::bind(directory.path().join("kept.sock")).unwrap();
    let server = Server::builder().inherit(kept.try_clone().unwrap());
    let mut server = server.start();
    let mut held = Connection::open(&server.socket());
    assert_eq!(held.get("/hello").status(), 200);
    rustix::net::shutdown(&kept, rustix::net::Shutdown::Read).unwrap();
    server.logged(&["cannot accept", "somebody else has shut the socket down"]);
    rests(&server, Duration::from_secs(1));
    assert_eq!(held.get("/hello").status(), 200);
    answers(&server.socket());
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_removed_socket_file_is_made_anew_and_nobody_who_waits_is_lost() {
    let server = Server::builder().arguments(["--max-connections", "1", "--socket-mode", "0600"]).start();
    let socket = server.socket();
    let mut held = Connection::open(&socket);
    assert_eq!(held.get("/hello").status(), 200);
    // Connected to the old socket, and not accepted.
    let mut waiting = Connection::open(&socket);
    waiting.send(&get(1, "/hello", false));
    fs::remove_file(&socket).unwrap();
    let begin = Instant::now();
    server.logged(&["WARN", "the socket file was removed; it is made anew", "app.sock"]);
    assert!(begin.elapsed() < NOTICED_WITHIN);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    drop(held);
    assert_eq!(waiting.response(1).expect("the one that waited").status(), 200);
    drop(waiting);
    answers(&socket);
    answers(&socket);
}

/// Returns once the gateway has looked at its socket files twice more, at the same interval for each: it has made this file anew.
#[track_caller]
fn looks_twice(server: &Server, removed: &Path) {
    for _ in 0..2 {
        let before = said(server, "it is made anew");
        fs::remove_file(removed).unwrap();
        wait_for("the socket file is made anew", || (said(server, "it is made anew") > before).then_some(()));
    }
}

#[test]
fn what_others_put_in_the_place_of_the_socket_file_is_left_there_and_said_once() {
    let directory = tempfile::tempdir().unwrap();
    let second = directory.path().join("second.sock");
    let listen = format!("unix:{}", second.display());
    let mut server = Server::builder().arguments(["--listen", &listen]).start();
    let socket = server.socket();
    let mut held = Connection::open(&socket);
    let foreign = |text: &str| {
        let new = socket.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &socket).unwrap();
    };
    foreign("precious");
    server.logged(&["ERROR", "the socket file was replaced by something else", "app.sock"]);
    assert_eq!(held.get("/hello").status(), 200);
    looks_twice(&server, &second);
    assert_eq!(said(&server, "was replaced"), 1, "{}", server.log());
    foreign("other");
    wait_for("another thing is said anew", || (said(&server, "was replaced") == 2).then_some(()));
    assert_eq!(fs::read_to_string(&socket).unwrap(), "other");
    fs::remove_file(&socket).unwrap();
    server.logged(&["it is made anew", "app.sock"]);
    answers(&socket);

    foreign("left alone");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(fs::read_to_string(&socket).unwrap(), "left alone");
}

#[test]
fn a_removed_directory_is_said_once_and_the_socket_is_back_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    fs::create_dir(&run).unwrap();
    let socket = run.join("second.sock");
    let server = Server::builder().arguments(["--listen", &format!("unix:{}", socket.display())]).start();
    wait_for("it listens there", || UnixStream::connect(&socket).ok());
    fs::remove_dir_all(&run).unwrap();
    server.logged(&["ERROR", "cannot be made anew yet", "run does not exist"]);
    looks_twice(&server, &server.socket());
    answers(&server.socket());
    assert_eq!(said(&server, "cannot be made anew yet"), 1, "{}", server.log());
    fs::create_dir(&run).unwrap();
    server.logged(&["it is made anew", "second.sock"]);
    answers(&socket);
}

#[test]
fn of_two_servers_that_start_at_one_path_exactly_one_serves() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("app.sock");
    for round in 0..12 {
        // Left behind by a server that was killed: both are tempted to remove it.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let start = || {
            let mut command = nibiru();
            command.args(["serve", "--workers", "1", "--control", "off", "--root"]);
            command.arg(repository("examples/hello")).arg("--listen");
            command.arg(format!("unix:{}", socket.display())).arg("app");
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut servers: Vec<_> = (0..3).map(|_| start()).collect();
        wait_for("all but one have ended", || {
            let running = servers.iter_mut().filter_map(|server| server.try_wait().unwrap()).count();
            (running >= servers.len() - 1).then_some(())
        });
        let (ended, mut running): (Vec<_>, Vec<_>) =
            servers.into_iter().partition(|server| !runs(server.id()));
        assert_eq!(running.len(), 1, "round {round}");
        let answered = wait_within(Duration::from_secs(20), || UnixStream::connect(&socket).ok());
        let status = answered.map(|stream| Connection::from(stream).get("/").status());
        signal(running[0].id(), Signal::TERM);
        running[0].wait().unwrap();
        for server in ended {
            let output = server.wait_with_output().unwrap();
            let message = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{message}");
            assert!(message.contains("another server is listening there"), "{message}");
        }
        assert_eq!(status, Some(200), "round {round}");
    }
}

#[test]
fn a_stop_answers_every_request_that_it_took_on_a_kept_connection() {
    for _ in 0..10 {
        let mut server = Server::start();
        let socket = server.socket();
        answers(&socket);
        let served = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut connection = Connection::open(&socket);
                    // A client whose write fails knows that its request was not taken; one whose write succeeds
                    // must be answered.
                    while connection.try_send(&get(1, "/hello", true)).is_ok() {
                        let response = connection.response(1).expect("an answer to what was taken");
                        assert_eq!(response.status(), 200);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            wait_for("the load is on", || (served.load(Ordering::Relaxed) > 500).then_some(()));
            server.signal(Signal::TERM);
            assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        });
    }
}

/// What nginx cannot get answered once the socket is gone is refused at the connect, and nothing else fails.
#[test]
fn a_stop_behind_nginx_breaks_no_kept_connection_under_a_request() {
    for _ in 0..3 {
        let mut server = Server::start();
        let proxy = Proxy::start(Kind::Nginx, &server);
        proxy.curl([], "/hello").expect(200);
        let served = AtomicU32::new(0);
        let failed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut client = Http::connect(proxy.port());
                    // Some more after the first failure, since others may still be under way.
                    let mut failures = 0;
                    while failures < 20 {
                        if client.get("/hello") == 200 {
                            served.fetch_add(1, Ordering::Relaxed);
                        } else {
                            failures += 1;
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            wait_for("the load is on", || (served.load(Ordering::Relaxed) > 500).then_some(()));
            server.signal(Signal::TERM);
            assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        });
        // nginx tries a kept connection that is closed, and then a new one.
        let log = proxy.log();
        let refused = log.lines().filter(|line| line.contains("connect() to unix:")).count();
        let failed = failed.load(Ordering::Relaxed) as usize;
        assert_eq!(failed, refused, "{log}");
        assert!(failed > 0, "the stop came after the load");
    }
}

#[test]
fn a_stop_lets_in_who_waits_for_a_place() {
    let mut server = Server::builder().arguments(["--max-connections", "1"]).start();
    let (mut held, gate) = server.hold();
    let mut waiting = Connection::open(&server.socket());
    waiting.send(&get(1, "/hello", false));
    server.signal(Signal::TERM);
    server.logged(&["stopping"]);
    gate.open("go");
    assert_eq!(held.response(1).expect("the running one").status(), 200);
    assert_eq!(waiting.response(1).expect("the one that waited").status(), 200, "{}", server.log());
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_socket_is_for_its_owner_and_group_only() {
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
