//! A gateway that is stopped and continued, as in a frozen virtual machine: input that came during the pause is handled
//! before the deadlines that passed in it.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::wire::{
    Connection, GET_VALUES, PARAMS, RESPONDER, STDIN, begin, get, pair, params, record, stream,
};
use crate::support::{App, Gate, Server, ServerBuilder, is_stopped, pace, wait_for};

/// Every deadline of these tests: long enough that a busy machine does not reach it before the pause.
const LIMIT: &str = "1s";

/// The length of the pause, which exceeds [`LIMIT`].
const PAUSE: Duration = Duration::from_millis(1300);

/// An application whose `/wait/NAME` announces `NAME` and answers when the file `go` exists. The response of `/large`
/// exceeds the buffer of a socket. A load after the file `reload` was created waits for `go`, too.
const APP: &str = "
local directory = os.getenv('GATE')
local function exists(name)
  local file = io.open(directory .. '/' .. name)
  return file and file:close()
end
local function announce_and_wait(name)
  io.open(directory .. '/' .. name, 'w'):close()
  while not exists('go') do os.execute('sleep 0.02') end
end
if exists('reload') then announce_and_wait('loading') end
return function(environ)
  local name = environ.PATH_INFO:match('^/wait/(.*)')
  if name then announce_and_wait(name) end
  if environ.PATH_INFO == '/large' then return 200, {}, ('x'):rep(4 << 20) end
  return 200, {}, environ['wsgi.input']:read('a')
end";

fn serving(app: &App, gate: &Gate, workers: &'static str) -> ServerBuilder {
    Server::builder().application(app.root(), "app").environment("GATE", gate.directory()).workers(workers)
}

/// Stops the gateway until every deadline has passed, and runs `meanwhile` during the pause.
fn pause(server: &Server, meanwhile: impl FnOnce()) {
    server.signal(Signal::STOP);
    wait_for("the gateway is stopped", || is_stopped(server.pid()).then_some(()));
    let since = Instant::now();
    meanwhile();
    pace(PAUSE.saturating_sub(since.elapsed()));
    server.signal(Signal::CONT);
}

#[test]
fn data_that_clients_sent_or_read_during_a_pause_beats_their_timeouts() {
    let (app, gate) = (App::new(APP), Gate::new());
    let limits = ["--header-timeout", LIMIT, "--body-timeout", LIMIT, "--send-timeout", LIMIT];
    let server = serving(&app, &gate, "1").arguments(limits).start();
    // For each kind of client, the bytes before the pause and during it. There are several of each kind, since the
    // order of events is up to the kernel.
    let whole = get(1, "/", true);
    let values = record(GET_VALUES, 0, &pair(b"FCGI_MPXS_CONNS", b""));
    let posted = {
        let mut posted = begin(1, RESPONDER, true);
        let length = pair(b"CONTENT_LENGTH", b"4");
        posted.extend(stream(PARAMS, 1, &[params("POST", "/"), length].concat()));
        posted
    };
    let body = stream(STDIN, 1, b"body");
    let halves = [
        ("the request", [&b""[..], &whole]),
        ("the second half of the parameters", [&whole[..60], &whole[60..]]),
        ("the body", [&posted, &body]),
        ("the rest of a record of no request", [&values[..12], &[&values[12..], &whole].concat()]),
    ];
    let mut takers: Vec<_> = (0..4).map(|_| Connection::open(&server.socket())).collect();
    for taker in &mut takers {
        taker.send(&get(1, "/large", true));
        wait_for("the response has begun", || (taker.unread() > 0).then_some(()));
    }
    let mut clients: Vec<_> = halves
        .iter()
        .cycle()
        .take(4 * halves.len())
        .map(|half| (half, Connection::open(&server.socket())))
        .collect();
    for ((_, [before, _]), client) in &mut clients {
        client.send(before);
    }
    pause(&server, || {
        for ((_, [_, rest]), client) in &mut clients {
            client.send(rest);
        }
        for taker in &mut takers {
            taker.take(usize::try_from(taker.unread()).unwrap());
        }
    });
    for ((what, _), client) in &mut clients {
        if what.contains("of no request") {
            assert!(client.record().is_some(), "{what}: {}", server.log());
        }
        let response = client.response(1);
        let response = response.unwrap_or_else(|| panic!("{what}: closed\n{}", server.log()));
        assert_eq!(response.status(), 200, "{what}: {response:?}");
    }
    for taker in &mut takers {
        // The client has stopped within a record, so only bytes are read.
        taker.take(2 << 20);
    }
    assert!(!server.log().contains("-timeout)"), "{}", server.log());
}

#[test]
fn responses_that_workers_sent_during_a_pause_beat_the_request_timeout() {
    let (app, gate) = (App::new(APP), Gate::new());
    let limits = ["--request-timeout", LIMIT, "--kill-after", "100ms", "--queue-timeout", LIMIT];
    let server = serving(&app, &gate, "4").arguments(limits).start();
    let ask = |path: &str| {
        let mut client = Connection::open(&server.socket());
        client.send(&get(1, path, true));
        client
    };
    let names = ["one", "two", "three", "four"];
    let running = names.map(|name| ask(&format!("/wait/{name}")));
    names.iter().for_each(|name| drop(gate.announced(name)));
    let queued = names.map(|_| ask("/"));
    wait_for("four requests are queued", || (server.status()["queue"]["length"] == 4).then_some(()));
    pause(&server, || gate.open("go"));
    for (which, mut client) in
        running.into_iter().map(|it| ("running", it)).chain(queued.map(|it| ("queued", it)))
    {
        let response = client.response(1).expect("a response");
        assert_eq!(response.status(), 200, "{which}: {response:?}\n{}", server.log());
    }
    assert!(!server.log().contains("-timeout)"), "{}", server.log());
}

#[test]
fn loads_and_responses_during_a_pause_beat_start_timeout_and_grace() {
    let (app, gate) = (App::new(APP), Gate::new());
    let mut server =
        serving(&app, &gate, "1").arguments(["--start-timeout", LIMIT, "--grace", LIMIT]).start();
    server.logged(&["ready"]);
    gate.open("reload");
    server.signal(Signal::HUP);
    gate.announced("loading");
    pause(&server, || gate.open("go"));
    server.reloaded();
    assert!(!server.log().contains("-timeout)"), "{}", server.log());

    std::fs::remove_file(gate.directory().join("go")).unwrap();
    let mut client = Connection::open(&server.socket());
    client.send(&get(1, "/wait/last", false));
    gate.announced("last");
    server.signal(Signal::TERM);
    server.logged(&["stopping"]);
    pause(&server, || gate.open("go"));
    assert_eq!(client.response(1).map(|response| response.status()), Some(200), "{}", server.log());
    assert!(server.wait().success());
    assert!(!server.log().contains("--grace"), "{}", server.log());
}
