//! Clients that leave between the head of their request and its body. A proxy without request buffering has begun the
//! request by then. It must not run, and in particular not as a request whose body the proxy withholds.

use std::process::Stdio;
use std::time::Duration;

use super::front_ends::{apache, apache_kept, http2, lighttpd, lighttpd_streaming, unbuffered};
use super::{Row, application};
use crate::support::front_ends::{FrontEnd, Kind as FrontEndKind};
use crate::support::http::Http;
use crate::support::{Gate, Kind, Proxy, Server, ServerBuilder, wait_causing, wait_within};

/// The outcome where nibiru has the head and sees an abort.
const ABORTED: &str = "nothing runs: nibiru has the head, and an abort";

/// The outcome where the proxy waits for the body before it begins the request.
const NOT_BEGUN: &str = "nothing runs: the proxy has not begun the request";

const GONE: &str = "POST of 4,000 bytes, and leaves before the first";

pub(super) const ROWS: &[Row] = &[
    ("nginx", GONE, NOT_BEGUN),
    ("nginx, `fastcgi_request_buffering off`", GONE, ABORTED),
    ("Caddy 2.6.2", GONE, ABORTED),
    ("Caddy 2.11.7", GONE, NOT_BEGUN),
    ("HAProxy 2.6, HTTP/1.1", GONE, NOT_BEGUN),
    ("HAProxy 2.6, HTTP/1.1, no `http-buffer-request`", GONE, NOT_BEGUN),
    ("HAProxy 2.6, HTTP/2 (`proto h2`)", GONE, NOT_BEGUN),
    ("HAProxy 2.6, HTTP/2, no `http-buffer-request`", GONE, NOT_BEGUN),
    ("Apache, mod_proxy_fcgi", GONE, ABORTED),
    ("Apache, mod_proxy_fcgi, `enablereuse=on`", GONE, ABORTED),
    ("lighttpd, mod_fastcgi", GONE, NOT_BEGUN),
    ("lighttpd, `server.stream-request-body = 2`", GONE, ABORTED),
];

/// Part of nibiru's log line for the aborted request.
const LINE: &str = "0 of 4000 bytes of its body here";

/// The longest time until the client leaves. Some of the proxies begin no request before the body, so there is no event
/// to wait for.
const STAY: Duration = Duration::from_millis(200);

/// Waits until the proxy is connected to nibiru, which a kept connection is from the start, or for [`STAY`].
fn stay(server: &Server) {
    let _ = wait_within(STAY, || (!server.connections().is_empty()).then_some(()));
}

/// A client that has sent the head of a POST, and leaves when it is dropped.
fn head(port: u16) -> Http {
    let mut client = Http::connect(port);
    client.send(b"POST /gone HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000\r\n\r\n");
    client
}

/// Lets clients leave before their bodies, and expects the outcome of the row, and that only the requests of `next`
/// have run. `leave` is one client; `next` is the status of a complete request.
#[track_caller]
fn check(configuration: &str, server: &Server, gate: &Gate, leave: impl Fn(), next: impl Fn() -> u16) {
    let expected = ROWS.iter().find(|(of, ..)| *of == configuration).expect("a row").2;
    leave();
    if expected == ABORTED {
        let seen = || server.log().contains(LINE).then_some(());
        wait_causing("nibiru has logged the abort", &leave, seen);
    }
    for _ in 0..3 {
        leave();
        assert_eq!(next(), 200, "{configuration}");
    }
    let seen = if server.log().contains(LINE) { ABORTED } else { NOT_BEGUN };
    assert_eq!(seen, expected, "{configuration}: {}", server.log());
    let ran = gate.said("seen").unwrap_or_default();
    assert!(
        ran.lines().count() == 3 && ran.lines().all(|line| line.starts_with("GET")),
        "{configuration}: {ran}"
    );
}

fn serving() -> (crate::support::App, Gate, ServerBuilder) {
    let (app, gate) = application();
    let builder =
        Server::builder().inspectable().application(app.root(), "app").environment("GATE", gate.directory());
    (app, gate, builder)
}

fn through_proxy(configuration: &str, kind: Kind, edit: impl Fn(String) -> String) {
    let (_app, gate, builder) = serving();
    let server = builder.start();
    let proxy = Proxy::with_edits(kind, &server, edit);
    let leave = || {
        let client = head(proxy.port());
        stay(&server);
        drop(client);
    };
    check(configuration, &server, &gate, leave, || proxy.curl([], "/next").status);
}

fn through_front_end(configuration: &str, kind: FrontEndKind, site: impl Fn(&str) -> String) {
    let (_app, gate, builder) = serving();
    let front_end = FrontEnd::with_site(kind, builder, site);
    let leave = || {
        let client = head(front_end.port());
        stay(&front_end.server);
        drop(client);
    };
    check(configuration, &front_end.server, &gate, leave, || front_end.curl([], "/next").status);
}

/// The client is a curl that sends the head, then waits for the body from a pipe until it is killed.
fn over_http2(configuration: &str, edit: impl Fn(String) -> String) {
    let (_app, gate, builder) = serving();
    let server = builder.start();
    let proxy = Proxy::with_edits(Kind::HaProxy, &server, |site| http2(edit(site)));
    let leave = || {
        let upload = ["--http2-prior-knowledge", "--header", "Content-Length: 4000", "--request", "POST"];
        let mut curl = proxy.curl_command(upload, "/gone");
        let mut curl = curl.args(["--verbose", "--upload-file", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut said = std::io::BufReader::new(curl.stderr.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("> POST") {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut said, &mut line).unwrap(), 0, "curl sends no head");
        }
        stay(&server);
        curl.kill().unwrap();
        curl.wait().unwrap();
    };
    check(configuration, &server, &gate, leave, || proxy.curl(["--http2-prior-knowledge"], "/next").status);
}

fn without_http_buffer_request(site: String) -> String {
    let option = "    option http-buffer-request\n";
    assert!(site.contains(option), "haproxy.cfg has no {option}");
    site.replace(option, "")
}

#[test]
fn nginx_with_and_without_request_buffering() {
    through_proxy("nginx", Kind::Nginx, |site| site);
    through_proxy("nginx, `fastcgi_request_buffering off`", Kind::Nginx, unbuffered);
}

#[test]
fn caddy_2_6_and_2_11() {
    through_proxy("Caddy 2.6.2", Kind::OldCaddy, |site| site);
    through_proxy("Caddy 2.11.7", Kind::NewCaddy, |site| site);
}

#[test]
fn haproxy_over_http_1_and_2() {
    through_proxy("HAProxy 2.6, HTTP/1.1", Kind::HaProxy, |site| site);
    through_proxy(
        "HAProxy 2.6, HTTP/1.1, no `http-buffer-request`",
        Kind::HaProxy,
        without_http_buffer_request,
    );
    over_http2("HAProxy 2.6, HTTP/2 (`proto h2`)", |site| site);
    over_http2("HAProxy 2.6, HTTP/2, no `http-buffer-request`", without_http_buffer_request);
}

#[test]
fn apache_with_and_without_kept_connections() {
    through_front_end("Apache, mod_proxy_fcgi", FrontEndKind::Apache, apache);
    through_front_end("Apache, mod_proxy_fcgi, `enablereuse=on`", FrontEndKind::Apache, apache_kept);
}

#[test]
fn lighttpd_with_and_without_request_buffering() {
    through_front_end("lighttpd, mod_fastcgi", FrontEndKind::Lighttpd, lighttpd);
    let streaming = "lighttpd, `server.stream-request-body = 2`";
    through_front_end(streaming, FrontEndKind::Lighttpd, lighttpd_streaming);
}
