//! Programs started by the application that outlive their worker: they hold the pipes of its standard output and error.

use std::fs;

use rustix::process::Signal;

use crate::support::{App, Server, ServerBuilder, descriptors, nibiru, output, signal, wait_for};

/// The number of workers that end and leave a child behind.
const WORKERS: usize = 30;

/// The most pipes that the gateway may hold then: those that it keeps for a while, and those of the running workers.
const PIPES: usize = 16 + 12;

/// The number of requests, which exceeds the server's descriptors. Each child that is left behind holds two of its
/// pipes.
const REQUESTS: usize = 600;
const FEW: &str = "ulimit -n 300";

/// The number of reloads, each with a zygote that leaves a child behind.
const RELOADS: usize = 200;

/// An application that leaves a child behind in every request, and during its load. The file `children` has their pids.
/// `/crash` then kills its worker. If the file `crash` exists, the load kills the zygote.
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

    /// A server with one worker for this application.
    fn server(&self) -> ServerBuilder {
        Server::builder().application(self.app.root(), "app").workers("1").inspectable()
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
    wait_for("the pipes of ended workers are closed", || (pipes_of(&server) <= PIPES).then_some(()));
    server.logged(&["the output of a process that has ended is closed"]);
}

#[test]
fn children_that_outlive_replaced_workers_hold_few_pipes() {
    leaves_few_pipes("on");
}

#[test]
fn children_that_were_started_during_the_load_of_workers_hold_few_pipes() {
    leaves_few_pipes("off");
}

/// The numbers of descriptors of gateway and zygote, once the only worker is idle.
fn held(server: &Server) -> Option<[usize; 2]> {
    let status = server.status();
    let workers = status["workers"].as_array()?;
    let idle = matches!(&workers[..], [worker] if worker["state"] == "idle");
    idle.then(|| [server.pid(), server.zygote()].map(|pid| descriptors(pid).len()))
}

/// Runs `requests` and waits until gateway and zygote have as many descriptors as before.
fn leaks_no_descriptors(server: &Server, requests: impl FnOnce()) {
    let before = wait_for("the worker is idle", || held(server));
    requests();
    wait_for("gateway and zygote have as many descriptors as before", || {
        (held(server)? == before).then_some(())
    });
    assert!(!server.log().contains("too many open files"), "{}", server.log());
}

#[test]
fn children_that_outlive_replaced_workers_exhaust_no_descriptors() {
    let leaving = Leaving::new();
    let server = leaving.server().after(FEW).arguments(["--max-requests", "1"]).start();
    leaks_no_descriptors(&server, || {
        for _ in 0..REQUESTS {
            assert_eq!(server.get("/").status(), 200, "{}", server.log());
        }
    });
}

#[test]
fn children_that_outlive_crashed_workers_exhaust_no_descriptors() {
    let leaving = Leaving::new();
    let server = leaving.server().after(FEW).start();
    leaks_no_descriptors(&server, || {
        for _ in 0..REQUESTS / 2 {
            // A worker that has answered a request before its crash does not count as failing, so its replacement is
            // not delayed.
            wait_for("another worker serves", || match server.get("/").status() {
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
fn children_that_outlive_replaced_and_crashed_zygotes_exhaust_no_descriptors() {
    let leaving = Leaving::new();
    let server = leaving.server().after(FEW).start();
    let control = server.control();
    let crash = leaving.app.root().join("crash");
    leaks_no_descriptors(&server, || {
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
