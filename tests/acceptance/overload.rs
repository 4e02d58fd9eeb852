//! Overload: more requests than the workers can answer, and the order in which the queue serves them (`--queue-order`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::wire::{self, Connection, get};
use crate::support::{App, Kind, Proxy, Server, pace, wait_for};

/// The number of clients that send the next request as soon as they have a response: more than one worker can serve
/// within --queue-target.
const CLIENTS: usize = 8;

/// Ends the crowd's threads with the test, also when it fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An application whose `/sleep` takes 20 ms. `/order` lists the requests so far.
const SLEEPS: &str = "local order = {}\n\
    return function(environ)\n\
    \x20 if environ.PATH_INFO == '/order' then return 200, {}, table.concat(order, ' ') end\n\
    \x20 if environ.PATH_INFO == '/sleep' then os.execute('sleep 0.02') end\n\
    \x20 order[#order + 1] = environ.PATH_INFO\n\
    \x20 return 200, {}, 'slept'\n\
    end";

/// Runs [`CLIENTS`] clients until `done`, and returns the responses other than 200.
fn crowd(server: &Server, done: &AtomicBool) -> Vec<wire::Response> {
    let client = || {
        let mut others = Vec::new();
        while !done.load(Ordering::Relaxed) {
            let answer = server.get("/sleep");
            if answer.status() != 200 {
                others.push(answer);
            }
        }
        others
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

#[test]
fn codel_refuses_the_longest_waiting_requests_with_503_and_retry_after() {
    let app = App::new(SLEEPS);
    let directory = tempfile::tempdir().unwrap();
    let access = directory.path().join("access.log");
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--queue-order", "codel", "--queue-target", "10ms", "--queue-interval", "100ms"])
        .arguments(["--health-path", "/-/health"])
        .arguments(["--access-log", access.to_str().unwrap()])
        .start();
    let done = AtomicBool::new(false);
    let (verdict, refused) = thread::scope(|scope| {
        let ending = Ending(&done);
        let crowd = scope.spawn(|| crowd(&server, &done));
        let verdict = wait_for("the server is overloaded", || {
            let status = server.status();
            (status["queue"]["overloaded"] == true).then(|| status["verdict"].clone())
        });
        assert_eq!(server.get("/-/health").status(), 200);
        wait_for("a request is refused", || {
            (server.status()["requests"]["refused"]["overloaded"].as_u64()? > 0).then_some(())
        });
        drop(ending);
        (verdict, crowd.join().unwrap())
    });
    assert_eq!(verdict, "degraded");
    let refused = refused.first().expect("a request was refused");
    assert_eq!(refused.status(), 503);
    assert!(String::from_utf8_lossy(refused.body()).contains("more requests come than can be answered"));
    assert!(refused.header("Retry-After").unwrap().parse::<u32>().unwrap() >= 1);
    server.logged(&["overloaded: requests wait for longer than --queue-target"]);
    wait_for("the access log has the refused request", || {
        std::fs::read_to_string(&access).ok().filter(|text| text.contains(" overloaded"))
    });
    // The overload ends when the queue is empty.
    assert_eq!(server.status()["queue"]["overloaded"], false);
    assert_eq!(server.get("/sleep").status(), 200);
}

/// Sends a request while the worker is busy, and returns when the request is queued.
fn enqueue(server: &Server, connections: &mut Vec<Connection>, url: &str, more: &[(&str, &str)]) {
    let mut connection = Connection::open(&server.socket());
    connection.send(&wire::begin(1, wire::RESPONDER, false));
    let params = [wire::get_params(url), wire::pairs(more)].concat();
    connection.send(&wire::stream(wire::PARAMS, 1, &params));
    connection.send(&wire::record(wire::STDIN, 1, b""));
    connections.push(connection);
    let count = connections.len();
    wait_for("the request is queued", || (server.status()["queue"]["length"] == count).then_some(()));
}

/// The order in which queued requests run on one worker.
fn order<const N: usize>(app: &App, arguments: [&str; N], requests: &[(&str, &[(&str, &str)])]) -> String {
    let server = Server::builder().application(app.root(), "app").workers("1").arguments(arguments).start();
    let (mut running, gate) = server.hold();
    let mut connections = Vec::new();
    for (url, more) in requests {
        enqueue(&server, &mut connections, url, more);
    }
    gate.open("go");
    assert_eq!(running.response(1).unwrap().status(), 200);
    for connection in &mut connections {
        assert_eq!(connection.response(1).unwrap().status(), 200);
    }
    let order = server.get("/order");
    String::from_utf8(order.body().to_vec()).unwrap()
}

/// An application whose `/wait` waits at its gate. `/order` lists the other requests so far.
const WAITS: &str = "local order = {}\n\
    return function(environ)\n\
    \x20 if environ.PATH_INFO == '/order' then return 200, {}, table.concat(order, ' ') end\n\
    \x20 local dir = environ.PATH_INFO == '/wait' and environ.QUERY_STRING:match('dir=([^&]*)')\n\
    \x20 if dir then\n\
    \x20   io.open(dir .. '/started', 'w'):close()\n\
    \x20   while not io.open(dir .. '/go') do os.execute('sleep 0.01') end\n\
    \x20 else\n\
    \x20   order[#order + 1] = environ.PATH_INFO\n\
    \x20 end\n\
    \x20 return 200, {}, ''\n\
    end";

#[test]
fn queue_priority_follows_the_proxys_parameter_and_ignores_the_clients_header() {
    let app = App::new(WAITS);
    let (marked, header): (&[_], &[_]) = (&[("FIRST", "1")], &[("HTTP_FIRST", "1"), ("FIRST", "0")]);
    let requests: &[(&str, &[(&str, &str)])] = &[("/a", header), ("/b", &[]), ("/c", marked), ("/d", marked)];
    let arguments = ["--queue-priority", "FIRST", "--queue-order", "fifo"];
    assert_eq!(order(&app, arguments, requests), "/c /d /a /b");
    // A queue behind a single stuck worker is not an overload.
    let arguments = ["--queue-order", "codel", "--queue-target", "10ms", "--queue-interval", "100ms"];
    assert_eq!(order(&app, arguments, requests), "/a /b /c /d");
}

#[test]
fn fifo_refuses_no_request_before_its_queue_timeout() {
    let app = App::new(SLEEPS);
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--queue-order", "fifo", "--queue-target", "10ms", "--queue-interval", "100ms"])
        .start();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let ending = Ending(&done);
        let crowd = scope.spawn(|| crowd(&server, &done));
        wait_for("requests are served for longer than an interval", || {
            (server.status()["queue_wait"]["count"].as_u64()? > 20).then_some(())
        });
        drop(ending);
        assert_eq!(crowd.join().unwrap().len(), 0);
    });
    assert_eq!(server.status()["requests"]["refused"]["overloaded"], 0);
}

/// Sends requests and leaves each before it is served among those of the [`CLIENTS`].
fn impatient(server: &Server, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let mut connection = Connection::open(&server.socket());
        connection.send(&get(1, "/sleep", false));
        // The time until the client leaves.
        pace(Duration::from_millis(30));
    }
}

#[test]
fn the_default_order_is_fifo_until_clients_leave_the_queue() {
    let app = App::new(SLEEPS);
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--queue-target", "10ms", "--queue-interval", "100ms"])
        .start();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let ending = Ending(&done);
        let crowd = scope.spawn(|| crowd(&server, &done));
        wait_for("requests are served for many intervals", || {
            (server.status()["queue_wait"]["count"].as_u64()? > 50).then_some(())
        });
        let status = server.status();
        assert_eq!(
            (&status["queue"]["overloaded"], &status["requests"]["refused"]["overloaded"]),
            (&false.into(), &0.into())
        );
        scope.spawn(|| impatient(&server, &done));
        wait_for("a request is refused", || {
            (server.status()["requests"]["refused"]["overloaded"].as_u64()? > 0).then_some(())
        });
        drop(ending);
        assert!(crowd.join().unwrap().iter().all(|answer| answer.status() == 503));
    });
}

/// nginx sends its own time as in `docs/how-to/overload.md`.
#[test]
fn request_start_of_nginx_is_accepted_in_its_own_format() {
    let app = App::new("return function(environ) return 200, {}, environ.REQUEST_START or 'nothing' end");
    let server = Server::builder()
        .application(app.root(), "app")
        .arguments(["--request-start", "REQUEST_START"])
        .start();
    let add = |site: String| {
        site.replacen(
            "include nibiru_params;",
            "include nibiru_params; fastcgi_param REQUEST_START t=${msec};",
            2,
        )
    };
    let proxy = Proxy::with_edits(Kind::Nginx, &server, add);
    let answer = proxy.curl([], "/").expect(200).text();
    let (_, seconds) = answer.split_once("t=").expect("nginx's format");
    assert!(seconds.parse::<f64>().is_ok_and(|seconds| seconds > 1e9), "{answer}");
}

#[test]
fn a_full_queue_is_503_with_retry_after() {
    let server = Server::builder().workers("1").arguments(["--queue", "1"]).start();
    let (mut running, gate) = server.hold();
    let mut queued = Connection::open(&server.socket());
    queued.send(&get(1, "/hello", true));
    queued.settle();
    let refused = server.get("/hello");
    assert_eq!(refused.status(), 503, "{refused:?}");
    let retry_after: u32 = refused.header("Retry-After").expect("a Retry-After").parse().expect("in seconds");
    assert!(retry_after > 0);
    gate.open("go");
    assert_eq!(running.response(1).expect("the response of the running request").status(), 200);
    assert_eq!(queued.response(1).expect("the response of the queued request").status(), 200);
}
