//! The promises of `docs/reliability.md`: each scenario runs briefly in every test run, and at length in `tests/soak`.
//!
//! A scenario gives a [`Row`]: the number of requests, the lost ones, the promises that did not hold, and measurements.
//! A request is lost if it has no response, an empty 200, part of a response that looks complete, or bytes of another
//! response, or if it ran twice.

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

/// The name of a row, and its scenario.
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

/// The size of a run.
#[derive(Clone, Copy, Debug)]
enum Scale {
    /// The size for every test run: a few seconds.
    Short,
    /// This part of the long run.
    Long(f64),
}

impl Scale {
    /// `short`, or the given part of `long`, but at least `short`.
    fn of(self, short: u32, long: u32) -> u32 {
        match self {
            Self::Short => short,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an approximate count"
            )]
            Self::Long(part) => short.max((f64::from(long) * part) as u32),
        }
    }

    /// A promised bound, relaxed for short runs, which share the machine with other tests.
    fn bound(self, promised: Duration) -> Duration {
        match self {
            Self::Short => promised.max(Duration::from_secs(5)),
            Self::Long(_) => promised,
        }
    }
}

/// A row of the table.
#[derive(Debug, Default)]
struct Row {
    count: u64,
    lost: u64,
    /// The promises that did not hold, and the kinds of lost requests.
    broken: Vec<String>,
    measured: Vec<String>,
    /// The reason if the scenario was skipped.
    skipped: Option<String>,
}

impl Row {
    /// A row of `count` requests that are not in any [`books::Books`].
    fn of(count: u64) -> Self {
        Self { count, ..Self::default() }
    }

    fn skipped(reason: &str) -> Self {
        Self { skipped: Some(reason.to_owned()), ..Self::default() }
    }

    /// Adds the sums of a load.
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

    /// Adds median, p99 and longest of `times`, and returns p99.
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

/// Runs one scenario at the short size.
#[track_caller]
fn short(name: &str) {
    let (_, run) = SCENARIOS.iter().find(|(of, _)| *of == name).expect("a scenario of the table");
    let row = run(Scale::Short);
    assert!(row.holds(), "{}", row.line(name));
}

/// The long run of `tests/soak`. `SOAK_SCALE` is the part of it to run. `SOAK_ROWS` has parts of the names of rows to
/// run, separated by commas.
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
fn a_killed_worker_fails_only_its_own_request() {
    short("killed workers");
}

#[test]
fn killed_zygotes_fail_no_request() {
    short("killed zygotes");
}

#[test]
fn hanging_zygotes_fail_no_request() {
    short("zygotes that hang");
}

#[test]
fn hanging_stop_hooks_fail_no_request_and_leave_few_processes() {
    short("stop hooks that hang");
}

#[test]
fn a_killed_gateway_leaves_no_process_and_its_successor_serves_waiting_connections() {
    short("killed gateways");
}

#[test]
fn reloads_fail_no_request() {
    short("reloads");
}

#[test]
fn reloads_to_broken_code_fail_no_request() {
    short("reloads to broken code");
}

#[test]
fn a_stop_answers_every_request_that_has_begun() {
    short("stops");
}

#[test]
fn errors_in_lua_fail_only_their_own_requests() {
    short("errors in Lua");
}

#[test]
fn memory_bombs_fail_only_their_own_requests() {
    short("memory bombs");
}

#[test]
fn endless_requests_are_504_at_their_deadline() {
    short("deadlines");
}

#[test]
fn a_crashing_start_hook_is_retried_with_growing_pauses_until_it_is_fixed() {
    short("crashing start hook");
}

#[test]
fn a_crashing_application_is_retried_with_growing_pauses_until_it_is_fixed() {
    short("crashing application");
}

#[test]
fn a_full_disk_under_the_log_fails_no_request() {
    short("full disk under the log");
}

#[test]
fn a_full_disk_under_the_spool_refuses_only_uploads_that_need_it() {
    short("full disk under the spool");
}

#[test]
fn without_free_descriptors_new_connections_wait_and_open_ones_are_served() {
    short("no descriptors");
}

#[test]
fn a_step_of_the_wall_clock_changes_no_timeout() {
    short("clock steps");
}

#[test]
fn half_requests_are_bounded_and_delay_no_other_request() {
    short("half requests");
}

#[test]
fn half_uploads_take_bounded_memory_and_delay_no_other_request() {
    short("half uploads");
}

#[test]
fn a_flood_of_begin_requests_takes_bounded_memory_and_delays_no_other_request() {
    short("BEGIN flood");
}

#[test]
fn a_flood_of_aborted_requests_delays_no_other_request() {
    short("ABORT flood");
}

#[test]
fn a_flood_of_tiny_requests_delays_no_other_request() {
    short("tiny requests");
}

#[test]
fn a_flood_of_get_values_delays_no_other_request() {
    short("GET_VALUES flood");
}

#[test]
fn a_flood_of_printed_lines_delays_no_other_request() {
    short("printed lines");
}

#[test]
fn a_flood_of_lines_of_a_workers_child_delays_no_other_request() {
    short("a child that prints");
}

#[test]
fn a_flood_of_control_commands_delays_no_other_request() {
    short("control commands");
}

#[test]
fn slow_parameters_delay_no_other_request() {
    short("slow parameters");
}

#[test]
fn every_response_belongs_to_its_own_request() {
    short("nonces");
}

#[test]
fn requests_and_kills_leak_no_descriptor() {
    short("descriptor audit");
}

#[test]
fn all_failures_at_once_lose_no_request_and_leak_nothing() {
    short("chaos");
}
