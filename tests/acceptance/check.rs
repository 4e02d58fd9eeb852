//! `nibiru check`: it gives the messages of `serve`, it ends, and it leaves nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Output;

use crate::support::wire::Connection;
use crate::support::{App, Server, is_root, make_stale_socket, nibiru, output};

const FINE: &str = "return function() return 200, {}, 'fine' end";

fn run(command: &str, root: &Path, arguments: &[&str]) -> Output {
    output(nibiru().arg(command).args(arguments).arg("--root").arg(root).arg("app"))
}

/// Standard error without the log.
fn message(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    // A record begins with its time, and its further lines are indented by four blanks.
    let lines = text.lines().filter(|line| !line.starts_with("20") && !line.starts_with("    "));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Name, inode and size of each entry, to detect every file that a check creates, removes or changes.
fn listing(directory: &Path) -> BTreeMap<String, (u64, u64)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            let data = entry.path().symlink_metadata().unwrap();
            (entry.file_name().into_string().unwrap(), (data.ino(), data.len()))
        })
        .collect()
}

/// Expects that `check` and `serve` end with the exit code `code` and the same message, which contains `part`.
#[track_caller]
fn fails_as_serve(root: &Path, arguments: &[&str], code: i32, part: &str) {
    let before = listing(root);
    let [check, serve] = ["check", "serve"].map(|command| run(command, root, arguments));
    assert_eq!(check.status.code(), Some(code), "{arguments:?}: {}", message(&check));
    assert!(message(&check).contains(part), "{arguments:?}: no {part:?} in {}", message(&check));
    assert_eq!(
        (check.status.code(), message(&check)),
        (serve.status.code(), message(&serve)),
        "{arguments:?}"
    );
    assert_eq!(check.stdout, b"", "{arguments:?}");
    assert_eq!(listing(root), before, "{arguments:?}");
}

#[test]
fn a_socket_or_file_that_serve_cannot_open_fails_the_check() {
    let app = App::new(FINE);
    let root = app.root();
    let here = |name: &str| format!("unix:{}", root.join(name).display());
    fs::write(root.join("file"), "precious").unwrap();
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = format!("tcp:{}", occupied.local_addr().unwrap());
    let _other = UnixListener::bind(root.join("other")).unwrap();
    let (free, log) = (here("free"), root.join("no/access.log").display().to_string());
    let long = here(&"x".repeat(120));
    for (arguments, part) in [
        (
            &["--listen", "unix:/no/such/app.sock"][..],
            "cannot listen on unix:/no/such/app.sock: the directory /no/such",
        ),
        (&["--listen", "unix:/proc/app.sock"], "cannot listen on unix:/proc/app.sock: "),
        (&["--listen", &here("file")], "the path exists and is not a socket"),
        (&["--listen", &here("other")], "another server is listening there"),
        (&["--listen", &long], "the path is too long for a Unix socket"),
        (&["--listen", &tcp], "address already in use"),
        (
            &["--listen", "tcp:192.0.2.1:9000", "--allow-from", "192.0.2.7", "--control", "off"],
            "cannot assign requested address",
        ),
        (
            &["--listen", &free, "--control", "unix:/no/such/ctl"],
            "cannot listen on unix:/no/such/ctl (--control)",
        ),
        (
            &["--listen", &free, "--control", &here("file")],
            "(--control): the path exists and is not a socket",
        ),
        (&["--listen", &free, "--access-log", &log], "cannot open the access log"),
        (&["--listen", &free, "--access-log", "/"], "cannot open the access log /: is a directory"),
    ] {
        fails_as_serve(&root, arguments, 1, part);
    }
    if !is_root() {
        // For a user without write permission the settings already refuse the directory.
        return fails_as_serve(
            &root,
            &["--listen", &free, "--spool-dir", "/proc"],
            2,
            "--spool-dir /proc: no file can be made",
        );
    }
    // `serve` starts all the same and logs a warning: most requests need no file.
    let spool = run("check", &root, &["--listen", &free, "--spool-dir", "/proc"]);
    assert_eq!(spool.status.code(), Some(1));
    assert!(message(&spool).contains("cannot keep bodies in /proc: no such file or directory (--spool-dir)"));
    let server = Server::builder().arguments(["--spool-dir", "/proc"]).start();
    server.logged(&["WARN", "nothing can be kept in --spool-dir", "path=\"/proc\""]);
}

#[test]
fn an_application_that_does_not_start_fails_the_check() {
    let app = App::new(FINE);
    let root = app.root();
    let listen = format!("unix:{}", root.join("app.sock").display());
    // Code that LuaJIT has compiled does not see an interrupt and is killed.
    let still = if cfg!(feature = "luajit") {
        "(--start-timeout)"
    } else {
        "app.lua:2: still running\nstack traceback:\n"
    };
    // Long enough that the code is reached that never ends.
    let soon = &["--start-timeout", "300ms"][..];
    for (source, arguments, part) in [
        ("local function spin()\n while true do end\nend\nspin()", soon, still),
        ("os.execute('exec sleep 20')", soon, "takes longer than 300 ms"),
        (
            "require('nibiru').on_worker_start(function() error('no database') end) return print",
            &[],
            "no database",
        ),
        ("require('nibiru').on_worker_start(function()\n while true do end end) return print", soon, still),
        (
            "require('nibiru').on_worker_start(function() os.exit(0) end) return print",
            &[],
            "the first worker ended before it was ready",
        ),
        (
            "setmetatable(_G, { __index = function(_, name) error('undeclared ' .. name, 2) end })\nreturn oops",
            &[],
            "undeclared oops",
        ),
    ] {
        app.write(source);
        for preload in ["auto", "off"] {
            fails_as_serve(
                &root,
                &[&["--listen", &listen, "--preload", preload], arguments].concat(),
                3,
                part,
            );
        }
    }
}

#[test]
fn a_check_runs_the_hooks_of_one_worker_and_changes_no_file() {
    let app = App::new(
        "local nibiru = require('nibiru')\n\
         local function note(text)\n\
         \x20 return function() local file = io.open('said', 'a') file:write(text, '\\n') file:close() end\nend\n\
         nibiru.on_worker_start(note('start'))\nnibiru.on_worker_stop(note('stop'))\n\
         setmetatable(_G, { __index = function(_, name) error('undeclared ' .. name, 2) end,\n\
         \x20 __newindex = function(_, name) error('undeclared ' .. name, 2) end })\n\
         return function() return 200, {}, 'fine' end",
    );
    let root = app.root();
    fs::write(root.join("said"), "").unwrap();
    make_stale_socket(&root.join("stale"));
    fs::write(root.join("old.log"), "a line\n").unwrap();
    std::os::unix::fs::symlink("not-yet.log", root.join("link.log")).unwrap();
    let before: Vec<_> = listing(&root).into_keys().collect();
    let stale_before = listing(&root)["stale"];
    for log in ["new.log", "old.log", "link.log", "-"] {
        let (stale, log) =
            (format!("unix:{}", root.join("stale").display()), root.join(log).display().to_string());
        let log = if log.ends_with('-') { "-" } else { &log };
        let checked = run(
            "check",
            &root,
            &[
                "--listen",
                &stale,
                "--listen",
                "systemd",
                "--listen",
                "fd:7",
                "--listen",
                "tcp:127.0.0.1:0",
                "--access-log",
                log,
                "--drain-delay",
                "1h",
                "--workers",
                "7",
            ],
        );
        assert_eq!((checked.status.code(), message(&checked).as_str()), (Some(0), ""), "{log}");
        assert_eq!(checked.stderr, b"");
        let said = String::from_utf8(checked.stdout).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert!(
            lines[0].starts_with("app: loads, and a worker starts, in ") && lines[0].ends_with('s'),
            "{said}"
        );
        let inherited = "not tried: the socket is passed to serve when it is started";
        assert_eq!(
            lines[1..],
            [
                format!("{stale}: free"),
                format!("systemd: {inherited}"),
                format!("fd:7: {inherited}"),
                "tcp:127.0.0.1:0: free".into()
            ]
        );
        assert_eq!(fs::read_to_string(root.join("said")).unwrap(), "start\nstop\n", "{log}");
        fs::write(root.join("said"), "").unwrap();
        assert_eq!(listing(&root).into_keys().collect::<Vec<_>>(), before, "{log}");
        assert_eq!(listing(&root)["stale"], stale_before, "{log}");
    }
    assert_eq!(fs::read_to_string(root.join("old.log")).unwrap(), "a line\n");
}

#[test]
fn a_check_beside_the_running_server_passes_and_does_not_disturb_it() {
    let app = App::new(FINE);
    let port = crate::support::free_port();
    let tcp = format!("tcp:127.0.0.1:{port}");
    let server = Server::builder().application(app.root(), "app").arguments(["--listen", &tcp]).start();
    server.logged(&["ready"]);
    let mut connection = Connection::open(&server.socket());
    let socket = format!("unix:{}", server.socket().display());
    let inode = server.socket().symlink_metadata().unwrap().ino();
    let other = format!("unix:{}/other.ctl", app.root().display());
    // The same when the settings name another control socket by now.
    for control in [&[][..], &["--control", &other]] {
        for _ in 0..3 {
            let arguments = [&["--listen", &socket, "--listen", &tcp], control].concat();
            let checked = run("check", &app.root(), &arguments);
            let said = String::from_utf8_lossy(&checked.stdout).into_owned();
            assert_eq!(checked.status.code(), Some(0), "{}", message(&checked));
            let running = "the running server listens there";
            assert!(said.ends_with(&format!("\n{socket}: {running}\n{tcp}: {running}\n")), "{said}");
            assert_eq!(connection.get("/").body(), b"fine");
            assert_eq!(server.get("/").body(), b"fine");
        }
    }
    assert_eq!(server.socket().symlink_metadata().unwrap().ino(), inode);
    assert!(!server.log().contains("stopping") && !server.log().contains("taken over"), "{}", server.log());
    app.write("error('on purpose')");
    let checked = run("check", &app.root(), &["--listen", &socket]);
    assert_eq!(checked.status.code(), Some(3), "{}", message(&checked));
}

#[test]
fn a_check_sends_no_notification_to_systemd() {
    let app = App::new(FINE);
    let notify = app.root().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    socket.set_nonblocking(true).unwrap();
    let listen = format!("unix:{}", app.root().join("app.sock").display());
    let mut command = nibiru();
    command
        .args(["check", "--listen", &listen, "--root"])
        .arg(app.root())
        .arg("app")
        .env("NOTIFY_SOCKET", &notify);
    assert_eq!(output(&mut command).status.code(), Some(0));
    let said = socket.recv(&mut [0; 64]).unwrap_err();
    assert_eq!(said.kind(), std::io::ErrorKind::WouldBlock);
}
