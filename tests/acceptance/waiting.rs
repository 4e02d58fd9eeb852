//! A scan of the tests' sources: tests wait for conditions, and no test is skipped without a record.

use crate::layering::texts;

/// Text that only these files (by a prefix of their path below `tests/`) may contain, and the replacement or reason.
const RESERVED: &[(&str, &[&str], &str)] = &[
    (
        "thread::sleep",
        &["support/wait.rs"],
        "wait_for waits for conditions; pace sets the rate of a test's client",
    ),
    ("\"skipped", &["support/needs.rs"], "lacks records a test that the machine cannot run"),
    ("geteuid", &["support/needs.rs"], "lacks and is_root"),
    (
        "set_read_timeout",
        &["support/", "acceptance/reliability/chaos.rs", "acceptance/systemd.rs"],
        "a read time-out is not a response: support::wire and support::http fail on it",
    ),
];

/// Files with calls of `nothing_happens_for`, the number of calls, and why there is no event to wait for.
const SPANS: &[(&str, usize, &str)] = &[
    ("acceptance/slow_readers.rs", 1, "no event tells that a gateway spools nothing"),
    ("acceptance/streams.rs", 1, "no event tells that Caddy does not check its client"),
    (
        "acceptance/systemd.rs",
        3,
        "no event tells that a server does not end, or that a stopped one sends nothing",
    ),
];

#[test]
fn tests_wait_for_conditions_and_record_every_skip() {
    let files = texts("tests");
    assert!(files.len() > 80, "the scan finds too few tests");
    let mut broken = Vec::new();
    for (file, text) in files.iter().filter(|(file, _)| file != "acceptance/waiting.rs") {
        for (name, fronts, reason) in RESERVED {
            if text.contains(name) && !fronts.iter().any(|front| file.starts_with(front)) {
                broken.push(format!("tests/{file}: {name} ({reason})"));
            }
        }
        let spans = text.matches("nothing_happens_for(").count();
        let listed = SPANS.iter().find(|(of, ..)| of == file).map_or(0, |(_, count, _)| *count);
        if spans != listed && file != "support/wait.rs" {
            broken.push(format!(
                "tests/{file}: {spans} calls of nothing_happens_for, but SPANS lists {listed}"
            ));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}
