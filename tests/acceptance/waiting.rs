//! The tests' own style: waits are for conditions, and no test is skipped silently. Scans the sources of the tests.

use crate::layering::texts;

/// Text that only these files (by the front of their path below `tests/`) may have, and why.
const RESERVED: &[(&str, &[&str], &str)] = &[
    (
        "thread::sleep",
        &["support/wait.rs"],
        "wait_for waits for conditions; pace is for what is slow on purpose",
    ),
    ("\"skipped", &["support/needs.rs"], "lacks records a test that its machine cannot run"),
    ("geteuid", &["support/needs.rs"], "lacks and is_root"),
    (
        "set_read_timeout",
        &["support/", "acceptance/reliability/chaos.rs", "acceptance/systemd.rs"],
        "a time-out is no answer: support::wire and support::http fail by it",
    ),
];

/// Files with calls of `nothing_happens_for`, their number, and why a span is all there is.
const SPANS: &[(&str, usize, &str)] = &[
    ("acceptance/slow_readers.rs", 1, "a gateway that spools nothing does not say so"),
    ("acceptance/streams.rs", 1, "Caddy does not look at its client, and no event tells that it would not"),
    (
        "acceptance/systemd.rs",
        3,
        "a server that does not end, and a stopped one that says nothing, have no event",
    ),
];

#[test]
fn tests_wait_for_conditions_and_are_not_skipped_in_silence() {
    let files = texts("tests");
    assert!(files.len() > 80, "the scan has lost the tests");
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
                "tests/{file}: nothing_happens_for stands there {spans} times, {listed} are listed"
            ));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}
