//! Regressions: stuck, killed and overtaken processes, slow clients, a blocked log. Each test is named after the fault that an
//! operator would have seen.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::wire::{Connection, get};
use crate::support::{
    App, Gate, Server, across_a_network, descriptors, free_port, is_stopped, nibiru, pace, peak_memory,
    response_text, runs, says, signal, title, wait_for, wait_for_exit,
};

#[test]
fn a_full_disk_under_standard_error_fails_no_request() {
    let app = App::new(
        "return function(e) if e.PATH_INFO == '/fail' then error('x') end return 200, {}, 'fine' end",
    );
    let socket = app.root().join("app.sock");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut child = nibiru()
        .args(["serve", "--workers", "1", "--log-level", "debug", "--root"])
        .arg(app.root())
        .arg("--listen")
        .arg(format!("unix:{}", socket.display()))
        .arg("app")
        .stdout(Stdio::null())
        .stderr(full)
        .spawn()
        .unwrap();
    wait_for("the server listens", || UnixStream::connect(&socket).ok());
    for _ in 0..10 {
        assert_eq!(Connection::open(&socket).get("/fail").status(), 500);
        assert_eq!(response_text(&socket), "fine");
    }
    signal(child.id(), Signal::TERM);
    let status = wait_for_exit(&mut child);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_reload_that_a_newer_one_overtakes_never_serves() {
    let app = App::new(&says("one"));
    let gate = Gate::new();
    let server = Server::builder().application(app.root(), "app").workers("1").start();
    assert_eq!(response_text(&server.socket()), "one");
    let announce = gate.url("").replace("?dir=", "");
    app.write(&format!(
        "require('nibiru').on_worker_start(function()\n\
         \x20 io.open('{announce}/starting', 'w'):close()\n\
         \x20 while not io.open('{announce}/go') do os.execute('sleep 0.02') end\n\
         end)\n{}",
        says("two")
    ));
    server.signal(Signal::HUP);
    gate.announced("starting");
    app.write("return {");
    server.signal(Signal::HUP);
    server.logged(&["application does not load", "gen=3"]);
    gate.open("go");
    for _ in 0..50 {
        assert_eq!(response_text(&server.socket()), "one", "{}", server.log());
    }
    assert_eq!(server.workers(1).len(), 1);
    app.write(&says("four"));
    server.signal(Signal::HUP);
    wait_for("the fixed code serves", || (response_text(&server.socket()) == "four").then_some(()));
}

#[test]
fn a_draining_worker_that_never_ends_is_killed_after_the_grace() {
    let server = Server::builder().workers("2").arguments(["--grace", "100ms"]).start();
    let gate = Gate::new();
    let mut stuck = Connection::open(&server.socket());
    stuck.send(&get(1, &gate.url("/spin"), true));
    let worker: u32 = gate.announced("started").parse().unwrap();
    server.signal(Signal::HUP);
    wait_for("the old worker is gone", || (!runs(worker)).then_some(()));
    assert_eq!(stuck.response(1).expect("a response").status(), 502);
}

#[test]
fn a_worker_that_exits_after_every_response_is_replaced_at_once() {
    let app = App::new(
        "return function(environ)\n  environ['nibiru.after_response'](function() os.exit(0) end)\n\
         \x20 return 200, {}, 'fine'\nend",
    );
    let server = Server::builder().application(app.root(), "app").workers("1").start();
    for _ in 0..30 {
        assert_eq!(response_text(&server.socket()), "fine", "{}", server.log());
    }
}

#[test]
fn a_dead_worker_is_replaced_while_its_client_still_reads_the_response() {
    let app = App::new(
        "return function(environ)\n  if environ.PATH_INFO == '/large' then return 200, {}, ('x'):rep(50e6) end\n\
         \x20 return 200, {}, 'fine'\nend",
    );
    let server = Server::builder().application(app.root(), "app").workers("1").start();
    let worker = *server.workers(1).first().unwrap();
    let mut slow = Connection::open(&server.socket());
    slow.send(&get(1, "/large", true));
    // The first record has come, and the rest is larger than all buffers.
    slow.record().unwrap();
    signal(worker, Signal::KILL);
    assert_eq!(response_text(&server.socket()), "fine");
    assert!(slow.closes(), "the transfer breaks");
}

#[test]
fn a_slow_reader_takes_bounded_memory_of_the_gateway() {
    let app = App::new(
        "return function()\n  local n = 0\n\
         \x20 return 200, {}, function() n = n + 1 if n <= 800 then return ('x'):rep(65536) end end\nend",
    );
    let port = free_port();
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--listen", &format!("tcp:127.0.0.1:{port}")])
        .start();
    let before = peak_memory(server.pid());
    let mut client = across_a_network(port);
    client.write_all(&get(1, "/", false)).unwrap();
    let (mut buffer, mut total) = (vec![0; 4096], 0);
    while total < 800 * 65536 {
        let length = client.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "{}", server.log());
        total += length;
        // The client's rate matters: it is always behind and never stands still.
        pace(Duration::from_micros(200));
    }
    let grown = peak_memory(server.pid()) - before;
    assert!(grown < 16 << 10, "the gateway has grown by {grown} KiB for 50 MiB");
}

#[test]
fn a_request_that_returned_to_the_queue_expires_after_queue_timeout() {
    let server = Server::builder().workers("1").arguments(["--queue-timeout", "300ms"]).start();
    let worker = *server.workers(1).first().unwrap();
    // The worker is ready: stopped before that, it would delay the start.
    assert_eq!(server.get("/hello").status(), 200);
    // A stopped zygote forks no successor.
    let zygote = server.zygote();
    for process in [zygote, worker] {
        signal(process, Signal::STOP);
        wait_for("the process is stopped", || is_stopped(process).then_some(()));
    }
    let mut connection = Connection::open(&server.socket());
    connection.send(&get(1, "/hello", true));
    connection.settle();
    signal(worker, Signal::KILL);
    assert_eq!(connection.response(1).expect("a response").status(), 503, "{}", server.log());
    signal(zygote, Signal::CONT);
    let mut again = Connection::open(&server.socket());
    assert_eq!(again.get("/hello").status(), 200);
}

#[test]
fn a_connection_with_a_refused_request_does_not_delay_a_stop() {
    // A grace that is longer than any test waits.
    let mut server = Server::builder().arguments(["--grace", "10m"]).start();
    let mut connection = Connection::open(&server.socket());
    assert_eq!(connection.get("/hello").status(), 200);
    let refused = [
        crate::support::wire::begin(1, 1, true),
        crate::support::wire::stream(
            4,
            1,
            &[crate::support::wire::get_params("/"), crate::support::wire::pair(b"CONTENT_LENGTH", b"x")]
                .concat(),
        ),
        crate::support::wire::stream(5, 1, b""),
    ];
    connection.send(&refused.concat());
    assert_eq!(connection.response(1).expect("a response").status(), 400);
    assert_eq!(connection.get("/hello").status(), 200);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn a_stop_under_load_answers_every_accepted_connection() {
    for _ in 0..5 {
        let mut server = Server::start();
        let socket = server.socket();
        assert_eq!(Connection::open(&socket).get("/hello").status(), 200);
        let served = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    // Until the server accepts no connection any more.
                    while let Ok(stream) = UnixStream::connect(&socket) {
                        let mut connection = Connection::from(stream);
                        connection.send(&get(1, "/hello", false));
                        assert_eq!(connection.response(1).expect("a response").status(), 200);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            wait_for("500 requests are served", || (served.load(Ordering::Relaxed) > 500).then_some(()));
            server.signal(Signal::TERM);
            assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        });
    }
}

#[test]
fn a_file_that_the_load_keeps_open_disables_preloading_and_is_named() {
    let app = App::new(&format!("io.open('app.lua'):read(1)\n{}", says("preloaded")));
    let server = Server::builder().application(app.root(), "app").start();
    assert_eq!(response_text(&server.socket()), "preloaded");
    server.logged(&["loaded", "preloaded=true"]);

    let app = App::new(&format!("kept = io.open('app.lua')\n{}", says("loaded")));
    let server = Server::builder().application(app.root(), "app").workers("2").inspectable().start();
    assert_eq!(response_text(&server.socket()), "loaded");
    server.logged(&["app.lua", "which forked workers would share"]);
    server.logged(&["loaded", "preloaded=false"]);
    let of_zygote = descriptors(server.zygote());
    assert!(of_zygote.iter().all(|(_, target)| !target.ends_with("app.lua")), "{of_zygote:?}");
}

#[test]
fn reloads_and_kills_leave_no_descriptor_behind() {
    let server = Server::builder().workers("2").inspectable().start();
    let settled = || {
        server.workers(2);
        wait_for("the workers serve", || (server.get("/hello").status() == 200).then_some(()));
        descriptors(server.pid()).len()
    };
    server.wait_for_idle(2);
    let before = settled();
    for round in 0..20 {
        let workers = server.workers(2);
        if round % 2 == 0 {
            // The second reload overtakes the first.
            server.signal(Signal::HUP);
            server.signal(Signal::HUP);
        } else {
            workers.iter().for_each(|worker| signal(*worker, Signal::KILL));
        }
        wait_for("the workers are new", || server.workers(2).is_disjoint(&workers).then_some(()));
    }
    wait_for("the gateway has as many descriptors as before", || (settled() <= before).then_some(()));
}

#[test]
fn the_rest_of_a_dead_workers_response_reaches_only_its_client() {
    let server = Server::builder().workers("1").start();
    let gate = Gate::new();
    // More than the connection holds unread; the rest waits in the worker's link.
    let url = gate.url("/nonce") + &format!("&n=0000000000000001&f=small&k={}", 450_000 / 16);
    let mut slow = Connection::open(&server.socket());
    slow.send(&get(1, &url, true));
    wait_for("the response has begun", || (slow.unread() > 100_000).then_some(()));
    let worker = server.workers(1);
    let idle = |pid: &u32| title(*pid).contains(" idle");
    wait_for("the worker has sent everything", || worker.iter().all(idle).then_some(()));
    worker.iter().for_each(|pid| signal(*pid, Signal::KILL));
    wait_for("the worker's successor is idle", || {
        let now = server.workers(1);
        (now.is_disjoint(&worker) && now.iter().all(idle)).then_some(())
    });
    assert_eq!(server.get("/hello").status(), 200);
    let response = slow.response(1).expect("a complete response");
    assert_eq!(response.body().len(), 450_000);
    assert_eq!(slow.get("/hello").status(), 200);
    assert!(!server.log().contains("ready twice"), "{}", server.log());
}
