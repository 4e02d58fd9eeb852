//! Floods of log lines that clients cause: five lines of a kind are written at once, then one a second, each with the
//! number of lines left out before it.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::support::wire::{Connection, get};
use crate::support::{App, Server, free_port, wait_causing, wait_for};

/// An application whose `/busy` takes 0.3 s: the gateway notices that it takes longer than 20 ms even where others have the processors.
const BUSY: &str = "return function(environ)
  local till = os.clock() + (environ.PATH_INFO == '/busy' and 0.3 or 0)
  while os.clock() < till do end
  return 200, {}, 'x'
end";

/// The number of lines of the log with `part`, and the sum of their `left_out`.
fn tally(server: &Server, part: &str) -> (u64, u64) {
    let log = server.log();
    let left_out = |line: &str| -> u64 {
        let Some((_, count)) = line.split_once(" left_out=") else { return 0 };
        count.split_whitespace().next().unwrap().parse().unwrap()
    };
    log.lines()
        .filter(|line| line.contains(part))
        .fold((0, 0), |(lines, all), line| (lines + 1, all + left_out(line)))
}

/// Causes a line `times` times, and then one at a time until lines and `left_out` together are as many as were caused.
/// Returns that number.
fn flood(server: &Server, part: &str, times: u64, mut cause: impl FnMut()) -> u64 {
    let begin = Instant::now();
    (0..times).for_each(|_| cause());
    // A generous bound: the limit is five lines, then one a second.
    let most = 20 + begin.elapsed().as_secs();
    let (lines, _) = tally(server, part);
    assert!(lines >= 1 && lines <= most, "{lines} lines of {times} in {:?}", begin.elapsed());
    let caused = Cell::new(times);
    let once_more = || {
        cause();
        caused.set(caused.get() + 1);
    };
    wait_causing("the log accounts for every line", once_more, || {
        let (lines, left_out) = tally(server, part);
        (lines + left_out == caused.get()).then_some(())
    });
    caused.get()
}

#[test]
fn lines_about_malformed_connections_have_a_rate_limit() {
    let server = Server::builder().workers("1").start();
    let mut garbage =
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 32], &[1, 1, 0, 0, 0, 8, 0, 0, 0, 1]].into_iter().cycle();
    let caused = flood(&server, "connection closed", 3000, || {
        let mut connection = UnixStream::connect(server.socket()).unwrap();
        connection.write_all(garbage.next().unwrap()).unwrap();
        let _ = connection.read_to_end(&mut Vec::new());
    });
    let connections = &server.status()["connections"];
    assert_eq!((&connections["malformed"], &connections["refused"]), (&caused.into(), &0.into()));
}

#[test]
fn lines_about_refused_peers_have_a_rate_limit() {
    let address = format!("127.0.0.1:{}", free_port());
    let listen = format!("tcp:{address}");
    let server = Server::builder().arguments(["--listen", &listen, "--allow-from", "192.0.2.7"]).start();
    let caused = flood(&server, "connection refused: the peer", 3000, || {
        let mut connection = TcpStream::connect(&address).unwrap();
        let _ = connection.read_to_end(&mut Vec::new());
    });
    let connections = &server.status()["connections"];
    assert_eq!((&connections["refused"], &connections["malformed"]), (&caused.into(), &0.into()));
}

#[test]
fn lines_of_the_slow_log_have_a_rate_limit() {
    let app = App::new(BUSY);
    let server = Server::builder().application(app.root(), "app").workers("1");
    let server = server.arguments(["--slow-log", "20ms"]).start();
    let mut connection = Connection::open(&server.socket());
    flood(&server, "(--slow-log)", 50, || {
        connection.send(&get(1, "/busy", true));
        assert_eq!(connection.response(1).expect("a response").status(), 200);
    });
}

#[test]
fn lines_about_request_timeouts_have_a_rate_limit() {
    let app = App::new(BUSY);
    let server = Server::builder().application(app.root(), "app").workers("1");
    let server = server.arguments(["--request-timeout", "20ms", "--slow-log", "off"]).start();
    let mut connection = Connection::open(&server.socket());
    flood(&server, "s (--request-timeout)", 200, || {
        connection.send(&get(1, "/busy", true));
        assert_eq!(connection.response(1).expect("a response").status(), 504);
    });
    // No request has sent anything, whatever the one before it has.
    assert!(!server.log().contains("has sent nothing for"), "{}", server.log());
    // A stack follows its line. It is absent where the line was left out, and where the worker was between two
    // requests. Where the deadline meets the end of a request in the server's own Lua code, that error has a stack of its own.
    let stacks = || {
        let log = server.log();
        let own = log.matches("runtime error: nibiru/core/").count();
        (log.matches("stack traceback:").count() - own) as u64
    };
    wait_for("the log has a stack", || (stacks() > 0).then_some(()));
    assert!(stacks() <= tally(&server, "s (--request-timeout)").0);
}
