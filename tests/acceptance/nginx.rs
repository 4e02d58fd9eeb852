//! Behaviour that only nginx has: keep-alive to nibiru, unbuffered uploads, a mount point.

use crate::support::{Kind, Proxy, Server};

#[test]
fn a_thousand_requests_share_one_kept_connection() {
    let server = Server::builder().inspectable().start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    proxy.curl([], "/hello").expect(200);
    let before = server.connections();
    assert_eq!(before.len(), 1, "nginx keeps one connection after one request");

    let mut command = proxy.curl_command([], "/hello");
    let url = proxy.url("/hello");
    let output = command.args(std::iter::repeat_n(&url, 999)).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("Hello, World!\n").count(), 1000);

    assert_eq!(server.connections(), before, "nginx keeps its connection");
}

#[test]
fn uploads_redirects_and_errors_keep_the_connection() {
    let server = Server::builder().inspectable().start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    proxy.curl([], "/hello").expect(200);
    let before = server.connections();
    // HEAD is left out: nginx does not read past the head of its response, so it closes the connection.
    proxy.curl(["--data", "a=1"], "/echo").expect(200);
    proxy.curl([], "/redirect").expect(302);
    proxy.curl([], "/fail/error").expect(500);
    proxy.curl([], "/nowhere").expect(404);
    assert_eq!(server.connections(), before);
}

#[test]
fn an_unbuffered_chunked_upload_without_a_length_arrives_whole() {
    let server = Server::start();
    let proxy = Proxy::with_edits(Kind::Nginx, &server, |site| {
        site.replace("fastcgi_request_buffering on;", "fastcgi_request_buffering off;")
    });
    let body = "nibiru ".repeat(100_000);
    let directory = tempfile::tempdir().unwrap();
    let upload = directory.path().join("upload");
    std::fs::write(&upload, &body).unwrap();
    let data = format!("@{}", upload.display());
    let reply = proxy.curl(["-H", "Transfer-Encoding: chunked", "--data-binary", &data], "/echo").expect(200);
    assert_eq!(reply.text(), body);
}

#[test]
fn a_buffered_chunked_upload_arrives_whole_with_a_length() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let body = "nibiru ".repeat(10_000);
    let reply = proxy.curl(["-H", "Transfer-Encoding: chunked", "--data-binary", &body], "/echo").expect(200);
    assert_eq!(reply.text(), body);
    let environ =
        proxy.curl(["-H", "Transfer-Encoding: chunked", "--data-binary", &body], "/environ").expect(200);
    assert!(environ.text().contains("CONTENT_LENGTH=70000\n"), "{}", environ.text());
    assert!(!environ.text().contains("HTTP_TRANSFER_ENCODING"), "{}", environ.text());
}

#[test]
fn the_commented_mount_point_sets_script_name_and_path_info() {
    let server = Server::start();
    let proxy = Proxy::with_edits(Kind::Nginx, &server, |site| {
        let start = site.find("    # location ~ \"^/blog").expect("the example is in nibiru.conf");
        let (before, example) = site.split_at(start);
        format!("{before}{}", example.replace("    # ", "    "))
    });
    // Below the mount point, too, the first segment of the path names the small application.
    let value = |path: &str, name: &str| proxy.curl([], &format!("{path}?only={name}")).expect(200).text();
    assert_eq!(value("/blog/environ/a%20b", "SCRIPT_NAME"), "/blog");
    assert_eq!(value("/blog/environ/a%20b", "PATH_INFO"), "/environ/a b");
    assert_eq!(value("/blog/environ/%0A", "PATH_INFO"), "/environ/\n");
    assert_eq!(value("/environ/blog", "SCRIPT_NAME"), "");
    assert_eq!(proxy.curl([], "/blog").expect(200).text(), "Hello, World!\n");
    assert_eq!(proxy.curl([], "/blogger").expect(404).status, 404);
}

#[test]
fn http_host_is_the_host_that_nginx_routed_by() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let host = |host: &str| proxy.curl(["-H", host], "/environ?only=HTTP_HOST").expect(200).text();
    assert_eq!(host("Host: Example.ORG:8080"), "example.org:8080");
    assert_eq!(host("Host: example.org"), "example.org");
    assert_eq!(host("Host: [::1]:8080"), "[::1]:8080");
    // An absolute request target beats the Host header (RFC 9112 §3.2.2).
    let target =
        ["--request-target", "http://good.example/environ?only=HTTP_HOST", "-H", "Host: bad.example"];
    assert_eq!(proxy.curl(target, "/").expect(200).text(), "good.example");
}

#[test]
fn an_unverified_user_name_is_not_remote_user() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::Nginx, &server);
    let text = proxy.curl(["--user", "root:guess"], "/environ").expect(200).text();
    assert!(!text.contains("REMOTE_USER="), "{text}");
}

#[test]
fn a_body_beyond_client_max_body_size_is_413() {
    let server = Server::start();
    let proxy = Proxy::with_edits(Kind::Nginx, &server, |site| site.replace("64m;", "1k;"));
    proxy.curl(["--data", &"x".repeat(2000)], "/echo").expect(413);
}
