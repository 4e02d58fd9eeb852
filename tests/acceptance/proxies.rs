//! Behaviour that is the same through nginx, both versions of Caddy, HAProxy, Apache and lighttpd.

use std::fs;
use std::io::{BufRead, BufReader, Read};

use crate::support::http::Http;
use crate::support::{Gate, Kind, Proxy, Server};

/// Runs `test` through every proxy, in front of the same nibiru.
#[track_caller]
fn through_each(test: impl Fn(&Proxy)) {
    let server = Server::start();
    for proxy in Proxy::all_kinds(&server) {
        eprintln!("through {:?}", proxy.kind);
        test(&proxy);
    }
}

#[test]
fn get_is_answered_by_the_application() {
    through_each(|proxy| {
        let reply = proxy.curl([], "/hello").expect(200);
        assert_eq!(reply.text(), "Hello, World!\n");
        assert_eq!(reply.header("Content-Type"), Some("text/plain"));
        assert_eq!(reply.header("Content-Length"), Some("14"));
    });
}

#[test]
fn head_gets_the_head_of_get_without_a_body() {
    through_each(|proxy| {
        let reply = proxy.curl(["--head"], "/hello").expect(200);
        assert_eq!(reply.header("Content-Type"), Some("text/plain"));
        assert_eq!(reply.header("Content-Length"), Some("14"));
        assert_eq!(reply.text(), "");
    });
}

#[test]
fn a_form_reaches_the_application_with_type_and_length() {
    through_each(|proxy| {
        let reply = proxy.curl(["--data", "name=Enki&city=Eridu"], "/echo").expect(200);
        assert_eq!(reply.text(), "name=Enki&city=Eridu");
        assert_eq!(reply.header("X-Method"), Some("POST"));
        assert_eq!(reply.header("X-Length"), Some("20"));
        assert_eq!(reply.header("X-Content-Type"), Some("application/x-www-form-urlencoded"));
    });
}

#[test]
fn an_empty_post_has_content_length_0() {
    through_each(|proxy| {
        let reply = proxy.curl(["--request", "POST", "--data", ""], "/echo").expect(200);
        assert_eq!(reply.header("X-Length"), Some("0"));
    });
}

#[test]
fn a_body_of_10_mb_is_echoed_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let upload = directory.path().join("upload");
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut bytes = vec![0; 10_000_000];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    fs::write(&upload, &bytes).unwrap();
    let data = format!("@{}", upload.display());
    through_each(|proxy| {
        let reply = proxy.curl(["--data-binary", &data], "/echo").expect(200);
        assert_eq!(reply.header("X-Length"), Some("10000000"));
        assert!(reply.body == bytes, "the body changed on its way");
    });
}

#[test]
fn a_chunked_upload_arrives_whole() {
    through_each(|proxy| {
        // Caddy 2.11 accepts up to 4 KiB without a length.
        let body = "x".repeat(4000);
        let chunked = ["--header", "Transfer-Encoding: chunked", "--data-binary", &body];
        assert_eq!(proxy.curl(chunked, "/echo").expect(200).text(), body);
    });
}

#[test]
fn the_query_string_is_passed_on_unchanged() {
    through_each(|proxy| {
        let value =
            |query: &str| environ(proxy, &format!("/environ?only=QUERY_STRING{query}"), "QUERY_STRING");
        assert_eq!(value("&a=1&a=2"), "only=QUERY_STRING&a=1&a=2");
        assert_eq!(value("&q=%C3%A9+%20%26%3D"), "only=QUERY_STRING&q=%C3%A9+%20%26%3D");
        let brackets = if proxy.kind == Kind::Lighttpd { "%5B1%5D" } else { "[1]" };
        assert_eq!(value("&flag&x=[1]?/"), format!("only=QUERY_STRING&flag&x={brackets}?/"));
    });
}

#[test]
fn a_request_without_a_query_has_an_empty_query_string_variable() {
    through_each(|proxy| {
        let text = proxy.curl([], "/environ").expect(200).text();
        assert!(text.contains("QUERY_STRING=\n"), "{text}");
    });
}

#[test]
fn the_path_is_decoded_once_and_the_request_uri_not_at_all() {
    // The path as sent, and the expected PATH_INFO.
    let cases = [
        ("/environ/plain", "/environ/plain"),
        ("/environ/a%20b", "/environ/a b"),
        ("/environ/a+b", "/environ/a+b"),
        ("/environ/%2541", "/environ/%41"),
        ("/environ/h%C3%A9llo", "/environ/h\u{e9}llo"),
        ("/environ/\u{12097}\u{12000}", "/environ/\u{12097}\u{12000}"),
        ("/environ/%F0%92%82%97", "/environ/\u{12097}"),
        ("/environ/a%0Ab", "/environ/a\nb"),
        ("/environ/a%2Fb", "/environ/a/b"),
        ("/environ/a%3Fb%23c", "/environ/a?b#c"),
        ("/environ/", "/environ/"),
    ];
    through_each(|proxy| {
        for (sent, decoded) in cases {
            if sent.contains("%0A") && matches!(proxy.kind, Kind::HaProxy | Kind::Lighttpd) {
                // HAProxy and lighttpd refuse a line break in a path.
                proxy.curl([], sent).expect(if proxy.kind == Kind::HaProxy { 500 } else { 400 });
                continue;
            }
            let value = |name: &str| environ(proxy, &format!("{sent}?only={name}"), name);
            assert_eq!(value("PATH_INFO"), decoded, "{:?} PATH_INFO of {sent}", proxy.kind);
            assert_eq!(value("SCRIPT_NAME"), "", "{:?} SCRIPT_NAME of {sent}", proxy.kind);
            // Caddy writes raw UTF-8 in a path as %XX.
            if sent.is_ascii() {
                assert_eq!(value("REQUEST_URI"), format!("{sent}?only=REQUEST_URI"), "{:?}", proxy.kind);
            }
        }
    });
}

#[test]
fn a_path_that_is_not_utf_8_keeps_its_bytes() {
    through_each(|proxy| {
        let reply = proxy.curl([], "/environ/%FF%FE?only=PATH_INFO");
        if proxy.kind == Kind::Lighttpd {
            reply.expect(400);
            return;
        }
        let reply = reply.expect(200);
        assert_eq!(reply.body, b"/environ/\xff\xfe");
    });
}

#[test]
fn the_environ_has_client_address_host_port_and_scheme() {
    through_each(|proxy| {
        let reply = proxy.curl(["--header", "X-Colour: lapis"], "/environ").expect(200).text();
        let port = proxy.port();
        let host = format!("HTTP_HOST=127.0.0.1:{port}");
        let server_port = format!("SERVER_PORT={port}");
        let expected = [
            "REQUEST_METHOD=GET",
            "SERVER_PROTOCOL=HTTP/1.1",
            "GATEWAY_INTERFACE=CGI/1.1",
            "REMOTE_ADDR=127.0.0.1",
            "REQUEST_SCHEME=http",
            "wsgi.url_scheme=http",
            "HTTP_X_COLOUR=lapis",
            &host,
            &server_port,
        ];
        for line in expected {
            assert!(reply.lines().any(|l| l == line), "{:?}: no {line} in:\n{reply}", proxy.kind);
        }
        assert!(!reply.contains("\nHTTPS="), "{reply}");
    });
}

#[test]
fn a_client_can_set_neither_http_proxy_nor_a_forged_header_nor_the_request_id() {
    through_each(|proxy| {
        let headers = ["-H", "Proxy: http://evil", "-H", "X_Colour: forged", "-H", "X-Request-Id: chosen"];
        let reply = proxy.curl(headers, "/environ").expect(200).text();
        for forged in ["evil", "forged", "chosen"] {
            // lighttpd 1.4.69 has no setting to drop headers with underscores, as the how-to says.
            let passes = proxy.kind == Kind::Lighttpd && forged == "forged";
            assert_eq!(reply.contains(forged), passes, "{:?}: {forged} in:\n{reply}", proxy.kind);
        }
        let id = |name: &str| reply.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").to_owned();
        if proxy.kind == Kind::Lighttpd {
            // lighttpd sends no request id, so nibiru's own is used.
            assert_eq!((id("HTTP_X_REQUEST_ID=").len(), id("nibiru.request_id=").len()), (0, 16), "{reply}");
            return;
        }
        // Apache's id has 27 characters, the others' ids have 32 and more.
        assert!(id("HTTP_X_REQUEST_ID=").len() >= 27, "{reply}");
        assert_eq!(id("nibiru.request_id="), id("HTTP_X_REQUEST_ID="));
    });
}

/// `Status` is a CGI header, not an HTTP header. Caddy passes it on unless its configuration removes it.
#[test]
fn the_status_header_reaches_no_client() {
    through_each(|proxy| {
        for path in ["/hello", "/redirect", "/fail/error"] {
            assert_eq!(proxy.curl([], path).header("Status"), None, "{:?} {path}", proxy.kind);
        }
    });
}

#[test]
fn two_set_cookie_headers_reach_the_client() {
    through_each(|proxy| {
        let reply = proxy.curl([], "/cookies").expect(200);
        assert_eq!(reply.headers("Set-Cookie"), ["a=1; Path=/", "b=2; Path=/"]);
    });
}

#[test]
fn a_redirect_reaches_the_client_and_can_be_followed() {
    through_each(|proxy| {
        let reply = proxy.curl([], "/redirect").expect(302);
        assert_eq!(reply.header("Location"), Some("/hello?from=redirect"));
        assert_eq!(reply.text(), "over there\n");
        let followed = proxy.curl(["--location"], "/redirect").expect(302);
        assert!(followed.text().ends_with("Hello, World!\n"), "{followed:?}");
    });
}

#[test]
fn each_chunk_of_a_stream_reaches_the_client_before_the_next_is_made() {
    through_each(|proxy| {
        let gate = Gate::new();
        let mut curl = proxy.curl_command([], &gate.url("/stream")).spawn().unwrap();
        let mut output = BufReader::new(curl.stdout.take().unwrap());
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "{:?}: no head", proxy.kind);
        }
        for chunk in 1..=3 {
            line.clear();
            output.read_line(&mut line).unwrap();
            assert_eq!(line, format!("chunk {chunk}\n"), "{:?}", proxy.kind);
            gate.open(&format!("seen{chunk}"));
        }
        let mut rest = Vec::new();
        output.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
        assert!(curl.wait().unwrap().success());
    });
}

#[test]
fn one_client_connection_carries_many_requests() {
    through_each(|proxy| {
        let url = proxy.url("/hello");
        let mut command = proxy.curl_command([], "/hello");
        command.args(std::iter::repeat_n(&url, 99));
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        assert_eq!(text.matches("Hello, World!\n").count(), 100, "{text}");
    });
}

#[test]
fn files_are_served_by_the_proxy_and_hidden_files_and_directories_are_not() {
    through_each(|proxy| {
        if proxy.kind == Kind::HaProxy {
            // HAProxy serves no files.
            return;
        }
        // lighttpd serves the files of one directory.
        let place = if proxy.kind == Kind::Lighttpd { "static/" } else { "" };
        let files = proxy.public.join(place);
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("style.css"), "body {}\n").unwrap();
        fs::write(files.join(".env"), "PASSWORD=secret\n").unwrap();
        fs::create_dir(proxy.public.join("hello")).unwrap();
        let file = proxy.curl([], &format!("/{place}style.css")).expect(200);
        assert_eq!(file.text(), "body {}\n");
        assert_eq!(file.header("Content-Type").map(|value| value.starts_with("text/css")), Some(true));
        let hidden = proxy.curl([], &format!("/{place}.env"));
        assert!(!hidden.text().contains("secret"), "{hidden:?}");
        assert_eq!(proxy.curl([], "/hello").expect(200).text(), "Hello, World!\n");
        assert_eq!(proxy.curl([], "/hello/").expect(200).text(), "Hello, World!\n");
        assert_eq!(proxy.curl([], "/").expect(200).text(), "Hello, World!\n");
    });
}

#[test]
fn a_client_that_leaves_during_its_request_affects_no_other() {
    through_each(|proxy| {
        let gate = Gate::new();
        let mut curl = proxy.curl_command([], &gate.url("/wait")).spawn().unwrap();
        gate.announced("started");
        curl.kill().unwrap();
        curl.wait().unwrap();
        gate.open("go");
        proxy.curl([], "/hello").expect(200);
    });
}

#[test]
fn a_slow_upload_holds_no_worker() {
    let server = Server::builder().workers("1").start();
    for kind in [Kind::Nginx, Kind::OldCaddy, Kind::NewCaddy, Kind::HaProxy] {
        // Without request buffering, nginx and HAProxy pass each piece on at once, as Caddy does.
        let proxy = Proxy::with_edits(kind, &server, |site| {
            site.replace("fastcgi_request_buffering on;", "fastcgi_request_buffering off;")
                .replace("option http-buffer-request", "")
        });
        let mut upload = Http::connect(proxy.port());
        let head =
            "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\nConnection: close\r\n\r\n";
        upload.send(head.as_bytes());
        upload.send(b"first ");
        assert_eq!(proxy.curl([], "/hello").expect(200).text(), "Hello, World!\n");
        upload.send(b"second");
        let reply = upload.response(false).expect("a response");
        assert!(reply.whole && reply.body == b"first second", "{kind:?}: {reply:?}");
    }
}

/// The value of one variable in the application.
#[track_caller]
fn environ(proxy: &Proxy, path: &str, name: &str) -> String {
    let reply = proxy.curl([], path);
    assert_eq!((reply.exit, reply.status), (0, 200), "{:?}: {name} of {path}: {reply:?}", proxy.kind);
    reply.text()
}
