//! What nibiru promises about failures, tried: each scenario once, short for every change and long in `tests/soak`.
//!
//! A scenario gives a [`Row`]: how much was tried, what was lost, which promises did not hold, what was measured. Lost is
//! a request without an answer, with an empty 200, with part of an answer as if it were all, with bytes of another's, or
//! that ran twice.

mod application;
mod books;
mod chaos;
mod clients;
mod floods;
mod healthy;
mod kills;
mod nonces;
mod over_fastcgi;
mod over_http;
mod reloads;
mod senders;
mod stuck;
mod system;
mod uploads;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use self::books::Account;

/// A line's name, and how it is tried.
type Scenario = (&'static str, fn(Scale) -> Row);

/// Every scenario, in the order of the table.
const SCENARIOS: [Scenario; 30] = [
    ("killed workers", kills::workers),
    ("killed zygotes", kills::zygotes),
    ("killed gateways", kills::gateways),
    ("reloads", reloads::reloads),
    ("reloads to broken code", reloads::broken),
    ("stops", reloads::stops),
    ("errors in Lua", application::errors),
    ("memory bombs", application::memory),
    ("deadlines", application::deadlines),
    ("crashing start hook", application::crashing_start),
    ("crashing application", application::crashing_requests),
    ("full disk under the log", system::full_log),
    ("full disk under the spool", system::full_spool),
    ("no descriptors", system::no_descriptors),
    ("clock steps", system::clock_steps),
    ("half requests", senders::half_requests),
    ("half uploads", uploads::half_uploads),
    ("BEGIN flood", senders::begin_flood),
    ("ABORT flood", floods::aborts),
    ("tiny requests", floods::tiny_requests),
    ("GET_VALUES flood", floods::questions),
    ("printed lines", floods::printed),
    ("a child that prints", floods::child),
    ("control commands", floods::commands),
    ("slow parameters", senders::slow_parameters),
    ("stop hooks that hang", stuck::stop_hooks),
    ("zygotes that hang", stuck::zygotes),
    ("nonces", nonces::nonces),
    ("descriptor audit", nonces::descriptors),
    ("chaos", chaos::chaos),
];

/// How much to try.
#[derive(Clone, Copy, Debug)]
enum Scale {
    /// For every change: a few seconds.
    Short,
    /// This part of the long run.
    Long(f64),
}

impl Scale {
    /// `short`, or as much of `long` as is asked for, but not less than `short`.
    fn of(self, short: u32, long: u32) -> u32 {
        match self {
            Self::Short => short,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count, and no exact one"
            )]
            Self::Long(part) => short.max((f64::from(long) * part) as u32),
        }
    }

    /// A bound that is promised, and that tests which share a machine with others cannot hold it to.
    fn bound(self, promised: Duration) -> Duration {
        match self {
            Self::Short => promised.max(Duration::from_secs(5)),
            Self::Long(_) => promised,
        }
    }
}

/// One line of the table.
#[derive(Debug, Default)]
struct Row {
    count: u64,
    lost: u64,
    /// Promises that did not hold, and how requests were lost.
    broken: Vec<String>,
    measured: Vec<String>,
    /// Why it was not tried.
    skipped: Option<String>,
}

impl Row {
    /// A row of `count` tries that are not in any books.
    fn of(count: u64) -> Self {
        Self { count, ..Self::default() }
    }

    fn skipped(reason: &str) -> Self {
        Self { skipped: Some(reason.to_owned()), ..Self::default() }
    }

    /// Adds what clients have seen.
    fn add(&mut self, account: &Account) {
        self.count += account.count;
        for (how, times) in &account.lost {
            self.lost += times;
            self.broken.push(format!("{times} × {how}"));
        }
        for (status, times) in &account.failed {
            self.measured(format!("{times} × {status}"));
        }
        for (what, times) in [("broken off", account.broken), ("aborted", account.aborted)] {
            if times > 0 {
                self.measured(format!("{times} {what}"));
            }
        }
    }

    fn promise(&mut self, held: bool, promise: impl Into<String>) {
        if !held {
            self.broken.push(format!("not held: {}", promise.into()));
        }
    }

    fn measured(&mut self, what: impl Into<String>) {
        self.measured.push(what.into());
    }

    /// What a percentage of the times stays within, and the longest.
    fn times(&mut self, what: &str, times: &mut [Duration]) -> Duration {
        times.sort();
        let Some(longest) = times.last() else {
            self.promise(false, format!("{what} was measured"));
            return Duration::ZERO;
        };
        let p99 = times[(times.len() * 99).div_ceil(100) - 1];
        let median = times[times.len() / 2];
        self.measured.push(format!(
            "{what}: median {}, p99 {}, longest {} ms",
            median.as_millis(),
            p99.as_millis(),
            longest.as_millis()
        ));
        p99
    }

    fn holds(&self) -> bool {
        self.lost == 0 && self.broken.is_empty()
    }

    fn line(&self, name: &str) -> String {
        let held = match (&self.skipped, self.holds()) {
            (Some(_), _) => "SKIPPED",
            (None, true) => "held",
            (None, false) => "NOT HELD",
        };
        let mut notes = self.skipped.iter().chain(&self.broken).chain(&self.measured).cloned();
        let notes = notes.by_ref().collect::<Vec<_>>().join("; ");
        format!("| {name} | {} | {} | {held} | {notes} |", self.count, self.lost)
    }
}

/// Tries one scenario at the size for every change.
#[track_caller]
fn short(name: &str) {
    let (_, run) = SCENARIOS.iter().find(|(of, _)| *of == name).expect("it is in the table");
    let row = run(Scale::Short);
    assert!(row.holds(), "{}", row.line(name));
}

/// The long run: see `tests/soak`. `SOAK_SCALE` is the part of it to run, `SOAK_ROWS` parts of the names to run.
#[test]
#[ignore = "takes three quarters of an hour: tests/soak"]
fn soak() {
    let scale =
        std::env::var("SOAK_SCALE").map_or(1.0, |scale| scale.parse().expect("SOAK_SCALE is a number"));
    let rows = std::env::var("SOAK_ROWS").unwrap_or_default();
    let wanted = |name: &str| rows.is_empty() || rows.split(',').any(|part| name.contains(part));
    let mut table =
        "| test | count | lost | held or not | measured |\n| --- | --- | --- | --- | --- |\n".to_owned();
    let mut failed = Vec::new();
    let scenarios: Vec<_> = SCENARIOS.iter().filter(|(name, _)| wanted(name)).collect();
    assert!(!scenarios.is_empty(), "no row's name contains any of {rows:?}");
    for (name, run) in scenarios {
        let begun = Instant::now();
        let row = catch_unwind(AssertUnwindSafe(|| run(Scale::Long(scale)))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            let mut row = Row::default();
            row.promise(false, text.lines().next().unwrap_or_default());
            row
        });
        let line = row.line(name);
        println!("\n{line} ({} s)", begun.elapsed().as_secs());
        writeln!(table, "{line}").unwrap();
        if !row.holds() {
            failed.push(*name);
        }
    }
    println!("\n{table}");
    assert!(failed.is_empty(), "not held: {failed:?}");
}

#[test]
fn only_the_requests_of_killed_workers_fail() {
    short("killed workers");
}

#[test]
fn nothing_fails_while_zygotes_are_killed() {
    short("killed zygotes");
}

#[test]
fn nothing_fails_while_zygotes_hang() {
    short("zygotes that hang");
}

#[test]
fn everything_is_served_while_stop_hooks_hang_and_nothing_piles_up() {
    short("stop hooks that hang");
}

#[test]
fn a_killed_gateway_leaves_no_process_and_its_successor_serves_who_waits() {
    short("killed gateways");
}

#[test]
fn nothing_fails_while_the_code_is_reloaded() {
    short("reloads");
}

#[test]
fn nothing_fails_while_the_code_is_broken() {
    short("reloads to broken code");
}

#[test]
fn what_has_begun_is_answered_before_a_stop() {
    short("stops");
}

#[test]
fn errors_in_lua_cost_one_request() {
    short("errors in Lua");
}

#[test]
fn memory_bombs_cost_one_request() {
    short("memory bombs");
}

#[test]
fn what_does_not_end_is_504_at_its_deadline() {
    short("deadlines");
}

#[test]
fn a_start_hook_that_crashes_is_tried_ever_more_slowly_until_it_is_mended() {
    short("crashing start hook");
}

#[test]
fn an_application_that_crashes_is_tried_ever_more_slowly_until_it_is_mended() {
    short("crashing application");
}

#[test]
fn a_full_disk_under_the_log_stops_nothing() {
    short("full disk under the log");
}

#[test]
fn a_full_disk_under_the_spool_refuses_only_what_would_go_there() {
    short("full disk under the spool");
}

#[test]
fn without_descriptors_connections_wait_and_those_there_are_go_on() {
    short("no descriptors");
}

#[test]
fn a_step_of_the_clock_expires_nothing() {
    short("clock steps");
}

#[test]
fn half_requests_are_bounded_and_hold_nobody_up() {
    short("half requests");
}

#[test]
fn half_uploads_are_bounded_hold_nobody_up_and_give_their_memory_back() {
    short("half uploads");
}

#[test]
fn a_flood_of_begins_is_bounded_and_holds_nobody_up() {
    short("BEGIN flood");
}

#[test]
fn a_flood_of_requests_that_are_taken_back_holds_nobody_up() {
    short("ABORT flood");
}

#[test]
fn a_flood_of_tiny_requests_holds_nobody_up() {
    short("tiny requests");
}

#[test]
fn a_flood_of_questions_holds_nobody_up() {
    short("GET_VALUES flood");
}

#[test]
fn what_a_worker_prints_holds_nobody_up() {
    short("printed lines");
}

#[test]
fn what_the_child_of_a_worker_prints_holds_nobody_up() {
    short("a child that prints");
}

#[test]
fn a_flood_of_commands_holds_nobody_up() {
    short("control commands");
}

#[test]
fn slow_parameters_hold_nobody_up() {
    short("slow parameters");
}

#[test]
fn every_answer_is_its_own_requests() {
    short("nonces");
}

#[test]
fn requests_and_deaths_leave_no_descriptor_behind() {
    short("descriptor audit");
}

#[test]
fn nothing_is_wrong_or_left_behind_when_everything_happens_at_once() {
    short("chaos");
}
