//! A scan of the sources for names that a layer must not use: dependencies point one way.

mod circles;

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::repository;

/// Files (by a prefix of their path below `src/`), the names that must not appear in them, and the reason.
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
            "gateway/frontend/socket_file/path_state.rs",
            "gateway/frontend/accept_log.rs",
            "gateway/frontend/socket_file/watch.rs",
            "gateway/pool/log_limits.rs",
            "log/rate_limit.rs",
            "gateway/telemetry/histogram.rs",
        ],
        &["tokio", "mlua", "rustix", "libc", "tracing", "clap", "serde", "::now()"],
        "the bottom layer uses std only, and time is an argument",
    ),
    (&["cgi/"], &["crate::"], "cgi is the lowest layer"),
    (&["os/"], &["crate::", "tokio", "mlua", "tracing", "serde"], "os names no other module"),
    (&["link/message/", "link/interrupt.rs"], &["crate::"], "the messages name neither sender nor receiver"),
    (
        &["proto/"],
        &["crate::gateway", "crate::config", "crate::log", "crate::os::sys"],
        "the decisions name neither their drivers nor the source of their settings",
    ),
    (
        &["gateway/frontend/takeover/protocol.rs"],
        &["tokio", "rustix", "tracing", "std::io", "::now()", "crate::"],
        "both sides of a take-over decide without I/O",
    ),
    (
        &["gateway/telemetry/status/", "gateway/telemetry/verdict.rs"],
        &["gateway::Gateway", "::now()", "tokio"],
        "verdict and status are computed from arguments",
    ),
    (
        &["gateway/"],
        &["crate::lua", "crate::worker", "crate::zygote", "crate::cmd", "crate::cli", "mlua"],
        "the gateway shares only link with zygote and workers",
    ),
    (
        &["zygote/", "worker/", "lua/"],
        &["crate::gateway", "crate::cmd", "crate::fastcgi", "tokio"],
        "zygote and workers name neither the gateway nor FastCGI, and have no event loop",
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
        "the bridge names only requests, interrupts and outputs of link",
    ),
];

/// Names that only these files may use.
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
    assert!(sources.len() > 30, "the scan finds too few sources");
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

#[test]
fn every_rule_applies_to_an_existing_file() {
    let sources = sources();
    let fronts =
        RULES.iter().flat_map(|(fronts, ..)| *fronts).chain(RESERVED.iter().flat_map(|(_, fronts)| *fronts));
    for front in fronts {
        assert!(sources.iter().any(|(file, _)| file.starts_with(front)), "no source is under src/{front}");
    }
}

/// The lines before the file's tests, without comments, each with its number.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .take_while(|(_, line)| !line.starts_with("mod tests {"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Path below `src/` and text of each source; files of tests only are left out.
pub(crate) fn sources() -> Vec<(String, String)> {
    texts("src").into_iter().filter(|(file, _)| !file.contains("tests")).collect()
}

/// Path below `directory` and text of each Rust file in it.
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
