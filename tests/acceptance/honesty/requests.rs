//! Requests with contradictory lengths, as the application sees them: from a FastCGI client, and from an HTTP client
//! through each proxy. These are the rows of further tables in `docs/reference/responses.md`.

use std::fmt::Write as _;

use crate::support::http::Http;
use crate::support::wire::{self, Connection};
use crate::support::{App, Gate, Kind, Proxy, Server};

/// An application that answers with the variables and headers about the body's length, and the body.
const APPLICATION: &str = r#"
local posts = 0

return function(environ)
  if environ.REQUEST_METHOD == "POST" then
    posts = posts + 1
  end
  local text = "length " .. (environ.CONTENT_LENGTH or "absent")
  for _, name in ipairs({ "HTTP_CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_X_LATE", "nibiru.promised_length" }) do
    if environ[name] then
      text = text .. ", " .. name .. " " .. environ[name]
    end
  end
  return 200, { ["X-Path"] = environ.PATH_INFO, ["X-Posts"] = posts }, text .. ", body " .. environ["wsgi.input"]:read()
end
"#;

/// A request of a FastCGI client: its description, its variables in addition to those of every request, its STDIN, and
/// the expected outcome.
type FromProxy = (&'static str, &'static [(&'static str, &'static str)], &'static str, &'static str);

const FROM_PROXY: &[FromProxy] = &[
    ("`CONTENT_LENGTH` 5, 5 bytes", &[("CONTENT_LENGTH", "5")], "hello", "length 5, body hello"),
    ("`CONTENT_LENGTH` 9, 5 bytes", &[("CONTENT_LENGTH", "9")], "hello", "400"),
    (
        "`CONTENT_LENGTH` 9, no byte",
        &[("CONTENT_LENGTH", "9")],
        "",
        "length 0, nibiru.promised_length 9, body ",
    ),
    ("`CONTENT_LENGTH` 3, 5 bytes", &[("CONTENT_LENGTH", "3")], "hello", "length 3, body hel"),
    ("`CONTENT_LENGTH` 0, 5 bytes", &[("CONTENT_LENGTH", "0")], "hello", "length 0, body "),
    ("no `CONTENT_LENGTH`, 5 bytes", &[], "hello", "length 5, body hello"),
    ("no `CONTENT_LENGTH`, no byte", &[], "", "length absent, body "),
    ("an empty `CONTENT_LENGTH`, 5 bytes", &[("CONTENT_LENGTH", "")], "hello", "length 5, body hello"),
    ("an empty `CONTENT_LENGTH`, no byte", &[("CONTENT_LENGTH", "")], "", "length , body "),
    ("`CONTENT_LENGTH` -1, 5 bytes", &[("CONTENT_LENGTH", "-1")], "hello", "length 5, body hello"),
    ("`CONTENT_LENGTH` -1, no byte", &[("CONTENT_LENGTH", "-1")], "", "length 0, body "),
    ("`CONTENT_LENGTH` -2", &[("CONTENT_LENGTH", "-2")], "hello", "400"),
    ("`CONTENT_LENGTH` +5", &[("CONTENT_LENGTH", "+5")], "hello", "400"),
    ("`CONTENT_LENGTH` 5, 5", &[("CONTENT_LENGTH", "5, 5")], "hello", "400"),
    ("`CONTENT_LENGTH` 5 between spaces", &[("CONTENT_LENGTH", " 5 ")], "hello", "400"),
    ("`CONTENT_LENGTH` 0x5", &[("CONTENT_LENGTH", "0x5")], "hello", "400"),
    ("`CONTENT_LENGTH` five", &[("CONTENT_LENGTH", "five")], "hello", "400"),
    ("`CONTENT_LENGTH` 2^64", &[("CONTENT_LENGTH", "18446744073709551616")], "hello", "400"),
    (
        "`CONTENT_LENGTH` 5 twice",
        &[("CONTENT_LENGTH", "5"), ("CONTENT_LENGTH", "5")],
        "hello",
        "length 5, body hello",
    ),
    ("`CONTENT_LENGTH` 5 and 3", &[("CONTENT_LENGTH", "5"), ("CONTENT_LENGTH", "3")], "hello", "400"),
    (
        "`CONTENT_LENGTH` 3 and an empty one",
        &[("CONTENT_LENGTH", "3"), ("CONTENT_LENGTH", "")],
        "hello",
        "length 5, body hello",
    ),
    (
        "`CONTENT_LENGTH` 5 and `Content-Length` 3",
        &[("CONTENT_LENGTH", "5"), ("Content-Length", "3")],
        "hello",
        "length 5, body hello",
    ),
    (
        "`CONTENT_LENGTH` 5, `HTTP_CONTENT_LENGTH` 3",
        &[("CONTENT_LENGTH", "5"), ("HTTP_CONTENT_LENGTH", "3")],
        "hello",
        "length 5, body hello",
    ),
    (
        "only `HTTP_CONTENT_LENGTH` 3, 5 bytes",
        &[("HTTP_CONTENT_LENGTH", "3")],
        "hello",
        "length 5, body hello",
    ),
    (
        "`CONTENT_LENGTH` 5, `HTTP_TRANSFER_ENCODING` chunked",
        &[("CONTENT_LENGTH", "5"), ("HTTP_TRANSFER_ENCODING", "chunked")],
        "hello",
        "length 5, body hello",
    ),
];

/// A request of an HTTP client: its description, the bytes after `POST / HTTP/1.1` and Host, and the expected outcome
/// through nginx, Caddy 2.6.2, Caddy 2.11.7 and HAProxy 2.6.
type FromClient = (&'static str, &'static str, [&'static str; 4]);

const FROM_CLIENT: &[FromClient] = &[
    (
        "`Content-Length: 5`",
        "Content-Length: 5\r\n\r\nhello",
        ["length 5, body hello", "length 5, body hello", "length 5, body hello", "length 5, body hello"],
    ),
    (
        "`Content-Length: 5` between blanks",
        "Content-Length: \t5  \r\n\r\nhello",
        ["400", "length 5, body hello", "length 5, body hello", "length 5, body hello"],
    ),
    (
        "`Content-Length` twice, the same",
        "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        ["400", "length 5, body hello", "length 5, body hello", "length 5, body hello"],
    ),
    (
        "`Content-Length` twice, 5 and 3",
        "Content-Length: 5\r\nContent-Length: 3\r\n\r\nhello",
        ["400", "400", "400", "400"],
    ),
    (
        "`Content-Length: 5, 5`",
        "Content-Length: 5, 5\r\n\r\nhello",
        ["400", "400", "400", "length 5, body hello"],
    ),
    ("`Content-Length: +5`", "Content-Length: +5\r\n\r\nhello", ["400", "400", "400", "400"]),
    ("`Content-Length: -1`", "Content-Length: -1\r\n\r\n", ["400", "400", "400", "400"]),
    ("`Content-Length: 0x5`", "Content-Length: 0x5\r\n\r\nhello", ["400", "400", "400", "400"]),
    ("an empty `Content-Length`", "Content-Length: \r\n\r\n", ["400", "length 0, body ", "400", "400"]),
    ("`Content-Length : 5`", "Content-Length : 5\r\n\r\nhello", ["400", "400", "400", "400"]),
    (
        "`Content-Length: 5` and `Content_Length: 3`",
        "Content-Length: 5\r\nContent_Length: 3\r\n\r\nhello",
        ["length 5, body hello", "length 5, body hello", "length 5, body hello", "length 5, body hello"],
    ),
    (
        "chunked",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ["length 5, body hello", "length 5, body hello", "length 5, body hello", "length 5, body hello"],
    ),
    (
        "chunked, and a `Content-Length: 3`",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ["400", "length 5, body hello", "length 5, body hello", "length 5, body hello, then a close"],
    ),
    (
        "`Transfer-Encoding: CHUNKED`",
        "Transfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ["length 5, body hello", "length 5, body hello", "length 5, body hello", "length 5, body hello"],
    ),
    (
        "`Transfer-Encoding: chunked` twice",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ["400", "501", "501", "400"],
    ),
    (
        "`Transfer-Encoding: gzip, chunked`",
        "Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ["501", "501", "501", "422"],
    ),
    (
        "`Transfer-Encoding: identity` and a length",
        "Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
        ["501", "501", "501", "400"],
    ),
    (
        "`Transfer-Encoding: xchunked` and a length",
        "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\nhello",
        ["501", "501", "501", "400"],
    ),
    (
        "`Transfer-Encoding : chunked` and a length",
        "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\nhello",
        ["400", "400", "400", "400"],
    ),
    (
        "`Transfer_Encoding: chunked` and a length",
        "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
        ["length 5, body hello", "length 5, body hello", "length 5, body hello", "length 5, body hello"],
    ),
    (
        "`Transfer-Encoding:` VT `chunked` and a length",
        "Transfer-Encoding: \u{b}chunked\r\nContent-Length: 5\r\n\r\nhello",
        ["501", "501", "400", "400"],
    ),
    (
        "a chunk of size `+5`",
        "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
        ["400", "502", "411", "400"],
    ),
    (
        "a chunk of size `0x5`",
        "Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        ["400", "502", "411", "400"],
    ),
    (
        "a chunk with an extension",
        "Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
        ["length 5, body hello", "length 5, body hello", "length 5, body hello", "length 5, body hello"],
    ),
    (
        "a chunk longer than its size",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
        ["400", "502", "411", "400"],
    ),
    (
        "a chunk of 2^64 + 5 bytes",
        "Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
        ["400", "502", "411", "400"],
    ),
    (
        "chunked, with `X-Late` and `Content-Length` behind",
        "Trailer: X-Late\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Late: 1\r\nContent-Length: 3\r\n\r\n",
        ["length 5, body hello", "length 5, body hello", "length 5, body hello", "length 5, body hello"],
    ),
    (
        "a header that continues",
        "X-A: a\r\n Content-Length: 3\r\nContent-Length: 5\r\n\r\nhello",
        ["400", "length 5, body hello", "length 5, body hello", "length 5, body hello"],
    ),
    (
        "CR within a header",
        "X-A: a\rContent-Length: 3\r\nContent-Length: 5\r\n\r\nhello",
        ["400", "400", "400", "400"],
    ),
    ("NUL within a header", "X-A: a\0b\r\nContent-Length: 5\r\n\r\nhello", ["400", "400", "400", "400"]),
];

#[test]
fn contradictory_lengths_of_a_fastcgi_client_are_refused_or_corrected() {
    let app = App::new(APPLICATION);
    let server = Server::builder().application(app.root(), "app.lua").start();
    for (what, variables, stdin, expected) in FROM_PROXY {
        let mut params = wire::params("POST", "/");
        params
            .extend(variables.iter().flat_map(|(name, value)| wire::pair(name.as_bytes(), value.as_bytes())));
        let mut connection = Connection::open(&server.socket());
        connection.send(&wire::begin(1, wire::RESPONDER, true));
        connection.send(&wire::stream(wire::PARAMS, 1, &params));
        // The server may close without reading the body of a request that it has refused.
        let _ = connection.try_send(&wire::stream(wire::STDIN, 1, stdin.as_bytes()));
        let response = connection.response(1).unwrap_or_else(|| panic!("{what}: no response"));
        let seen = match response.status() {
            200 => response.text(),
            status => status.to_string(),
        };
        assert_eq!(seen, *expected, "{what}");
        // No byte of the body is taken for the next request.
        assert_eq!(server.get("/next").header("X-Path").as_deref(), Some("/next"));
    }
}

#[test]
fn contradictory_lengths_of_an_http_client_smuggle_no_request_past_any_proxy() {
    let app = App::new(APPLICATION);
    let server = Server::builder().application(app.root(), "app.lua").workers("1").start();
    let (mut wrong, mut answered) = (Vec::new(), 0);
    for (position, proxy) in Proxy::main_kinds(&server).iter().enumerate() {
        for (what, request, expected) in FROM_CLIENT {
            let mut seen = outcome(proxy, request);
            if proxy.kind == Kind::HaProxy && seen == "400, and more" {
                // nibiru refuses the request, and HAProxy may still get the next one answered.
                seen = "400".to_owned();
            }
            answered += usize::from(seen.starts_with("length"));
            if seen != expected[position] {
                wrong.push(format!(
                    "{what} through {:?}:\n  expected {}\n  got      {seen}",
                    proxy.kind, expected[position]
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    // The application has seen only the requests that were not refused.
    let posts = server.get("/").header("X-Posts");
    assert_eq!(posts, Some(answered.to_string()));
}

/// The outcome of a POST with the bytes `request` after its Host. Another request follows at once, and its response
/// must be the next one.
fn outcome(proxy: &Proxy, request: &str) -> String {
    let mut http = Http::connect(proxy.port());
    let next = "GET /next HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    http.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\n{request}{next}").as_bytes());
    let Some(answer) = http.response(false) else { return "breaks".to_owned() };
    if answer.status != 200 {
        let stray = http.rest();
        let after = if stray.is_empty() { "" } else { ", and more" };
        return format!("{}{after}", answer.status);
    }
    let mut seen = String::from_utf8_lossy(&answer.body).into_owned();
    match http.response(false) {
        Some(next) if next.status == 200 && next.fields("X-Path").eq([&b"/next"[..]]) => {}
        Some(next) => {
            let _ = write!(seen, ", then {}", next.status);
        }
        None => seen.push_str(", then a close"),
    }
    let stray = http.rest();
    if !stray.is_empty() {
        let _ = write!(seen, ", and more: {}", stray.escape_ascii());
    }
    seen
}

/// The tables in Markdown.
pub(super) fn tables() -> [String; 2] {
    let mut proxy = "| the proxy sends | the application sees |\n| --- | --- |\n".to_owned();
    for (what, _, _, seen) in FROM_PROXY {
        let _ = writeln!(proxy, "| {what} | {} |", seen.trim_end());
    }
    let mut client =
        "| the client sends | nginx | Caddy 2.6.2 | Caddy 2.11.7 | HAProxy 2.6 |\n| --- | --- | --- | --- | --- |\n".to_owned();
    for (what, _, seen) in FROM_CLIENT {
        let _ = writeln!(client, "| {what} | {} |", seen.map(str::trim_end).join(" | "));
    }
    [proxy, client]
}

#[test]
fn the_gateways_own_responses_to_head_have_no_body() {
    let server = Server::builder()
        .arguments(["--request-timeout", "300ms", "--max-body", "1000", "--status-path", "/-/status"])
        .start();
    let head = |url: &str, more: &[u8]| {
        let mut connection = Connection::open(&server.socket());
        connection.send(&wire::begin(1, wire::RESPONDER, true));
        connection.send(&wire::stream(wire::PARAMS, 1, &[&wire::params("HEAD", url), more].concat()));
        let _ = connection.try_send(&wire::stream(wire::STDIN, 1, b"x"));
        connection.response(1).expect("a response")
    };
    let gate = Gate::new();
    let too_long = wire::pair(b"CONTENT_LENGTH", b"2000");
    let twice = [wire::pair(b"HTTP_HOST", b"a"), wire::pair(b"HTTP_HOST", b"b")].concat();
    let no_length = wire::pair(b"CONTENT_LENGTH", b"-5");
    for (status, url, more) in [
        (502, "/fail/killed_before_head".to_owned(), &b""[..]),
        (504, gate.url("/spin"), b""),
        (413, "/hello".to_owned(), &too_long),
        (400, "/hello".to_owned(), &twice),
        (400, "/hello".to_owned(), &no_length),
        (200, "/-/status".to_owned(), b""),
    ] {
        let response = head(&url, more);
        assert_eq!(response.status(), status, "{url}: {response:?}");
        assert_eq!(response.body(), b"", "{url}");
        assert_ne!(
            response.header("Content-Length").as_deref(),
            Some("0"),
            "{url}: Content-Length is that of a GET"
        );
    }
}
