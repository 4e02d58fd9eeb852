//! The layers: dependencies point one way. Scans the sources for names that a layer must not use.

mod circles;

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::repository;

/// Files (by the front of their path below `src/`) and what must not appear in them.
const RULES: &[(&[&str], &[&str], &str)] = &[
    (
        &[
            "fastcgi/",
            "cgi/",
            "link/message/",
            "link/interrupt.rs",
            "proto/",
            "gateway/frontend/proxy_faults.rs",
            "gateway/telemetry/recent.rs",
            "gateway/telemetry/verdict.rs",
            "gateway/frontend/budget.rs",
            "gateway/frontend/socket_file/found.rs",
            "gateway/frontend/shortage.rs",
            "gateway/frontend/socket_file/watch.rs",
            "gateway/pool/log_limits.rs",
            "log/rate_limit.rs",
            "gateway/telemetry/histogram.rs",
        ],
        &["tokio", "mlua", "rustix", "libc", "tracing", "clap", "serde", "::now()"],
        "the bottom is std only, and is told the time",
    ),
    (&["cgi/"], &["crate::"], "cgi is the lowest layer"),
    (
        &["os/"],
        &["crate::", "tokio", "mlua", "tracing", "serde"],
        "the system calls know nobody who makes them",
    ),
    (&["link/message/", "link/interrupt.rs"], &["crate::"], "the vocabulary knows nobody who speaks it"),
    (
        &["proto/"],
        &["crate::gateway", "crate::config", "crate::log", "crate::os::sys"],
        "the decisions know neither who drives them nor where their settings come from",
    ),
    (
        &["gateway/frontend/takeover/protocol.rs"],
        &["tokio", "rustix", "tracing", "std::io", "::now()", "crate::"],
        "both sides of a take-over decide without I/O",
    ),
    (
        &["gateway/telemetry/status/", "gateway/telemetry/verdict.rs"],
        &["gateway::Gateway", "::now()", "tokio"],
        "verdict and status are made of values that are given to them",
    ),
    (
        &["gateway/"],
        &["crate::lua", "crate::worker", "crate::zygote", "crate::cmd", "crate::cli", "mlua"],
        "the gateway meets the other half in link only",
    ),
    (
        &["zygote/", "worker/", "lua/"],
        &["crate::gateway", "crate::cmd", "crate::fastcgi", "tokio"],
        "workers know neither the gateway nor FastCGI, and have no event loop",
    ),
    (
        &["lua/"],
        &[
            "crate::worker",
            "crate::zygote",
            "crate::link::{",
            "crate::link::Link",
            "crate::link::discovery",
            "crate::link::launch",
            "crate::link::message",
            "crate::link::socket",
        ],
        "the bridge knows only requests, interrupts and outputs",
    ),
];

/// Names that only some files may use.
const RESERVED: &[(&str, &[&str])] = &[
    ("mlua", &["lua/"]),
    ("tokio", &["gateway/", "cmd/dev/"]),
    ("hyper", &["cmd/dev/"]),
    (" notify::", &["cmd/dev/"]),
    ("unsafe {", &["os/", "lua/", "gateway/async_fd.rs"]),
    ("libc::", &["os/"]),
    ("rustix::rand", &["os/"]),
];

#[test]
fn dependencies_point_one_way() {
    let mut broken = Vec::new();
    let sources = sources();
    assert!(sources.len() > 30, "the scan has lost the sources");
    for (file, text) in &sources {
        let applies = |fronts: &[&str]| fronts.iter().any(|front| file.starts_with(front));
        for (number, line) in code(text) {
            for (fronts, forbidden, reason) in RULES {
                for name in forbidden.iter().filter(|name| applies(fronts) && line.contains(*name)) {
                    broken.push(format!("src/{file}:{number}: {name} ({reason})"));
                }
            }
            for (name, fronts) in
                RESERVED.iter().filter(|(name, fronts)| !applies(fronts) && line.contains(name))
            {
                broken.push(format!("src/{file}:{number}: {name} (only in {})", fronts.join(", ")));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// Every rule bites: a line that breaks it is found in a file it is about.
#[test]
fn every_rule_is_about_a_file_that_exists() {
    let sources = sources();
    let fronts =
        RULES.iter().flat_map(|(fronts, ..)| *fronts).chain(RESERVED.iter().flat_map(|(_, fronts)| *fronts));
    for front in fronts {
        assert!(sources.iter().any(|(file, _)| file.starts_with(front)), "no source is under src/{front}");
    }
}

/// Numbered lines before the file's tests, without comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .take_while(|(_, line)| !line.starts_with("mod tests {"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Paths below `src/` with their texts; files that hold nothing but tests are left out.
pub(crate) fn sources() -> Vec<(String, String)> {
    texts("src").into_iter().filter(|(file, _)| !file.contains("tests")).collect()
}

/// Paths of the Rust files below a directory of the repository, each with its text.
pub(crate) fn texts(directory: &str) -> Vec<(String, String)> {
    let root = repository(directory);
    let mut files = Vec::new();
    collect(&root, &mut files);
    let relative = |path: &Path| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    files.into_iter().map(|path| (relative(&path), fs::read_to_string(&path).unwrap())).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
