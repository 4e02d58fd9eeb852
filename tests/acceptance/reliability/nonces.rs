//! The long mixture: all kinds of requests, clients that leave, workers that die; and what is left afterwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::books::Books;
use super::clients::{Load, Mix};
use super::kills::kill_workers;
use super::{Row, Scale};
use crate::support::{Kind, Proxy, Server, descriptors as open, signal, wait_for, wait_within};
use crate::wire::Connection;

/// Between two deaths of a worker.
const INTERVAL: Duration = Duration::from_millis(50);

/// Every answer carries the nonce of its own request and nothing of another's.
pub(super) fn nonces(scale: Scale) -> Row {
    let server = Server::builder().workers("4").start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let books = Books::new();
    let goal = scale.of(20_000, 1_000_000) as usize;
    let begun = Instant::now();
    let kills = Load::new(&books, Mix::All).straight(&server).through(&proxy).during(|| {
        let mut kills = 0;
        while books.over() < goal {
            let before = books.over();
            kill_workers(&server, 1, INTERVAL);
            kills += 1;
            wait_for("the clients come on", || (books.over() > before).then_some(()));
        }
        kills
    });
    let (mut row, account) = (Row::default(), books.close());
    row.add(&account);
    row.measured(format!("{kills} killed"));
    row.measured(format!("{:.0} requests/s", account.count as f64 / begun.elapsed().as_secs_f64()));
    row.promise(account.failed.keys().all(|status| *status == 502), "every failure is a 502");
    row.promise(account.failures() + account.broken <= kills, "a kill costs one request at most");
    row
}

/// After all that, every process holds what it held when it was fresh.
pub(super) fn descriptors(scale: Scale) -> Row {
    let server = Server::start();
    let audit = || {
        server.workers(2);
        let mut held = vec![("gateway", kinds(server.pid())), ("zygote", kinds(server.zygote()))];
        held.extend(server.workers(2).into_iter().map(|worker| ("worker", kinds(worker))));
        held
    };
    // Both workers have answered, so both have opened what they need.
    let mut pair = Connection::open(&server.socket());
    for _ in 0..100 {
        assert_eq!(pair.get("/hello").status(), 200);
    }
    drop(pair);
    let mut fresh = audit();
    // The connection above may still be closing.
    wait_for("the fresh server is at rest", || {
        let before = std::mem::replace(&mut fresh, audit());
        (before == fresh).then_some(())
    });

    let books = Books::new();
    let (kills, reloads) = (scale.of(20, 1000), scale.of(3, 50));
    let load = Load::new(&books, Mix::All).straight(&server);
    load.until(scale.of(2000, 100_000).into());
    load.during(|| {
        for _ in 0..reloads {
            kill_workers(&server, kills / reloads, Duration::from_millis(20));
            let (workers, zygote) = (server.workers(2), server.zygote());
            signal(zygote, Signal::KILL);
            wait_for("the zygote is new", || (server.zygote() != zygote).then_some(()));
            // They are no children of the new one's.
            workers.iter().for_each(|worker| signal(*worker, Signal::KILL));
            let before = server.workers(2);
            server.signal(Signal::HUP);
            wait_for("the workers are new", || server.workers(2).is_disjoint(&before).then_some(()));
        }
    });
    let (mut row, account) = (Row::default(), books.close());
    row.add(&account);
    row.measured(format!("{kills} workers and {reloads} zygotes killed, {reloads} reloads"));
    let mut last = Vec::new();
    let settled = wait_within(Duration::from_secs(20), || {
        last = audit();
        (last == fresh).then_some(())
    });
    row.promise(
        settled.is_some(),
        format!("the descriptors are those of a fresh server: {fresh:?}, not {last:?}"),
    );
    let sizes: Vec<String> =
        fresh.iter().map(|(who, kinds)| format!("{who} {}", kinds.values().sum::<usize>())).collect();
    row.measured(format!("descriptors: {}", sizes.join(", ")));
    row
}

/// What a process holds, by kind.
fn kinds(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for (_, target) in open(pid) {
        *kinds.entry(target.replace(|c: char| c.is_ascii_digit(), "")).or_default() += 1;
    }
    kinds
}
