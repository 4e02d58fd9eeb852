//! Overload: more requests than the workers can answer (`--queue-order`), and the order in which they are served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::wire::{self, Connection, get};
use crate::support::{App, Kind, Proxy, Server, pace, wait_for};

/// Clients that ask again as soon as they have their answer: more than one worker can serve before the target has passed.
const CLIENTS: usize = 8;

/// Has the crowd end with the test, also where that fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sleeps for 20 ms, and says what it was asked for.
const SLEEPS: &str = "local order = {}\n\
    return function(environ)\n\
    \x20 if environ.PATH_INFO == '/order' then return 200, {}, table.concat(order, ' ') end\n\
    \x20 if environ.PATH_INFO == '/sleep' then os.execute('sleep 0.02') end\n\
    \x20 order[#order + 1] = environ.PATH_INFO\n\
    \x20 return 200, {}, 'slept'\n\
    end";

/// Asks again and again, as many clients do at once, until `done`. Gives the answers other than 200.
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
fn an_overloaded_server_refuses_those_that_wait_longest_and_says_when_to_return() {
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
        wait_for("somebody is refused", || {
            (server.status()["requests"]["refused"]["overloaded"].as_u64()? > 0).then_some(())
        });
        drop(ending);
        (verdict, crowd.join().unwrap())
    });
    assert_eq!(verdict, "degraded");
    let refused = refused.first().expect("one of them was refused");
    assert_eq!(refused.status(), 503);
    assert!(String::from_utf8_lossy(refused.body()).contains("more requests come than can be answered"));
    assert!(refused.header("Retry-After").unwrap().parse::<u32>().unwrap() >= 1);
    server.logged(&["overloaded: requests wait for longer than --queue-target"]);
    wait_for("the access log has it", || {
        std::fs::read_to_string(&access).ok().filter(|text| text.contains(" overloaded"))
    });
    // It is over when nobody waits.
    assert_eq!(server.status()["queue"]["overloaded"], false);
    assert_eq!(server.get("/sleep").status(), 200);
}

/// Has a request wait while the worker is busy, and knows that it does.
fn wait_in_line(server: &Server, connections: &mut Vec<Connection>, url: &str, more: &[(&str, &str)]) {
    let mut connection = Connection::open(&server.socket());
    connection.send(&wire::begin(1, wire::RESPONDER, false));
    let params = [wire::get_params(url), wire::pairs(more)].concat();
    connection.send(&wire::stream(wire::PARAMS, 1, &params));
    connection.send(&wire::record(wire::STDIN, 1, b""));
    connections.push(connection);
    let count = connections.len();
    wait_for("it waits", || (server.status()["queue"]["length"] == count).then_some(()));
}

/// In which order requests run that have all waited for the one worker.
fn order<const N: usize>(app: &App, arguments: [&str; N], requests: &[(&str, &[(&str, &str)])]) -> String {
    let server = Server::builder().application(app.root(), "app").workers("1").arguments(arguments).start();
    let (mut running, gate) = server.hold();
    let mut connections = Vec::new();
    for (url, more) in requests {
        wait_in_line(&server, &mut connections, url, more);
    }
    gate.open("go");
    assert_eq!(running.response(1).unwrap().status(), 200);
    for connection in &mut connections {
        assert_eq!(connection.response(1).unwrap().status(), 200);
    }
    let order = server.get("/order");
    String::from_utf8(order.body().to_vec()).unwrap()
}

/// Waits for its gate where it is asked to; see [`SLEEPS`] for the rest.
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
fn what_the_proxy_marks_goes_first_and_what_a_client_sends_does_not_count() {
    let app = App::new(WAITS);
    let (marked, header): (&[_], &[_]) = (&[("FIRST", "1")], &[("HTTP_FIRST", "1"), ("FIRST", "0")]);
    let requests: &[(&str, &[(&str, &str)])] = &[("/a", header), ("/b", &[]), ("/c", marked), ("/d", marked)];
    let arguments = ["--queue-priority", "FIRST", "--queue-order", "fifo"];
    assert_eq!(order(&app, arguments, requests), "/c /d /a /b");
    // One worker that is held up is no overload.
    let arguments = ["--queue-order", "codel", "--queue-target", "10ms", "--queue-interval", "100ms"];
    assert_eq!(order(&app, arguments, requests), "/a /b /c /d");
}

#[test]
fn first_come_first_served_refuses_nobody_early() {
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
        wait_for("they are served for longer than an interval", || {
            (server.status()["queue_wait"]["count"].as_u64()? > 20).then_some(())
        });
        drop(ending);
        assert_eq!(crowd.join().unwrap().len(), 0);
    });
    assert_eq!(server.status()["requests"]["refused"]["overloaded"], 0);
}

/// Waits for less than its turn takes among the [`CLIENTS`], and leaves, again and again.
fn impatient(server: &Server, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let mut connection = Connection::open(&server.socket());
        connection.send(&get(1, "/sleep", false));
        // Its patience.
        pace(Duration::from_millis(30));
    }
}

#[test]
fn a_crowd_that_stays_is_served_in_turn_until_others_give_up() {
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
        wait_for("they are served for many intervals", || {
            (server.status()["queue_wait"]["count"].as_u64()? > 50).then_some(())
        });
        let status = server.status();
        assert_eq!(
            (&status["queue"]["overloaded"], &status["requests"]["refused"]["overloaded"]),
            (&false.into(), &0.into())
        );
        scope.spawn(|| impatient(&server, &done));
        wait_for("somebody is refused", || {
            (server.status()["requests"]["refused"]["overloaded"].as_u64()? > 0).then_some(())
        });
        drop(ending);
        assert!(crowd.join().unwrap().iter().all(|answer| answer.status() == 503));
    });
}

/// nginx's own clock, as `docs/how-to/overload.md` has it sent.
#[test]
fn the_time_at_which_nginx_had_a_request_is_taken_as_it_is_sent() {
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
    let (_, seconds) = answer.split_once("t=").expect("nginx's form");
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
    assert_eq!(running.response(1).expect("the running one").status(), 200);
    assert_eq!(queued.response(1).expect("the queued one").status(), 200);
}
