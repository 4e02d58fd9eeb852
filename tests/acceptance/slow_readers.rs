//! Slow readers of responses: they hold no worker and get every byte. A response that cannot be spooled waits with its
//! worker.

use std::fs;
use std::io;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::disks::{Disk, fill, on_small_disk, path_within};
use crate::support::http::Http;
use crate::support::wire::{Connection, END_REQUEST, Record, STDERR, STDOUT, get, post};
use crate::support::{
    App, Kind, Need, Proxy, Server, ServerBuilder, across_a_network, descriptors, lacks, nothing_happens_for,
    wait_for,
};

const STATUS: &str = "/-/status";

/// The length of a piece of a response, in bytes. Every piece is different.
const PIECE: usize = 65_536;

/// The number of pieces for a response of 8 MiB, which exceeds sockets and buffers.
const PIECES: usize = 128;

/// An application with the responses `/known` (with a Content-Length), `/unknown` (without one) and `/dies` (whose
/// worker dies after the last piece), each with `?pieces=N`; and with `/upload`.
const APP: &str = "return function(environ)
  local path, count = environ.PATH_INFO, tonumber(environ.QUERY_STRING:match('pieces=(%d+)'))
  if path == '/upload' then return 200, {}, tostring(#environ['wsgi.input']:read('a')) end
  if not count then return 200, {}, 'fine' end
  local headers, piece = {}, -1
  if path == '/known' then headers['Content-Length'] = ('%d'):format(count * 65536) end
  return 200, headers, function()
    piece = piece + 1
    if piece < count then return (('%016d'):format(piece)):rep(4096) end
    if path == '/dies' then os.execute('kill -9 $PPID') end
  end
end";

fn body(pieces: usize) -> Vec<u8> {
    (0..pieces).flat_map(|piece| format!("{piece:016}").repeat(PIECE / 16).into_bytes()).collect()
}

fn url(path: &str, pieces: usize) -> String {
    format!("{path}?pieces={pieces}")
}

/// A server of the application, with deadlines that no test reaches.
fn serving(app: &App, builder: ServerBuilder, workers: &'static str) -> ServerBuilder {
    builder.application(app.root(), "app").workers(workers).arguments([
        "--status-path",
        STATUS,
        "--request-timeout",
        "off",
        "--queue-timeout",
        "10m",
    ])
}

fn start(workers: &'static str, arguments: &[&str]) -> (App, Server) {
    let app = App::new(APP);
    let mut builder = serving(&app, Server::builder().inspectable(), workers);
    for argument in arguments {
        builder = builder.arguments([argument]);
    }
    let server = builder.start();
    (app, server)
}

/// A client that has sent a request and reads nothing yet.
fn reader(server: &Server, path: &str) -> Connection {
    let mut reader = Connection::open(&server.socket());
    reader.send(&get(1, path, false));
    reader
}

fn status(server: &Server) -> Value {
    let answer = server.get(&format!("{STATUS}?json"));
    serde_json::from_slice(answer.body()).unwrap()
}

fn spooled(server: &Server) -> u64 {
    status(server)["spool"]["bytes"].as_u64().unwrap()
}

/// Waits until no response is in a file any more.
#[track_caller]
fn wait_for_an_empty_spool(server: &Server) {
    wait_for("nothing is spooled", || {
        let spool = &status(server)["spool"];
        (spool["bytes"] == 0 && spool["files"] == 0).then_some(())
    });
    wait_for("no file is open", || {
        let deleted = |(_, target): &(u32, String)| target.ends_with("(deleted)");
        (!descriptors(server.pid()).iter().any(deleted)).then_some(())
    });
}

#[track_caller]
fn other_requests_are_served(server: &Server) {
    assert_eq!(server.get("/").body(), b"fine", "{}", server.log());
}

/// The number of busy workers.
fn busy(server: &Server) -> u64 {
    status(server)["pool"]["busy"].as_u64().unwrap()
}

#[test]
fn slow_readers_hold_no_worker_and_get_every_byte() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("access.log");
    let (_app, server) = start("1", &["--access-log", log.to_str().unwrap()]);
    let path = |reader| if reader % 2 == 0 { "/known" } else { "/unknown" };
    let mut readers: Vec<_> = (0..6).map(|number| reader(&server, &url(path(number), PIECES))).collect();
    other_requests_are_served(&server);
    wait_for("the worker is idle", || (busy(&server) == 0).then_some(()));
    assert!(spooled(&server) > (6 * 7) << 20, "{}", status(&server));
    let expected = body(PIECES);
    for reader in &mut readers {
        let response = reader.response(1).expect("a whole response");
        assert!(response.body() == expected, "the response changed on its way");
        assert!(reader.closes());
    }
    wait_for_an_empty_spool(&server);
    let lines = wait_for("the access log has a line for every request", || {
        let text = fs::read_to_string(&log).unwrap();
        (text.matches("?pieces").count() == 6).then_some(text)
    });
    assert_eq!(lines.matches(&format!(" 200 {} ", PIECES * PIECE)).count(), 6, "{lines}");
    assert!(lines.lines().all(|line| line.ends_with(" complete")), "{lines}");
}

#[test]
fn slow_readers_behind_both_caddys_hold_no_worker() {
    let (_app, server) = start("1", &[]);
    for kind in [Kind::OldCaddy, Kind::NewCaddy] {
        let proxy = Proxy::start(kind, &server);
        let expected = body(2 * PIECES);
        for path in ["/known", "/unknown"] {
            let mut client = Http::from(across_a_network(proxy.port()));
            // HTTP/1.0 has no chunked coding, so the body ends with the connection.
            let url = url(path, 2 * PIECES);
            client.send(format!("GET {url} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes());
            wait_for("the response is spooled", || (spooled(&server) > 0).then_some(()));
            assert_eq!(proxy.curl([], "/").expect(200).text(), "fine");
            wait_for("the worker is idle", || (busy(&server) == 0).then_some(()));
            let response = client.response(false).expect("a response");
            assert!(response.body == expected, "{kind:?}, {path}: the response changed on its way");
            wait_for_an_empty_spool(&server);
        }
    }
}

#[test]
fn a_response_beyond_spool_response_waits_with_its_worker_and_is_complete() {
    let (_app, server) = start("2", &["--spool-response", "1M"]);
    let mut reader = reader(&server, &url("/unknown", PIECES));
    wait_for("--spool-response is reached", || (spooled(&server) > (900 << 10)).then_some(()));
    other_requests_are_served(&server);
    assert_eq!(busy(&server), 1, "the worker still makes the rest");
    assert!(spooled(&server) <= 1 << 20);
    let response = reader.response(1).expect("a whole response");
    assert!(response.body() == body(PIECES));
    wait_for_an_empty_spool(&server);
}

#[test]
fn a_slow_reader_holds_its_worker_with_spool_response_0() {
    let (_app, server) = start("2", &["--spool-response", "0"]);
    let mut reader = reader(&server, &url("/known", PIECES));
    wait_for("the worker is busy", || (busy(&server) == 1).then_some(()));
    // Longer than the gateway waits before it spools a response.
    nothing_happens_for(Duration::from_millis(400), "the response is spooled, or the worker is idle", || {
        Some((spooled(&server), busy(&server))).filter(|now| *now != (0, 1))
    });
    other_requests_are_served(&server);
    assert!(reader.response(1).expect("a whole response").body() == body(PIECES));
}

#[test]
fn slow_readers_leave_room_for_uploads() {
    let (_app, server) = start("4", &["--max-spool", "2M"]);
    let mut readers: Vec<_> = (0..3).map(|_| reader(&server, &url("/known", PIECES))).collect();
    wait_for("responses take their share of --max-spool", || (spooled(&server) > 800 << 10).then_some(()));
    let upload = vec![b'x'; 900 << 10];
    let mut client = Connection::open(&server.socket());
    for _ in 0..3 {
        client.send(&post(1, "/upload", &upload, true));
        assert_eq!(client.response(1).expect("a response").body(), upload.len().to_string().as_bytes());
    }
    assert!(spooled(&server) <= 2 << 20);
    for reader in &mut readers {
        assert!(reader.response(1).expect("a whole response").body() == body(PIECES));
    }
    wait_for_an_empty_spool(&server);
}

#[test]
fn an_endless_response_is_spooled_up_to_spool_response_and_ends_with_its_client() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("access.log");
    let arguments = ["--spool-response", "2M", "--access-log", log.to_str().unwrap()];
    let (_app, server) = start("1", &arguments);
    let endless = reader(&server, &url("/unknown", 1 << 30));
    wait_for("--spool-response is reached", || (spooled(&server) > 1900 << 10).then_some(()));
    assert!(spooled(&server) <= 2 << 20);
    drop(endless);
    other_requests_are_served(&server);
    wait_for_an_empty_spool(&server);
    // A complete response whose client leaves before it has read it.
    let gone = reader(&server, &url("/known", 24));
    wait_for("the response is spooled and the worker idle", || {
        (spooled(&server) > 0 && busy(&server) == 0).then_some(())
    });
    drop(gone);
    wait_for_an_empty_spool(&server);
    wait_for("both count as aborted", || (status(&server)["requests"]["aborted"] == 2).then_some(()));
    wait_for("the access log has two aborted requests", || {
        let text = fs::read_to_string(&log).unwrap();
        (text.lines().filter(|line| line.ends_with(" aborted")).count() == 2).then_some(())
    });
}

#[test]
fn a_slow_reader_of_a_dead_workers_response_gets_its_bytes_and_a_broken_transfer() {
    let (_app, server) = start("1", &[]);
    let mut reader = reader(&server, &url("/dies", PIECES));
    server.logged(&["worker ended in the middle of its request"]);
    other_requests_are_served(&server);
    assert!(spooled(&server) > 0);
    let mut stdout = Vec::new();
    let broken = loop {
        match reader.try_record() {
            Ok(Record { kind: STDOUT, content, .. }) => stdout.extend(content),
            Ok(Record { kind: END_REQUEST, .. }) => panic!("the response of a dead worker looks complete"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    // A record header of another version, at the boundary of a record.
    assert_eq!(broken.kind(), io::ErrorKind::InvalidData, "{broken}");
    let end = stdout.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    assert!(stdout[end + 4..] == body(PIECES));
    wait_for_an_empty_spool(&server);
}

#[test]
fn two_responses_on_one_connection_are_spooled() {
    let (_app, server) = start("2", &[]);
    let mut reader = Connection::open(&server.socket());
    reader.send(&[get(1, &url("/known", PIECES), true), get(2, &url("/unknown", PIECES), true)].concat());
    wait_for("both responses are spooled and the workers idle", || {
        (spooled(&server) > 0 && busy(&server) == 0).then_some(())
    });
    other_requests_are_served(&server);
    let mut stdout = [Vec::new(), Vec::new()];
    let mut ended = 0;
    while ended < 2 {
        let Record { kind, id, content } = reader.record().expect("a record");
        match kind {
            STDOUT => stdout[usize::from(id) - 1].extend(content),
            END_REQUEST => ended += 1,
            STDERR => {}
            _ => panic!("an unexpected record"),
        }
    }
    for stdout in stdout {
        let end = stdout.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        assert!(stdout[end + 4..] == body(PIECES), "the response changed on its way");
    }
    wait_for_an_empty_spool(&server);
    // The connection can carry another request.
    assert_eq!(reader.get("/").body(), b"fine");
}

#[test]
fn a_stop_waits_for_a_slow_reader() {
    let app = App::new(APP);
    let mut server = serving(&app, Server::builder(), "1").arguments(["--grace", "10m"]).start();
    let mut reader = reader(&server, &url("/unknown", PIECES));
    wait_for("the response is spooled and the worker idle", || {
        (spooled(&server) > 0 && busy(&server) == 0).then_some(())
    });
    server.signal(Signal::TERM);
    server.logged(&["stopping"]);
    assert!(reader.response(1).expect("a whole response").body() == body(PIECES));
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn a_response_whose_spool_file_is_damaged_breaks_off() {
    let (_app, server) = start("1", &[]);
    let mut reader = reader(&server, &url("/unknown", PIECES));
    wait_for("the response is spooled and the worker idle", || {
        (spooled(&server) > 0 && busy(&server) == 0).then_some(())
    });
    let deleted = |(number, target): (u32, String)| target.ends_with("(deleted)").then_some(number);
    let file = descriptors(server.pid()).into_iter().find_map(deleted).expect("a spool file");
    let path = format!("/proc/{}/fd/{file}", server.pid());
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1 << 20).unwrap();
    let broken = reader.try_response(1).unwrap_err();
    assert_eq!(broken.kind(), io::ErrorKind::InvalidData, "{broken}");
    server.logged(&["connection broken off", "lost"]);
    wait_for_an_empty_spool(&server);
    wait_for("the request counts as broken", || (status(&server)["requests"]["broken"] == 1).then_some(()));
    other_requests_are_served(&server);
}

#[test]
fn a_slow_reader_holds_its_worker_on_a_full_disk() {
    if lacks(Need::Mounts) {
        return;
    }
    let (app, directory) = (App::new(APP), tempfile::tempdir().unwrap());
    let spool = directory.path().display().to_string();
    let builder = on_small_disk(directory.path(), "").arguments(["--spool-dir", &spool]);
    let server = serving(&app, builder, "2").start();
    let filler = path_within(&server, &directory.path().join("fill"));
    fill(&filler);
    let mut one = reader(&server, &url("/unknown", PIECES));
    server.logged(&["cannot spool the answer of a slow client"]);
    other_requests_are_served(&server);
    assert_eq!(busy(&server), 1);
    assert!(one.response(1).expect("a whole response").body() == body(PIECES));
    // A response that fills the disk itself.
    fs::remove_file(filler).unwrap();
    wait_for_an_empty_spool(&server);
    let mut two = reader(&server, &url("/unknown", PIECES));
    wait_for("the response has filled the disk", || (spooled(&server) > 800 << 10).then_some(()));
    other_requests_are_served(&server);
    assert!(two.response(1).expect("a whole response").body() == body(PIECES));
    wait_for_an_empty_spool(&server);
}

#[test]
fn a_hanging_disk_delays_only_the_workers_of_slow_readers() {
    let Some(disk) = Disk::new() else { return };
    let (app, directory) = (App::new(APP), disk.directory().display().to_string());
    let builder = Server::builder().arguments(["--spool-dir", &directory]);
    let server = serving(&app, builder, "3").start();
    let frozen = disk.freeze();
    let mut one = reader(&server, &url("/unknown", PIECES));
    let gone = reader(&server, &url("/known", PIECES));
    wait_for("both responses have a spool file", || (status(&server)["spool"]["files"] == 2).then_some(()));
    for _ in 0..100 {
        other_requests_are_served(&server);
    }
    assert_eq!(busy(&server), 2);
    drop(gone);
    wait_for("the worker of the client that left is idle", || (busy(&server) == 1).then_some(()));
    // Bytes that the disk has not taken are sent from memory.
    assert!(one.response(1).expect("a whole response").body() == body(PIECES));
    assert_eq!(status(&server)["spool"]["files"], 2, "the files stay until the disk answers");
    drop(frozen);
    wait_for_an_empty_spool(&server);
}
