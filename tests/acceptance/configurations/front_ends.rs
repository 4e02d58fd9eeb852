//! Front ends in their usual configuration: a GET, a body, an empty body, and a chunked body.

use super::{Row, application, compare, seen};
use crate::support::front_ends::{self, FrontEnd};
use crate::support::{Kind, Proxy, Reply, Server};

const GET: &str = "GET";
const BODY: &str = "POST, 5 bytes";
const EMPTY: &str = "POST, `Content-Length: 0`";
const CHUNKED: &str = "POST, 5 bytes in chunks";

pub(super) const ROWS: &[Row] = &[
    ("nginx", GET, "empty | /page | absent |  | 0 bytes"),
    ("nginx", BODY, "empty | /page | 5 |  | 5 bytes"),
    ("nginx", EMPTY, "empty | /page | 0 |  | 0 bytes"),
    ("nginx", CHUNKED, "empty | /page | 5 |  | 5 bytes"),
    ("nginx, `fastcgi_request_buffering off`", GET, "empty | /page | absent |  | 0 bytes"),
    ("nginx, `fastcgi_request_buffering off`", BODY, "empty | /page | 5 |  | 5 bytes"),
    ("nginx, `fastcgi_request_buffering off`", EMPTY, "empty | /page | 0 |  | 0 bytes"),
    ("nginx, `fastcgi_request_buffering off`", CHUNKED, "empty | /page | 5 |  | 5 bytes"),
    ("Caddy 2.6.2", GET, "empty | /page | 0 |  | 0 bytes"),
    ("Caddy 2.6.2", BODY, "empty | /page | 5 |  | 5 bytes"),
    ("Caddy 2.6.2", EMPTY, "empty | /page | 0 |  | 0 bytes"),
    ("Caddy 2.6.2", CHUNKED, "empty | /page | 5 |  | 5 bytes"),
    ("Caddy 2.11.7", GET, "empty | /page | 0 |  | 0 bytes"),
    ("Caddy 2.11.7", BODY, "empty | /page | 5 |  | 5 bytes"),
    ("Caddy 2.11.7", EMPTY, "empty | /page | 0 |  | 0 bytes"),
    ("Caddy 2.11.7", CHUNKED, "empty | /page | 5 |  | 5 bytes"),
    ("HAProxy 2.6, HTTP/1.1", GET, "empty | /page | 0 |  | 0 bytes"),
    ("HAProxy 2.6, HTTP/1.1", BODY, "empty | /page | 5 |  | 5 bytes"),
    ("HAProxy 2.6, HTTP/1.1", EMPTY, "empty | /page | 0 |  | 0 bytes"),
    ("HAProxy 2.6, HTTP/1.1", CHUNKED, "empty | /page | 5 |  | 5 bytes"),
    ("HAProxy 2.6, HTTP/2 (`proto h2`)", GET, "empty | /page | 0 |  | 0 bytes"),
    ("HAProxy 2.6, HTTP/2 (`proto h2`)", BODY, "empty | /page | 5 |  | 5 bytes"),
    ("HAProxy 2.6, HTTP/2 (`proto h2`)", EMPTY, "empty | /page | 0 |  | 0 bytes"),
    ("HAProxy 2.6, HTTP/2 (`proto h2`)", CHUNKED, "empty | /page | 5 |  | 5 bytes"),
    ("Apache, mod_proxy_fcgi", GET, "/page | empty | absent |  | 0 bytes"),
    ("Apache, mod_proxy_fcgi", BODY, "/page | empty | 5 |  | 5 bytes"),
    ("Apache, mod_proxy_fcgi", EMPTY, "/page | empty | 0 |  | 0 bytes"),
    ("Apache, mod_proxy_fcgi", CHUNKED, "/page | empty | 5 |  | 5 bytes"),
    ("Apache, mod_proxy_fcgi, `enablereuse=on`", GET, "/page | empty | absent |  | 0 bytes"),
    ("Apache, mod_proxy_fcgi, `enablereuse=on`", BODY, "/page | empty | 5 |  | 5 bytes"),
    ("Apache, mod_proxy_fcgi, `enablereuse=on`", EMPTY, "/page | empty | 0 |  | 0 bytes"),
    ("Apache, mod_proxy_fcgi, `enablereuse=on`", CHUNKED, "/page | empty | 5 |  | 5 bytes"),
    ("lighttpd, mod_fastcgi", GET, "empty | /page | 0 |  | 0 bytes"),
    ("lighttpd, mod_fastcgi", BODY, "empty | /page | 5 |  | 5 bytes"),
    ("lighttpd, mod_fastcgi", EMPTY, "empty | /page | 0 |  | 0 bytes"),
    ("lighttpd, mod_fastcgi", CHUNKED, "empty | /page | 5 |  | 5 bytes"),
    ("lighttpd, `server.stream-request-body = 2`", GET, "empty | /page | 0 |  | 0 bytes"),
    ("lighttpd, `server.stream-request-body = 2`", BODY, "empty | /page | 5 |  | 5 bytes"),
    ("lighttpd, `server.stream-request-body = 2`", EMPTY, "empty | /page | 0 |  | 0 bytes"),
    ("lighttpd, `server.stream-request-body = 2`", CHUNKED, "empty | /page | 5 |  | 5 bytes"),
];

/// The cells for each kind of request, which `curl` sends.
fn seen_of_each(curl: impl Fn(&[&str], &str) -> Reply) -> Vec<(&'static str, String)> {
    let kinds: [(&str, &[&str]); 4] = [
        (GET, &[]),
        (BODY, &["--data", "hello"]),
        (EMPTY, &["--data", ""]),
        (CHUNKED, &["--data", "hello", "--header", "Transfer-Encoding: chunked"]),
    ];
    let each = kinds.into_iter().map(|(kind, arguments)| {
        // Each request is sent twice, the second time on a kept connection if the front end keeps any.
        let [first, second] = [(); 2].map(|()| seen(&curl(arguments, "/page")));
        assert_eq!(first, second, "{kind}");
        (kind, first)
    });
    each.collect()
}

fn through_proxy(configuration: &str, kind: Kind, edit: impl Fn(String) -> String, more: &[&str]) {
    let (app, gate) = application();
    let server =
        Server::builder().application(app.root(), "app").environment("GATE", gate.directory()).start();
    let proxy = Proxy::with_edits(kind, &server, edit);
    let curl =
        |arguments: &[&str], path: &str| Reply::of(proxy.curl_command([], path).args(more).args(arguments));
    compare(ROWS, configuration, &seen_of_each(curl));
}

fn through_front_end(configuration: &str, kind: front_ends::Kind, site: impl Fn(&str) -> String) {
    let (app, gate) = application();
    let builder = Server::builder().application(app.root(), "app").environment("GATE", gate.directory());
    let front_end = FrontEnd::with_site(kind, builder, site);
    let curl = |arguments: &[&str], path: &str| Reply::of(front_end.curl_command([], path).args(arguments));
    compare(ROWS, configuration, &seen_of_each(curl));
}

/// HAProxy with a `bind` line that speaks HTTP/2 without TLS.
pub(super) fn http2(site: String) -> String {
    let bind = site.lines().find(|line| line.trim().starts_with("bind ")).expect("a bind line").to_owned();
    site.replace(&bind, &format!("{bind} proto h2"))
}

/// Apache with mod_proxy_fcgi for the whole site.
pub(super) fn apache(socket: &str) -> String {
    format!("ProxyPass \"/\" \"unix:{socket}|fcgi://localhost/\"\n")
}

/// Apache as in [`apache`], with kept connections.
pub(super) fn apache_kept(socket: &str) -> String {
    format!("ProxyPass \"/\" \"unix:{socket}|fcgi://localhost/\" enablereuse=on\n")
}

/// lighttpd with mod_fastcgi for the whole site.
pub(super) fn lighttpd(socket: &str) -> String {
    format!(
        "server.modules += ( \"mod_fastcgi\" )\nfastcgi.server = ( \"/\" => (( \"socket\" => \"{socket}\", \
         \"check-local\" => \"disable\", \"fix-root-scriptname\" => \"enable\" )) )\n"
    )
}

/// lighttpd as in [`lighttpd`], without request buffering.
pub(super) fn lighttpd_streaming(socket: &str) -> String {
    lighttpd(socket) + "server.stream-request-body = 2\n"
}

/// nginx without request buffering.
pub(super) fn unbuffered(site: String) -> String {
    site.replace("fastcgi_request_buffering on;", "fastcgi_request_buffering off;")
}

#[test]
fn nginx_with_and_without_request_buffering() {
    through_proxy("nginx", Kind::Nginx, |site| site, &[]);
    through_proxy("nginx, `fastcgi_request_buffering off`", Kind::Nginx, unbuffered, &[]);
}

#[test]
fn caddy_2_6_and_2_11() {
    through_proxy("Caddy 2.6.2", Kind::OldCaddy, |site| site, &[]);
    through_proxy("Caddy 2.11.7", Kind::NewCaddy, |site| site, &[]);
}

/// Over HTTP/2 HAProxy sends no STDIN record for an empty body.
#[test]
fn haproxy_over_http_1_and_2() {
    through_proxy("HAProxy 2.6, HTTP/1.1", Kind::HaProxy, |site| site, &[]);
    through_proxy("HAProxy 2.6, HTTP/2 (`proto h2`)", Kind::HaProxy, http2, &["--http2-prior-knowledge"]);
}

#[test]
fn apache_with_and_without_kept_connections() {
    through_front_end("Apache, mod_proxy_fcgi", front_ends::Kind::Apache, apache);
    through_front_end("Apache, mod_proxy_fcgi, `enablereuse=on`", front_ends::Kind::Apache, apache_kept);
}

#[test]
fn lighttpd_with_and_without_request_buffering() {
    through_front_end("lighttpd, mod_fastcgi", front_ends::Kind::Lighttpd, lighttpd);
    let streaming = "lighttpd, `server.stream-request-body = 2`";
    through_front_end(streaming, front_ends::Kind::Lighttpd, lighttpd_streaming);
}
