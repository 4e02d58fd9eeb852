//! The examples: each behaves as its first lines say.

use std::io::{BufRead, BufReader};

use crate::support::front_ends::{self, FrontEnd};
use crate::support::wire::{Connection, DATA, FILTER, PARAMS, STDIN, begin, pairs, stream};
use crate::support::{Kind, Proxy, Server, repository};

/// Without this tag a phone uses the layout of a desktop, too small to read.
const VIEWPORT: &str = "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">";

#[test]
fn the_hello_example_says_hello() {
    let server = Server::builder().application(repository("examples/hello"), "app").start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    assert_eq!(proxy.curl([], "/").expect(200).text(), "Hello, World!\n");
}

#[test]
fn the_guestbook_example_stores_an_entry_and_escapes_it() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::builder()
        .application(repository("examples/guestbook"), "app")
        .environment("GUESTBOOK_DB", directory.path().join("guestbook.db"))
        .start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    assert!(!proxy.curl([], "/").expect(200).text().contains("Enki"));
    let form = ["--data-urlencode", "name=<b>Enki's", "--data-urlencode", "text=\u{12097} & \"water\""];
    assert_eq!(proxy.curl(form, "/").expect(303).header("Location"), Some("/"));
    let page = proxy.curl([], "/").expect(200);
    assert_eq!(page.header("Content-Type"), Some("text/html; charset=utf-8"));
    let text = page.text();
    assert!(text.contains(VIEWPORT), "{text}");
    assert!(
        text.contains("&lt;b&gt;Enki&#39;s") && text.contains("\u{12097} &amp; &quot;water&quot;"),
        "{text}"
    );
    proxy.curl(["--data", "name=nobody"], "/").expect(400);
    proxy.curl([], "/elsewhere").expect(404);
    proxy.curl(["--request", "DELETE"], "/").expect(405);
}

#[test]
fn the_authorizer_example_requires_a_token() {
    for kind in [front_ends::Kind::Apache, front_ends::Kind::Lighttpd] {
        let builder = Server::builder()
            .application(repository("examples/authorizer"), "app")
            .environment("AUTHORIZER_TOKENS", "alice:a1b2 bob:c3d4");
        let front_end = FrontEnd::start(kind, builder);
        front_end.protect("/files/minutes.html", "the minutes");
        for token in ["Authorization: Bearer c3d4", "Cookie: a=b; token=a1b2", "Cookie: token=a1b2;a=b"] {
            let reply = front_end.curl(["--header", token], "/files/minutes.html").expect(200);
            assert_eq!(reply.text(), "the minutes", "{kind:?} {token}");
        }
        for token in [
            "Authorization: Bearer alice",
            "Authorization: Bearer",
            "Cookie: atoken=a1b2",
            "Cookie: token=",
            "X: y",
        ] {
            let reply = front_end.curl(["--header", token], "/files/minutes.html").expect(401);
            assert_eq!(reply.text(), "Please bring a token.\n", "{kind:?} {token}");
            assert_eq!(reply.header("WWW-Authenticate"), Some("Bearer realm=\"members\""));
        }
    }
}

#[test]
fn the_filter_example_makes_a_page_of_a_file() {
    let server = Server::builder().application(repository("examples/filter"), "app").start();
    let mut connection = Connection::open(&server.socket());
    let variables =
        [("REQUEST_METHOD", "GET"), ("FCGI_DATA_LENGTH", "100006"), ("FCGI_DATA_LAST_MOD", "1700000000")];
    let file = format!("<a> &\n{}", "x".repeat(100_000));
    let request = [
        begin(1, FILTER, true),
        stream(PARAMS, 1, &pairs(&variables)),
        stream(STDIN, 1, b""),
        stream(DATA, 1, file.as_bytes()),
    ];
    connection.send(&request.concat());
    let response = connection.response(1).expect("a response");
    assert_eq!(response.header("Last-Modified").as_deref(), Some("Tue, 14 Nov 2023 22:13:20 GMT"));
    let page = format!("<!doctype html>\n{VIEWPORT}\n<pre>\n&lt;a> &amp;\n{}</pre>\n", "x".repeat(100_000));
    assert!(response.body() == page.as_bytes(), "{}", String::from_utf8_lossy(response.body()));
    // In the role of a responder it fails.
    assert_eq!(connection.get("/").status(), 500);
}

#[test]
fn the_events_example_sends_events_one_by_one_and_stops_when_the_client_leaves() {
    let server = Server::builder().application(repository("examples/events"), "app").workers("1").start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let page = proxy.curl([], "/").expect(200);
    assert!(page.text().contains("new EventSource(\"events\")"));
    assert!(page.text().contains(VIEWPORT), "{}", page.text());
    let mut browser = proxy.curl_command([], "/events").spawn().unwrap();
    let mut lines = BufReader::new(browser.stdout.take().unwrap()).lines().map(Result::unwrap);
    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    assert!(head.iter().any(|line| line == "Content-Type: text/event-stream"), "{head:?}");
    for _ in 0..3 {
        let (event, end) = (lines.next().unwrap(), lines.next().unwrap());
        assert!(
            event.starts_with("data: ") && event.ends_with(" UTC") && end.is_empty(),
            "{event:?} {end:?}"
        );
    }
    browser.kill().unwrap();
    browser.wait().unwrap();
    // The only worker is free again.
    proxy.curl([], "/").expect(200);
    proxy.curl(["--request", "POST"], "/events").expect(405);
    proxy.curl([], "/elsewhere").expect(404);
}
