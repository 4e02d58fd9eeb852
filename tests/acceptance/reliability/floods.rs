//! Floods: clients, applications and commands that send more than the gateway can handle, in the smallest pieces.
//! Healthy clients are not delayed.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::healthy::{healthy_enough, latencies};
use super::{Row, Scale};
use crate::support::wire::{
    ABORT_REQUEST, Connection, GET_VALUES, PARAMS, RESPONDER, STDIN, begin, get, pair, record,
};
use crate::support::{App, Server, pace, wait_for};

/// The number of connections of a flood.
const FLOODERS: usize = 64;

/// The bytes of one write of a flooding connection: as much as the gateway takes in one read.
const BLOCK: usize = 64 * 1024;

/// The pause when no flooding connection can send or receive.
const PAUSE: Duration = Duration::from_micros(200);

/// The longest time for which the healthy client sends requests.
const ENOUGH: Duration = Duration::from_secs(20);

/// The progress after which the flood counts as started, in bytes from the server or their equivalent.
const WARM: u64 = 1 << 20;

/// Requests that are aborted at once.
pub(super) fn aborts(scale: Scale) -> Row {
    clients(scale, &[begin(1, RESPONDER, true), record(ABORT_REQUEST, 1, b"")].concat())
}

/// Requests that are refused, since they have no parameters.
pub(super) fn tiny_requests(scale: Scale) -> Row {
    clients(scale, &[begin(1, RESPONDER, true), record(PARAMS, 1, b""), record(STDIN, 1, b"")].concat())
}

/// GET_VALUES records, each of which is answered.
pub(super) fn questions(scale: Scale) -> Row {
    let names = [&b"FCGI_MAX_CONNS"[..], b"FCGI_MAX_REQS", b"FCGI_MPXS_CONNS"];
    clients(scale, &record(GET_VALUES, 0, &names.map(|name| pair(name, b"")).concat()))
}

/// Lines that an application prints or logs.
pub(super) fn printed(scale: Scale) -> Row {
    let app = printing();
    let server = serve_without_log(&app);
    let mut row = Row::default();
    for path in ["/newlines", "/mebibyte", "/log"] {
        beside(&mut row, scale, &server.socket(), |over, made| {
            let mut client = Connection::open(&server.socket());
            while !over.load(Ordering::Relaxed) {
                client.send(&get(1, path, true));
                made.fetch_add(WARM, Ordering::Relaxed);
                assert_eq!(client.response(1).expect("a response").status(), 200);
            }
        });
    }
    row
}

/// Endless lines that a child of a worker prints.
pub(super) fn child(scale: Scale) -> Row {
    let app = printing();
    let server = serve_without_log(&app);
    let mut row = Row::default();
    beside(&mut row, scale, &server.socket(), |_, made| {
        assert_eq!(server.get("/yes").status(), 200);
        made.fetch_add(WARM, Ordering::Relaxed);
    });
    row
}

/// Control commands, each on its own connection.
pub(super) fn commands(scale: Scale) -> Row {
    let server = Server::start();
    let control = format!("{}.ctl", server.socket().display());
    let mut row = Row::default();
    beside(&mut row, scale, &server.socket(), |over, made| {
        while !over.load(Ordering::Relaxed) {
            let mut asked: Vec<_> = (0..16)
                .map(|_| {
                    let mut stream = UnixStream::connect(&control).unwrap();
                    stream.write_all(b"status\n").unwrap();
                    stream
                })
                .collect();
            for stream in &mut asked {
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                assert!(answer.contains("\"version\""), "{answer}");
                made.fetch_add(WARM, Ordering::Relaxed);
            }
        }
    });
    row
}

/// An application whose requests print.
fn printing() -> App {
    App::new(
        "local nibiru = require('nibiru')\n\
         return function(environ)\n\
         \x20 if environ.PATH_INFO == '/newlines' then io.write(('\\n'):rep(65536)) end\n\
         \x20 if environ.PATH_INFO == '/mebibyte' then io.write(('\\n'):rep(1048576)) end\n\
         \x20 if environ.PATH_INFO == '/log' then for line = 1, 20000 do nibiru.log.info('line') end end\n\
         \x20 if environ.PATH_INFO == '/yes' then os.execute('yes &') end\n\
         \x20 return 200, {}, 'Hello, World!\\n'\n\
         end",
    )
}

/// A server whose log is discarded, without a request deadline, which could end a flood on a busy machine.
fn serve_without_log(app: &App) -> Server {
    let server = Server::builder().application(app.root(), "app").arguments(["--request-timeout", "off"]);
    server.after("exec 2>/dev/null").start()
}

/// A flood of connections that repeat `unit` and read the responses.
fn clients(scale: Scale, unit: &[u8]) -> Row {
    let server = Server::start();
    let block = unit.repeat(BLOCK.div_ceil(unit.len()));
    let (mut row, sent) = (Row::default(), AtomicU64::new(0));
    beside(&mut row, scale, &server.socket(), |over, received| {
        let mut flooders: Vec<_> = (0..FLOODERS).map(|_| Flooder::connect(&server.socket())).collect();
        while !over.load(Ordering::Relaxed) {
            let moved = flooders
                .iter_mut()
                .map(|flooder| flooder.go_on(&block))
                .fold((0, 0), |sum, moved| (sum.0 + moved.0, sum.1 + moved.1));
            sent.fetch_add(moved.0, Ordering::Relaxed);
            received.fetch_add(moved.1, Ordering::Relaxed);
            if moved == (0, 0) {
                pace(PAUSE);
            }
        }
    });
    row.count += sent.into_inner() / unit.len() as u64;
    row
}

/// A flooding connection.
struct Flooder {
    stream: UnixStream,
    /// The number of bytes of the block that are sent.
    at: usize,
}

impl Flooder {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream, at: 0 }
    }

    /// Receives and sends without blocking; the numbers of bytes sent and received.
    fn go_on(&mut self, block: &[u8]) -> (u64, u64) {
        let now = |moved: std::io::Result<usize>| match moved {
            Ok(0) => panic!("the server has closed the connection"),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        };
        let received = now(self.stream.read(&mut [0; BLOCK]));
        let sent = now(self.stream.write(&block[self.at..]));
        self.at = (self.at + sent) % block.len();
        (sent as u64, received as u64)
    }
}

/// Measures a healthy client's latencies before and during `flood`, which runs until the flag is set and counts its
/// progress.
fn beside(row: &mut Row, scale: Scale, socket: &Path, flood: impl FnOnce(&AtomicBool, &AtomicU64) + Send) {
    let mut healthy = Connection::open(socket);
    let before = latencies(&mut healthy, 200);
    let (over, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let during = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&over, &made));
        wait_for("the flood has started", || {
            (made.load(Ordering::Relaxed) >= WARM || flooding.is_finished()).then_some(())
        });
        // With latencies of seconds, fewer samples are enough.
        let (begun, wanted) = (Instant::now(), scale.of(20, 5000) as usize);
        let mut during = Vec::new();
        while during.len() < wanted && begun.elapsed() < ENOUGH {
            during.extend(latencies(&mut healthy, 1));
        }
        over.store(true, Ordering::Relaxed);
        flooding.join().expect("the flooders are served");
        during
    });
    row.count += (before.len() + during.len()) as u64;
    healthy_enough(row, scale, before, during);
}
