//! Common nginx configurations beyond `deploy/`: requests whose body nginx withholds, and Debian's own parameter files.

use super::{Row, application, compare, seen};
use crate::support::{Kind, Proxy, Server, wait_for};

const AUTH: &str = "nginx, `auth_request`, `fastcgi_pass_request_body off`";
const TOO_LARGE: &str =
    "nginx, `client_max_body_size 1k`, `error_page 413 /too_large`; nibiru `--max-body 5000`";
const MIRROR: &str = "nginx, `mirror`, `mirror_request_body off`";
const IN_FILE: &str = "nginx, `client_body_in_file_only`, `fastcgi_pass_request_body off`";
const STOCK: &str = "nginx, Debian's `fastcgi_params` alone";
const REPEATED: &str = "nginx, Debian's `fastcgi.conf` and lines of one's own for the same names";

pub(super) const ROWS: &[Row] = &[
    (AUTH, "POST, 4,000 bytes: the question", "empty | /auth | 0 | 4000 | 0 bytes"),
    (AUTH, "the request", "empty | /page | 4000 |  | 4000 bytes"),
    (TOO_LARGE, "POST, 6,000 bytes: the page, as GET", "empty | /too_large | 0 | 6000 | 0 bytes"),
    (MIRROR, "POST, 4,000 bytes: the copy", "empty | /copy | 0 | 4000 | 0 bytes"),
    (MIRROR, "the request", "empty | /page | 4000 |  | 4000 bytes"),
    (IN_FILE, "POST, 4,000 bytes", "empty | /page | 0 | 4000 | 0 bytes, and a file of 4000"),
    (STOCK, "GET", "/page | empty | empty |  | 0 bytes"),
    (STOCK, "POST, 5 bytes", "/page | empty | 5 |  | 5 bytes"),
    (REPEATED, "GET", "empty | /page | empty |  | 0 bytes"),
    (REPEATED, "POST, 5 bytes", "empty | /page | 5 |  | 5 bytes"),
];

/// The site of `deploy/` with additional locations.
fn with_locations(locations: &str) -> impl Fn(String) -> String + '_ {
    move |site| {
        let before = "    # A file that exists is sent by nginx.";
        assert!(site.contains(before), "nibiru.conf has no {before}");
        site.replace(before, &format!("{locations}\n{before}"))
    }
}

/// The directives that pass a request to nibiru with the whole path as PATH_INFO.
const PASS: &str = "fastcgi_split_path_info \"(?s)^()(/.*)$\"; include nibiru_params; fastcgi_pass nibiru;";

/// Sends a request to `/page` through nginx with these locations. Returns the outcome for the client, and the line of
/// each request in the application, sorted.
fn through(locations: &str, arguments: &[&str]) -> (String, Vec<String>) {
    let (app, gate) = application();
    let server = Server::builder()
        .application(app.root(), "app")
        .environment("GATE", gate.directory())
        .arguments(["--max-body", "5000"])
        .start();
    let proxy = Proxy::with_edits(Kind::Nginx, &server, with_locations(locations));
    let reply = crate::support::Reply::of(proxy.curl_command([], "/page").args(arguments));
    let answer = seen(&reply);
    // nginx sends a mirrored subrequest before the next request.
    proxy.curl([], "/next").expect(200);
    let count = if locations.contains("/copy") { 3 } else { 2 };
    let all = wait_for("the application has all requests", || {
        gate.said("seen").filter(|seen| seen.lines().count() >= count || !seen.contains("/page"))
    });
    let mut all: Vec<String> =
        all.lines().filter(|line| !line.contains("/next")).map(str::to_owned).collect();
    all.sort();
    (answer, all)
}

/// The cells of a line of the application, without the method.
fn cells(line: &str) -> String {
    line.split_once(" | ").expect("a method").1.to_owned()
}

fn four_thousand() -> [String; 2] {
    ["--data".to_owned(), "x".repeat(4000)]
}

#[test]
fn auth_request_without_the_body() {
    let locations = format!(
        "location = /auth {{ internal; fastcgi_pass_request_body off; {PASS} }}\n\
         location /page {{ auth_request /auth; {PASS} }}"
    );
    let (answer, all) = through(&locations, &four_thousand().each_ref().map(String::as_str));
    let [auth, page] = &all[..] else { panic!("{all:?}") };
    assert_eq!(answer, cells(page));
    compare(ROWS, AUTH, &[("POST, 4,000 bytes: the question", cells(auth)), ("the request", cells(page))]);
}

#[test]
fn error_page_for_a_body_that_is_too_large() {
    let locations = format!(
        "error_page 413 /too_large;\nlocation = /too_large {{ {PASS} }}\n\
         location /page {{ client_max_body_size 1k; {PASS} }}"
    );
    // The body exceeds --max-body, too. The request for the error page has its CONTENT_LENGTH, but no body.
    let (answer, all) = through(&locations, &["--data", &"x".repeat(6000)]);
    let [page] = &all[..] else { panic!("{all:?}") };
    assert_eq!(answer, "413");
    assert!(page.starts_with("GET"), "{page}");
    compare(ROWS, TOO_LARGE, &[("POST, 6,000 bytes: the page, as GET", cells(page))]);
}

#[test]
fn a_mirrored_request_without_the_body() {
    let locations = format!(
        "location = /copy {{ internal; {PASS} }}\n\
         location /page {{ mirror /copy; mirror_request_body off; {PASS} }}"
    );
    let (answer, all) = through(&locations, &four_thousand().each_ref().map(String::as_str));
    let [copy, page] = &all[..] else { panic!("{all:?}") };
    assert_eq!(answer, cells(page));
    compare(ROWS, MIRROR, &[("POST, 4,000 bytes: the copy", cells(copy)), ("the request", cells(page))]);
}

#[test]
fn client_body_in_file_only() {
    let locations = format!(
        "location /page {{ client_body_in_file_only clean; fastcgi_pass_request_body off; {PASS}\n\
         fastcgi_param X_BODY_FILE $request_body_file; }}"
    );
    let (answer, _) = through(&locations, &four_thousand().each_ref().map(String::as_str));
    compare(ROWS, IN_FILE, &[("POST, 4,000 bytes", answer)]);
}

#[test]
fn debians_fastcgi_params() {
    let locations = "location /page { include /etc/nginx/fastcgi_params; fastcgi_pass nibiru; }";
    let (get, _) = through(locations, &[]);
    let (post, _) = through(locations, &["--data", "hello"]);
    compare(ROWS, STOCK, &[("GET", get), ("POST, 5 bytes", post)]);
}

/// `include fastcgi.conf;` and lines that repeat some of its names: nginx sends both values, and the last one counts,
/// as in php-fpm.
#[test]
fn debians_fastcgi_conf_with_repeated_names() {
    let locations = "location /page { include /etc/nginx/fastcgi.conf; fastcgi_param SCRIPT_NAME \"\";\n\
        fastcgi_param PATH_INFO $uri; fastcgi_param SCRIPT_FILENAME /srv/app/app.lua; fastcgi_param HTTPS on;\n\
        fastcgi_param REMOTE_ADDR $remote_addr; fastcgi_param REMOTE_USER \"\"; fastcgi_pass nibiru; }";
    let (get, _) = through(locations, &[]);
    let (post, _) = through(locations, &["--data", "hello"]);
    compare(ROWS, REPEATED, &[("GET", get), ("POST, 5 bytes", post)]);
}
