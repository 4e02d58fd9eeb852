//! The examples do what their first lines say.

use std::io::{BufRead, BufReader};

use crate::support::{Kind, Proxy, Server, repository};

#[test]
fn hello_says_hello() {
    let server = Server::builder().application(repository("examples/hello"), "app").start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    assert_eq!(proxy.curl([], "/").expect(200).text(), "Hello, World!\n");
}

#[test]
fn the_guestbook_keeps_an_entry_and_escapes_it() {
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
    assert!(
        text.contains("&lt;b&gt;Enki&#39;s") && text.contains("\u{12097} &amp; &quot;water&quot;"),
        "{text}"
    );
    proxy.curl(["--data", "name=nobody"], "/").expect(400);
    proxy.curl([], "/elsewhere").expect(404);
    proxy.curl(["--request", "DELETE"], "/").expect(405);
}

#[test]
fn events_come_one_by_one_and_stop_when_the_page_is_closed() {
    let server = Server::builder().application(repository("examples/events"), "app").workers("1").start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let page = proxy.curl([], "/").expect(200);
    assert!(page.text().contains("new EventSource(\"events\")"));
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
