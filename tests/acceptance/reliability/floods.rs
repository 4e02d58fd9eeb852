//! Floods: clients that give the gateway more to do than it can, in pieces as small as can be. Healthy clients do not notice.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::healthy::{healthy_enough, latencies};
use super::{Row, Scale};
use crate::support::{Server, wait_for};
use crate::wire::{ABORT_REQUEST, Connection, GET_VALUES, PARAMS, RESPONDER, STDIN, begin, pair, record};

/// Connections that flood at a time.
const FLOODERS: usize = 64;

/// What each sends at once: as much as the gateway takes in one read.
const BLOCK: usize = 64 * 1024;

/// How long a flooder that can neither send nor receive waits.
const PAUSE: Duration = Duration::from_micros(200);

/// How long the healthy client asks at most.
const ENOUGH: Duration = Duration::from_secs(20);

/// What has come back before the healthy client begins: the flood is on.
const WARM: u64 = 1 << 20;

/// Requests that are taken back at once.
pub(super) fn aborts(scale: Scale) -> Row {
    clients(scale, &[begin(1, RESPONDER, true), record(ABORT_REQUEST, 1, b"")].concat())
}

/// Requests that are refused, since they have no parameters.
pub(super) fn tiny_requests(scale: Scale) -> Row {
    clients(scale, &[begin(1, RESPONDER, true), record(PARAMS, 1, b""), record(STDIN, 1, b"")].concat())
}

/// Questions about the server, of which each has an answer.
pub(super) fn questions(scale: Scale) -> Row {
    let names = [&b"FCGI_MAX_CONNS"[..], b"FCGI_MAX_REQS", b"FCGI_MPXS_CONNS"];
    clients(scale, &record(GET_VALUES, 0, &names.map(|name| pair(name, b"")).concat()))
}

/// Connections that send nothing but `unit`, and read what comes back.
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
                std::thread::sleep(PAUSE);
            }
        }
    });
    row.count += sent.into_inner() / unit.len() as u64;
    row
}

/// One of them.
struct Flooder {
    stream: UnixStream,
    /// How much of the block is sent.
    at: usize,
}

impl Flooder {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_nonblocking(true).unwrap();
        Self { stream, at: 0 }
    }

    /// Receives and sends what it can; gives how many bytes it has sent and received.
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

/// What a healthy client has of the flood that `flood` keeps up until the flag is set. It counts what comes of it.
fn beside(row: &mut Row, scale: Scale, socket: &Path, flood: impl FnOnce(&AtomicBool, &AtomicU64) + Send) {
    let mut healthy = Connection::open(socket);
    let before = latencies(&mut healthy, 200);
    let (over, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let during = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&over, &made));
        wait_for("the flood is on", || {
            (made.load(Ordering::Relaxed) >= WARM || flooding.is_finished()).then_some(())
        });
        // Those that wait for seconds have shown it before all of them are answered.
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
