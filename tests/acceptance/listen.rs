//! Listening sockets other than a Unix socket that nibiru creates: inherited sockets and TCP.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::wire::{Connection, get};
use crate::support::{Need, Process, Server, free_port, lacks, nibiru, repository, wait_for};

/// Starts nibiru by `command` with the hello example. Its log is in `scratch`, and `stdin` is its descriptor 0.
fn serve(scratch: &Path, mut command: Command, listen: &str, stdin: Stdio) -> Process {
    command
        .args(["--workers", "1", "--listen", listen, "--root"])
        .arg(repository("examples/hello"))
        .arg("app");
    Process::with_stdin("nibiru", scratch, command, stdin)
}

fn serves_hello(mut connection: Connection) {
    let response = connection.get("/");
    assert_eq!((response.status(), response.body()), (200, &b"Hello, World!\n"[..]));
}

/// spawn-fcgi, mod_fcgid and lighttpd start a FastCGI application in this way.
#[test]
fn a_listening_socket_on_descriptor_0_is_served() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("app.sock");
    let socket = UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        let mut command = nibiru();
        command.arg("serve");
        let inherited = OwnedFd::from(socket.try_clone().unwrap());
        let server = serve(scratch.path(), command, "fd:0", inherited.into());
        serves_hello(Connection::open(&path));
        drop(server);
        assert!(path.exists(), "an inherited socket's file is not removed");
    }
}

/// systemd-socket-activate passes sockets to a command as systemd does to a unit.
#[test]
fn a_socket_that_systemd_passes_is_served() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("app.sock");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("--listen").arg(&path).arg(nibiru().get_program()).arg("serve");
    let _server = serve(scratch.path(), command, "systemd", Stdio::null());
    // The socket's file exists a moment before the socket listens.
    let stream = wait_for("systemd listens", || UnixStream::connect(&path).ok());
    serves_hello(Connection::from(stream));
}

#[test]
fn listen_systemd_without_a_passed_socket_refuses_the_start() {
    let mut command = nibiru();
    command.args(["serve", "--listen", "systemd", "--root"]).arg(repository("examples/hello")).arg("app");
    let output = crate::support::output(&mut command);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("nibiru: cannot listen on systemd: systemd passed no socket"), "{message}");
}

/// Whether a request over TCP gets any response, rather than a close.
pub(crate) fn is_answered(host: &str, port: u16) -> bool {
    let mut client = wait_for("the server listens", || TcpStream::connect((host, port)).ok());
    // A refused connection may be closed before the request is written.
    let _ = client.write_all(&get(1, "/hello", false));
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    !answer.is_empty()
}

/// The tests connect to every socket of a server right after its start.
#[test]
fn the_start_returns_when_the_server_listens_on_every_address() {
    let scratch = tempfile::tempdir().unwrap();
    let first = (0..100).map(|number| format!("unix:{}/{number}.sock", scratch.path().display()));
    let first = first.collect::<Vec<_>>().join(",");
    let port = free_port();
    let last = format!("tcp:127.0.0.1:{port}");
    let server =
        Server::builder().arguments(["--listen", &first, "--listen", &last, "--control", "off"]).start();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok(), "{}", server.log());
}

/// FCGI_WEB_SERVER_ADDRS of FastCGI 1.0 §3.2, and --allow-from. Where both are set, a peer has to be in both.
#[test]
fn tcp_peers_outside_allow_from_or_fcgi_web_server_addrs_are_refused() {
    for (listen, variable, allow_from, answered) in [
        ("127.0.0.1", Some("127.0.0.1"), None, true),
        ("127.0.0.1", Some("192.0.2.1, 127.0.0.1"), None, true),
        ("127.0.0.1", Some("::ffff:127.0.0.1"), None, true),
        ("127.0.0.1", Some("192.0.2.1"), None, false),
        ("127.0.0.1", None, None, true),
        ("127.0.0.1", None, Some("127.0.0.0/8"), true),
        ("127.0.0.1", None, Some("192.0.2.0/24,::1"), false),
        ("127.0.0.1", Some("127.0.0.1,192.0.2.1"), Some("192.0.2.0/24"), false),
        ("0.0.0.0", None, Some("127.0.0.1"), true),
        // A socket for both families sees 127.0.0.1 as ::ffff:127.0.0.1.
        ("[::]", None, Some("127.0.0.1"), true),
        ("[::]", None, Some("::ffff:127.0.0.0/104"), true),
        ("[::]", Some("127.0.0.1"), None, true),
        ("[::]", None, Some("::1"), false),
    ] {
        let port = free_port();
        let listen = format!("tcp:{listen}:{port}");
        let mut builder = Server::builder().workers("1").arguments(["--listen", &listen]);
        if let Some(variable) = variable {
            builder = builder.environment("FCGI_WEB_SERVER_ADDRS", variable);
        }
        if let Some(allow_from) = allow_from {
            builder = builder.arguments(["--allow-from", allow_from]);
        }
        let server = builder.start();
        let what = format!("{listen} {variable:?} {allow_from:?}");
        assert_eq!(is_answered("127.0.0.1", port), answered, "{what}");
        if answered {
            assert!(!server.log().contains("connection refused"), "{what}: {}", server.log());
        } else {
            server.logged(&[
                "WARN",
                "connection refused",
                "(--allow-from, FCGI_WEB_SERVER_ADDRS)",
                "peer=\"127.0.0.1\"",
            ]);
        }
        // Access to a Unix socket depends on its permissions only.
        assert_eq!(server.get("/hello").status(), 200);
    }
}

#[test]
fn log_lines_about_refused_peers_have_a_rate_limit() {
    let port = free_port();
    let listen = format!("tcp:127.0.0.1:{port}");
    let server = Server::builder().arguments(["--listen", &listen, "--allow-from", "192.0.2.7"]).start();
    for _ in 0..100 {
        assert!(!is_answered("127.0.0.1", port));
    }
    server.logged_between("connection refused", 5..50);
}

/// Regression: an invalid address in the list was ignored, which let every peer in.
#[test]
fn an_invalid_address_in_a_list_of_peers_refuses_serve_and_check() {
    for command in ["serve", "check"] {
        for (variable, cause) in [
            ("localhost", "\"localhost\" is not an IP address"),
            ("10.0.0.0/8", "\"10.0.0.0/8\" is a network, not an address; --allow-from takes networks"),
            ("10.0.0.1;10.0.0.2", "\"10.0.0.1;10.0.0.2\" is not an IP address"),
            ("10.0.0.1,bar", "\"bar\" is not an IP address"),
            ("", "set but empty"),
        ] {
            let refused = refusal(command, &["--listen", "tcp:127.0.0.1:1"], |nibiru| {
                nibiru.env("FCGI_WEB_SERVER_ADDRS", variable);
            });
            assert!(refused.starts_with(&format!("2 nibiru: FCGI_WEB_SERVER_ADDRS: {cause}")), "{refused}");
        }
        for (argument, cause) in [
            ("localhost", "expected an address such as"),
            ("10.0.0.7/8", "bits beyond its prefix"),
            ("", "expected an address such as"),
        ] {
            let refused = refusal(command, &["--allow-from", argument], |_| {});
            assert!(refused.starts_with("2 nibiru: ") && refused.contains(cause), "{refused}");
        }
        let empty = refusal(command, &[], |nibiru| {
            nibiru.env("NIBIRU_ALLOW_FROM", "");
        });
        assert!(
            empty.starts_with("2 nibiru: NIBIRU_ALLOW_FROM=") && empty.contains("set but empty"),
            "{empty}"
        );
    }
}

#[test]
fn a_public_tcp_address_without_allow_from_is_refused() {
    for command in ["serve", "check"] {
        for address in ["tcp:0.0.0.0:1", "tcp:[::]:1", "tcp:192.0.2.1:1"] {
            let refused = refusal(command, &["--listen", address], |_| {});
            let expected =
                format!("2 nibiru: --listen {address}: whoever can connect there can claim to be any user");
            assert!(refused.starts_with(&expected) && refused.contains("--allow-from"), "{refused}");
        }
        // The settings take `0` for a host name; the system's resolver makes it 0.0.0.0.
        let refused = refusal(command, &["--listen", "tcp:0:1"], |_| {});
        let expected = "1 nibiru: cannot listen on tcp:0:1: 0.0.0.0:1: whoever can connect there";
        assert!(refused.starts_with(expected), "{refused}");
    }
    // The same for an inherited socket, where clients can claim as much.
    let socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let refused = refusal("serve", &["--listen", "fd:0"], |nibiru| {
        nibiru.stdin(OwnedFd::from(socket.try_clone().unwrap()));
    });
    assert!(refused.starts_with("1 nibiru: cannot listen on fd:0: 0.0.0.0:"), "{refused}");
    assert!(refused.contains("whoever can connect there can claim to be any user"), "{refused}");

    let port = socket.local_addr().unwrap().port();
    let (scratch, mut command) = (tempfile::tempdir().unwrap(), nibiru());
    command.args(["serve", "--allow-from", "127.0.0.1"]);
    let _server = serve(scratch.path(), command, "fd:0", OwnedFd::from(socket).into());
    assert!(is_answered("127.0.0.1", port));
}

/// Exit code and message of a command that is refused, as `CODE MESSAGE`.
#[track_caller]
fn refusal(command: &str, arguments: &[&str], prepare: impl FnOnce(&mut Command)) -> String {
    let mut nibiru = nibiru();
    nibiru.arg(command).args(arguments).arg("--root").arg(repository("examples/hello")).arg("app");
    prepare(&mut nibiru);
    let output = crate::support::output(&mut nibiru);
    let said = String::from_utf8_lossy(&output.stderr);
    // The message comes after the log's warning about workers that run as root.
    let message = said.find("nibiru: ").map_or(&*said, |at| &said[at..]);
    format!("{} {message}", output.status.code().unwrap_or(-1))
}

/// For example, nginx with `proxy_pass` in place of `fastcgi_pass`: its clients get a 502, and the log names the peer.
#[test]
fn http_or_tls_on_the_fastcgi_socket_is_logged_with_the_peer() {
    let port = free_port();
    let listen = format!("tcp:127.0.0.1:{port}");
    let server = Server::builder().arguments(["--listen", &listen]).start();
    let mut client = wait_for("the server listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let peer = format!("peer=\"{}\"", client.local_addr().unwrap());
    server.logged(&["WARN", "the peer speaks HTTP, not FastCGI (nginx: fastcgi_pass", &peer]);
    let mut client = UnixStream::connect(server.socket()).unwrap();
    client.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03").unwrap();
    let peer = format!("peer=\"pid {}, user ", std::process::id());
    server.logged(&["WARN", "the peer speaks TLS, not FastCGI", &peer]);
    for _ in 0..100 {
        let mut client = UnixStream::connect(server.socket()).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _ = client.read_to_end(&mut Vec::new());
    }
    server.logged_between("the peer speaks", 5..50);
}

#[test]
fn mode_and_owner_of_a_unix_socket_are_logged() {
    let id = |flag: &str| {
        let output = Command::new("id").arg(flag).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let server = Server::builder().arguments(["--socket-mode", "0620"]).start();
    let socket = server.socket().display().to_string();
    let line = format!("listening on unix:{socket}, mode 0620, owner {}:{}", id("-un"), id("-gn"));
    assert!(server.logged(&["listening on unix:"]).ends_with(&line), "{}", server.log());
    if !lacks(Need::Root) {
        let server = Server::builder().arguments(["--socket-owner", "12345:www-data"]).start();
        assert!(server.logged(&["listening on unix:"]).ends_with(", mode 0660, owner 12345:www-data"));
    }
}
