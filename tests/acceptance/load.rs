//! Many requests at once.

use std::process::{Command, Output, Stdio};

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
    assert_eq!(server.workers(2), workers, "a worker was replaced");
}

#[test]
fn ten_reloads_under_load_fail_no_request() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let length = proxy.curl([], "/hello").expect(200).body.len();
    let mut load = ab(&proxy, "100000").spawn().unwrap();
    for _ in 0..10 {
        let before = server.workers(2);
        server.signal(Signal::HUP);
        wait_for("the workers are new", || server.workers(2).is_disjoint(&before).then_some(()));
    }
    assert!(load.try_wait().unwrap().is_none(), "the reloads outlasted the load");
    assert_all_succeeded(&load.wait_with_output().unwrap(), "100000", length);
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
