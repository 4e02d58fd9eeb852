//! Clients that send too little, too much or too slowly: their cost is bounded, and healthy clients are not delayed.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::healthy::{healthy_enough, latencies};
use super::{Row, Scale};
use crate::support::wire::{Connection, PARAMS, RESPONDER, STDIN, begin, get_params, record};
use crate::support::{Server, descriptors, pace, resident_memory, wait_for, wait_within};

/// The most descriptors of the gateway without clients: listening sockets, links and pipes of some workers, the event
/// loop.
const OWN_DESCRIPTORS: usize = 64;

/// More connections than --max-connections, each with half a request.
pub(super) fn half_requests(scale: Scale) -> Row {
    let (wanted, most) = (scale.of(600, 10_000), scale.of(400, 4096));
    let count = spare_descriptors(wanted as usize);
    let limit = Duration::from_secs(scale.of(5, 30).into());
    let arguments =
        ["--max-connections", &most.to_string(), "--header-timeout", &format!("{}s", limit.as_secs())];
    let server = Server::builder().arguments(arguments).inspectable().start();
    let mut healthy = Connection::open(&server.socket());
    let before = latencies(&mut healthy, 200);
    let memory_before = resident_memory(server.pid());

    // A request up to the last byte but one of its PARAMS record.
    let params = record(PARAMS, 1, &get_params("/hello"));
    let half = [begin(1, RESPONDER, false), params[..params.len() - 1].to_vec()].concat();
    let begun = Instant::now();
    let mut refused = 0;
    let halves: Vec<UnixStream> = (0..count)
        .filter_map(|_| {
            let connected = connect_now(&server.socket());
            refused += u32::from(connected.is_none());
            let mut stream = UnixStream::from(connected?);
            stream.write_all(&half).ok()?;
            Some(stream)
        })
        .collect();
    let full = wait_within(Duration::from_secs(30), || {
        (descriptors(server.pid()).len() >= most as usize).then_some(())
    });
    let during = latencies(&mut healthy, 200);
    let (held, grown) =
        (descriptors(server.pid()).len(), resident_memory(server.pid()).saturating_sub(memory_before));

    let mut row = Row::of(halves.len() as u64);
    row.promise(full.is_some(), "--max-connections connections are accepted");
    row.promise(
        held <= most as usize + OWN_DESCRIPTORS,
        format!("{held} descriptors for {most} connections"),
    );
    row.promise(grown <= u64::from(most) * 16, format!("16 KiB each at most, not {grown} KiB for {most}"));
    healthy_enough(&mut row, scale, before, during);
    row.measured(format!(
        "{} halves, {refused} beyond the backlog, {held} descriptors, {grown} KiB",
        halves.len()
    ));
    // Connections in the backlog are accepted as others are closed, and have deadlines of their own.
    let cut = wait_within(limit * 3 + Duration::from_secs(30), || {
        (descriptors(server.pid()).len() <= OWN_DESCRIPTORS).then(|| begun.elapsed())
    });
    row.promise(cut.is_some(), "each connection is closed at its deadline");
    row.measured(format!(
        "all cut after {} s (--header-timeout {} s)",
        cut.unwrap_or_default().as_secs(),
        limit.as_secs()
    ));
    drop(halves);
    let again = wait_for("a new request gets a response", || Some(server.get("/hello").status()));
    row.promise(again == 200, "a request afterwards is served");
    row
}

/// More BEGIN_REQUEST records than a connection may have requests. Half of the clients do not read the refusals.
pub(super) fn begin_flood(scale: Scale) -> Row {
    let server = Server::start();
    let mut healthy = Connection::open(&server.socket());
    let before = latencies(&mut healthy, 200);
    let memory_before = resident_memory(server.pid());
    let floods: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(server.socket()).unwrap()).collect();
    let flood: Vec<u8> = (1..=1000).flat_map(|id| begin(id, RESPONDER, true)).collect();
    let again: Vec<u8> = (0..1000).flat_map(|_| begin(1000, RESPONDER, true)).collect();
    let rounds = scale.of(50, 5000);
    let mut sent = 0_u64;
    let mut during = Vec::new();
    for (number, mut stream) in floods.iter().enumerate() {
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        for round in 0..rounds {
            if stream.write_all(if round == 0 { &flood } else { &again }).is_err() {
                // The server reads nothing more from a client that does not read.
                break;
            }
            sent += 1000;
            if number % 2 == 0 {
                // Every second client reads, so it can go on sending.
                drain(stream);
            }
        }
        during.extend(latencies(&mut healthy, 50));
    }
    let grown = resident_memory(server.pid()).saturating_sub(memory_before);
    let mut row = Row::of(sent);
    row.promise(
        grown <= 8 * 1024,
        format!("the gateway grows by 1 MiB a flood at most, not {grown} KiB for eight"),
    );
    healthy_enough(&mut row, scale, before, during);
    row.measured(format!("{grown} KiB more"));
    drop(floods);
    row.promise(server.get("/hello").status() == 200, "other requests are served");
    row
}

/// Parameters that arrive byte by byte. Each request is complete in the end and answered. The total deadline is not
/// tested here.
pub(super) fn slow_parameters(scale: Scale) -> Row {
    let (count, bytes) = (scale.of(100, 1000), 20);
    let pause = Duration::from_millis(scale.of(50, 1000).into());
    let server = Server::start();
    let mut healthy = Connection::open(&server.socket());
    let before = latencies(&mut healthy, 200);
    let mut slow: Vec<Connection> = (0..count).map(|_| Connection::open(&server.socket())).collect();
    let params = get_params("/hello");
    let (first, rest) = params.split_at(bytes);
    slow.iter_mut().for_each(|connection| connection.send(&begin(1, RESPONDER, false)));
    let mut during = Vec::new();
    for byte in first {
        for connection in &mut slow {
            connection.send(&record(PARAMS, 1, &[*byte]));
        }
        let begun = Instant::now();
        during.extend(latencies(&mut healthy, 20));
        pace(pause.saturating_sub(begun.elapsed()));
    }
    let mut row = Row::of(count.into());
    for connection in &mut slow {
        connection.send(&[record(PARAMS, 1, rest), record(PARAMS, 1, b""), record(STDIN, 1, b"")].concat());
    }
    let answered = |connection: &mut Connection| {
        connection.response(1).is_some_and(|response| response.body() == b"Hello, World!\n")
    };
    row.lost = slow.iter_mut().map(|connection| u64::from(!answered(connection))).sum();
    healthy_enough(&mut row, scale, before, during);
    row.measured(format!("{count} clients, a byte every {} ms", pause.as_millis()));
    row
}

/// Reads and discards the available bytes.
fn drain(stream: &UnixStream) {
    let mut buffer = [0; 65536];
    while rustix::net::recv(stream.as_fd(), &mut buffer, rustix::net::RecvFlags::DONTWAIT)
        .is_ok_and(|(_, length)| length > 0)
    {}
}

/// Connects without waiting for room in the backlog.
fn connect_now(path: &Path) -> Option<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).ok()?;
    rustix::io::ioctl_fionbio(&socket, false).unwrap();
    Some(socket)
}

/// The number of descriptors, at most `wanted`, that this process can open at its hard limit.
fn spare_descriptors(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let most = limit.maximum.map_or(usize::MAX, |most| usize::try_from(most).unwrap());
    wanted.min(most.saturating_sub(500))
}
