//! The status of a server as text for people: some lines about the server, then a line for each worker.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::link::status::{Running, Status, Worker};
use crate::log::{ByteSize, Span, escape};

/// The most characters of a running request's line that are shown.
const LINE_SHOWN: usize = 60;

/// The text of a status that `nibiru status` received. Shows `?` for a word and `-` for a time that the server did not send.
pub fn status_text(status: &Status) -> String {
    let Status { pool, queue, requests, service_time, connections, .. } = status;
    let mut text = String::new();
    let head = format!(
        "nibiru {}: {}, generation {}, up {}, pid {}",
        shown(&status.version),
        shown(&status.app),
        status.generation,
        span(status.uptime),
        status.pid,
    );
    let bounds = match (pool.min, pool.max) {
        (min, max) if min == max => max.to_string(),
        (min, max) => format!("{min}-{max}"),
    };
    let workers = format!(
        "{bounds}: {} idle, {} busy, {} starting, {} leaving",
        pool.idle, pool.busy, pool.starting, pool.leaving,
    );
    let mut waiting = format!("{} of {}", queue.length, queue.capacity);
    if queue.length > 0 {
        // Writing to a string cannot fail.
        let _ = write!(waiting, ", the oldest for {}", span(Some(queue.oldest_wait)));
    }
    let ended = format!(
        "{} ended, {} of them with 5xx; median {}, 99 of 100 within {}",
        requests.total,
        requests.by_status.get("5xx").unwrap_or(&0),
        span(service_time.p50),
        span(service_time.p99),
    );
    let mut open =
        format!("{} of {} open, {} so far", connections.open, connections.max, connections.accepted);
    for (count, name) in [(connections.refused, "refused"), (connections.malformed, "closed as no FastCGI")] {
        if count > 0 {
            let _ = write!(open, ", {count} {name}");
        }
    }
    let _ = writeln!(text, "{head}");
    if !status.verdict.is_empty() {
        let _ = writeln!(text, "{:<12} {}: {}", "verdict", shown(&status.verdict), shown(&status.reason));
    }
    for (name, line) in [("workers", workers), ("queue", waiting), ("requests", ended), ("connections", open)]
    {
        let _ = writeln!(text, "{name:<12} {line}");
    }
    if !status.workers.is_empty() {
        let _ = writeln!(text, "\n worker  gen      pid  state     requests          age     memory  runs");
    }
    for worker in &status.workers {
        let _ = writeln!(text, "{}", row(worker).trim_end());
    }
    text
}

/// Whether the server's verdict is that no request is answered.
pub fn is_down(status: &Status) -> bool {
    status.verdict == "down"
}

/// The table's row of a worker.
fn row(worker: &Worker) -> String {
    format!(
        "{:>7} {:>4} {:>8}  {:<8} {:>9} {:>12} {:>10}  {}",
        worker.number,
        worker.generation,
        worker.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        shown(&worker.state),
        worker.requests,
        span(worker.age),
        worker.pss.map_or_else(|| "-".to_owned(), |bytes| ByteSize(bytes).to_string()),
        worker.request.as_ref().map(running).unwrap_or_default(),
    )
}

/// The request that a worker runs, and its time so far.
fn running(request: &Running) -> String {
    let line = shown(&request.line);
    let start: String = line.chars().take(LINE_SHOWN).collect();
    let more = if start.len() < line.len() { "…" } else { "" };
    format!("{start}{more} for {}", span(request.time))
}

/// A server's word, escaped for a terminal; `?` where the server did not send it.
fn shown(word: &str) -> Cow<'_, str> {
    if word.is_empty() { Cow::Borrowed("?") } else { escape::line(word.as_bytes()) }
}

/// A span, or `-` where the seconds are not known or not a duration.
fn span(seconds: Option<f64>) -> String {
    let seconds = seconds.filter(|seconds| (0.0..1e12).contains(seconds));
    seconds.map_or_else(|| "-".to_owned(), |seconds| Span(seconds).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn text_of(json: Value) -> String {
        status_text(&serde_json::from_value(json).unwrap())
    }

    #[test]
    fn seconds_that_are_no_duration_are_a_dash() {
        let spans = [(Some(7265.0), "2 h 1 min"), (None, "-"), (Some(-1.0), "-"), (Some(f64::NAN), "-")];
        for (seconds, text) in spans {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn connections_that_are_no_use_are_counted_where_there_are_any() {
        let line = |connections| {
            let text = text_of(json!({ "connections": connections }));
            text.lines().find(|line| line.starts_with("connections")).unwrap().to_owned()
        };
        let quiet = line(json!({ "open": 1, "max": 2, "accepted": 3, "refused": 0, "malformed": 0 }));
        assert_eq!(quiet, "connections  1 of 2 open, 3 so far");
        let busy = line(json!({ "open": 1, "max": 2, "accepted": 3, "refused": 4, "malformed": 5 }));
        assert_eq!(busy, "connections  1 of 2 open, 3 so far, 4 refused, 5 closed as no FastCGI");
    }

    #[test]
    fn nothing_of_a_server_steers_the_terminal() {
        let evil = "a\u{1b}[2J\u{9b}\n";
        let text = text_of(json!({
            "app": evil,
            "version": evil,
            "workers": [{ "state": evil, "request": { "line": evil, "time": 1 } }],
        }));
        assert_eq!(text.matches("a\\x1B[2J\\xC2\\x9B\\x0A").count(), 4, "{text}");
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text}");
    }

    #[test]
    fn a_server_that_says_less_is_described_all_the_same() {
        assert!(text_of(json!({})).starts_with("nibiru ?: ?, generation 0, up -, pid 0\n"));
        let text = text_of(
            json!({ "workers": [{ "number": 1, "request": { "line": "x".repeat(99), "time": 1 } }] }),
        );
        assert!(!text.contains("verdict") && !is_down(&Status::default()));
        assert!(text.lines().last().unwrap().ends_with("… for 1 s"), "{text}");
    }
}
