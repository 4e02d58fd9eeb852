//! A scan of the sources for log lines: each has a rate limit, or a reason why it is rare.
//!
//! A line with a rate limit has the field `left_out`, the number of lines left out before it; every other line is
//! listed in [`FEW`].

use crate::layering::sources;

/// The lines without a rate limit, by the beginning of their text, and the reason why they are rare.
const FEW: &[(&str, &[&str])] = &[
    (
        "once for each server, or once for each command of the operator",
        &[
            "stop announced",
            "stopping",
            "stopped",
            "the grace is over",
            "not reloaded: the server is stopping",
            "scaled",
            "cannot reload: {message}",
            "the start goes on, with the settings before",
            "reloading",
            "reloaded",
            "{name} reopened",
            "cannot reopen the {name}",
            "bodies in files of the proxy's are refused from now on",
            "another server",
            "children that nibiru has not started are not reaped",
            "nobody was connected for long enough",
            "listening on",
            "signals are not handled",
            "workers run as root",
            "nothing can be kept in --spool-dir",
            "no server runs yet",
            "the control socket cannot be put in its place",
            "ready",
            "cannot watch {}",
            "the limit of open files",
            "workers get no shared memory",
            "processes are not scheduled in batches",
            "no control socket",
            "whoever reaches this address",
            "{}\", dumpable::NOT_CLOSED",
            "--spool-dir is in memory",
        ],
    ),
    (
        "once for each load, and a load that fails is tried again after a pause that grows, or when a file has changed",
        &[
            "loaded",
            "application does not load",
            "cannot execute the zygote",
            "the generation before goes on serving",
            "the root has been removed",
            "{} changed; takes effect with a restart",
            "{loading}",
            "changed: {shown}",
        ],
    ),
    (
        "once for each time-out of a zygote, which takes --start-timeout or the time of a stop",
        &["zygote does not end", "zygote {why}"],
    ),
    (
        "when the state of the socket file changes, which is checked every two seconds",
        &["the socket file", "nobody can tell whether the socket file"],
    ),
    ("after a line that was not left out", &["connections are accepted again", "{name} is written again"]),
    (
        "at most once a second, by a clock of its own",
        &["as many connections as there may be", "cannot accept on the control socket"],
    ),
    ("once for each name of a short list", &["the proxy sends {}", "the proxy sends no path"]),
    ("once for each of nine kinds", &["a file of the proxy's is not taken as a body"]),
    ("the terminal of `nibiru dev` shows each request", &["{method} {target}", "no answer from the gateway"]),
];

#[test]
fn every_log_line_has_a_rate_limit_or_a_reason_to_be_rare() {
    let of_servers = |file: &str| {
        ["gateway/", "cmd/dev/", "zygote/", "log/file.rs"].iter().any(|start| file.starts_with(start))
    };
    let few: Vec<&str> = FEW.iter().flat_map(|(_, texts)| *texts).copied().collect();
    let (mut throttled, mut unknown, mut used) = (0, Vec::new(), vec![false; few.len()]);
    for (file, text) in sources().iter().filter(|(file, _)| of_servers(file)) {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for line in ["warn!(", "error!(", "info!(", "$level!("].iter().flat_map(|name| calls(code, name)) {
            if line.contains("left_out") {
                throttled += 1;
                continue;
            }
            let known = few.iter().position(|few| line.contains(&format!("\"{few}")));
            match known {
                Some(known) => used[known] = true,
                None => unknown.push(format!("{file}: {line}")),
            }
        }
    }
    assert!(throttled > 20, "the scan finds too few lines");
    assert!(unknown.is_empty(), "lines without a rate limit that FEW does not list:\n{}", unknown.join("\n"));
    let unused: Vec<_> = few.iter().zip(used).filter(|(_, used)| !used).collect();
    assert!(unused.is_empty(), "FEW lists lines that do not exist: {unused:?}");
}

/// The text between the parentheses of each call of the macro `name`.
fn calls<'t>(code: &'t str, name: &str) -> Vec<&'t str> {
    let mut calls = Vec::new();
    for (at, _) in code.match_indices(name) {
        let start = at + name.len();
        let (mut depth, mut quoted, mut escaped) = (1, false, false);
        let end = code[start..].find(|character| {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = quoted,
                '"' => quoted = !quoted,
                '(' if !quoted => depth += 1,
                ')' if !quoted => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        calls.push(&code[start..start + end.expect("the call has a closing parenthesis")]);
    }
    calls
}
