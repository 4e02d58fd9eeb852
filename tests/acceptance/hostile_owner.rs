//! A server that runs as root with its sockets and log in a directory of another user, who replaces the files there all
//! the time: no other file of root's is changed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::listen::is_answered;
use crate::support::{
    Need, Process, free_port, lacks, make_stale_socket, nibiru, repository, runs, signal, wait_for,
};

/// Rounds of a start, a reload, a reopening of the log, and a stop.
const ROUNDS: usize = 8;

/// The most attempts at a start: one that finds its directory, its socket or its log replaced is refused.
const TRIES: usize = 500;

/// The user id of the directory's owner.
const OWNER: u32 = 65534;

/// The attacker: in a loop without a pause, it makes one of these changes and undoes it. A socket or log of the server
/// becomes a symbolic link to a file of root's. So does the directory of the server. So does the directory in which
/// sockets are bound before they are renamed. Another such directory exists already. A socket or log becomes a hard
/// link to a file of root's.
const ATTACK: &str = r#"
import os, random, sys

theirs, precious, owner = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.setgroups([])
os.setgid(owner)
os.setuid(owner)
os.chdir(theirs)
names = ["app.sock", "app.sock.ctl", "access.log"]
targets = [precious + "/" + name for name in ("shadow", "socket", "directory", "none")]

def attempt(call, *arguments):
    try:
        call(*arguments)
    except OSError:
        pass

def is_link(path):
    return os.path.islink(path)

def lead(name):
    attempt(os.symlink, random.choice(targets), "run/.new")
    attempt(os.rename, "run/.new", "run/" + name)

def back(name):
    if is_link("run/" + name):
        attempt(os.unlink, "run/" + name)

def one_name():
    name = random.choice(names)
    lead(name)
    back(name)

def the_directory():
    attempt(os.rename, "run", "away")
    attempt(os.symlink, precious, "run")
    if is_link("run"):
        attempt(os.unlink, "run")
    attempt(os.rename, "away", "run")

def where_sockets_begin():
    for name in os.listdir("run"):
        if name.startswith(".nibiru-"):
            attempt(os.rename, "run/" + name, "run/moved")
            attempt(os.symlink, precious, "run/" + name)
            back(name)
            attempt(os.rename, "run/moved", "run/" + name)

def another_one():
    attempt(os.mkdir, "run/.nibiru-0")
    for name in names[:2]:
        attempt(os.symlink, random.choice(targets), "run/.nibiru-0/" + name)
    for name in names[:2]:
        attempt(os.unlink, "run/.nibiru-0/" + name)
    attempt(os.rmdir, "run/.nibiru-0")

def hard_link():
    name = random.choice(names)
    attempt(os.unlink, "run/" + name)
    attempt(os.link, random.choice(targets), "run/" + name)
    attempt(os.unlink, "run/" + name)

open("on", "w").close()
while True:
    random.choice([one_name, the_directory, where_sockets_begin, another_one, hard_link])()
"#;

/// Owner, group, mode and content of everything in a directory, itself included.
fn state(directory: &Path) -> BTreeMap<String, (u32, u32, u32, String)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let paths = entries.chain([directory.to_owned()]);
    paths
        .map(|path| {
            let data = fs::symlink_metadata(&path).unwrap();
            let content = if data.is_file() { fs::read_to_string(&path).unwrap() } else { String::new() };
            (path.display().to_string(), (data.uid(), data.gid(), data.mode(), content))
        })
        .collect()
}

/// Starts a server, with as many attempts as the attack makes necessary.
fn start(scratch: &Path, port: u16) -> Process {
    let run = scratch.join("theirs/run");
    for _ in 0..TRIES {
        let mut command = nibiru();
        command.args(["serve", "--workers", "1", "--root"]).arg(repository("tests/apps"));
        command.arg("--listen").arg(format!("unix:{}/app.sock", run.display()));
        command.args(["--listen", &format!("tcp:127.0.0.1:{port}"), "--socket-owner", &OWNER.to_string()]);
        command.arg("--access-log").arg(run.join("access.log")).arg("site:application");
        let mut server = Process::start("nibiru", scratch, command);
        let started = wait_for("the server runs or is refused", || {
            let ready = server.log().contains("gateway ready");
            (ready || !runs(server.pid())).then_some(ready)
        });
        if started {
            return server;
        }
        assert_eq!(server.wait().code(), Some(1), "{}", server.log());
    }
    panic!("no server has started in {TRIES} attempts");
}

fn lines(server: &Process, part: &str) -> usize {
    server.log().matches(part).count()
}

#[test]
fn a_hostile_owner_of_the_socket_directory_cannot_make_root_change_other_files() {
    if lacks(Need::Root) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["theirs", "theirs/run", "precious", "precious/directory"] {
        fs::create_dir(path(name)).unwrap();
    }
    for name in ["theirs", "theirs/run"] {
        chown(path(name), Some(OWNER), Some(OWNER)).unwrap();
    }
    fs::write(path("precious/shadow"), "root's").unwrap();
    fs::set_permissions(path("precious/shadow"), fs::Permissions::from_mode(0o600)).unwrap();
    make_stale_socket(&path("precious/socket"));
    let before = state(&path("precious"));

    let mut command = Command::new("python3");
    command.args(["-c", ATTACK]).args([path("theirs"), path("precious")]).arg(OWNER.to_string());
    let attacker = Process::start("attacker", scratch.path(), command);
    wait_for("the attacker has started", || path("theirs/on").exists().then_some(()));
    for _ in 0..ROUNDS {
        let port = free_port();
        let mut server = start(scratch.path(), port);
        signal(server.pid(), Signal::HUP);
        wait_for("the code is reloaded", || (lines(&server, "gateway reloaded") > 0).then_some(()));
        signal(server.pid(), Signal::USR1);
        // A failed reopening is tried again with the next line.
        wait_for("the access log is reopened", || {
            assert!(is_answered("127.0.0.1", port), "{}", server.log());
            (lines(&server, "access log reopened") > 0).then_some(())
        });
        server.terminate();
        assert_eq!(server.wait().code(), Some(0), "{}", server.log());
        assert_eq!(state(&path("precious")), before, "{}", server.log());
    }
    assert!(runs(attacker.pid()), "the attack has ended: {}", attacker.log());
}
