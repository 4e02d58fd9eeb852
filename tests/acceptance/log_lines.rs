//! Log lines that could be caused from outside without end: each has a rate limit, or a reason why it is rare.
//!
//! Scans the sources for the macros that write lines. A line with a rate limit has the field `left_out`, the number of lines
//! left out; every other line is listed in [`FEW`].

use crate::layering::sources;

/// Lines without a throttle, by the beginning of their text, and why there are never many.
const FEW: &[(&str, &[&str])] = &[
    (
        "once in a server's life, or once for each command of the operator",
        &[
            "stop announced",
            "stopping",
            "stopped",
            "the grace is over",
            "not reloaded: the server is stopping",
            "scaled",
            "cannot reload: {message}",
            "reloading",
            "reloaded",
            "{name} reopened",
            "cannot reopen the {name}",
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
        "when what is found changes, and it is looked for every two seconds",
        &["the socket file", "nobody can tell whether the socket file"],
    ),
    ("after a line that was not left out", &["connections are accepted again", "{name} is written again"]),
    (
        "once a second or less, by a clock of its own",
        &["as many connections as there may be", "cannot accept on the control socket"],
    ),
    ("once for each name, of a few names", &["the proxy sends {}", "the proxy sends no path"]),
    ("the terminal of `nibiru dev` shows each request", &["{method} {target}", "no answer from the gateway"]),
];

#[test]
fn a_line_that_can_come_without_end_says_how_many_were_left_out() {
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
    assert!(throttled > 20, "the scan has lost the sources");
    assert!(unknown.is_empty(), "neither throttled nor known to be few:\n{}", unknown.join("\n"));
    let unused: Vec<_> = few.iter().zip(used).filter(|(_, used)| !used).collect();
    assert!(unused.is_empty(), "no such lines any more: {unused:?}");
}

/// Each call of a macro: what stands between its parentheses.
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
        calls.push(&code[start..start + end.expect("it ends")]);
    }
    calls
}
