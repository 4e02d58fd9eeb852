//! Behaviour that only HAProxy has: it can multiplex requests on a connection, sends GET_VALUES, and sends
//! ABORT_REQUEST.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

use crate::support::http::Http;
use crate::support::wire::{ABORT_REQUEST, BEGIN_REQUEST, GET_VALUES, STDIN};
use crate::support::{Gate, Kind, Proxy, Reply, Server, wait_for};

/// The most concurrent requests on one connection that nibiru accepts.
const MOST: usize = 64;

/// HAProxy that multiplexes all requests on one connection, up to the number that nibiru announces.
fn multiplexing(server: &Server) -> Proxy {
    Proxy::with_edits(Kind::HaProxy, server, shared)
}

/// The site with the commented options of `haproxy.cfg` enabled, and on one thread: threads do not share connections
/// that are in use.
pub(crate) fn shared(site: String) -> String {
    for line in ["    # option mpxs-conns\n", "    # option max-reqs 64\n", "    # option get-values\n"] {
        assert!(site.contains(line), "haproxy.cfg has no {line}");
    }
    site.replace("    # option ", "    option ").replace("\nglobal\n", "\nglobal\n    nbthread 1\n")
}

/// Starts a request that waits at `gate`, and returns when it has reached the gate.
fn wait_at(proxy: &Proxy, gate: &Gate) -> Child {
    let child = proxy.curl_command([], &gate.url("/wait")).spawn().unwrap();
    gate.announced("started");
    child
}

fn reply(child: Child) -> Reply {
    Reply::from_curl(child.wait_with_output().unwrap())
}

#[test]
fn concurrent_requests_share_one_connection() {
    let server = Server::builder().workers("8").inspectable().start();
    let relay = Relay::start(&server.socket());
    let proxy = Proxy::with_edits(Kind::HaProxy, &server, |site| {
        shared(site).replace(&server.socket().display().to_string(), &relay.path.display().to_string())
    });
    let gates: Vec<Gate> = (0..8).map(|_| Gate::new()).collect();
    let waiting: Vec<Child> = gates.iter().map(|gate| wait_at(&proxy, gate)).collect();
    assert_eq!(server.connections().len(), 1, "eight requests share one connection");
    for (gate, child) in gates.iter().zip(waiting).rev() {
        gate.open("go");
        assert_eq!(reply(child).expect(200).text(), "waited\n");
    }
    let records = relay.records();
    assert_eq!(records[0].0, GET_VALUES, "HAProxy sends GET_VALUES first");
    assert!(records[0].2.windows(13).any(|name| name == b"FCGI_MAX_REQS"), "{:?}", records[0]);
    let mut ids: Vec<u16> =
        records.iter().filter(|record| record.0 == BEGIN_REQUEST).map(|record| record.1).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8, "each request has an id of its own");
}

/// Whether this is the `500` that HAProxy 2.6 itself sends for some requests that begin behind a large upload: see
/// `docs/how-to/haproxy.md`. They never reach nibiru.
fn is_haproxys_own(reply: &Reply) -> bool {
    reply.status == 500 && reply.text().contains("An internal server error occurred")
}

#[test]
fn uploads_of_all_sizes_on_one_connection_are_echoed_unchanged() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let server = Server::builder().workers("4").inspectable().start();
    let proxy = multiplexing(&server);
    let (gate, scratch) = (Gate::new(), tempfile::tempdir().unwrap());
    let held = wait_at(&proxy, &gate);
    let sizes = [0, 1, 100, 16_000, 17_000, 65_536, 65_537, 300_000, 1_000_000, 5_000_000, 2, 70_000];
    let bodies = sizes.map(|size| {
        let mut body = vec![0; size];
        random.fill(&mut body);
        body
    });
    // All responses are read concurrently: HAProxy reads nothing from a shared connection while one of its clients does
    // not read.
    thread::scope(|scope| {
        for body in &bodies {
            let file = scratch.path().join(body.len().to_string());
            std::fs::write(&file, body).unwrap();
            let mut curl = proxy.curl_command(["--data-binary", &format!("@{}", file.display())], "/echo");
            scope.spawn(move || {
                let reply = std::iter::repeat_with(|| reply(curl.spawn().unwrap()))
                    .find(|reply| !is_haproxys_own(reply))
                    .expect("the iterator is endless")
                    .expect(200);
                assert!(reply.body == *body, "a body of {} bytes changed on its way", body.len());
            });
        }
    });
    assert_eq!(server.connections().len(), 1);
    gate.open("go");
    reply(held).expect(200);
}

#[test]
fn a_client_that_leaves_during_its_upload_is_aborted_and_other_requests_on_the_connection_go_on() {
    let server = Server::builder().workers("2").inspectable().start();
    let relay = Relay::start(&server.socket());
    let proxy = Proxy::with_edits(Kind::HaProxy, &server, |site| {
        shared(site).replace(&server.socket().display().to_string(), &relay.path.display().to_string())
    });
    let stays = Gate::new();
    let neighbour = wait_at(&proxy, &stays);
    let mut leaving = Http::connect(proxy.port());
    leaving.send(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n");
    leaving.send(&[b'x'; 100_000]);
    let came = |kind: u8| relay.records().iter().filter(|record| record.0 == kind).count();
    wait_for("a part of the body has come", || (came(STDIN) > 1).then_some(()));
    drop(leaving);
    wait_for("HAProxy aborts the request", || (came(ABORT_REQUEST) == 1).then_some(()));
    stays.open("go");
    assert_eq!(reply(neighbour).expect(200).text(), "waited\n");
    proxy.curl([], "/hello").expect(200);
    assert_eq!(server.connections().len(), 1, "the connection stays open");
}

/// For a complete request, HAProxy 2.6 sends no ABORT_REQUEST and discards the response. Without `keep-conn` it closes
/// the connection, which aborts the request. A failure of this test means that HAProxy has changed: update
/// `docs/how-to/haproxy.md`.
#[test]
fn a_client_that_leaves_during_its_request_aborts_it_only_without_keep_conn() {
    let server = Server::builder().workers("2").arguments(["--access-log", "-"]).start();
    for kept in [true, false] {
        let proxy = Proxy::with_edits(Kind::HaProxy, &server, |site| {
            if kept { site } else { site.replace("    option keep-conn", "    no option keep-conn") }
        });
        let gate = Gate::new();
        let mut leaving = wait_at(&proxy, &gate);
        leaving.kill().unwrap();
        leaving.wait().unwrap();
        if kept {
            // HAProxy has seen the client leave: it has answered two later requests.
            proxy.curl([], "/hello").expect(200);
            proxy.curl([], "/hello").expect(200);
            assert!(!server.log().contains(" aborted "), "{}", server.log());
        } else {
            server.logged(&["/wait", "aborted"]);
        }
        gate.open("go");
    }
}

#[test]
fn a_killed_worker_fails_only_its_own_request_on_a_shared_connection() {
    let server = Server::builder().workers("3").inspectable().start();
    let proxy = multiplexing(&server);
    let gate = Gate::new();
    let neighbour = wait_at(&proxy, &gate);
    for _ in 0..3 {
        proxy.curl([], "/hello").expect(200);
        assert!(proxy.curl([], "/fail/killed_before_head").expect(502).text().contains("worker"));
    }
    assert_eq!(server.connections().len(), 1);
    gate.open("go");
    assert_eq!(reply(neighbour).expect(200).text(), "waited\n");
}

/// HAProxy passes a NUL in a header on.
#[test]
fn a_nul_in_a_header_fails_only_its_own_request_on_a_shared_connection() {
    let server = Server::builder().workers("2").inspectable().start();
    let proxy = multiplexing(&server);
    let gate = Gate::new();
    let neighbour = wait_at(&proxy, &gate);
    let mut client = Http::connect(proxy.port());
    client.send(b"GET /hello HTTP/1.1\r\nHost: localhost\r\nX-A: a\0b\r\nConnection: close\r\n\r\n");
    let answer = client.response(false).expect("a response");
    assert!(answer.status == 400 && answer.text().contains("NUL"), "{answer:?}");
    assert_eq!(server.connections().len(), 1);
    gate.open("go");
    assert_eq!(reply(neighbour).expect(200).text(), "waited\n");
}

/// END_REQUEST would make the response complete for HAProxy, so none is sent: see `docs/explanation/truth.md`.
#[test]
fn a_response_that_breaks_off_on_a_shared_connection_breaks_it_after_the_other_responses() {
    let server = Server::builder().workers("2").inspectable().start();
    let proxy = multiplexing(&server);
    let (held, broken) = (Gate::new(), Gate::new());
    let neighbour = wait_at(&proxy, &held);
    let url = broken.url("/fail/killed_in_body_without_length");
    broken.open("seen1");
    let child = proxy.curl_command([], &url).spawn().unwrap();
    server.logged(&["worker ended in the middle of its request"]);
    assert_eq!(server.connections().len(), 1);
    held.open("go");
    reply(neighbour).expect(200);
    let broken = reply(child);
    assert_ne!(broken.exit, 0, "HAProxy passed a short body as whole: {broken:?}");
    proxy.curl([], "/hello").expect(200);
}

#[test]
fn haproxy_opens_another_connection_at_the_limit_of_requests_per_connection() {
    let server = Server::builder().workers("1").inspectable().start();
    let proxy = multiplexing(&server);
    let statuses = crowd(&server, &proxy, MOST + 30, MOST + 30);
    assert_eq!(statuses, vec![200; MOST + 30]);
    assert_eq!(server.connections().len(), 2);
}

#[test]
fn requests_beyond_the_limit_of_a_connection_are_503_without_get_values() {
    let server = Server::builder().workers("1").inspectable().start();
    let proxy = Proxy::with_edits(Kind::HaProxy, &server, |site| {
        shared(site).replace("option max-reqs 64", "option max-reqs 200").replace("option get-values", "")
    });
    let statuses = crowd(&server, &proxy, MOST + 30, MOST);
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 30, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), MOST, "{statuses:?}");
    assert_eq!(server.connections().len(), 1);
    assert!(server.log().contains("64 requests share the connection"));
}

/// The statuses of `count` requests, of which the first holds the only worker at a gate until all have come. Of these,
/// `queued` run or wait for the worker; the server has refused the others.
fn crowd(server: &Server, proxy: &Proxy, count: usize, queued: usize) -> Vec<u16> {
    let gate = Gate::new();
    let first = wait_at(proxy, &gate);
    let others: Vec<Child> = (1..count).map(|_| proxy.curl_command([], "/hello").spawn().unwrap()).collect();
    let refused = count - queued;
    wait_for("all requests are queued or refused", || {
        let status = server.status();
        let connection_full = &status["requests"]["refused"]["connection_full"];
        (status["queue"]["length"] == queued - 1 && *connection_full == refused).then_some(())
    });
    gate.open("go");
    std::iter::once(first).chain(others).map(|child| reply(child).status).collect()
}

#[test]
fn a_client_that_does_not_read_delays_no_other_without_shared_connections() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::HaProxy, &server);
    let (_gate, _slow) = slow_client(&server, &proxy);
    for _ in 0..5 {
        proxy.curl(["--max-time", "30"], "/hello").expect(200);
    }
}

/// HAProxy reads a connection only as fast as the slowest client on it. A failure of this test means that HAProxy has
/// changed: update `docs/how-to/haproxy.md`.
#[test]
fn a_client_that_does_not_read_delays_all_on_its_shared_connection() {
    let server = Server::start();
    let proxy = multiplexing(&server);
    let (_gate, slow) = slow_client(&server, &proxy);
    let held_up = proxy.curl(["--max-time", "2"], "/hello");
    assert_eq!(held_up.status, 0, "{held_up:?}");
    drop(slow);
    proxy.curl([], "/hello").expect(200);
}

/// A client that requests 64 MiB and reads nothing. Returns when all buffers on the way to it are full.
fn slow_client(server: &Server, proxy: &Proxy) -> (Gate, Http) {
    let gate = Gate::new();
    let url = gate.url("/nonce") + "&n=0000000000000001&f=small&k=4194304";
    let client = Http::begin(proxy.port(), &url);
    // The buffers count as full when neither the workers nor HAProxy have used processor time for 100 polls.
    let spent = || -> u128 {
        let workers = server.workers(2);
        let haproxy = crate::support::processor_time(proxy.pid());
        workers.into_iter().map(crate::support::processor_time).chain([haproxy]).map(|t| t.as_millis()).sum()
    };
    let mut last = (0, 0);
    wait_for("all buffers are full", || {
        let now = spent();
        last = if now == last.0 && now > 0 { (now, last.1 + 1) } else { (now, 0) };
        (last.1 > 100).then_some(())
    });
    (gate, client)
}

#[test]
fn script_name_is_the_prefix_of_path_info() {
    let server = Server::start();
    let proxy = Proxy::with_edits(Kind::HaProxy, &server, |site| {
        let (root, prefix) = ("    path-info ^()(/.*)$\n", "    # path-info ^(/blog)");
        assert!(site.contains(root) && site.contains(prefix));
        site.replace(root, "").replace(prefix, "    path-info ^(/blog)")
    });
    let value = |name: &str| proxy.curl([], &format!("/blog/environ/a%20b?only={name}")).expect(200).text();
    assert_eq!(value("SCRIPT_NAME"), "/blog");
    assert_eq!(value("PATH_INFO"), "/environ/a b");
    assert_eq!(proxy.curl([], "/blog").expect(200).text(), "Hello, World!\n");
}

#[test]
fn a_chunked_upload_passes_up_to_the_buffers_size_and_is_refused_beyond() {
    let server = Server::start();
    let proxy = Proxy::start(Kind::HaProxy, &server);
    let chunked = |length: usize| {
        let body = "x".repeat(length);
        proxy.curl(["-H", "Transfer-Encoding: chunked", "--data-binary", &body], "/echo")
    };
    assert_eq!(chunked(10_000).expect(200).text(), "x".repeat(10_000));
    let refused = chunked(100_000);
    assert!(matches!(refused.status, 400..=599), "{refused:?}");
    eprintln!("status beyond the buffer's size: {}", refused.status);
}

/// A relay between HAProxy and nibiru that records the bytes that HAProxy sends.
struct Relay {
    path: PathBuf,
    seen: Arc<Mutex<Vec<u8>>>,
    _scratch: TempDir,
}

impl Relay {
    fn start(to: &Path) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("relay.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (to, kept) = (to.to_owned(), Arc::clone(&seen));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let far = UnixStream::connect(&to).unwrap();
                let (from_far, to_near) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || pass(near, far, |bytes| kept.lock().unwrap().extend(bytes)));
                std::thread::spawn(move || pass(from_far, to_near, |_| {}));
            }
        });
        Self { path, seen, _scratch: scratch }
    }

    /// Type, request id and content of the records that HAProxy has sent. They are only meaningful for a single
    /// connection.
    fn records(&self) -> Vec<(u8, u16, Vec<u8>)> {
        let seen = self.seen.lock().unwrap();
        let (mut rest, mut records) = (&seen[..], Vec::new());
        while let [_, kind, id1, id0, length1, length0, padding, _, content @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*length1, *length0]));
            let Some(content) = content.get(..length) else { break };
            records.push((*kind, u16::from_be_bytes([*id1, *id0]), content.to_vec()));
            rest = rest.get(8 + length + usize::from(*padding)..).unwrap_or_default();
        }
        records
    }
}

/// Copies bytes until one side closes, and calls `note` with each piece.
fn pass(mut from: UnixStream, mut to: UnixStream, note: impl Fn(&[u8])) {
    let mut buffer = [0; 65_536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        note(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}
