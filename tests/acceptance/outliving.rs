//! Programs started by the application that outlive their worker: they keep the output to which it printed.

use std::fs;

use rustix::process::Signal;

use crate::support::{App, Server, ServerBuilder, descriptors, nibiru, output, signal, wait_for};

/// Workers that end, each of which leaves a child behind.
const WORKERS: usize = 30;

/// The gateway's pipes that may be left then: those that are kept for a while, and those of the workers that run.
const PIPES: usize = 16 + 12;

/// Requests to a server that has fewer descriptors. Each child that is left behind holds two of its pipes.
const REQUESTS: usize = 600;
const FEW: &str = "ulimit -n 300";

/// Reloads, each with a zygote that leaves a child behind.
const RELOADS: usize = 200;

/// An application that leaves a child behind in every request, and while it is loaded. The children's numbers are in a file.
/// `/crash` ends its worker after that; where there is a file `crash`, loading ends the zygote.
struct Leaving {
    app: App,
}

impl Leaving {
    fn new() -> Self {
        let app = App::new("return nil");
        let text = format!(
            "local function leave() os.execute('sleep 300 & echo $! >> {root}/children') end\n\
             local function crash() os.execute('kill -9 $PPID') end\n\
             leave()\n\
             if io.open('{root}/crash') then crash() end\n\
             return function(environ)\n\
             \x20 leave()\n\
             \x20 if environ.PATH_INFO == '/crash' then crash() end\n\
             \x20 return 200, {{}}, 'Hello, World!\\n'\n\
             end",
            root = app.root().display()
        );
        app.write(&text);
        Self { app }
    }

    /// A server of it with one worker.
    fn server(&self) -> ServerBuilder {
        Server::builder().application(self.app.root(), "app").workers("1").looked_into()
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let children = fs::read_to_string(self.app.root().join("children")).unwrap_or_default();
        for child in children.lines().filter_map(|line| line.parse().ok()) {
            signal(child, Signal::KILL);
        }
    }
}

fn pipes_of(server: &Server) -> usize {
    descriptors(server.pid()).iter().filter(|(_, target)| target.starts_with("pipe:")).count()
}

fn leaves_few_pipes(preload: &str) {
    let leaving = Leaving::new();
    let server = leaving.server().arguments(["--max-requests", "1", "--preload", preload]).start();
    for _ in 0..WORKERS {
        assert_eq!(server.get("/").status(), 200, "{}", server.log());
    }
    wait_for("the pipes of those that have ended are closed", || (pipes_of(&server) <= PIPES).then_some(()));
    server.logged(&["the output of a process that has ended is closed"]);
}

#[test]
fn what_outlives_workers_that_are_replaced_holds_few_pipes() {
    leaves_few_pipes("on");
}

#[test]
fn what_was_started_while_workers_loaded_holds_few_pipes() {
    leaves_few_pipes("off");
}

/// How many descriptors gateway and zygote have, where one worker is idle and nobody is connected.
fn held(server: &Server) -> Option<[usize; 2]> {
    let status = server.status();
    let workers = status["workers"].as_array()?;
    let idle = matches!(&workers[..], [worker] if worker["state"] == "idle");
    idle.then(|| [server.pid(), server.zygote()].map(|pid| descriptors(pid).len()))
}

/// Has `requests` asked of a server with few descriptors, and waits until it has as many in use as before.
fn gives_back(server: &Server, requests: impl FnOnce()) {
    let before = wait_for("the server is at rest", || held(server));
    requests();
    wait_for("the descriptors are those of the beginning", || (held(server)? == before).then_some(()));
    assert!(!server.log().contains("too many open files"), "{}", server.log());
}

#[test]
fn more_children_than_descriptors_may_outlive_workers_that_have_served_their_requests() {
    let leaving = Leaving::new();
    let server = leaving.server().after(FEW).arguments(["--max-requests", "1"]).start();
    gives_back(&server, || {
        for _ in 0..REQUESTS {
            assert_eq!(server.get("/").status(), 200, "{}", server.log());
        }
    });
}

#[test]
fn more_children_than_descriptors_may_outlive_workers_that_crash() {
    let leaving = Leaving::new();
    let server = leaving.server().after(FEW).start();
    gives_back(&server, || {
        for _ in 0..REQUESTS / 2 {
            // A worker that has answered is no failed start, so the next one is not put off.
            wait_for("there is another worker", || match server.get("/").status() {
                200 => Some(()),
                status => {
                    assert_eq!(status, 503, "{}", server.log());
                    None
                }
            });
            assert_eq!(server.get("/crash").status(), 502, "{}", server.log());
        }
    });
}

#[test]
fn more_children_than_descriptors_may_outlive_zygotes_that_end_and_that_crash() {
    let leaving = Leaving::new();
    let server = leaving.server().after(FEW).start();
    let control = server.control();
    let crash = leaving.app.root().join("crash");
    gives_back(&server, || {
        for round in 0..RELOADS {
            let crashes = round % 2 == 1;
            if crashes {
                fs::write(&crash, "").unwrap();
            }
            let reloaded = output(nibiru().args(["reload", "--control", &control]));
            assert_eq!(reloaded.status.success(), !crashes, "{reloaded:?}\n{}", server.log());
            assert_eq!(server.get("/").status(), 200, "{}", server.log());
            if crashes {
                fs::remove_file(&crash).unwrap();
            }
        }
    });
}
