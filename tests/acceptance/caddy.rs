//! Behaviour that only Caddy has, and differences between its versions.

use std::path::Path;
use std::process::Command;

use crate::support::{Kind, Proxy, Server, caddy_program, repository};

const CADDYS: [Kind; 2] = [Kind::OldCaddy, Kind::NewCaddy];

#[test]
fn the_files_of_deploy_are_formatted_and_valid_for_both_versions() {
    for kind in CADDYS {
        for file in ["nibiru.caddy", "Caddyfile"] {
            let path = repository("deploy/caddy").join(file);
            let formatted = Command::new(caddy_program(kind)).arg("fmt").arg(&path).output().unwrap();
            let now = std::fs::read_to_string(&path).unwrap();
            assert_eq!(String::from_utf8(formatted.stdout).unwrap(), now, "{kind:?} fmt {file}");
        }
        validate(kind, &repository("deploy/caddy/Caddyfile"));
    }
}

#[test]
fn a_chunked_upload_beyond_the_buffer_passes_through_2_6_and_is_411_through_2_11() {
    let server = Server::start();
    let body = "x".repeat(100_000);
    let chunked = ["-H", "Transfer-Encoding: chunked", "--data-binary", &body];
    let old = Proxy::start(Kind::OldCaddy, &server);
    assert_eq!(old.curl(chunked, "/echo").expect(200).text(), body);
    let new = Proxy::start(Kind::NewCaddy, &server);
    new.curl(chunked, "/echo").expect(411);
}

#[test]
fn a_chunked_upload_passes_through_2_11_with_nibiru_buffered() {
    let server = Server::start();
    let proxy = Proxy::with_edits(Kind::NewCaddy, &server, |site| {
        site.replace("import nibiru /", "import nibiru_buffered /").replace("app.sock", "app.sock 1MB")
    });
    let body = "x".repeat(100_000);
    let chunked = ["-H", "Transfer-Encoding: chunked", "--data-binary", &body];
    assert_eq!(proxy.curl(chunked, "/echo").expect(200).text(), body);
}

#[test]
fn script_name_is_the_prefix_of_nibiru_at() {
    let server = Server::start();
    for kind in CADDYS {
        let proxy = Proxy::with_edits(kind, &server, |site| {
            site.replace("import nibiru /", "import nibiru_at /blog /")
        });
        let value =
            |path: &str, name: &str| proxy.curl([], &format!("{path}?only={name}")).expect(200).text();
        assert_eq!(value("/blog/environ/a%20b", "SCRIPT_NAME"), "/blog", "{kind:?}");
        assert_eq!(value("/blog/environ/a%20b", "PATH_INFO"), "/environ/a b", "{kind:?}");
        assert_eq!(value("/blog/environ/x", "REQUEST_URI"), "/blog/environ/x?only=REQUEST_URI", "{kind:?}");
        assert_eq!(proxy.curl([], "/blog").expect(308).header("Location"), Some("/blog/"), "{kind:?}");
    }
}

#[test]
fn a_post_without_a_content_type_gets_the_form_type() {
    let server = Server::start();
    for kind in CADDYS {
        let proxy = Proxy::start(kind, &server);
        let reply = proxy.curl(["-H", "Content-Type:", "--data", "a=1"], "/echo").expect(200);
        assert_eq!(reply.header("X-Content-Type"), Some("application/x-www-form-urlencoded"), "{kind:?}");
    }
}

#[track_caller]
fn validate(kind: Kind, path: &Path) {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(caddy_program(kind));
    command.args(["validate", "--adapter", "caddyfile", "--config"]).arg(path);
    command
        .env("HOME", scratch.path())
        .env("XDG_DATA_HOME", scratch.path())
        .env("XDG_CONFIG_HOME", scratch.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{kind:?}: {}", String::from_utf8_lossy(&output.stderr));
}
