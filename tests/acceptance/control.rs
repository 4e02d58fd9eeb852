//! Discovery of the server by a command, and the messages when no server is found.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};

use crate::support::wire::Connection;
use crate::support::{App, Process, Server, free_port, nibiru, output};

const APP: &str = "return function() return 200, {}, 'fine' end";

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = nibiru();
    command.current_dir(directory).args(arguments);
    command
}

/// Exit code and output of `nibiru ARGUMENTS…` in `directory`.
fn run(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = output(&mut command(directory, arguments));
    (output.status.code(), said(&output))
}

/// A server that is started in the directory of its application.
#[track_caller]
fn serve(directory: &Path, name: &'static str, arguments: &[&str]) -> Process {
    start(directory, name, &[&["serve"], arguments].concat())
}

#[track_caller]
fn start(directory: &Path, name: &'static str, arguments: &[&str]) -> Process {
    let mut process = Process::start(name, directory, command(directory, arguments));
    let log = directory.join(format!("{name}.log"));
    process.wait_ready(|| fs::read_to_string(&log).is_ok_and(|log| log.contains("ready")));
    process
}

fn write_file(app: &App, text: &str) {
    fs::write(app.root().join("nibiru.toml"), format!("app = 'app'\nworkers = 1\n{text}\n")).unwrap();
}

#[test]
fn a_server_is_found_after_its_nibiru_toml_was_edited() {
    let app = App::new(APP);
    write_file(&app, "listen = 'unix:old.sock'");
    let mut server = serve(&app.root(), "nibiru", &[]);
    write_file(&app, "listen = 'unix:new.sock'\ncontrol = 'unix:new.ctl'");
    let (code, status) = run(&app.root(), &["status"]);
    assert_eq!(code, Some(0), "{status}");
    assert!(status.contains(&format!("pid {}", server.pid())), "{status}");
    let (code, reloaded) = run(&app.root(), &["reload"]);
    assert_eq!(code, Some(0), "{reloaded}");
    for part in
        ["generation 2 serves", "listen cannot change while running: restart", "control cannot change"]
    {
        assert!(reloaded.contains(part), "{reloaded}");
    }
    assert_eq!(run(&app.root(), &["scale", "2"]).0, Some(0));
    // The same after an edit that breaks the file: only the reload needs the file, and it reports the error.
    write_file(&app, "listen =");
    assert_eq!(run(&app.root(), &["status"]).0, Some(0));
    let (code, reloaded) = run(&app.root(), &["reload"]);
    assert_eq!(code, Some(3), "{reloaded}");
    assert!(reloaded.contains("nibiru.toml:3: "), "{reloaded}");
    assert_eq!(run(&app.root(), &["stop"]), (Some(0), "stopped\n".to_owned()));
    assert!(server.wait().success(), "{}", server.log());
}

/// For example, `--config /etc/nibiru/shop.toml` from any directory.
#[test]
fn a_server_is_found_by_config_from_another_directory() {
    let (app, elsewhere) = (App::new(APP), tempfile::tempdir().unwrap());
    write_file(&app, "listen = 'unix:old.sock'");
    let _server = serve(&app.root(), "nibiru", &[]);
    let file = app.root().join("nibiru.toml").display().to_string();
    assert_eq!(run(elsewhere.path(), &["status", "--config", &file]).0, Some(0));
    let (code, nobody) = run(elsewhere.path(), &["status"]);
    assert_eq!(code, Some(1));
    assert!(nobody.contains("cannot reach the server at nibiru.sock.ctl: no such file"), "{nobody}");
}

/// The file names the socket of a server that runs with another file.
#[test]
fn a_command_never_reaches_a_server_that_runs_with_another_file() {
    let (ours, theirs) = (App::new(APP), App::new(APP));
    write_file(&ours, "listen = 'unix:app.sock'");
    let mut server = serve(&ours.root(), "nibiru", &[]);
    let mut other = serve(&theirs.root(), "other", &["--workers", "1", "app"]);
    write_file(&ours, &format!("listen = 'unix:{}'", theirs.root().join("nibiru.sock").display()));
    assert_eq!(run(&ours.root(), &["stop"]).0, Some(0));
    assert!(server.wait().success());
    assert_eq!(run(&theirs.root(), &["stop"]).0, Some(0));
    assert!(other.wait().success());
}

#[test]
fn of_two_servers_with_one_file_a_command_reaches_the_one_whose_socket_the_file_names() {
    let app = App::new(APP);
    write_file(&app, "listen = 'unix:one.sock'");
    let one = serve(&app.root(), "one", &[]);
    let two = serve(&app.root(), "two", &["--listen", "unix:two.sock"]);
    let (_, status) = run(&app.root(), &["status"]);
    assert!(status.contains(&format!("pid {}", one.pid())), "{status}");
    write_file(&app, "listen = 'unix:two.sock'");
    let (_, status) = run(&app.root(), &["status"]);
    assert!(status.contains(&format!("pid {}", two.pid())), "{status}");
    write_file(&app, "listen = 'unix:three.sock'");
    let (code, several) = run(&app.root(), &["status"]);
    assert_eq!(code, Some(2), "{several}");
    for name in ["one", "two"] {
        let path = app.root().canonicalize().unwrap().join(format!("{name}.sock.ctl"));
        assert!(several.contains(&format!("\n  --control unix:{}", path.display())), "{several}");
    }
}

/// `nibiru dev` has no control socket and does not hide the server from commands.
#[test]
fn a_server_is_found_while_nibiru_dev_runs_beside_it() {
    let app = App::new(APP);
    let server = serve(&app.root(), "nibiru", &["--workers", "1", "--listen", "unix:other.sock"]);
    let dev = start(&app.root(), "dev", &["dev", "--http", "127.0.0.1:0"]);
    let (code, status) = run(&app.root(), &["status"]);
    assert_eq!(code, Some(0), "{status}");
    assert!(status.contains(&format!("pid {}", server.pid())), "{status}");
    assert!(!dev.log().contains("control socket"), "{}", dev.log());
    drop(server);
    let (code, none) = run(&app.root(), &["status"]);
    assert_eq!(code, Some(1), "{none}");
    assert!(none.contains("cannot reach the server at nibiru.sock.ctl"), "{none}");
}

#[test]
fn a_missing_control_socket_is_reported_by_the_server_and_by_a_command() {
    let app = App::new(APP);
    let listen = format!("tcp:127.0.0.1:{}", free_port());
    let server = serve(&app.root(), "tcp", &["--workers", "1", "--listen", &listen, "app"]);
    assert!(
        server.log().contains("no control socket, since nibiru makes no Unix socket here"),
        "{}",
        server.log()
    );
    let (code, none) = run(&app.root(), &["status"]);
    assert_eq!(code, Some(2), "{none}");
    assert!(
        none.contains("the server has no control socket") && none.contains("--control unix:PATH"),
        "{none}"
    );
    drop(server);
    // `--control off` is not reported.
    let server =
        serve(&app.root(), "off", &["--workers", "1", "--control", "off", "--listen", &listen, "app"]);
    assert!(!server.log().contains("no control socket"), "{}", server.log());
    drop(server);
    let control = ["--control", "unix:app.ctl"];
    let arguments = ["--workers", "1", "--listen", &listen, "app"];
    let _server = serve(&app.root(), "given", &[&control[..], &arguments].concat());
    assert_eq!(run(&app.root(), &["status"]).0, Some(0));
}

/// Regression: the command hung for `--header-timeout`.
#[test]
fn a_command_to_the_fastcgi_socket_is_refused_at_once_and_names_the_control_socket() {
    let server = Server::builder().workers("1").arguments(["--header-timeout", "1h"]).start();
    let socket = server.socket();
    let here = Path::new("/");
    for arguments in [&["status"][..], &["reload"], &["stop"], &["scale", "2"]] {
        let control = format!("unix:{}", socket.display());
        let (code, said) = run(here, &[arguments, &["--control", &control]].concat());
        let expected = format!(
            "nibiru: {0} is the server's FastCGI socket; its control socket is {0}.ctl\n",
            socket.display()
        );
        assert_eq!((code, said), (Some(1), expected), "{arguments:?}");
    }
    let alone = socket.with_file_name("alone.sock");
    let listener = UnixListener::bind(&alone).unwrap();
    let closes = std::thread::spawn(move || drop(listener.accept()));
    let (code, said) = run(here, &["status", "--control", &alone.display().to_string()]);
    closes.join().unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("alone.sock is no control socket; without --control"), "{said}");
    assert_eq!(Connection::open(&socket).get("/hello").status(), 200);
}

#[test]
fn a_request_to_the_control_socket_is_refused_at_once() {
    let server = Server::builder().workers("1").start();
    let to = server.control();
    let body = server.socket().with_file_name("body");
    fs::write(&body, vec![b'x'; 4 << 20]).unwrap();
    let body = format!("@{}", body.display());
    for data in [&[][..], &["-d", "x"], &["-d", &body]] {
        let (code, said) = run(Path::new("/"), &[&["request", "POST", "/", "--to", &to], data].concat());
        let expected =
            format!("nibiru: {to} is the server's control socket; requests go to the one of --listen\n");
        assert_eq!((code, said), (Some(1), expected));
    }
}

#[test]
fn a_body_file_that_cannot_be_read_is_named() {
    let (code, said) = run(Path::new("/"), &["request", "POST", "/", "-d", "@/nosuch"]);
    assert_eq!((code, said.as_str()), (Some(1), "nibiru: @/nosuch: no such file or directory\n"));
}

#[test]
fn a_bare_name_for_control_is_the_instance_of_the_systemd_unit() {
    let (code, said) = run(Path::new("/"), &["status", "--control", "no-such-app"]);
    let expected = "nibiru: cannot reach the server at /run/nibiru/no-such-app/control.sock: no such file or directory \
                    (does nibiru@no-such-app.service run?)\n";
    assert_eq!((code, said.as_str()), (Some(1), expected));
    let (code, said) = run(Path::new("/"), &["status", "--control", "tcp:127.0.0.1:9000"]);
    assert_eq!(code, Some(2));
    assert!(
        said.contains("--control tcp:127.0.0.1:9000: expected unix:PATH, or the NAME of an application"),
        "{said}"
    );
}

/// Exit code and output of `serve` with these arguments.
fn refused(app: &App, arguments: &[&str]) -> (Option<i32>, String) {
    run(&app.root(), &[&["serve"], arguments, &["app"]].concat())
}

#[test]
fn an_address_that_is_given_twice_is_refused() {
    let app = App::new(APP);
    let (code, said) = refused(&app, &["--listen", "unix:a.sock", "--listen", "unix:./a.sock"]);
    let expected =
        "nibiru: --listen unix:a.sock,unix:./a.sock: unix:./a.sock is the same socket as unix:a.sock\n";
    assert_eq!((code, said.as_str()), (Some(2), expected));
    let (code, said) = refused(&app, &["--listen", "unix:a.sock", "--control", "unix:./a.sock"]);
    let expected = "nibiru: --control unix:./a.sock: the server listens for FastCGI at unix:a.sock; the control socket \
                    needs another path\n";
    assert_eq!((code, said.as_str()), (Some(2), expected));
    // Host names of the same address are only known as duplicates after resolution.
    let port = free_port();
    let (one, other) = (format!("tcp:127.0.0.1:{port}"), format!("tcp:localhost:{port}"));
    let (code, said) = refused(&app, &["--listen", &one, "--listen", &other]);
    let expected = format!("nibiru: cannot listen on {other}: {one} of this same server has it\n");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&expected), "{said}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = format!("tcp:{}", taken.local_addr().unwrap());
    let (_, said) = refused(&app, &["--listen", &one, "--listen", &other]);
    assert!(said.contains(&format!("cannot listen on {other}: address")), "{said}");
}

#[test]
fn a_descriptor_that_is_not_a_listening_socket_is_refused() {
    let app = App::new(APP);
    for (address, code, cause) in [
        ("fd:", 2, "--listen fd:: expected fd: and the number of a descriptor, such as fd:0"),
        ("fd:x", 2, "--listen fd:x: expected fd: and the number of a descriptor, such as fd:0"),
        ("fd:-1", 2, "--listen fd:-1: expected fd: and the number of a descriptor, such as fd:0"),
        ("fd:99", 1, "cannot listen on fd:99: descriptor 99 is not open"),
        ("fd:2147483647", 1, "cannot listen on fd:2147483647: descriptor 2147483647 is not open"),
        ("fd:0", 1, "cannot listen on fd:0: descriptor 0 is not a socket"),
        ("fd:1", 1, "cannot listen on fd:1: descriptor 1 is not a socket"),
    ] {
        let (exit, said) = refused(&app, &["--listen", address]);
        assert_eq!(exit, Some(code), "{said}");
        // The message comes after all lines of the log, in one piece.
        assert!(said.ends_with(&format!("nibiru: {cause}\n")), "{said}");
    }
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut connected = command(&app.root(), &["serve", "--listen", "fd:0", "app"]);
    let said = said(&output(connected.stdin(OwnedFd::from(ours))));
    assert!(said.contains("cannot listen on fd:0: descriptor 0 is not a listening socket"), "{said}");
}

#[test]
fn a_read_only_null_device_refuses_the_start() {
    let app = App::new(APP);
    let file = app.root().join("null");
    fs::write(&file, "").unwrap();
    // A mount namespace has a read-only file in place of /dev/null.
    let script =
        "mount --bind \"$1\" /dev/null && mount -o remount,bind,ro /dev/null && shift && exec \"$@\"";
    let mut serve = Command::new("unshare");
    serve.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]).arg(&file);
    serve.arg(nibiru().get_program()).args(["serve", "app"]).current_dir(app.root());
    let output = output(serve.stdin(std::process::Stdio::null()));
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nibiru: cannot start: /dev/null cannot be read and written: read-only"), "{said}");
}
