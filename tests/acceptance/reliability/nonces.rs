//! All forms of requests, clients that leave and workers that die; and the descriptors afterwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::books::Books;
use super::clients::{Load, Mix, Way};
use super::kills::kill_workers;
use super::{Row, Scale};
use crate::haproxy;
use crate::support::wire::Connection;
use crate::support::{Kind, Proxy, Server, descriptors as open, repository, signal, wait_for, wait_within};

/// The time between two kills of a worker.
const INTERVAL: Duration = Duration::from_millis(50);

/// The way through HAProxy that multiplexes requests on a connection.
const SHARED: &str = "HAProxy, shared connections";

/// The number of kills between two reloads.
const KILLS_BETWEEN_RELOADS: u64 = 50;

/// Every response has the nonce of its own request and no byte of another response, through each way.
pub(super) fn nonces(scale: Scale) -> Row {
    let server = Server::builder().workers("4").start();
    let params = std::fs::read_to_string(repository("deploy/nginx/nibiru_params")).unwrap();
    let params = params.replace("fastcgi_keep_conn on;", "fastcgi_keep_conn off;");
    let proxies = [
        ("nginx", Proxy::start(Kind::Nginx, &server)),
        (
            "nginx, no keep-alive",
            Proxy::with_edits(Kind::Nginx, &server, |site| {
                site.replace("    keepalive 32;", "")
                    .replace("    keepalive_requests 100000;", "")
                    .replace("        include nibiru_params;", &params)
            }),
        ),
        ("Caddy", Proxy::start(Kind::NewCaddy, &server)),
        ("HAProxy", Proxy::start(Kind::HaProxy, &server)),
        (SHARED, Proxy::with_edits(Kind::HaProxy, &server, haproxy::shared)),
    ];
    let books = Books::new();
    let goal = scale.of(20_000, 1_000_000) as usize;
    let begun = Instant::now();
    let socket = server.socket();
    let load = Load::new(&books, Mix::All).with(2, &Way::Kept(socket.clone()));
    let load = load.with(2, &Way::OneShot(socket.clone())).with(2, &Way::Interleaved(socket));
    let load = proxies.iter().fold(load, |load, (name, proxy)| load.with(2, &Way::Http(name, proxy.port())));
    let (kills, reloads) = load.during(|| {
        let (mut kills, mut reloads) = (0, 0);
        while books.over() < goal {
            let before = books.over();
            kill_workers(&server, 1, INTERVAL);
            kills += 1;
            if kills % KILLS_BETWEEN_RELOADS == 0 {
                reload(&server);
                reloads += 1;
            }
            wait_for("the clients make progress", || (books.over() > before).then_some(()));
        }
        (kills, reloads)
    });
    let (mut row, account) = (Row::default(), books.close());
    row.add(&account);
    row.measured(format!("{kills} killed, {reloads} reloads"));
    row.measured(format!("{:.0} requests/s", account.count as f64 / begun.elapsed().as_secs_f64()));
    let ways = &account.ways;
    let named: Vec<String> = ways.iter().map(|(way, count)| format!("{count} {way}")).collect();
    row.measured(named.join(", "));
    row.promise(ways.len() == 8, "every way has been used");
    // These requests never reach nibiru: see docs/how-to/haproxy.md.
    let own = |status: &(&str, u16)| *status == (SHARED, 500);
    let failed = &account.failed_by_way;
    let haproxys: u64 = failed.iter().filter(|(how, _)| own(how)).map(|(_, count)| count).sum();
    row.measured(format!("{haproxys} of the 500 are HAProxy's own"));
    let others: Vec<_> = failed.keys().filter(|how| how.1 != 502 && !own(how)).collect();
    row.promise(others.is_empty(), format!("every failure is a 502: {others:?}"));
    let cost = account.failures() - haproxys + account.broken;
    row.promise(cost <= kills, "a kill costs one request at most");
    if !row.holds() {
        println!("{}", server.log());
        for (name, proxy) in &proxies {
            println!("--- {name}\n{}", proxy.log());
        }
    }
    row
}

/// Reloads, and waits until all workers are of the new generation, before the next kill.
fn reload(server: &Server) {
    let before = server.workers(4);
    server.signal(Signal::HUP);
    wait_for("the workers are new", || server.workers(4).is_disjoint(&before).then_some(()));
}

/// After requests, kills and reloads, every process has the same descriptors as at the start.
pub(super) fn descriptors(scale: Scale) -> Row {
    let server = Server::builder().inspectable().start();
    let audit = || {
        server.workers(2);
        let mut held = vec![("gateway", kinds(server.pid())), ("zygote", kinds(server.zygote()))];
        held.extend(server.workers(2).into_iter().map(|worker| ("worker", kinds(worker))));
        held
    };
    // Requests to both workers, so that both have opened their descriptors.
    let mut pair = Connection::open(&server.socket());
    for _ in 0..100 {
        assert_eq!(pair.get("/hello").status(), 200);
    }
    drop(pair);
    server.wait_for_idle(2);
    server.wait_for_no_client();
    let fresh = audit();

    let books = Books::new();
    let (kills, reloads) = (scale.of(20, 1000), scale.of(3, 50));
    let load = Load::new(&books, Mix::All).straight(&server);
    load.until(scale.of(2000, 100_000).into());
    load.during(|| {
        for _ in 0..reloads {
            kill_workers(&server, kills / reloads, Duration::from_millis(20));
            let (workers, zygote) = (server.workers(2), server.zygote());
            signal(zygote, Signal::KILL);
            wait_for("the zygote is replaced", || (server.zygote() != zygote).then_some(()));
            // The workers of the dead zygote are not children of the new one, so they are killed.
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

/// The number of a process's descriptors by kind: the target without digits.
pub(super) fn kinds(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for (_, target) in open(pid) {
        *kinds.entry(target.replace(|c: char| c.is_ascii_digit(), "")).or_default() += 1;
    }
    kinds
}
