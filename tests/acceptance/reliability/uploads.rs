//! Incomplete uploads that exceed --buffer-memory: they go to files, and their memory returns to the system.

use std::time::{Duration, Instant};

use super::healthy::healthy_enough;
use super::{Row, Scale};
use crate::support::wire::{Connection, PARAMS, RESPONDER, STDIN, begin, pair, params, post, record};
use crate::support::{Server, resident_memory, wait_within};

/// The Content-Length of each upload, in bytes; the last byte is not sent.
const LENGTH: usize = 8 << 20;

/// The bytes that a client sends before the next one has its turn.
const PIECE: usize = 32 * 1024;

/// `--buffer-memory` for each connection: less than the 200 KiB or so that each would hold without the limit.
const MEMORY_PER_CONNECTION: u64 = 64 << 10;

/// The most resident memory beyond `--buffer-memory`, in KiB: tables, the threads that write, the allocator's overhead.
const BESIDE: u64 = 24 << 10;

/// The number of threads that send.
const THREADS: usize = 4;

/// One of this many uploads is completed in the end, and answered.
const ONE_OF: usize = 16;

pub(super) fn half_uploads(scale: Scale) -> Row {
    let count = scale.of(32, 300) as usize;
    let bound = (count as u64 * MEMORY_PER_CONNECTION).max(1 << 20);
    let arguments = ["--buffer-memory", &bound.to_string(), "--max-spool", "4G"];
    let server = Server::builder().arguments(arguments).start();
    let mut healthy = Connection::open(&server.socket());
    let mut row = Row::default();
    let before = echoes(&mut healthy, &mut row, || false);
    let memory_before = resident_memory(server.pid());
    let (mut largest, mut most_used) = (0, 0);

    let mut uploads: Vec<Connection> = (0..count).map(|_| begun(&server)).collect();
    let during = std::thread::scope(|scope| {
        let senders: Vec<_> = uploads
            .chunks_mut(count.div_ceil(THREADS))
            .map(|uploads| scope.spawn(move || send_by_turns(uploads)))
            .collect();
        let look = || {
            largest = resident_memory(server.pid()).max(largest);
            most_used = used(&server, "buffer_memory").max(most_used);
            senders.iter().any(|sender| !sender.is_finished())
        };
        echoes(&mut healthy, &mut row, look)
    });
    row.count += count as u64;
    let all = (count * (LENGTH - 1)) as u64;
    let came = wait_within(Duration::from_secs(60), || (used(&server, "spool") == all).then_some(()));
    row.promise(came.is_some(), format!("all {all} bytes are spooled, not {}", used(&server, "spool")));
    let refused = server.log().lines().find(|line| line.contains("request refused")).map(str::to_owned);
    row.promise(refused.is_none(), format!("none is refused: {}", refused.unwrap_or_default()));
    row.promise(
        most_used <= bound,
        format!("{bound} bytes of buffer memory are used at most, not {most_used}"),
    );
    let grown = largest.saturating_sub(memory_before);
    row.promise(
        grown <= bound / 1024 + BESIDE,
        format!("the gateway grows by {} KiB and its overhead, not {grown} KiB", bound / 1024),
    );
    let whole = vec![b'u'; LENGTH];
    for upload in uploads.iter_mut().step_by(ONE_OF) {
        upload.send(&[record(STDIN, 1, b"u"), record(STDIN, 1, b"")].concat());
        let answer = upload.response(1);
        row.lost += u64::from(answer.is_none_or(|answer| answer.body() != whole));
    }
    drop(uploads);
    let given_back = wait_within(Duration::from_secs(60), || {
        let left = resident_memory(server.pid()).saturating_sub(memory_before);
        let nothing = used(&server, "buffer_memory") + used(&server, "spool") == 0;
        (nothing && left <= BESIDE).then_some(left)
    });
    row.promise(given_back.is_some(), "the system has memory and files back");
    healthy_enough(&mut row, scale, before, during);
    row.measured(format!(
        "{count} uploads of {} MiB, {most_used} of {bound} bytes held, {grown} KiB more, {} KiB at the end",
        LENGTH >> 20,
        given_back.unwrap_or_default()
    ));
    row
}

/// An upload of which only the parameters are sent.
fn begun(server: &Server) -> Connection {
    let mut connection = Connection::open(&server.socket());
    let params = [params("POST", "/echo"), pair(b"CONTENT_LENGTH", LENGTH.to_string().as_bytes())].concat();
    let head = [begin(1, RESPONDER, false), record(PARAMS, 1, &params), record(PARAMS, 1, b"")];
    connection.send(&head.concat());
    // Returns when the request is accepted: many new requests at once could exceed the memory and be refused.
    connection.settle();
    connection
}

/// Sends all but the last byte of each upload, piece by piece in turns.
fn send_by_turns(uploads: &mut [Connection]) {
    let mut left = LENGTH - 1;
    while left > 0 {
        let piece = record(STDIN, 1, &vec![b'u'; left.min(PIECE)]);
        uploads.iter_mut().for_each(|upload| upload.send(&piece));
        left -= left.min(PIECE);
    }
}

/// The latencies of a healthy client that sends short bodies to be echoed while `goes_on`, and 200 times at least.
fn echoes(connection: &mut Connection, row: &mut Row, mut goes_on: impl FnMut() -> bool) -> Vec<Duration> {
    let mut times = Vec::new();
    while goes_on() || times.len() < 200 {
        let said = format!("{:032x}", fastrand::u128(..));
        let begun = Instant::now();
        connection.send(&post(1, "/echo", said.as_bytes(), true));
        let answer = connection.response(1);
        times.push(begun.elapsed());
        row.count += 1;
        row.lost += u64::from(answer.is_none_or(|answer| answer.body() != said.as_bytes()));
    }
    times
}

/// The bytes of the object `kind` in the status.
fn used(server: &Server, kind: &str) -> u64 {
    server.status()[kind]["bytes"].as_u64().unwrap()
}
