//! Take-over: another gateway, perhaps of another version, replaces the running one without a failed request.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::process::Signal;

use crate::support::wire::{Connection, get};
use crate::support::{
    App, Gate, Kind, Process, Proxy, Reply, Server, close, nibiru, output, response_text, says, signal,
    wait_for,
};

/// `nibiru serve --take-over` on the socket of `server`.
fn take_over(server: &Server, app: &App) -> Command {
    take_over_at(&server.socket(), app)
}

fn take_over_at(socket: &Path, app: &App) -> Command {
    let mut command = nibiru();
    command.args(["serve", "--take-over", "--workers", "2", "--root"]).arg(app.root());
    command.arg("--listen").arg(format!("unix:{}", socket.display())).arg("app");
    command
}

/// The pid of the gateway behind the control socket.
fn pid(server: &Server) -> u32 {
    server.status()["pid"].as_u64().unwrap().try_into().unwrap()
}

#[test]
fn a_take_over_under_load_refuses_no_connection_and_fails_no_request() {
    let app = App::new(&says("one"));
    let mut server = Server::builder().application(app.root(), "app").start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    proxy.curl([], "/").expect(200);
    let (stop, served) = (AtomicBool::new(false), AtomicU32::new(0));
    let socket = server.socket();
    let new = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let stream = UnixStream::connect(&socket).expect("the connect is not refused");
                    let mut connection = Connection::from(stream);
                    connection.send(&get(1, "/", false));
                    assert_eq!(connection.response(1).expect("a response").status(), 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                Reply::of(&mut proxy.curl_command([], "/")).expect(200);
            }
        });
        wait_for("500 requests are served", || (served.load(Ordering::Relaxed) > 500).then_some(()));
        app.write(&says("two"));
        let new = Process::start("new", &app.root(), take_over(&server, &app));
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        let before = served.load(Ordering::Relaxed);
        wait_for("500 more requests are served", || {
            (served.load(Ordering::Relaxed) > before + 500).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        new
    });
    assert!(server.log().contains("another server has taken over"), "{}", server.log());
    assert_eq!((response_text(&socket).as_str(), pid(&server)), ("two", new.pid()));

    // The socket files belong to the new server now.
    let mut new = new;
    signal(new.pid(), Signal::TERM);
    assert_eq!(new.wait().code(), Some(0), "{}", new.log());
    assert!(!socket.exists());
    assert!(!socket.with_extension("sock.ctl").exists());
    assert_eq!(fs::read_dir(socket.parent().unwrap()).unwrap().count(), 1, "only the log is left");
}

#[test]
fn a_failed_take_over_leaves_the_old_server_serving() {
    let app = App::new(&says("one"));
    let server = Server::builder().application(app.root(), "app").start();
    assert_eq!(response_text(&server.socket()), "one");
    app.write("return {");
    let failed = output(&mut take_over(&server, &app));
    assert_eq!(failed.status.code(), Some(3), "{}", String::from_utf8_lossy(&failed.stderr));
    assert_eq!((response_text(&server.socket()).as_str(), pid(&server)), ("one", server.pid()));
    // Without --take-over a second server is refused.
    app.write(&says("two"));
    let mut plain = nibiru();
    plain.args(["serve", "--root"]).arg(app.root());
    let plain = output(plain.arg("--listen").arg(format!("unix:{}", server.socket().display())).arg("app"));
    let message = String::from_utf8_lossy(&plain.stderr).into_owned();
    assert!(
        plain.status.code() == Some(1) && message.contains("another server is listening there"),
        "{message}"
    );
    assert_eq!(response_text(&server.socket()), "one");
}

/// During a drain delay the old server's health would be 503, for clients that the new server serves.
#[test]
fn the_old_server_skips_its_drain_delay_after_a_take_over() {
    let app = App::new(&says("one"));
    let mut server =
        Server::builder().application(app.root(), "app").arguments(["--drain-delay", "10m"]).start();
    assert_eq!(response_text(&server.socket()), "one");
    let _new = Process::start("new", &app.root(), take_over(&server, &app));
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

/// A proxy may check the old server's health once more on a kept connection. After a 503 the new server would get no
/// requests until the next check.
#[test]
fn the_old_servers_health_stays_200_while_it_finishes() {
    let (app, gate) = (App::new(&says("two")), Gate::new());
    let mut server = Server::builder().arguments(["--health-path", "/-/health"]).start();
    let mut kept = Connection::open(&server.socket());
    kept.send(&get(1, &gate.url("/wait"), true));
    gate.announced("started");
    let _new = Process::start("new", &app.root(), take_over(&server, &app));
    server.logged(&["another server has taken over"]);
    kept.send(&get(2, "/-/health", true));
    let response = kept.response(2).expect("a response");
    assert_eq!(response.status(), 200);
    assert_eq!(String::from_utf8_lossy(response.body()), "stopping: another server has taken over\n");
    gate.open("go");
    assert_eq!(kept.response(1).expect("a response").status(), 200);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

/// A take-over does not count as a second signal, which would break running requests off.
#[test]
fn a_take_over_during_drain_delay_lets_running_requests_finish() {
    let mut server = Server::builder().workers("1").arguments(["--drain-delay", "10m"]).start();
    let gate = Gate::new();
    let mut running = Connection::open(&server.socket());
    running.send(&get(1, &gate.url("/wait"), false));
    gate.announced("started");
    server.signal(Signal::TERM);
    server.logged(&["stop announced"]);
    server.signal(Signal::HUP);
    server.logged(&["not reloaded: the server is stopping"]);
    let app = App::new(&says("two"));
    let _new = Process::start("new", &app.root(), take_over(&server, &app));
    server.logged(&["another server has taken over"]);
    gate.open("go");
    assert_eq!(running.response(1).expect("a response").status(), 200, "{}", server.log());
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert_eq!(response_text(&server.socket()), "two");
}

/// A server that still loads answers its health path, but has nothing to hand over.
#[test]
fn a_take_over_of_a_server_that_still_loads_is_refused() {
    let app = App::new("while true do end");
    let server =
        Server::builder().application(app.root(), "app").arguments(["--health-path", "/-/health"]).start();
    let failed = output(&mut take_over(&server, &app));
    let message = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(
        failed.status.code() == Some(1) && message.contains("the server has not started yet"),
        "{message}"
    );
}

#[test]
fn take_over_without_a_running_server_is_an_ordinary_start() {
    let app = App::new(&says("one"));
    let mut server = Server::builder().application(app.root(), "app").start();
    server.signal(Signal::KILL);
    server.wait();
    let new = Process::start("new", &app.root(), take_over(&server, &app));
    wait_for("the server listens", || UnixStream::connect(server.socket()).ok());
    assert_eq!((response_text(&server.socket()).as_str(), pid(&server)), ("one", new.pid()));
}

/// The test takes the place of the running gateway, since no signal could end a real one at exactly this moment.
#[test]
fn take_over_from_a_server_that_ends_before_it_answers_is_an_ordinary_start() {
    for reads in [false, true] {
        let (app, directory) = (App::new(&says("one")), tempfile::tempdir().unwrap());
        let socket = directory.path().join("app.sock");
        let control = UnixListener::bind(directory.path().join("app.sock.ctl")).unwrap();
        let new = Process::start("new", &app.root(), take_over_at(&socket, &app));
        let (mut asker, _) = control.accept().unwrap();
        let mut command = String::new();
        if reads {
            // Without this read the close is a reset.
            BufReader::new(&mut asker).read_line(&mut command).unwrap();
            assert_eq!(command, "take-over\n");
        } else {
            wait_for("the new server has sent its command", || {
                (rustix::io::ioctl_fionread(&asker).unwrap() > 0).then_some(())
            });
        }
        close(control);
        drop(asker);
        wait_for("the new server listens", || UnixStream::connect(&socket).ok());
        assert_eq!(response_text(&socket), "one", "{}", new.log());
    }
}

#[test]
fn of_six_concurrent_take_overs_one_succeeds_and_the_others_are_refused() {
    let app = App::new(&says("one"));
    let mut server = Server::builder().application(app.root(), "app").start();
    assert_eq!(response_text(&server.socket()), "one");
    // All commands come while the first server still loads.
    let gate = Gate::new();
    let loads = format!(
        "local path = '{}' local f = io.open(path .. '/started', 'w') f:close() \
         while not io.open(path .. '/go') do os.execute('sleep 0.05') end {}",
        gate.directory().display(),
        says("two")
    );
    app.write(&loads);
    let mut first = Process::start("first", &app.root(), take_over(&server, &app));
    gate.announced("started");
    for name in ["second", "third", "fourth", "fifth", "sixth"] {
        let mut taker = Process::start(name, &app.root(), take_over(&server, &app));
        assert_eq!(taker.wait().code(), Some(1), "{}", taker.log());
        let expected = format!("process {} is taking over already", first.pid());
        assert!(taker.log().contains(&expected), "{}", taker.log());
    }
    assert_eq!((response_text(&server.socket()).as_str(), pid(&server)), ("one", server.pid()));
    gate.open("go");
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert_eq!((response_text(&server.socket()).as_str(), pid(&server)), ("two", first.pid()));
    signal(first.pid(), Signal::TERM);
    assert_eq!(first.wait().code(), Some(0), "{}", first.log());
}

/// The commands that the new server has sent before it ends.
#[test]
fn a_take_over_that_ends_at_any_step_leaves_the_old_server_serving() {
    let app = App::new(&says("one"));
    let mut server = Server::builder().application(app.root(), "app").start();
    assert_eq!(response_text(&server.socket()), "one");
    let control = server.socket().with_extension("sock.ctl");
    for steps in [&["take-over\n"][..], &["take-over\n", "ready []\n"], &["take-over\n", "ready []\n", "tak"]]
    {
        for answered in [true, false] {
            let mut stream = UnixStream::connect(&control).unwrap();
            for step in steps {
                stream.write_all(step.as_bytes()).unwrap();
                if answered && step.ends_with('\n') {
                    let mut line = String::new();
                    BufReader::new(&stream).read_line(&mut line).unwrap();
                    assert!(line.contains("\"ok\":true"), "{line}");
                }
            }
            drop(stream);
            wait_for("another server may take over", || {
                let mut stream = UnixStream::connect(&control).unwrap();
                stream.write_all(b"take-over\n").unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                line.contains("\"ok\":true").then_some(())
            });
            assert_eq!((response_text(&server.socket()).as_str(), pid(&server)), ("one", server.pid()));
        }
    }
    app.write(&says("two"));
    // The old server may not have seen yet that the last connection has closed.
    let new = wait_for("the take-over is accepted", || {
        let new = Process::start("new", &app.root(), take_over(&server, &app));
        let taken = wait_for("the new server takes over or is refused", || {
            let refused = new.log().contains("is taking over already");
            let taken = server.log().contains("another server has taken over");
            (refused || taken).then_some(taken)
        });
        taken.then_some(new)
    });
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert_eq!((response_text(&server.socket()).as_str(), pid(&server)), ("two", new.pid()));
}

#[test]
fn an_address_that_only_the_old_server_has_is_removed_with_it() {
    let app = App::new(&says("two"));
    let scratch = tempfile::tempdir().unwrap();
    let second = scratch.path().join("second.sock");
    let mut server = Server::builder().arguments(["--listen", &format!("unix:{}", second.display())]).start();
    server.logged(&["gateway ready"]);
    assert!(second.exists());
    let _new = Process::start("new", &app.root(), take_over(&server, &app));
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(!second.exists());
    assert_eq!(response_text(&server.socket()), "two");
}
