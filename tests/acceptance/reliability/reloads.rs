//! Reloads to working and to broken code, and stops, under load.

use std::time::Instant;

use rustix::process::Signal;

use super::books::Books;
use super::clients::{Load, Mix};
use super::{Row, Scale};
use crate::support::{App, Kind, Proxy, Server, repository, wait_for};

/// Lua code that adds `tests/apps` to `package.path`.
pub(super) fn path() -> String {
    format!("package.path = '{};' .. package.path\n", repository("tests/apps/?.lua").display())
}

/// An `app.lua` that loads the application of `tests/apps`, in a directory in which the test can break it.
fn sound() -> String {
    format!("{}return require('site')\n", path())
}

/// Code that does not load, for each kind of failure.
const BROKEN: [(&str, &str); 6] = [
    ("a syntax error", "return {"),
    ("an error while loading", "error('deliberate')"),
    ("an exit while loading", "os.exit(1)"),
    ("nothing callable", "return 5"),
    (
        "an error in a start hook",
        "require('nibiru').on_worker_start(function() error('deliberate') end) return function() end",
    ),
    (
        "an exit in a start hook",
        "require('nibiru').on_worker_start(function() os.exit(1) end) return function() end",
    ),
];

pub(super) fn reloads(scale: Scale) -> Row {
    let server = Server::start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let books = Books::new();
    let rounds = scale.of(15, 100);
    let mut times = Vec::new();
    Load::new(&books, Mix::Small).straight(&server).through(&proxy).during(|| {
        for _ in 0..rounds {
            let before = server.workers(2);
            let begun = Instant::now();
            server.signal(Signal::HUP);
            wait_for("the workers are new", || server.workers(2).is_disjoint(&before).then_some(()));
            times.push(begun.elapsed());
        }
    });
    let (mut row, account) = (Row::default(), books.close());
    row.add(&account);
    row.measured(format!("{rounds} reloads"));
    row.promise(account.failures() + account.broken == 0, "no request fails");
    row.times("until only new workers are left", &mut times);
    row
}

pub(super) fn broken(scale: Scale) -> Row {
    let app = App::new(&sound());
    let server = Server::builder().application(app.root(), "app").start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let books = Books::new();
    let workers = server.workers(2);
    let complaints = || server.log().matches("application does not load").count();
    let mut count = 0;
    Load::new(&books, Mix::Small).straight(&server).through(&proxy).during(|| {
        for _ in 0..scale.of(1, 20) {
            for (what, code) in BROKEN {
                let before = complaints();
                app.write(code);
                server.signal(Signal::HUP);
                wait_for(&format!("the log reports {what}"), || (complaints() > before).then_some(()));
                count += 1;
            }
        }
    });
    let after = server.workers(2);
    let (mut row, account) = (Row::default(), books.close());
    row.add(&account);
    row.measured(format!("{count} reloads, {} ways to be broken", BROKEN.len()));
    row.promise(account.failures() + account.broken == 0, "no request fails");
    row.promise(after == workers, "the old workers keep running");
    let loud =
        server.log().lines().filter(|line| line.contains("does not load")).all(|line| line.contains("ERROR"));
    row.promise(loud, "the log line about the load has the level ERROR");
    app.write(&sound());
    server.signal(Signal::HUP);
    wait_for("the fixed code serves", || server.workers(2).is_disjoint(&workers).then_some(()));
    row
}

/// nginx sends requests over kept connections until the server is gone. A request that has begun is answered; any other
/// is nginx's 502.
pub(super) fn stops(scale: Scale) -> Row {
    let rounds = scale.of(4, 100);
    let (mut row, mut times) = (Row::default(), Vec::new());
    for _ in 0..rounds {
        let mut server = Server::start();
        let proxy = Proxy::start(Kind::Nginx, &server);
        let books = Books::new();
        let status = Load::new(&books, Mix::Small).through(&proxy).during(|| {
            let begun = Instant::now();
            server.signal(Signal::TERM);
            let status = server.wait();
            times.push(begun.elapsed());
            status
        });
        let account = books.close();
        row.add(&account);
        row.promise(account.failed_after_running == 0, "every request that has begun is answered");
        row.promise(account.failed.keys().all(|status| *status == 502), "every other request is nginx's 502");
        row.promise(account.broken == 0, "no response breaks off");
        row.promise(status.code() == Some(0), format!("the server exits with 0, not with {status}"));
    }
    // One note for all rounds: the number of requests that came too late means nothing.
    row.measured.clear();
    row.measured(format!("{rounds} stops"));
    row.times("to the exit", &mut times);
    row
}
