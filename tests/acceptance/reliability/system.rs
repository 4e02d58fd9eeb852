//! A system without resources or with a wrong clock: full disks, no free descriptors, a clock that steps.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use super::books::Books;
use super::clients::{Load, Mix};
use super::{Row, Scale};
use crate::support::disks::{fill, on_small_disk, path_within};
use crate::support::wire::{Connection, get, post};
use crate::support::{
    Gate, Need, Server, descriptors, lacks, processor_share, runs, signal, wait_for, wait_within,
};

/// The most processor share of an idle gateway.
const IDLE_CPU: f64 = 0.05;

/// The length of a body in bytes that the gateway does not keep in memory.
const SPOOLED: usize = 200_000;

pub(super) fn full_log(scale: Scale) -> Row {
    if lacks(Need::Mounts) {
        return Row::skipped("needs mounts");
    }
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let server = on_small_disk(directory.path(), &format!("2>>'{}'", log.display())).start();
    let [log, filler] = [log, directory.path().join("fill")].map(|path| path_within(&server, &path));
    let books = Books::new();
    let mut row = Row::default();
    fill(&filler);
    // Each of these requests writes a log line.
    let mut connection = Connection::open(&server.socket());
    Load::new(&books, Mix::Small).straight(&server).during(|| {
        for _ in 0..scale.of(200, 20_000) {
            row.lost += u64::from(connection.get("/fail/error").status() != 500);
            row.count += 1;
        }
    });
    let account = books.close();
    row.add(&account);
    row.promise(account.failures() + account.broken == 0, "no other request fails");
    idle(&mut row, &server);
    let size = fs::metadata(&log).unwrap().len();
    fs::remove_file(filler).unwrap();
    let goes_on = wait_within(Duration::from_secs(10), || {
        connection.get("/fail/error");
        (fs::metadata(&log).unwrap().len() > size).then_some(())
    });
    row.promise(goes_on.is_some(), "the log goes on when there is room again");
    row
}

pub(super) fn full_spool(scale: Scale) -> Row {
    if lacks(Need::Mounts) {
        return Row::skipped("needs mounts");
    }
    let directory = tempfile::tempdir().unwrap();
    let server = on_small_disk(directory.path(), "")
        .arguments(["--spool-dir", &directory.path().display().to_string()])
        .start();
    let filler = path_within(&server, &directory.path().join("fill"));
    let body = vec![b'x'; SPOOLED];
    let upload = || {
        let mut connection = Connection::open(&server.socket());
        // The upload may be refused before everything is sent.
        let _ = connection.try_send(&post(1, "/echo", &body, true));
        let response = connection.response(1).expect("a response");
        assert!(response.status() != 200 || response.body() == body, "the body came back changed");
        response.status()
    };
    let spools = || {
        let within = |(_, target): &(u32, String)| target.starts_with(&*directory.path().to_string_lossy());
        let mut processes = server.workers(2).into_iter().chain([server.pid()]);
        processes.any(|pid| descriptors(pid).iter().any(within))
    };
    let books = Books::new();
    let mut row = Row::default();
    Load::new(&books, Mix::Small).straight(&server).during(|| {
        for _ in 0..scale.of(2, 50) {
            row.promise(upload() == 200, "with room an upload is served");
            // Otherwise the file's space would become free after the disk was filled.
            wait_for("the spool file of the upload is closed", || (!spools()).then_some(()));
            fill(&filler);
            for _ in 0..10 {
                let status = upload();
                row.promise(status == 507, format!("without room it is a 507, not a {status}"));
                row.count += 1;
            }
            fs::remove_file(&filler).unwrap();
        }
    });
    row.promise(upload() == 200, "with room again, it is served again");
    let account = books.close();
    row.add(&account);
    row.promise(account.failures() + account.broken == 0, "no other request fails");
    row
}

/// More clients than descriptors: accepted ones are served, the others wait, and a worker that dies is replaced all the
/// same.
pub(super) fn no_descriptors(scale: Scale) -> Row {
    let limit = scale.of(150, 500);
    let server =
        Server::builder().through(["prlimit", &format!("--nofile={limit}:{limit}")]).inspectable().start();
    let mut first = Connection::open(&server.socket());
    assert_eq!(first.get("/hello").status(), 200);
    let mut row = Row::default();
    for _ in 0..scale.of(1, 10) {
        let mut crowd: Vec<Connection> = (0..2 * limit)
            .map(|_| {
                let mut client = Connection::open(&server.socket());
                client.send(&get(1, "/hello", true));
                client
            })
            .collect();
        idle(&mut row, &server);
        let held = descriptors(server.pid()).len();
        row.promise(
            held > limit as usize / 4,
            format!("connections are accepted up to the limit, not only {held} of {limit} descriptors"),
        );
        row.promise(first.get("/hello").status() == 200, "an accepted client is served");
        let victim = *server.workers(2).first().unwrap();
        signal(victim, Signal::KILL);
        // A dying worker could still read a request, which would fail with it.
        wait_for("the worker is gone", || (!runs(victim)).then_some(()));
        row.promise(first.get("/hello").status() == 200, "an accepted client is served by the other worker");
        wait_for("the worker is replaced meanwhile", || (!server.workers(2).contains(&victim)).then_some(()));
        // Each client leaves after its response and makes room for the next.
        for mut client in crowd.drain(..) {
            let answered = client.response(1).is_some_and(|response| response.status() == 200);
            row.lost += u64::from(!answered);
            row.count += 1;
        }
        row.measured(format!("{held} of {limit} descriptors"));
    }
    row
}

/// Adds the promise that the gateway takes at most [`IDLE_CPU`] in a second without requests.
fn idle(row: &mut Row, server: &Server) {
    let share = processor_share(server.pid(), Duration::from_secs(1));
    row.promise(
        share <= IDLE_CPU,
        format!("the gateway is idle and takes no {:.0} % of a CPU", share * 100.0),
    );
    row.measured(format!("idle at {:.1} % CPU", share * 100.0));
}

/// The --queue-timeout, and the most lateness of its 503.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(1500);
const LATENESS: Duration = Duration::from_millis(500);

const DAY: u64 = 86_400;

/// The wall clock steps by a day, forth and back, while requests run and wait. The monotonic clock does not step.
pub(super) fn clock_steps(scale: Scale) -> Row {
    let library = faketime();
    let directory = tempfile::tempdir().unwrap();
    let steps = directory.path().join("offset");
    let step = |days: &str| {
        fs::write(steps.with_extension("new"), format!("{days}\n")).unwrap();
        fs::rename(steps.with_extension("new"), &steps).unwrap();
    };
    step("+0d");
    let server = Server::builder()
        .arguments(["--queue-timeout", "1500ms", "--log-level", "debug"])
        .environment("LD_PRELOAD", library)
        .environment("FAKETIME_TIMESTAMP_FILE", &steps)
        .environment("FAKETIME_NO_CACHE", "1")
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    let mut row = Row::default();
    let mut waits = Vec::new();
    for round in 0..scale.of(2, 20) {
        let (days, offset) = if round % 2 == 0 { ("+1d", 2 * DAY) } else { ("-1d", 0) };
        let held: Vec<(Connection, Gate)> = (0..2).map(|_| server.hold()).collect();
        let mut waiting = Connection::open(&server.socket());
        let begun = Instant::now();
        waiting.send(&get(1, "/hello", true));
        waiting.settle();
        step(days);
        let refused = waiting.response(1).map_or(0, |response| response.status());
        waits.push(begun.elapsed());
        row.promise(refused == 503, format!("a queued request is 503 after --queue-timeout, not {refused}"));
        for (mut connection, gate) in held {
            gate.open("go");
            let status = connection.response(1).map_or(0, |response| response.status());
            row.promise(status == 200, format!("a running request is 200, not {status}"));
        }
        let clock = server.get("/clock");
        let clock: u64 = String::from_utf8_lossy(clock.body()).parse().unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        row.promise((clock + DAY).abs_diff(now + offset) < 60, "the clock has stepped");
        let dated = server
            .log()
            .lines()
            .rev()
            .find_map(|line| humantime::parse_rfc3339(line.split(' ').next()?).ok());
        let dated = dated.unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
        row.promise((dated + DAY).abs_diff(now + offset) < 60, "the log goes on with the new time");
        row.count += 4;
    }
    let early = waits.iter().any(|wait| *wait < QUEUE_TIMEOUT);
    row.promise(!early, "nothing expires early");
    let mut late: Vec<Duration> = waits.iter().map(|wait| wait.saturating_sub(QUEUE_TIMEOUT)).collect();
    row.times("lateness", &mut late);
    row.promise(late.iter().all(|late| *late <= scale.bound(LATENESS)), "nothing expires late");
    row
}

/// libfaketime for processes with several threads.
fn faketime() -> PathBuf {
    let libraries = fs::read_dir("/usr/lib").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let mut libraries = libraries.map(|path| path.join("faketime/libfaketimeMT.so.1"));
    libraries.find(|path| path.exists()).expect("libfaketime (tests/install installs it)")
}
