//! What processes of the same user can do to gateway and zygote: nothing that a debugger can.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::support::{App, Server, output, wait_for};
use crate::wire::{Connection, post};

/// What reading these is allowed to is allowed to attach, read memory and take descriptors (`PTRACE_MODE_READ` of ptrace(2)).
const CLOSED: [&str; 3] = ["environ", "exe", "fd/0"];

/// A program that runs as the server does.
fn as_its_user(program: &str) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
    command
}

/// Which of [`CLOSED`] are open to others of that user.
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
fn gateway_and_zygote_are_closed_to_others_of_their_user_and_workers_are_not() {
    let server = Server::builder().workers("1").by_ordinary_user().start();
    let (first, worker) = (server.zygote(), server.workers(1));
    assert_eq!(open(server.pid()), [""; 0], "the gateway");
    assert_eq!(open(first), [""; 0], "the zygote");
    // Nobody could find out why a C module crashes.
    assert_eq!(open(*worker.first().unwrap()), CLOSED, "a worker");

    // All that the server reads of its own it still reads.
    let body = vec![b'x'; 200_000];
    let mut connection = Connection::open(&server.socket());
    connection.send(&post(1, "/echo", &body, true));
    assert!(connection.response(1).expect("an answer").body() == body);
    server.signal(Signal::HUP);
    server.reloaded();
    let second =
        wait_for("there is a new zygote", || Some(server.zygote()).filter(|zygote| *zygote != first));
    assert_eq!(open(second), [""; 0], "the zygote of a reload");
    assert!(!server.log().contains("WARN"), "{}", server.log());
}

/// Executing a program makes a process dumpable again.
#[test]
fn a_zygote_that_started_over_is_closed_as_well() {
    let app = App::new("kept = io.open('app.lua')\nreturn function() return 200, {}, 'fine' end");
    fs::set_permissions(app.root(), Permissions::from_mode(0o755)).unwrap();
    let server = Server::builder().application(app.root(), "app").workers("1").by_ordinary_user().start();
    server.logged(&["loaded", "preloaded=false"]);
    assert_eq!(open(server.zygote()), [""; 0], "the zygote");
    assert_eq!(open(*server.workers(1).first().unwrap()), CLOSED, "a worker");
    assert_eq!(Connection::open(&server.socket()).get("/").body(), b"fine");
}

#[test]
fn dumpable_opens_them_to_whoever_looks_for_a_fault_of_the_servers() {
    let server = Server::builder().workers("1").arguments(["--dumpable", "on"]).by_ordinary_user().start();
    assert_eq!(open(server.pid()), CLOSED, "the gateway");
    assert_eq!(open(server.zygote()), CLOSED, "the zygote");
}
