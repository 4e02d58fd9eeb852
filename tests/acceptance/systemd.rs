//! nibiru under systemd: the notifications, the sockets that systemd keeps, and the units of `deploy/systemd`.
//!
//! The tests take the place of systemd: they receive the notifications, and hold the listening socket between one
//! nibiru and the next.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::wire::{Connection, get};
use crate::support::{
    GIVE_UP, Server, nibiru, nothing_happens_for, pace, repository, signal, wait_for, wait_for_exit,
};

/// The socket of NOTIFY_SOCKET.
struct Notifications {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Notifications {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(GIVE_UP)).unwrap();
        Self { socket, directory }
    }

    /// The next notification other than WATCHDOG=1.
    #[track_caller]
    fn next(&self) -> String {
        loop {
            let mut buffer = [0; 1024];
            let length = self.socket.recv(&mut buffer).expect("a notification");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.trim() != "WATCHDOG=1" {
                return text;
            }
        }
    }
}

#[test]
fn start_reloads_and_stop_are_notified_to_systemd() {
    let notifications = Notifications::new();
    let app = tempfile::tempdir().unwrap();
    let write = |text: &str| fs::write(app.path().join("app.lua"), text).unwrap();
    let fine = "return function() return 200, {}, 'fine' end";
    write(fine);
    let mut server = Server::builder()
        .application(app.path().to_owned(), "app")
        .environment("NOTIFY_SOCKET", notifications.directory.path().join("notify"))
        .start();
    assert_eq!(notifications.next().trim(), "STATUS=loading app");
    assert_eq!(notifications.next().trim(), "READY=1\nSTATUS=2 workers, generation 1");

    server.signal(Signal::HUP);
    let reloading = notifications.next();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(notifications.next().trim(), "READY=1\nSTATUS=2 workers, generation 2");

    write("return {");
    server.signal(Signal::HUP);
    assert!(notifications.next().starts_with("RELOADING=1\n"));
    let kept = notifications.next();
    assert!(kept.starts_with("READY=1\nSTATUS=2 workers, generation 2; the last reload failed"), "{kept}");

    server.signal(Signal::TERM);
    assert!(notifications.next().starts_with("STOPPING=1\n"));
    assert_eq!(server.wait().code(), Some(0));
}

/// READY promises that the server accepts connections, for units that start after it.
#[test]
fn a_server_whose_application_does_not_load_never_notifies_ready() {
    let notifications = Notifications::new();
    let app = tempfile::tempdir().unwrap();
    fs::write(app.path().join("app.lua"), "return {").unwrap();
    let mut command = nibiru();
    command.args(["serve", "--listen", "tcp:127.0.0.1:0", "--root"]).arg(app.path()).arg("app");
    command.env("NOTIFY_SOCKET", notifications.directory.path().join("notify"));
    assert_eq!(crate::support::output(&mut command).status.code(), Some(3));
    assert_eq!(notifications.next().trim(), "STATUS=loading app");
    notifications.socket.set_nonblocking(true).unwrap();
    assert!(notifications.socket.recv(&mut [0; 64]).is_err(), "no other notification comes");
}

#[test]
fn watchdog_notifications_stop_with_the_event_loop() {
    let notifications = Notifications::new();
    let server = Server::builder()
        .environment("NOTIFY_SOCKET", notifications.directory.path().join("notify"))
        .environment("WATCHDOG_USEC", "100000")
        .start();
    let pinged = || {
        let mut buffer = [0; 64];
        let length = notifications.socket.recv(&mut buffer).ok()?;
        (buffer[..length].trim_ascii_end() == b"WATCHDOG=1").then_some(())
    };
    for _ in 0..5 {
        wait_for("a watchdog notification comes", pinged);
    }
    server.signal(Signal::STOP);
    wait_for("the gateway is stopped", || crate::support::is_stopped(server.pid()).then_some(()));
    notifications.socket.set_nonblocking(true).unwrap();
    while notifications.socket.recv(&mut [0; 64]).is_ok() {}
    nothing_happens_for(
        Duration::from_millis(300),
        "a stopped gateway sends a watchdog notification",
        pinged,
    );
    server.signal(Signal::CONT);
    wait_for("a watchdog notification comes again", pinged);
}

/// Starts nibiru as systemd does for a socket unit. The test keeps the socket.
fn start(socket: &UnixListener, arguments: &[&str]) -> Child {
    let mut command = Command::new("sh");
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=app; exec \"$0\" \"$@\" 3<&0 0</dev/null";
    command.args(["-c", script]).arg(nibiru().get_program());
    command.args(["serve", "--listen", "systemd", "--workers", "1", "--root"]);
    command.arg(repository("tests/apps")).args(arguments).arg("site:application");
    command.stdin(OwnedFd::from(socket.try_clone().unwrap())).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn kept_socket() -> (TempDir, UnixListener) {
    let directory = tempfile::tempdir().unwrap();
    let socket = UnixListener::bind(directory.path().join("app.sock")).unwrap();
    (directory, socket)
}

/// Expects that a client that connects once gets a response.
#[track_caller]
fn is_answered(path: &Path) {
    let mut connection = Connection::from(UnixStream::connect(path).expect("the connect is not refused"));
    connection.send(&get(1, "/hello", false));
    assert_eq!(connection.response(1).expect("a response").status(), 200);
}

#[test]
fn restarts_under_load_with_a_kept_socket_fail_no_request() {
    let (directory, socket) = kept_socket();
    let path = directory.path().join("app.sock");
    let (over, served) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut server = start(&socket, &[]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    is_answered(&path);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..5 {
            let before = served.load(Ordering::Relaxed);
            wait_for("200 more requests are served", || {
                (served.load(Ordering::Relaxed) > before + 200).then_some(())
            });
            signal(server.id(), Signal::TERM);
            assert_eq!(wait_for_exit(&mut server).code(), Some(0));
            server = start(&socket, &[]);
        }
        let before = served.load(Ordering::Relaxed);
        wait_for("the last server serves 200 requests", || {
            (served.load(Ordering::Relaxed) > before + 200).then_some(())
        });
        over.store(true, Ordering::Relaxed);
    });
    signal(server.id(), Signal::TERM);
    assert_eq!(wait_for_exit(&mut server).code(), Some(0));
    // No server has shut the kept socket down.
    let mut again = start(&socket, &[]);
    is_answered(&path);
    signal(again.id(), Signal::TERM);
    wait_for_exit(&mut again);
}

#[test]
fn idle_exits_with_a_kept_socket_fail_no_request() {
    let (directory, socket) = kept_socket();
    let path = directory.path().join("app.sock");
    let arguments = ["--exit-idle-time", "20ms"];
    let (over, ends_seen) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        // As systemd does, starts a server whenever the last one has ended and a client connects.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let mut polled = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
                let time = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                if rustix::event::poll(&mut polled, Some(&time)).unwrap() > 0 {
                    assert_eq!(wait_for_exit(&mut start(&socket, &arguments)).code(), Some(0));
                    ends_seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        // The pauses are around the idle time after which the server ends.
        for round in 0..60 {
            is_answered(&path);
            pace(Duration::from_millis(10 + round % 30));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(ends_seen.load(Ordering::Relaxed) >= 5, "the server has ended only {ends_seen:?} times");
}

#[test]
fn a_connected_client_or_a_running_request_prevents_the_idle_exit() {
    /// Three times --exit-idle-time.
    const SPAN: Duration = Duration::from_millis(300);
    let (directory, socket) = kept_socket();
    let path = directory.path().join("app.sock");
    let log = directory.path().join("log");
    let mut server = start(&socket, &["--exit-idle-time", "100ms", "--log", log.to_str().unwrap()]);
    let begins_to_end = || {
        let log = std::fs::read_to_string(&log).unwrap();
        log.contains("(--exit-idle-time)").then_some(log)
    };
    let mut connection = Connection::open(&path);
    assert_eq!(connection.get("/hello").status(), 200);
    nothing_happens_for(SPAN, "the server exits while a client is connected", begins_to_end);
    // The worker goes on with the request of a client that has left.
    let gate = crate::support::Gate::new();
    connection.send(&get(1, &gate.url("/wait"), false));
    gate.announced("started");
    drop(connection);
    nothing_happens_for(SPAN, "the server exits while a request runs", begins_to_end);
    gate.open("go");
    assert_eq!(wait_for_exit(&mut server).code(), Some(0));
    assert!(begins_to_end().is_some());
}

/// The idle exit with systemd's own systemd-socket-activate.
#[test]
fn a_server_activated_by_systemd_exits_when_idle() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(&path).arg(nibiru().get_program());
    command.args(["serve", "--listen", "systemd", "--exit-idle-time", "100ms", "--root"]);
    command.arg(repository("tests/apps")).arg("site:application");
    let mut server = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("systemd listens", || UnixStream::connect(&path).ok().map(drop));
    is_answered(&path);
    assert_eq!(wait_for_exit(&mut server).code(), Some(0));
}

#[test]
fn exit_idle_time_without_a_kept_socket_is_refused() {
    let mut command = nibiru();
    command.args(["serve", "--listen", "unix:x.sock", "--exit-idle-time", "1s", "app"]);
    assert_eq!(crate::support::output(&mut command).status.code(), Some(2));
}

#[test]
fn variables_of_systemd_do_not_reach_the_application() {
    let notifications = Notifications::new();
    let app = tempfile::tempdir().unwrap();
    let text = "local names = { 'NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID', 'LISTEN_FDS', 'LISTEN_PID', 'LISTEN_FDNAMES' }\n\
                return function()\n\
                \x20 local seen = ''\n\
                \x20 for _, name in ipairs(names) do if os.getenv(name) then seen = seen .. name .. ' ' end end\n\
                \x20 return 200, {}, 'seen: ' .. seen\n\
                end";
    fs::write(app.path().join("app.lua"), text).unwrap();
    let server = Server::builder()
        .application(app.path().to_owned(), "app")
        .environment("NOTIFY_SOCKET", notifications.directory.path().join("notify"))
        .environment("WATCHDOG_USEC", "10000000")
        .environment("LISTEN_FDS", "1")
        .environment("LISTEN_FDNAMES", "x")
        .start();
    assert_eq!(server.get("/").body(), b"seen: ");
}

/// A directory with the units, in which the nibiru under test replaces an installed one.
fn units() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["nibiru@.service", "nibiru@.socket"] {
        let text = fs::read_to_string(repository("deploy/systemd").join(name)).unwrap();
        let program = nibiru().get_program().to_str().unwrap().to_owned();
        fs::write(directory.path().join(name), text.replace("/usr/local/bin/nibiru", &program)).unwrap();
    }
    directory
}

#[test]
fn the_units_pass_systemd_analyze_verify() {
    let units = units();
    let mut command = Command::new("systemd-analyze");
    command.current_dir(units.path()).args(["verify", "nibiru@shop.service", "nibiru@shop.socket"]);
    let output = crate::support::output(&mut command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("nibiru@")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

/// The level is that of `docs/how-to/systemd.md`.
#[test]
fn the_exposure_level_of_the_service_is_at_most_1_5() {
    let units = units();
    let mut command = Command::new("systemd-analyze");
    command.current_dir(units.path()).args(["security", "--offline=yes", "--no-pager", "./nibiru@.service"]);
    let output = crate::support::output(&mut command);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = table.lines().find(|line| line.contains("Overall exposure level")).expect("a level");
    let level: f32 = line.rsplit(": ").next().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(level <= 1.5, "{table}");
}

/// ExecStart of the service, with its settings file, and without the privileges that the unit removes.
#[test]
fn the_services_command_serves_without_privileges() {
    let (directory, socket) = kept_socket();
    let root = directory.path();
    let service = fs::read_to_string(repository("deploy/systemd/nibiru@.service")).unwrap();
    let command = service.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let settings = root.join("shop.toml");
    fs::write(
        &settings,
        format!("app = 'site:application'\nroot = '{}'\n", repository("tests/apps").display()),
    )
    .unwrap();
    let program = nibiru().get_program().to_str().unwrap().to_owned();
    let command = command
        .replace("/usr/local/bin/nibiru", &program)
        .replace("/etc/nibiru/%i.toml", settings.to_str().unwrap())
        .replace("/run/nibiru/%i", root.to_str().unwrap());
    let confined = "setpriv --no-new-privs --bounding-set=-all --inh-caps=-all";
    let script =
        format!("umask 0077; export LISTEN_PID=$$ LISTEN_FDS=1; exec {confined} {command} 3<&0 0</dev/null");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).stdin(OwnedFd::from(socket));
    let mut server = shell.stdout(Stdio::null()).spawn().unwrap();
    is_answered(&root.join("app.sock"));
    signal(server.id(), Signal::TERM);
    assert_eq!(wait_for_exit(&mut server).code(), Some(0));
}
