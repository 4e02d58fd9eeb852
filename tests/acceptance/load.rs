//! Load: 64 concurrent connections through nginx.

use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;

use crate::support::{Kind, Proxy, Server, wait_for};

#[test]
fn a_hundred_thousand_requests_through_nginx_all_succeed() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let length = proxy.curl([], "/hello").expect(200).body.len();
    let workers = server.workers(2);

    let output = ab(&proxy, "100000").output().unwrap();
    assert_all_succeeded(&output, "100000", length);
    assert_eq!(server.workers(2), workers, "no worker was replaced");
}

#[test]
fn ten_reloads_under_load_fail_no_request() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let length = proxy.curl([], "/hello").expect(200).body.len();
    let reloaded = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Bounded, so that a reload that never comes fails the test instead of hanging it.
            for _ in 0..100 {
                if reloaded.load(Ordering::Relaxed) {
                    break;
                }
                assert_all_succeeded(&ab(&proxy, "10000").output().unwrap(), "10000", length);
            }
        });
        for _ in 0..10 {
            let before = server.workers(2);
            server.signal(Signal::HUP);
            wait_for("the workers are new", || server.workers(2).is_disjoint(&before).then_some(()));
        }
        reloaded.store(true, Ordering::Relaxed);
    });
}

fn ab(proxy: &Proxy, requests: &str) -> Command {
    let mut command = Command::new("ab");
    command.args(["-q", "-k", "-c", "64", "-s", "120", "-n", requests]).arg(proxy.url("/hello"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn assert_all_succeeded(output: &Output, requests: &str, length: usize) {
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    let value = |name: &str| {
        let line = report.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.split_whitespace().next().unwrap_or("").to_owned())
    };
    assert_eq!(value("Complete requests:").as_deref(), Some(requests), "{report}");
    // ab counts a response of another length than the first as failed.
    assert_eq!(value("Failed requests:").as_deref(), Some("0"), "{report}");
    assert_eq!(value("Document Length:"), Some(length.to_string()), "{report}");
    assert_eq!(value("Non-2xx responses:"), None, "{report}");
}
