//! Streams (FastCGI 1.0 §5.2, §5.3): PARAMS, STDIN, DATA, STDOUT, STDERR.

use super::super::*;

#[test]
fn c16_nothing_is_refused_before_the_end_of_params() {
    let limits = Limits { max_params: 100, max_pairs: 3, ..Limits::default() };
    let long = "v".repeat(101);
    let many: Vec<(&str, &str)> = vec![("A", "1"); 4];
    let refusals = [
        (Wire::new().begin(1).params(1, &[("A", &long)]), "TooManyBytes { limit: 100 }", "KeepOpen"),
        (Wire::new().begin(1).params(1, &many), "TooManyPairs { limit: 3 }", "KeepOpen"),
        (Wire::new().begin(1).params(1, &[("A", "\0")]), "Nul", "KeepOpen"),
        (Wire::new().begin(1).stdin(1, b"x").params(1, &[("A", "1")]), "EarlyBody", "Close"),
        (Wire::new().begin(1).raw(DATA, 1, b"x", 0).params(1, &[("A", "1")]), "EarlyBody", "Close"),
    ];
    for (wire, refusal, after) in refusals {
        let before_the_end = &wire.0[..wire.0.len() - 8];
        let outcome = check_within(limits, before_the_end, answer);
        assert_eq!((outcome.seen.len(), outcome.out.len()), (1, 0), "{refusal}");
        let outcome = check_within(limits, &wire.stdin(1, b"late").stdin_end(1).0, answer);
        assert_eq!(outcome.seen[1..], [format!("refused 1 {refusal}"), after.into()]);
    }
}

#[test]
fn c17_stdout_ends_even_when_nothing_was_written_to_it() {
    let outcome = check(&Wire::new().begin(1).abort(1).0, answer);
    assert_eq!(outcome.out, [1, 6, 0, 1, 0, 0, 0, 0, 1, 3, 0, 1, 0, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn records_after_the_end_of_their_stream_are_ignored() {
    let wire = Wire::new().request(1).params(1, &[("B", "2")]).stdin(1, b"more").stdin_end(1);
    assert_eq!(check(&wire.0, wait).seen.len(), 3);
}
