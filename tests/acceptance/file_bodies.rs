//! Bodies that are files: the gateway sends them, and no worker waits for their clients.

use std::fs::{self, File};
use std::path::PathBuf;

use rustix::process::Signal;

use crate::support::seccomp;
use crate::support::wire::{Connection, END_REQUEST, STDOUT, get, record};
use crate::support::{
    App, Kind, Proxy, Server, ServerBuilder, across_a_network, descriptors, http::Http, wait_for,
};

/// The length of the file, in bytes: more than sockets and buffers hold.
const LENGTH: usize = 20_000_000;

const ABORT_REQUEST: u8 = 2;

/// `/file` is the file, `/part` 1,000,000 bytes of it from the offset 100,001 on, `/handle` the file by a handle that is written to
/// before, and closed by the application's own body.
const APP: &str = "return function(environ)
  local path, wrap = environ.PATH_INFO, environ['wsgi.file_wrapper']
  if path == '/file' then return 200, {}, wrap('large') end
  if path == '/part' then
    local handle = assert(io.open('large', 'rb'))
    handle:seek('set', 100001)
    return 206, { ['Content-Length'] = '1000000' }, wrap(handle)
  end
  if path == '/handle' then
    local handle = assert(io.open('written', 'w+b'))
    handle:write(('0123456789'):rep(100000), 'end')
    handle:seek('set', 0)
    return 200, {}, wrap(handle)
  end
  return 200, {}, 'fine'
end";

/// The file's bytes: each number is different.
fn contents() -> Vec<u8> {
    (0..LENGTH / 8).flat_map(|number| format!("{number:08}").into_bytes()).collect()
}

fn serving(workers: &'static str, arguments: &[&str]) -> (App, Server) {
    let (app, builder) = built(workers, arguments);
    (app, builder.start())
}

fn built(workers: &'static str, arguments: &[&str]) -> (App, ServerBuilder) {
    let app = App::new(APP);
    fs::write(app.root().join("large"), contents()).unwrap();
    let mut builder: ServerBuilder =
        Server::builder().inspectable().application(app.root(), "app").workers(workers);
    builder = builder.arguments(["--request-timeout", "off"]);
    for argument in arguments {
        builder = builder.arguments([argument]);
    }
    (app, builder)
}

fn large(app: &App) -> PathBuf {
    app.root().join("large")
}

/// A client that has asked for the file, and reads nothing yet.
fn reader(server: &Server) -> Connection {
    let mut reader = Connection::open(&server.socket());
    reader.send(&get(1, "/file", true));
    reader
}

fn wait_for_no_open_file(server: &Server, app: &App) {
    let path = large(app).to_str().unwrap().to_owned();
    wait_for("the gateway has closed the file", || {
        (!descriptors(server.pid()).iter().any(|(_, target)| *target == path)).then_some(())
    });
}

fn wait_for_open_files(server: &Server, app: &App, count: usize) {
    let path = large(app).to_str().unwrap().to_owned();
    wait_for("the gateway has the files", || {
        (descriptors(server.pid()).iter().filter(|(_, target)| *target == path).count() == count)
            .then_some(())
    });
}

#[test]
fn slow_readers_of_a_file_hold_no_worker_and_take_no_spool() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("access.log");
    let (app, server) = serving("1", &["--access-log", log.to_str().unwrap()]);
    let mut readers: Vec<_> = (0..6).map(|_| reader(&server)).collect();
    wait_for_open_files(&server, &app, 6);
    for _ in 0..20 {
        assert_eq!(server.get_text("/"), "fine");
    }
    server.wait_for_idle(1);
    let spool = &server.status()["spool"];
    assert_eq!((&spool["bytes"], &spool["files"]), (&0.into(), &6.into()), "a descriptor each, and no byte");
    assert!(!fs::read_to_string(&log).unwrap().contains("/file"), "not complete yet");
    let expected = contents();
    for reader in &mut readers {
        assert!(reader.response(1).expect("a whole response").body() == expected);
        assert_eq!(reader.get("/").text(), "fine");
    }
    wait_for_no_open_file(&server, &app);
    wait_for("the access log has every request", || {
        let text = fs::read_to_string(&log).unwrap();
        let lines = text.lines().filter(|line| line.contains("/file"));
        let whole =
            lines.filter(|line| line.contains(&format!(" 200 {LENGTH} ")) && line.ends_with(" complete"));
        (whole.count() == 6).then_some(())
    });
}

#[test]
fn parts_and_written_handles_arrive_as_the_application_meant_them() {
    let (_app, server) = serving("1", &[]);
    for kind in [Kind::Nginx, Kind::OldCaddy, Kind::NewCaddy] {
        let proxy = Proxy::start(kind, &server);
        let part = proxy.curl([], "/part").expect(206);
        assert!(part.body == contents()[100_001..1_100_001], "{kind:?}");
        let written = proxy.curl([], "/handle").expect(200);
        assert!(written.body == [&b"0123456789".repeat(100_000)[..], b"end"].concat(), "{kind:?}");
        let head = proxy.curl(["--head"], "/file").expect(200);
        assert_eq!(head.header("Content-Length"), Some("20000000"), "{kind:?}");
    }
}

#[test]
fn a_file_that_shrinks_after_its_worker_is_done_breaks_the_transfer() {
    let (app, server) = serving("1", &[]);
    for kind in [Kind::Nginx, Kind::OldCaddy, Kind::NewCaddy] {
        fs::write(large(&app), contents()).unwrap();
        let proxy = Proxy::with_edits(kind, &server, |site| {
            site.replace("fastcgi_buffering   on;", "fastcgi_buffering off;")
        });
        let mut client = Http::from(across_a_network(proxy.port()));
        client.send(b"GET /file HTTP/1.0\r\nHost: localhost\r\n\r\n");
        wait_for_open_files(&server, &app, 1);
        server.wait_for_idle(1);
        File::options().write(true).open(large(&app)).unwrap().set_len(10_000_000).unwrap();
        let received = client.rest();
        assert!(received.len() < LENGTH, "{kind:?}: {} bytes", received.len());
        wait_for_no_open_file(&server, &app);
    }
    server.logged(&[
        "connection broken off: a file of the application's cannot be sent",
        "it is shorter than it was",
    ]);
}

#[test]
fn a_client_that_aborts_a_file_keeps_its_connection() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("access.log");
    let (app, server) = serving("1", &["--access-log", log.to_str().unwrap()]);
    let mut client = reader(&server);
    wait_for_open_files(&server, &app, 1);
    server.wait_for_idle(1);
    client.send(&record(ABORT_REQUEST, 1, b""));
    let mut received = 0;
    loop {
        let record = client.record().expect("the connection stays open");
        match record.kind {
            STDOUT => received += record.content.len(),
            END_REQUEST => break,
            other => panic!("a record of type {other}"),
        }
    }
    assert!(received < LENGTH, "{received} bytes");
    assert_eq!(client.get("/").text(), "fine");
    wait_for_no_open_file(&server, &app);
    let line = wait_for("the access log has the aborted request", || {
        let text = fs::read_to_string(&log).unwrap();
        text.lines().find(|line| line.contains("/file")).map(str::to_owned)
    });
    let bytes: usize = line.split(" 200 ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(line.ends_with(" aborted") && bytes <= received, "{line}: {received} bytes came");
}

#[test]
fn files_and_other_responses_share_a_connection() {
    let (app, server) = serving("2", &[]);
    let mut client = Connection::open(&server.socket());
    for id in [1, 2] {
        client.send(&get(id, "/file", true));
    }
    wait_for_open_files(&server, &app, 2);
    client.send(&get(3, "/", true));
    let (mut bodies, mut ends) = ([Vec::new(), Vec::new(), Vec::new()], Vec::new());
    while ends.len() < 3 {
        let record = client.record().expect("a record");
        match record.kind {
            STDOUT => bodies[usize::from(record.id) - 1].extend_from_slice(&record.content),
            END_REQUEST => ends.push(record.id),
            other => panic!("a record of type {other}"),
        }
    }
    assert_eq!(ends[0], 3, "the small response does not wait for the files");
    assert!(bodies[2].ends_with(b"\r\n\r\nfine"));
    let expected = contents();
    assert!(bodies[0].ends_with(&expected) && bodies[1].ends_with(&expected));
}

#[test]
fn a_stop_waits_for_a_file_and_a_client_that_leaves_ends_it() {
    let (app, mut server) = serving("1", &["--grace", "10m"]);
    let left = reader(&server);
    let mut stays = reader(&server);
    wait_for_open_files(&server, &app, 2);
    drop(left);
    wait_for_open_files(&server, &app, 1);
    server.signal(Signal::TERM);
    server.logged(&["stopping"]);
    assert!(stays.response(1).expect("a whole response").body() == contents());
    assert!(server.wait().success());
}

#[test]
fn a_worker_that_ends_after_a_file_leaves_its_response_whole() {
    let (app, server) = serving("1", &["--max-requests", "1"]);
    let worker = *server.workers(1).first().unwrap();
    let mut client = reader(&server);
    wait_for_open_files(&server, &app, 1);
    wait_for("the worker is replaced", || (!server.workers(1).contains(&worker)).then_some(()));
    assert!(client.response(1).expect("a whole response").body() == contents());
}

#[test]
fn a_client_that_stops_reading_a_file_is_cut_at_its_deadline() {
    let (app, server) = serving("1", &["--send-timeout", "1s"]);
    let mut client = reader(&server);
    wait_for_open_files(&server, &app, 1);
    server.logged(&["connection closed: the client took its answer too slowly (--send-timeout)"]);
    wait_for_no_open_file(&server, &app);
    assert!(client.response(1).is_none());
}

#[test]
fn without_sendfile_a_file_is_copied() {
    let wrapper = seccomp::without(seccomp::SENDFILE, &[]);
    let (app, builder) = built("1", &[]);
    let server = builder.through(wrapper.each_ref().map(String::as_str)).start();
    let mut client = reader(&server);
    wait_for_open_files(&server, &app, 1);
    assert!(client.response(1).expect("a whole response").body() == contents());
}
