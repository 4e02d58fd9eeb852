//! Access of other processes of the same user to gateway and zygote: a debugger cannot attach.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::support::wire::{Connection, post};
use crate::support::{App, Server, is_root, output, seccomp, wait_for};

/// Files of `/proc/PID` that need `PTRACE_MODE_READ` (ptrace(2)). A process that can read them can also attach, read
/// memory and take descriptors.
const CLOSED: [&str; 3] = ["environ", "exe", "fd/0"];

/// A program that runs as the server's user.
fn as_its_user(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
    command
}

/// The files of [`CLOSED`] that other processes of that user can read.
fn open(pid: u32) -> Vec<&'static str> {
    let look = |file: &&str| {
        let path = format!("/proc/{pid}/{file}");
        let mut look = match *file {
            "environ" => as_its_user("cat"),
            _ => as_its_user("readlink"),
        };
        let Output { status, .. } = output(look.arg(path));
        status.success()
    };
    CLOSED.into_iter().filter(look).collect()
}

#[test]
fn gateway_and_zygote_are_closed_to_their_users_processes_and_workers_are_open() {
    let server = Server::builder().workers("1").by_ordinary_user().start();
    let (first, worker) = (server.zygote(), server.workers(1));
    assert_eq!(open(server.pid()), [""; 0], "the gateway");
    assert_eq!(open(first), [""; 0], "the zygote");
    // Workers are open, so that a crash of a C module can be debugged.
    assert_eq!(open(*worker.first().unwrap()), CLOSED, "a worker");

    // The gateway can still read its own `/proc` files and spool.
    let body = vec![b'x'; 200_000];
    let mut connection = Connection::open(&server.socket());
    connection.send(&post(1, "/echo", &body, true));
    assert!(connection.response(1).expect("a response").body() == body);
    server.signal(Signal::HUP);
    server.reloaded();
    let second =
        wait_for("there is a new zygote", || Some(server.zygote()).filter(|zygote| *zygote != first));
    assert_eq!(open(second), [""; 0], "the zygote of a reload");
    assert!(!server.log().contains("WARN"), "{}", server.log());
}

/// execve(2) makes a process dumpable again.
#[test]
fn a_zygote_that_executed_itself_again_is_closed() {
    let app = App::new("kept = io.open('app.lua')\nreturn function() return 200, {}, 'fine' end");
    fs::set_permissions(app.root(), Permissions::from_mode(0o755)).unwrap();
    let server = Server::builder().application(app.root(), "app").workers("1").by_ordinary_user().start();
    server.logged(&["loaded", "preloaded=false"]);
    assert_eq!(open(server.zygote()), [""; 0], "the zygote");
    assert_eq!(open(*server.workers(1).first().unwrap()), CLOSED, "a worker");
    assert_eq!(server.get("/").body(), b"fine");
}

#[test]
fn gateway_and_zygote_are_open_with_dumpable_on() {
    let server = Server::builder().workers("1").arguments(["--dumpable", "on"]).by_ordinary_user().start();
    assert_eq!(open(server.pid()), CLOSED, "the gateway");
    assert_eq!(open(server.zygote()), CLOSED, "the zygote");
}

/// A server to which `prctl(PR_SET_DUMPABLE, value)` is refused; for every value without one.
fn filtered(value: Option<u32>) -> Server {
    const PR_SET_DUMPABLE: u32 = 4;
    let arguments: Vec<_> = [(0, PR_SET_DUMPABLE)].into_iter().chain(value.map(|value| (1, value))).collect();
    let wrapper = seccomp::without(seccomp::PRCTL, &arguments);
    let server = Server::builder().workers("1").through(wrapper.each_ref().map(String::as_str)).start();
    assert_eq!(server.get("/hello").status(), 200, "{}", server.log());
    server
}

#[test]
fn a_refusal_to_make_gateway_and_zygote_undumpable_is_logged() {
    let server = filtered(None);
    for process in ["gateway", "zygote"] {
        let parts =
            [&format!("WARN  {process} processes of this user can look into this one")[..], "not permitted"];
        server.logged(&parts);
    }
    // Workers are open as intended, so they log nothing.
    assert!(!server.log().contains("this worker"), "{}", server.log());
}

#[test]
fn a_refusal_to_make_a_worker_dumpable_is_logged() {
    let server = filtered(Some(1));
    server.logged(&["WARN  worker nobody can look into this worker", "not permitted", "worker=1"]);
    assert!(!server.log().contains("can look into this one"), "{}", server.log());
}
