//! Many requests at once.

use std::process::Command;

use crate::support::{Kind, Proxy, Server};

#[test]
fn a_hundred_thousand_requests_through_nginx_all_succeed() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let length = proxy.curl([], "/hello").expect(200).body.len();
    let workers = server.workers(2);

    let output = Command::new("ab")
        .args(["-q", "-k", "-c", "64", "-n", "100000", "-s", "120"])
        .arg(proxy.url("/hello"))
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    let value = |name: &str| {
        let line = report.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.split_whitespace().next().unwrap_or("").to_owned())
    };
    assert_eq!(value("Complete requests:").as_deref(), Some("100000"), "{report}");
    // ab counts a response of another length than the first as failed.
    assert_eq!(value("Failed requests:").as_deref(), Some("0"), "{report}");
    assert_eq!(value("Document Length:"), Some(length.to_string()), "{report}");
    assert_eq!(value("Non-2xx responses:"), None, "{report}");
    assert_eq!(server.workers(2), workers, "a worker was replaced");
}
