//! What an application has started and outlives the process that started it: it keeps what that process printed to.

use std::fs;

use rustix::process::Signal;

use crate::support::{App, Server, descriptors, signal, wait_for};
use crate::wire::Connection;

/// Workers that end, each of which leaves a child behind.
const WORKERS: usize = 30;

/// The gateway's pipes that may be left then: those that are kept for a while, and those of the workers that run.
const PIPES: usize = 16 + 12;

/// An application that leaves a child behind in every request, and while it is loaded. The children's numbers are in a file.
struct Leaving {
    app: App,
}

impl Leaving {
    fn new() -> Self {
        let app = App::new("return nil");
        let children = app.root().join("children");
        let text = format!(
            "local function leave() os.execute('sleep 300 & echo $! >> {}') end\n\
             leave()\n\
             return function()\n\
             \x20 leave()\n\
             \x20 return 200, {{}}, 'Hello, World!\\n'\n\
             end",
            children.display()
        );
        app.write(&text);
        Self { app }
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
    let server = Server::builder()
        .application(leaving.app.root(), "app")
        .workers("1")
        .arguments(["--max-requests", "1", "--preload", preload])
        .looked_into()
        .start();
    for _ in 0..WORKERS {
        assert_eq!(Connection::open(&server.socket()).get("/").status(), 200, "{}", server.log());
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
