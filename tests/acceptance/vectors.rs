//! Requests captured from real proxies (`tests/vectors/`), fed to the FastCGI server whole, byte by byte, and followed by the
//! first bytes of the next record.

use std::fs;

use nibiru::cgi::Variables;
use nibiru::fastcgi::{Event, Limits, Role, Server};

use crate::support::repository;

/// A request as the server decoded it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request {
    keep_open: bool,
    variables: Variables,
    body: Vec<u8>,
    complete: bool,
}

/// Decodes `bytes`, fed to the server in pieces of `piece` bytes.
fn decode(bytes: &[u8], piece: usize) -> Request {
    let mut server = Server::new(Limits::default());
    let (mut request, mut out) = (Request::default(), Vec::new());
    for mut input in bytes.chunks(piece) {
        while let Some(event) = server.receive(&mut input, &mut out).expect("the bytes of a proxy are valid")
        {
            match event {
                Event::Begin { role, keep_open, .. } => {
                    assert_eq!(role, Role::Responder);
                    request.keep_open = keep_open;
                }
                Event::Params { variables, .. } => request.variables = variables,
                Event::Stdin { bytes, .. } => request.body.extend_from_slice(bytes),
                Event::StdinEnd { .. } => request.complete = true,
                other => panic!("unexpected {other:?}"),
            }
        }
    }
    assert!(out.is_empty(), "the server sends nothing before the application answers");
    request
}

/// Expects the variables and the body of the request called `name`.
fn check(proxy: &str, name: &str, request: &Request) {
    let variable = |name: &str| {
        let value = request.variables.get(name.as_bytes())?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    };
    let is = |name: &str, value: &str| assert_eq!(variable(name).as_deref(), Some(value), "{proxy} {name}");
    is("SCRIPT_NAME", "");
    is("SERVER_PROTOCOL", "HTTP/1.1");
    is("HTTP_USER_AGENT", "curl");
    is(
        "REQUEST_METHOD",
        if name == "head" {
            "HEAD"
        } else if name.starts_with("post") {
            "POST"
        } else {
            "GET"
        },
    );
    assert_eq!(request.keep_open, proxy.starts_with("nginx"), "{proxy}");
    assert_eq!(variable("HTTP_PROXY"), None);
    let form = "name=Enki&city=Eridu";
    match name {
        "get" => {
            is("PATH_INFO", "/caf\u{e9}/a b");
            is("QUERY_STRING", "q=1&q=%C3%A9");
            is("REQUEST_URI", "/caf%C3%A9/a%20b?q=1&q=%C3%A9");
        }
        "head" => is("PATH_INFO", "/hello"),
        "post" | "post-chunked" => {
            is("CONTENT_TYPE", "application/x-www-form-urlencoded");
            is("CONTENT_LENGTH", if (proxy, name) == ("caddy-2.6.2", "post-chunked") { "-1" } else { "20" });
            assert_eq!(request.body, form.as_bytes(), "{proxy}");
        }
        "post-64k" => {
            is("CONTENT_LENGTH", "70000");
            assert_eq!(request.body, [b'x'; 70_000], "{proxy}");
        }
        "large-headers" => {
            is("HTTP_COOKIE", &"c".repeat(6000));
            is("HTTP_X_SHORT", &"s".repeat(127));
            is("HTTP_X_LONG", &"l".repeat(128));
        }
        other => panic!("{other} has no check"),
    }
}

#[test]
fn captured_requests_are_decoded_in_any_pieces() {
    let mut count = 0;
    for proxy in fs::read_dir(repository("tests/vectors")).unwrap().map(Result::unwrap) {
        if !proxy.path().is_dir() {
            continue;
        }
        let proxy_name = proxy.file_name().into_string().unwrap();
        for file in fs::read_dir(proxy.path()).unwrap().map(|file| file.unwrap().path()) {
            let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
            let bytes = fs::read(&file).unwrap();
            let whole = decode(&bytes, bytes.len());
            assert!(whole.complete, "{proxy_name} {name} does not end");
            check(&proxy_name, &name, &whole);
            assert_eq!(decode(&bytes, 1), whole, "{proxy_name} {name} byte by byte");
            // Part of the next record's header does not change this request.
            let trailing = [&bytes[..], &[1, 1, 0]].concat();
            assert_eq!(decode(&trailing, trailing.len()), whole, "{proxy_name} {name} with trailing bytes");
            count += 1;
        }
    }
    assert_eq!(count, 18, "three proxies with six requests each");
}
