//! Processes that the application itself forks, with C code (`tests/apps/process`). Each ends by itself without a
//! response to a request, and its worker goes on.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{App, Gate, Server, ServerBuilder, library_of, repository, runs, signal, wait_for};

/// Ways to fork: by the C library, by the bare system call, and by Debian's lua-posix where it is built for this Lua.
const WAYS: &[&str] = if cfg!(feature = "luajit") { &["fork", "clone", "posix"] } else { &["fork", "clone"] };

/// The LUA_CPATH pattern of the module `process`.
pub(crate) fn module_path() -> PathBuf {
    static BUILT: LazyLock<TempDir> = LazyLock::new(|| {
        let flags: &[&str] = if cfg!(feature = "luajit") { &["-DLUA_IS_51=1"] } else { &[] };
        library_of(&repository("tests/apps/process/process.c"), flags)
    });
    BUILT.path().join("?.so")
}

fn server() -> ServerBuilder {
    Server::builder()
        .application(repository("tests/apps/process"), "app:application")
        .environment("LUA_CPATH", format!("{};;", module_path().display()))
        .environment("LUA_PATH", repository("tests/apps/?.lua;;"))
        .workers("1")
}

fn get(server: &Server, path: &str) -> (u16, String) {
    let response = server.get(path);
    (response.status(), response.text())
}

const RETURNED: &str = "which the application forked, ends where its code returned to the server";

/// For each case: the child's behaviour, the end of the response body (the child's exit status), and the log's lines
/// about the child.
const CASES: &[(&str, &str, &[&str])] = &[
    ("exit", "7", &[]),
    ("exit_protected", "1", &[]),
    ("exit_in_a_coroutine", "8", &[]),
    ("log", "0", &["the child logs a=1"]),
    ("raise", "1", &["the child has failed", RETURNED]),
    ("answer", "1", &[RETURNED]),
    ("answer_from_a_file", "1", &[RETURNED]),
    ("start_response", "1", &[RETURNED]),
    ("stream", "1", &[RETURNED]),
    ("raise_in_a_stream", "chunk 1", &["the child has failed", RETURNED]),
    ("chunk_in_a_stream", "chunk 1", &[RETURNED]),
    ("end_of_a_stream", "chunk 1", &[RETURNED]),
];

#[test]
fn a_forked_child_never_answers_and_its_worker_serves_on() {
    for way in WAYS {
        let server = server().start();
        let (_, worker) = get(&server, "/pid");
        for (case, expected, logged) in CASES {
            let gate = Gate::new();
            let lines = server.log().lines().count();
            let got = get(&server, &gate.url(&format!("/{case}/{way}")));
            assert_eq!(got, (200, (*expected).to_owned()), "{case} by {way}: {}", server.log());
            // The worker that has forked serves the next two requests.
            for _ in 0..2 {
                assert_eq!(get(&server, "/pid"), (200, worker.clone()), "{case} by {way}: {}", server.log());
            }
            // The child's output comes through another pipe and may be logged later.
            let new = || -> Vec<String> { server.log().lines().skip(lines).map(str::to_owned).collect() };
            let has = |part: &str| new().iter().any(|line| line.contains(part));
            for part in *logged {
                wait_for(&format!("{case} by {way}: the log has {part}"), || has(part).then_some(()));
            }
            let returned = logged.contains(&RETURNED);
            for (part, is_expected) in [("os.exit(", false), ("killing it", false), (RETURNED, returned)] {
                assert_eq!(has(part), is_expected, "{case} by {way}: {part}: {:#?}", new());
            }
            // `close` and the `after_response` hooks run once, in the parent, and never in the child.
            for once in ["after", "closed"] {
                let times = gate.said(once).unwrap_or_default();
                assert!(times.len() <= 1, "{case} by {way}: {once} {} times", times.len());
            }
            assert_eq!(gate.said("slept").is_some(), *case == "log");
        }
    }
}

/// In `close` and in `after_response` hooks: the remaining hooks run once, in the parent.
#[test]
fn a_child_forked_at_the_end_of_a_request_ends_when_its_code_returns() {
    for way in WAYS {
        let server = server().start();
        let (_, worker) = get(&server, "/pid");
        for (case, once) in [("in_close", "closed"), ("after_response", "after")] {
            let gate = Gate::new();
            assert_eq!(get(&server, &gate.url(&format!("/{case}/{way}"))), (200, "1".to_owned()));
            assert_eq!(gate.announced("status"), "1", "{case} by {way}");
            assert_eq!(get(&server, "/pid"), (200, worker.clone()), "{case} by {way}");
            assert_eq!(gate.said(once).as_deref(), Some("x"), "{case} by {way}");
        }
    }
}

/// The child may outlive the request, its worker and the server.
#[test]
fn a_child_that_outlives_its_request_worker_and_server_disturbs_none_of_them() {
    let mut server = server().start();
    let (_, worker) = get(&server, "/pid");
    let gates = [Gate::new(), Gate::new(), Gate::new()];
    let children: Vec<u32> = gates
        .iter()
        .map(|gate| {
            assert_eq!(get(&server, &gate.url("/goes_on/fork")), (200, "1".to_owned()));
            gate.announced("child").parse().unwrap()
        })
        .collect();
    for _ in 0..5 {
        assert_eq!(get(&server, "/pid"), (200, worker.clone()));
    }
    let gone = |child: u32| wait_for("the child is gone", || (!runs(child)).then_some(()));
    gates[0].open("go");
    gone(children[0]);
    server.logged(&["the child is at its end"]);
    assert_eq!(get(&server, "/pid"), (200, worker.clone()), "{}", server.log());

    // A child that outlives its worker.
    signal(worker.parse().unwrap(), Signal::KILL);
    wait_for("another worker serves", || {
        Some(get(&server, "/pid")).filter(|(status, pid)| *status == 200 && *pid != worker)
    });
    assert!(runs(children[1]));
    gates[1].open("go");
    gone(children[1]);
    assert_eq!(get(&server, "/pid").0, 200);

    // A child that outlives the server: it does not delay the stop and is not killed.
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(runs(children[2]));
    gates[2].open("go");
    gone(children[2]);
}

/// During the load of the application, in the zygote or in a worker, and in hooks.
#[test]
fn a_child_forked_outside_of_a_request_ends_when_its_code_returns() {
    for (place, preload) in [("load", "on"), ("load", "off"), ("start", "on"), ("stop", "on")] {
        for (end, status) in [("return", "1"), ("error('the child fails')", "1"), ("os.exit(9)", "9")] {
            let gate = Gate::new();
            let directory = gate.url("").replace("?dir=", "");
            let app = App::new(&format!(
                "local nibiru, gate, process = require('nibiru'), require('gate'), require('process')\n\
                 local function forks()\n\
                 \x20 local pid = process.fork()\n\
                 \x20 if pid == 0 then {end} else gate.announce('{directory}', 'status', process.wait(pid)) end\n\
                 end\n\
                 local function notes()\n\
                 \x20 local file = io.open('{directory}/next', 'a')\n\
                 \x20 file:write('x')\n\
                 \x20 file:close()\n\
                 end\n\
                 if '{place}' == 'start' then nibiru.on_worker_start(forks) nibiru.on_worker_start(notes) end\n\
                 if '{place}' == 'stop' then nibiru.on_worker_stop(forks) nibiru.on_worker_stop(notes) end\n\
                 if '{place}' == 'load' then forks() end\n\
                 return function() return 200, {{}}, tostring(gate.pid()) end"
            ));
            // A bare `return` has to be the last statement of a block.
            let mut server =
                server().application(app.root(), "app").arguments(["--preload", preload]).start();
            let (code, worker) = get(&server, "/");
            assert_eq!(code, 200, "{place} {end}: {}", server.log());
            assert_eq!(get(&server, "/"), (200, worker), "{place} {end}");
            server.signal(Signal::TERM);
            assert_eq!(server.wait().code(), Some(0), "{place} {end}: {}", server.log());
            assert_eq!(
                gate.said("status").as_deref(),
                Some(status),
                "{place} {end} {preload}: {}",
                server.log()
            );
            let once = (place != "load").then_some("x");
            assert_eq!(gate.said("next").as_deref(), once, "{place} {end}: {}", server.log());
            assert_eq!(
                server.log().contains("the child fails"),
                end.starts_with("error"),
                "{}",
                server.log()
            );
            assert_eq!(server.log().contains(RETURNED), status == "1", "{}", server.log());
            assert!(fs::metadata(app.root()).is_ok());
        }
    }
}
