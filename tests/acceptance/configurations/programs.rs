//! Programs that send requests to nibiru without a web server, or that start it with the listening socket as descriptor
//! 0.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use super::{Row, application, compare};
use crate::support::wire::Connection;
use crate::support::{Process, Reply, Server, output, wait_for};

const CHECK: &str = "a health check, `cgi-fcgi -bind -connect`";
const SUPERVISORD: &str = "supervisord, `[fcgi-program]`, `--listen fd:0`";
const SPAWN_FCGI: &str = "spawn-fcgi, `--listen fd:0`";

pub(super) const ROWS: &[Row] = &[
    (CHECK, "GET", "/ping | empty | absent |  | 0 bytes"),
    (CHECK, "GET, with `no_proxy` and `NO_PROXY` in its environment", "/ping | empty | absent |  | 0 bytes"),
    (SUPERVISORD, "GET", "empty | /page | absent |  | 0 bytes"),
    (SPAWN_FCGI, "GET", "empty | /page | absent |  | 0 bytes"),
];

/// The application's cells for a GET on a socket that another program has opened.
fn get(socket: &Path) -> String {
    let response = Connection::open(socket).get("/page");
    assert_eq!(response.status(), 200, "{response:?}");
    response.text()
}

/// `nibiru serve` with descriptor 0 as its listening socket.
fn serve_descriptor_0(root: &Path) -> [String; 7] {
    let root = root.display().to_string();
    let nibiru = env!("CARGO_BIN_EXE_nibiru");
    [nibiru, "serve", "--listen", "fd:0", "--root", &root, "app"].map(str::to_owned)
}

/// A usual health check for php-fpm: `cgi-fcgi -bind -connect SOCKET`, which sends its whole environment.
#[test]
fn a_health_check_by_cgi_fcgi() {
    let (app, gate) = application();
    let server =
        Server::builder().application(app.root(), "app").environment("GATE", gate.directory()).start();
    let asked = |more: &[(&str, &str)]| {
        let mut check = Command::new("cgi-fcgi");
        check.args(["-bind", "-connect"]).arg(server.socket());
        check.env_clear().envs([("PATH", "/usr/bin:/bin"), ("HOME", "/root"), ("LANG", "C.UTF-8")]);
        check.envs([("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", "/ping"), ("SCRIPT_FILENAME", "/ping")]);
        let reply = Reply::from_curl(output(check.envs(more.iter().copied())));
        assert!(reply.stderr.is_empty(), "{}", reply.stderr);
        reply.text()
    };
    let proxies = [("no_proxy", "localhost"), ("NO_PROXY", "localhost"), ("http_proxy", "http://proxy:3128")];
    compare(
        ROWS,
        CHECK,
        &[("GET", asked(&[])), ("GET, with `no_proxy` and `NO_PROXY` in its environment", asked(&proxies))],
    );
}

#[test]
fn supervisords_fcgi_program() {
    let (app, gate) = application();
    let scratch = tempfile::tempdir().unwrap();
    let socket = scratch.path().join("app.sock");
    let directory = scratch.path().display();
    let command = serve_descriptor_0(&app.root()).join(" ");
    let configuration = format!(
        "[supervisord]\nnodaemon=true\nlogfile=/dev/stdout\nlogfile_maxbytes=0\n\
         pidfile={directory}/supervisord.pid\nchildlogdir={directory}\n\
         [fcgi-program:app]\nsocket=unix://{directory}/app.sock\nsocket_mode=0660\ncommand={command}\n\
         environment=GATE=\"{}\"\nredirect_stderr=true\nstdout_logfile={directory}/app.log\n",
        gate.directory().display()
    );
    let file = scratch.path().join("supervisord.conf");
    fs::write(&file, configuration).unwrap();
    let mut command = Command::new("supervisord");
    command.arg("-c").arg(&file);
    let mut process = Process::start("supervisord", scratch.path(), command);
    // The socket's file alone shows nothing: supervisord first creates it once as a test.
    let app_log = scratch.path().join("app.log");
    process.wait_ready(|| fs::read_to_string(&app_log).is_ok_and(|log| log.contains(" ready ")));
    compare(ROWS, SUPERVISORD, &[("GET", get(&socket))]);
    process.terminate();
    assert!(process.wait().success());
    let log = process.log();
    assert!(log.contains("app") && !log.contains("SIGKILL"), "{log}");
    let app_log = fs::read_to_string(app_log).unwrap();
    assert!(app_log.contains(" stopped"), "{app_log}");
}

#[test]
fn spawn_fcgi() {
    let (app, gate) = application();
    let scratch = tempfile::tempdir().unwrap();
    let socket = scratch.path().join("app.sock");
    let mut command = Command::new("spawn-fcgi");
    command.arg("-n").arg("-s").arg(&socket).arg("--").args(serve_descriptor_0(&app.root()));
    command.env("GATE", gate.directory());
    let mut process = Process::start("spawn-fcgi", scratch.path(), command);
    process.wait_ready(|| UnixStream::connect(&socket).is_ok());
    compare(ROWS, SPAWN_FCGI, &[("GET", get(&socket))]);
    wait_for("nibiru is ready", || process.log().contains("ready").then_some(()));
    process.terminate();
    assert!(process.wait().success(), "{}", process.log());
}
