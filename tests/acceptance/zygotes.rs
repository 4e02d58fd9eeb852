//! Hanging zygotes: a zygote that does not fork a worker in time is killed, and a draining zygote has a deadline.

use rustix::process::Signal;

use crate::forks::module_path;
use crate::support::{App, Server, is_stopped, runs, signal, wait_for};

/// Kills the worker and expects that another serves.
fn replace_worker(server: &Server) {
    let before = server.workers(1);
    assert_eq!(server.get("/hello").status(), 200);
    before.iter().for_each(|worker| signal(*worker, Signal::KILL));
    wait_for("the worker is gone", || before.iter().all(|worker| !runs(*worker)).then_some(()));
    assert_eq!(server.get("/hello").status(), 200, "{}", server.log());
    assert!(server.workers(1).is_disjoint(&before));
}

#[test]
fn a_zygote_that_hangs_in_fork_is_killed_after_start_timeout_and_replaced() {
    let app = App::new(
        "require('process').hang_in_second_fork()\n\
         return function() return 200, {}, 'served' end",
    );
    // The load has the same limit.
    let server = Server::builder()
        .workers("1")
        .arguments(["--start-timeout", "500ms"])
        .application(app.root(), "app")
        .environment("LUA_CPATH", format!("{};;", module_path().display()))
        .start();
    let zygote = server.zygote();
    replace_worker(&server);
    assert!(!runs(zygote));
    server.logged(&["ERROR", "zygote has not forked a worker for 500 ms", "--start-timeout"]);
}

#[test]
fn a_stopped_zygote_of_an_older_generation_is_killed_after_the_grace() {
    let server = Server::builder().workers("1").arguments(["--grace", "100ms"]).start();
    assert_eq!(server.get("/hello").status(), 200);
    let (zygote, worker) = (server.zygote(), server.workers(1));
    signal(zygote, Signal::STOP);
    wait_for("the process is stopped", || is_stopped(zygote).then_some(()));
    server.signal(Signal::HUP);
    server.reloaded();
    wait_for("the old zygote is gone", || (!runs(zygote)).then_some(()));
    server.logged(&["WARN", "zygote does not end"]);
    assert!(server.workers(1).is_disjoint(&worker));
    assert_ne!(server.zygote(), zygote);
}
