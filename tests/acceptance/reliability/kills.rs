//! `kill -9` of each kind of process, under load.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use super::books::Books;
use super::clients::{Load, Mix};
use super::{Row, Scale, reloads};
use crate::support::wire::{Connection, get};
use crate::support::{App, Kind, Proxy, Server, children, pace, runs, signal, title, wait_for};

/// The time between two kills of a worker.
const INTERVAL: Duration = Duration::from_millis(50);

/// The most time until a killed worker's successor has started: a fork takes a millisecond.
const RESPAWN: Duration = Duration::from_millis(100);

/// The resolution of a file's modification time: it is that of the kernel's last tick, which is at most this old.
const TICK: Duration = Duration::from_millis(10);

/// The promised time until a killed zygote is replaced, and until all processes of a killed gateway are gone.
const AFTER_A_KILL: Duration = Duration::from_secs(1);

/// A random worker is killed every 50 ms, in any state.
pub(super) fn workers(scale: Scale) -> Row {
    let app = App::new("");
    app.write(&format!(
        "{}require('nibiru').on_worker_start(function()\n\
         \x20 require('gate').announce('{}', 'started.' .. require('gate').pid())\nend)\nreturn require('site')\n",
        reloads::path(),
        app.root().display()
    ));
    let server = Server::builder().application(app.root(), "app").workers("4").start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let books = Books::new();
    let load = Load::new(&books, Mix::Small).straight(&server).through(&proxy);
    let kills = load.during(|| kill_workers(&server, scale.of(40, 3000), INTERVAL));

    let (mut row, account) = (Row::default(), books.close());
    row.add(&account);
    row.measured(format!("{} killed", kills.len()));
    row.promise(account.failed.keys().all(|status| *status == 502), "every failure is a 502");
    row.promise(account.broken == 0, "every failure is a complete response");
    row.promise(account.failures() <= kills.len() as u64, "a kill fails one request at most");
    row.promise(account.whole > 10 * account.failures(), "the other requests are answered");
    let mut times = respawns(&kills, &starts(&app));
    let p99 = row.times("to the successor's start (up to 10 ms too long)", &mut times);
    row.promise(p99 <= scale.bound(RESPAWN), "a successor is there after 100 ms");
    row
}

/// Kills `count` random workers, one in each `interval`; the time and the pid of each kill.
pub(super) fn kill_workers(server: &Server, count: u32, interval: Duration) -> Vec<(SystemTime, u32)> {
    let (mut kills, mut killed) = (Vec::new(), BTreeSet::new());
    for _ in 0..count {
        // On a busy machine a killed worker may still be listed for a while. It must not be counted twice, since it has
        // only one successor.
        let victim = wait_for("a worker runs that was not killed yet", || {
            // The workers of every zygote, since a reload may be under way.
            let workers = children(server.pid()).into_iter().flat_map(children);
            let workers = workers.filter(|pid| !killed.contains(pid));
            fastrand::choice(workers.collect::<Vec<u32>>())
        });
        killed.insert(victim);
        kills.push((SystemTime::now(), victim));
        signal(victim, Signal::KILL);
        pace(interval);
    }
    kills
}

/// The time of each worker's start hook, the last step before it takes requests, or up to a tick later; and its pid.
fn starts(app: &App) -> Vec<(SystemTime, u32)> {
    let entries = fs::read_dir(app.root()).unwrap().map(Result::unwrap);
    let started = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.strip_prefix("started.")?.parse().ok()?;
        Some((entry.metadata().unwrap().modified().unwrap() + TICK, pid))
    });
    started.collect()
}

/// The times from each kill to the start of the successor, up to a tick too long. A successor that was killed before
/// its start is left out.
fn respawns(kills: &[(SystemTime, u32)], starts: &[(SystemTime, u32)]) -> Vec<Duration> {
    let begun: BTreeSet<u32> = starts.iter().map(|(_, pid)| *pid).collect();
    let mut events: Vec<(SystemTime, Option<u32>)> =
        kills.iter().map(|(time, pid)| (*time, Some(*pid))).collect();
    events.extend(starts.iter().map(|(time, _)| (*time, None)));
    events.sort();
    let (mut waiting, mut times) = (VecDeque::new(), Vec::new());
    for (time, killed) in events {
        match killed {
            Some(pid) => {
                if !begun.contains(&pid) {
                    waiting.pop_front();
                }
                waiting.push_back(time);
            }
            None => {
                times.extend(waiting.pop_front().and_then(|kill: SystemTime| time.duration_since(kill).ok()))
            }
        }
    }
    times
}

/// The zygote is killed repeatedly, and at the end the workers, which only the new zygote can replace.
pub(super) fn zygotes(scale: Scale) -> Row {
    let server = Server::start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let books = Books::new();
    let load = Load::new(&books, Mix::Small).straight(&server).through(&proxy);
    let rounds = scale.of(5, 200);
    let mut times = Vec::new();
    let workers = server.workers(2);
    load.during(|| {
        for _ in 0..rounds {
            let killed = server.zygote();
            let begun = Instant::now();
            signal(killed, Signal::KILL);
            wait_for("a new zygote has loaded", || {
                let zygote = children(server.pid()).into_iter().find(|zygote| *zygote != killed)?;
                (title(zygote) == "nibiru: zygote gen 1 site:application").then_some(())
            });
            times.push(begun.elapsed());
        }
    });

    let (mut row, account) = (Row::default(), books.close());
    row.add(&account);
    row.measured(format!("{rounds} killed"));
    row.promise(account.failures() + account.broken == 0, "no request fails");
    row.promise(workers.iter().all(|worker| runs(*worker)), "the workers keep running");
    row.times("to the new zygote", &mut times);
    row.promise(times.iter().all(|time| *time <= scale.bound(AFTER_A_KILL)), "a new zygote in a second");
    workers.iter().for_each(|worker| signal(*worker, Signal::KILL));
    wait_for("the new zygote's workers serve", || (server.get("/hello").status() == 200).then_some(()));
    server.workers(2);
    row
}

/// The gateway is killed, and started again by a parent that keeps the listening socket.
pub(super) fn gateways(scale: Scale) -> Row {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kept.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let start = || Server::builder().inherit(listener.try_clone().unwrap()).start();
    let mut server = start();
    let own = server.socket().display().to_string();
    let kept = path.display().to_string();
    let proxy = Proxy::with_edits(Kind::Nginx, &server, |site| site.replace(&own, &kept));
    let books = Books::new();
    let load = Load::new(&books, Mix::Uploads).through(&proxy);
    let rounds = scale.of(3, 60);
    let (mut ends, mut restarts, mut queued) = (Vec::new(), Vec::new(), 0);
    load.during(|| {
        for _ in 0..rounds {
            let mut tree = server.workers(2);
            tree.insert(server.zygote());
            let begun = Instant::now();
            server.signal(Signal::KILL);
            server.wait();
            wait_for("zygote and workers are gone", || tree.iter().all(|pid| !runs(*pid)).then_some(()));
            ends.push(begun.elapsed());
            // These connections wait in the socket's backlog.
            let mut waiting: Vec<Connection> = (0..20)
                .map(|_| {
                    let mut connection = Connection::from(UnixStream::connect(&path).unwrap());
                    connection.send(&get(1, "/hello", false));
                    connection
                })
                .collect();
            let begun = Instant::now();
            server = start();
            for connection in &mut waiting {
                let response = connection.response(1).expect("a response for a waiting connection");
                assert_eq!((response.status(), response.body()), (200, &b"Hello, World!\n"[..]));
                queued += 1;
            }
            restarts.push(begun.elapsed());
        }
    });

    let (mut row, account) = (Row::default(), books.close());
    row.add(&account);
    row.count += queued;
    row.measured(format!("{rounds} killed, {queued} waited and were served"));
    row.promise(
        account.failed.keys().all(|status| *status == 502),
        "requests that ran in the gateway are nginx's 502",
    );
    row.times("to the last process's end", &mut ends);
    row.promise(
        ends.iter().all(|time| *time <= scale.bound(AFTER_A_KILL)),
        "no process is left after a second",
    );
    row.times("from the restart to the answers", &mut restarts);
    row
}
