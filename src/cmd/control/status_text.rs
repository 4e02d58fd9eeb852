//! The status of a server as text for people: a few lines about the whole, then a line for each worker.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::log::escape;

/// How much of a running request's line is shown.
const LINE_SHOWN: usize = 60;

/// The text of a status that `nibiru status` received. A field that a server of another version does not send is left out.
pub fn status_text(status: &Value) -> String {
    let mut text = String::new();
    let number = |path: &str| status.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let word = |path: &str| shown(status.pointer(path).and_then(Value::as_str).unwrap_or("?"));
    let head = format!(
        "nibiru {}: {}, generation {}, up {}, pid {}",
        word("/version"),
        word("/app"),
        number("/generation"),
        span(&status["uptime"]),
        number("/pid"),
    );
    let (min, max) = (number("/pool/min"), number("/pool/max"));
    let bounds = if min == max { max.to_string() } else { format!("{min}-{max}") };
    let workers = format!(
        "{bounds}: {} idle, {} busy, {} starting, {} leaving",
        number("/pool/idle"),
        number("/pool/busy"),
        number("/pool/starting"),
        number("/pool/leaving"),
    );
    let mut queue = format!("{} of {}", number("/queue/length"), number("/queue/capacity"));
    if number("/queue/length") > 0 {
        let _ = write!(queue, ", the oldest for {}", span(&status["queue"]["oldest_wait"]));
    }
    let failed = status["requests"]["by_status"]["5xx"].as_u64().unwrap_or(0);
    let requests = format!(
        "{} ended, {failed} of them with 5xx; median {}, 99 of 100 within {}",
        number("/requests/total"),
        span(&status["service_time"]["p50"]),
        span(&status["service_time"]["p99"]),
    );
    let mut connections = format!(
        "{} of {} open, {} so far",
        number("/connections/open"),
        number("/connections/max"),
        number("/connections/accepted")
    );
    for (name, what) in [("refused", "refused"), ("malformed", "closed as no FastCGI")] {
        let count = number(&format!("/connections/{name}"));
        if count > 0 {
            let _ = write!(connections, ", {count} {what}");
        }
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{head}");
    if let Some(verdict) = status["verdict"].as_str() {
        let _ = writeln!(text, "{:<12} {}: {}", "verdict", shown(verdict), word("/reason"));
    }
    for (name, line) in
        [("workers", workers), ("queue", queue), ("requests", requests), ("connections", connections)]
    {
        let _ = writeln!(text, "{name:<12} {line}");
    }
    let workers = status["workers"].as_array().map_or(&[][..], Vec::as_slice);
    if !workers.is_empty() {
        let _ = writeln!(text, "\n worker  gen      pid  state     requests      age    memory  runs");
    }
    for worker in workers {
        let number =
            |name: &str| worker[name].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        let line = format!(
            "{:>7} {:>4} {:>8}  {:<8} {:>9} {:>8} {:>9}  {}",
            number("number"),
            number("generation"),
            number("pid"),
            shown(worker["state"].as_str().unwrap_or("?")),
            number("requests"),
            span(&worker["age"]),
            worker["pss"].as_u64().map_or_else(|| "-".to_owned(), size),
            running(&worker["request"]),
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Whether the server says of itself that it answers no request.
pub fn is_down(status: &Value) -> bool {
    status["verdict"] == "down"
}

fn running(request: &Value) -> String {
    let Some(line) = request["line"].as_str() else { return String::new() };
    let line = shown(line);
    let shown: String = line.chars().take(LINE_SHOWN).collect();
    let more = if shown.len() < line.len() { "…" } else { "" };
    format!("{shown}{more} for {}", span(&request["time"]))
}

/// A server's word, for a terminal.
fn shown(word: &str) -> Cow<'_, str> {
    escape::line(word.as_bytes())
}

/// Seconds, as people write them: two units at most.
fn span(seconds: &Value) -> String {
    let Some(seconds) = seconds.as_f64().filter(|seconds| (0.0..1e12).contains(seconds)) else {
        return "-".to_owned();
    };
    let time = Duration::from_secs_f64(seconds);
    match time.as_secs() {
        0 if seconds < 0.001 => format!("{} µs", time.as_micros()),
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds:.1} s"),
        whole @ 60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        whole @ 3600..86400 => format!("{}h {}m", whole / 3600, whole % 3600 / 60),
        whole => format!("{}d {}h", whole / 86400, whole % 86400 / 3600),
    }
}

fn size(bytes: u64) -> String {
    match bytes >> 10 {
        kib @ 0..1024 => format!("{kib} KiB"),
        kib => format!("{}.{} MiB", kib >> 10, ((kib & 1023) * 10) >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_and_sizes_read_well() {
        let spans = [
            (json!(0.000_012), "12 µs"),
            (json!(0.25), "250 ms"),
            (json!(2.5), "2.5 s"),
            (json!(75), "1m 15s"),
            (json!(7265), "2h 1m"),
            (json!(200_000), "2d 7h"),
            (json!(null), "-"),
            (json!(-1), "-"),
        ];
        for (seconds, text) in spans {
            assert_eq!(span(&seconds), text);
        }
        assert_eq!((size(2048), size((5 << 20) + (1 << 19))), ("2 KiB".to_owned(), "5.5 MiB".to_owned()));
    }

    #[test]
    fn connections_that_are_no_use_are_counted_where_there_are_any() {
        let line = |connections| {
            let text = status_text(&json!({ "connections": connections }));
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
        let text = status_text(&json!({
            "app": evil,
            "version": evil,
            "workers": [{ "state": evil, "request": { "line": evil, "time": 1 } }],
        }));
        assert_eq!(text.matches("a\\x1B[2J\\xC2\\x9B\\x0A").count(), 4, "{text}");
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text}");
    }

    #[test]
    fn a_server_that_says_less_is_described_all_the_same() {
        assert!(status_text(&json!({})).starts_with("nibiru ?: ?, generation 0, up -, pid 0\n"));
        let text = status_text(
            &json!({ "workers": [{ "number": 1, "request": { "line": "x".repeat(99), "time": 1 } }] }),
        );
        assert!(!text.contains("verdict") && !is_down(&json!({})));
        assert!(text.lines().last().unwrap().ends_with("… for 1.0 s"), "{text}");
    }
}
