//! Failing applications: each failure costs its own request, and its worker at most.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::books::Books;
use super::clients::{Load, Mix};
use super::{Row, Scale};
use crate::support::wire::{Connection, get};
use crate::support::{App, Gate, Server, is_stopped, pace, runs, signal, wait_for, wait_within};

/// The failures of `tests/apps/parts/bomb.lua`, their possible statuses, and whether the worker ends after its
/// response. Two statuses mean that the Lua versions differ: LuaJIT does not count calls through C, so nested calls
/// exhaust the system's stack, and the worker dies.
const ERRORS: [(&str, &[u16], bool); 17] = [
    ("exit", &[500], true),
    ("exit_closing_the_state", &[500], true),
    ("error_in_gc", &[200, 500], false),
    ("error_in_error_handler", &[500], false),
    ("error_that_cannot_be_shown", &[500], false),
    ("error_that_shows_itself_as_a_table", &[500], false),
    ("error_nil", &[500], false),
    ("error_of_another_coroutine", &[500], false),
    ("stack_overflow", &[500], false),
    ("stack_overflow_in_error_handler", &[500], false),
    ("c_stack_overflow", &[500, 502], false),
    ("coroutines_in_coroutines", &[500, 502], false),
    ("deep_syntax", &[500], false),
    ("deep_pattern", &[500], false),
    ("deep_index", &[200, 500], false),
    ("a_string_too_long", &[200, 500], false),
    ("too_many_results", &[200, 500], false),
];

/// Each failure while other clients send requests.
pub(super) fn errors(scale: Scale) -> Row {
    let server = Server::start();
    let books = Books::new();
    let (mut row, mut wrong) = (Row::default(), BTreeMap::<String, u32>::new());
    Load::new(&books, Mix::Small).straight(&server).during(|| {
        for _ in 0..scale.of(1, 20) {
            for (how, statuses, spent) in ERRORS {
                let before = server.workers(2);
                let response = server.get(&format!("/bomb/{how}"));
                row.count += 1;
                if !statuses.contains(&response.status()) {
                    *wrong.entry(format!("{how} is {statuses:?}, not {}", response.status())).or_default() +=
                        1;
                }
                if spent || response.status() == 502 {
                    let gone = || server.workers(2).intersection(&before).count() == 1;
                    wait_for(&format!("one worker is replaced after {how}"), || gone().then_some(()));
                } else if server.workers(2) != before {
                    *wrong.entry(format!("{how} should not replace a worker")).or_default() += 1;
                }
            }
        }
    });
    let account = books.close();
    row.add(&account);
    row.promise(account.failures() + account.broken == 0, "no other request fails");
    wrong.into_iter().for_each(|(what, times)| row.promise(false, format!("{what} ({times} times)")));
    row.measured(format!("{} ways", ERRORS.len()));
    row
}

/// Requests that exceed the memory limit of their worker.
pub(super) fn memory(scale: Scale) -> Row {
    let server = Server::builder().arguments(["--memory-limit", "128M"]).start();
    let books = Books::new();
    let mut row = Row::default();
    let mut statuses = BTreeMap::<u16, u32>::new();
    Load::new(&books, Mix::Small).straight(&server).during(|| {
        for _ in 0..scale.of(3, 100) {
            let status = server.get("/bomb/memory").status();
            *statuses.entry(status).or_default() += 1;
            row.count += 1;
        }
    });
    let account = books.close();
    row.add(&account);
    row.promise(account.failures() + account.broken == 0, "no other request fails");
    row.promise(statuses.keys().all(|status| [500, 502].contains(status)), "a bomb is a 500 or a 502");
    row.measured(format!("bombs by status: {statuses:?}"));
    server.workers(2);
    row
}

/// The request deadline: on a busy machine the requests of other clients, which take a millisecond, must end within it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const KILL_AFTER: Duration = Duration::from_millis(300);

fn milliseconds(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// The most lateness of a 504, and of a kill.
const LATENESS: Duration = Duration::from_millis(100);

/// Requests that never end: a loop in Lua, which an interrupt ends; C code that does not return, and a worker that a
/// signal has stopped, which are killed some time after their client has its response.
pub(super) fn deadlines(scale: Scale) -> Row {
    let server = Server::builder()
        .workers("3")
        .arguments([
            "--request-timeout",
            &milliseconds(REQUEST_TIMEOUT),
            "--kill-after",
            &milliseconds(KILL_AFTER),
        ])
        .start();
    let books = Books::new();
    let (mut row, mut wrong) = (Row::default(), Vec::new());
    let (mut late, mut gone) = (Vec::new(), Vec::new());
    Load::new(&books, Mix::Small).straight(&server).during(|| {
        for _ in 0..scale.of(2, 60) {
            for how in ["/bomb/loop", "/bomb/stuck_in_c", "stopped"] {
                let gate = Gate::new();
                let mut connection = Connection::open(&server.socket());
                let mut stopped = None;
                let begun = Instant::now();
                if how == "stopped" {
                    connection.send(&get(1, &gate.url("/wait"), true));
                    let worker = gate.announced("started").parse().unwrap();
                    signal(worker, Signal::STOP);
                    wait_for("the worker is stopped", || is_stopped(worker).then_some(()));
                    stopped = Some(worker);
                } else {
                    connection.send(&get(1, how, true));
                }
                let status = connection.try_response(1).map_or(0, |response| response.status());
                let took = begun.elapsed();
                row.count += 1;
                if status != 504 || took < REQUEST_TIMEOUT {
                    wrong.push(format!("{how}: {status} after {} ms", took.as_millis()));
                }
                late.push(took.saturating_sub(REQUEST_TIMEOUT));
                if let Some(worker) = stopped {
                    wait_for("the stopped worker is killed", || (!runs(worker)).then_some(()));
                    gone.push(begun.elapsed().saturating_sub(REQUEST_TIMEOUT + KILL_AFTER));
                }
            }
        }
    });
    let account = books.close();
    row.add(&account);
    row.promise(account.failures() + account.broken == 0, "no other request fails");
    row.promise(wrong.is_empty(), format!("each is a 504 at its deadline: {wrong:?}"));
    row.times("lateness of the 504", &mut late);
    row.times("lateness of the kill", &mut gone);
    let bound = scale.bound(LATENESS);
    row.promise(late.iter().chain(&gone).all(|late| *late <= bound), "nothing is late by more than 100 ms");
    server.workers(3);
    if !row.holds() {
        println!("{}", server.log());
    }
    row
}

/// Workers whose start hook fails, since a file is there.
pub(super) fn crashing_start(scale: Scale) -> Row {
    let app = App::new("");
    let broken = app.root().join("broken");
    let attempt = format!(
        "require('nibiru').on_worker_start(function()\n\
         \x20 local file = io.open('{0}/attempts', 'a') file:write('x') file:close()\n\
         \x20 if io.open('{0}/broken') then error('deliberate failure') end\nend)\n",
        app.root().display()
    );
    let crashing = format!("{attempt}return function() return 200, {{}}, 'fine' end\n");
    app.write(&crashing);
    let server =
        Server::builder().application(app.root(), "app").arguments(["--queue-timeout", "300ms"]).start();
    assert_eq!(server.get("/").status(), 200);
    wait_for("both workers have started", || (attempts(&app) == 2).then_some(()));
    fs::write(&broken, "").unwrap();
    let workers = server.workers(2);
    workers.iter().for_each(|worker| signal(*worker, Signal::KILL));
    // A worker that is about to die may still read a request.
    wait_for("both workers are gone", || workers.iter().all(|worker| !runs(*worker)).then_some(()));
    crashing_and_mended(scale, &app, &server, &[503])
}

/// Workers that die in every request.
pub(super) fn crashing_requests(scale: Scale) -> Row {
    let app = App::new("");
    app.write(&format!(
        "return function()\n\
         \x20 local file = io.open('{}/attempts', 'a') file:write('x') file:close()\n\
         \x20 os.execute('kill -9 $PPID')\nend\n",
        app.root().display()
    ));
    let server =
        Server::builder().application(app.root(), "app").arguments(["--queue-timeout", "300ms"]).start();
    crashing_and_mended(scale, &app, &server, &[502, 503])
}

/// The most time until any response: --queue-timeout is 300 ms here.
const ANSWERED: Duration = Duration::from_secs(1);

/// The most time until fixed code serves: the longest pause between two starts is 10 s, the rest is for load and start.
const MENDED: Duration = Duration::from_secs(20);

/// Sends requests to a server whose application crashes, for some seconds; then fixes the code and waits until it
/// serves.
fn crashing_and_mended(scale: Scale, app: &App, server: &Server, statuses: &[u16]) -> Row {
    let seconds = scale.of(3, 30);
    let (begun, before, log_before) = (Instant::now(), attempts(app), server.log().len());
    let (mut row, mut seen, mut answers) = (Row::default(), BTreeMap::<u16, u32>::new(), Vec::new());
    while begun.elapsed() < Duration::from_secs(seconds.into()) {
        let asked = Instant::now();
        let response = server.get("/");
        *seen.entry(response.status()).or_default() += 1;
        row.count += 1;
        answers.push(asked.elapsed());
        // The rate of a client that retries, which leaves the processor to the server.
        pace(Duration::from_millis(10));
    }
    let tried = attempts(app) - before;
    row.times("to a response", &mut answers);
    row.promise(answers.iter().all(|time| *time <= scale.bound(ANSWERED)), "any response within a second");
    row.measured(format!("{tried} starts or crashes in {seconds} s; by status: {seen:?}"));
    row.promise(seen.keys().all(|status| statuses.contains(status)), format!("only {statuses:?}"));
    // Pauses of 100 ms, doubling, up to 10 s, after a worker or two that failed at once: 2 + log2(seconds / 100 ms) +
    // seconds / 10 s.
    let most = 4.0 + (f64::from(seconds) / 0.1).log2() + f64::from(seconds) / 10.0;
    row.promise(tried as f64 <= 2.0 * most, format!("at most {:.0} starts", 2.0 * most));
    for (kind, lines) in by_kind(&server.log()[log_before..]) {
        row.promise(
            lines <= seconds + 2,
            format!("one log line a second of a kind, not {lines} in {seconds} s of {kind:?}"),
        );
    }
    app.write("return function() return 200, {}, 'mended' end\n");
    let mended = Instant::now();
    let serves = wait_within(MENDED, || {
        let response = server.get("/");
        (response.body() == b"mended").then(|| mended.elapsed())
    });
    row.promise(serves.is_some(), format!("mended code serves by itself, {} s later", MENDED.as_secs()));
    row.measured(format!("mended code serves after {:.1} s", serves.unwrap_or(MENDED).as_secs_f32()));
    row
}

/// The number of starts or requests of workers: the application appends a byte each time.
fn attempts(app: &App) -> usize {
    fs::read(app.root().join("attempts")).map_or(0, |attempts| attempts.len())
}

/// The number of WARN and ERROR lines of each kind in `log`. Lines of a kind differ only in digits and request ids.
fn by_kind(log: &str) -> BTreeMap<String, u32> {
    let mut kinds = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")) {
        let words = line.split(' ').skip(1).filter(|word| !word.starts_with("request="));
        let kind = words.collect::<Vec<_>>().join(" ").replace(|c: char| c.is_ascii_digit(), "");
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}
