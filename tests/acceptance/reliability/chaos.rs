//! All failures at once: workers and zygotes are killed and stopped, gateways are stopped, code is reloaded, servers
//! are taken over, and hostile clients flood the socket, while other clients check every byte. At the end the processes
//! and descriptors are the same as before.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use super::books::Books;
use super::clients::{Load, Mix, SetOnDrop, Way};
use super::nonces::kinds;
use super::{Row, Scale, reloads};
use crate::support::wire::{
    ABORT_REQUEST, Connection, GET_VALUES, PARAMS, RESPONDER, STDIN, begin, get, get_params, in_pieces, pair,
    record,
};
use crate::support::{App, Kind, Process, Proxy, Server, children, nibiru, pace, runs, signal, wait_within};

const WORKERS: &str = "4";

/// The settings that differ from the defaults. Short deadlines end the requests of stopped workers and the forks of
/// stopped zygotes; a short grace ends old servers. --max-requests replaces workers. --dumpable lets a test of an
/// ordinary user read the descriptors of gateway and zygote.
const SETTINGS: [&str; 12] = [
    "--max-requests",
    "50",
    "--request-timeout",
    "2s",
    "--kill-after",
    "300ms",
    "--start-timeout",
    "2s",
    "--grace",
    "4s",
    "--dumpable",
    "on",
];

/// The durations for which processes are stopped: only the last exceeds deadlines.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(2500),
];

/// An environment variable of all processes of these servers.
const MARK: &str = "CHAOS";

/// The most time until an old server has ended: `--grace`, and the time of a stop on a busy machine.
const TAKEN_OVER: Duration = Duration::from_secs(30);

/// The most time until processes and descriptors are those of the beginning: the requests of floods are cut first.
const SETTLED: Duration = Duration::from_secs(60);

/// All servers of one address: the one that listens, and those that are draining.
struct Fleet {
    /// A unique name, in the title of gateways and zygotes and in the environment of all their processes.
    name: &'static str,
    pauses: &'static [Duration],
    first: Server,
    takers: Mutex<Vec<Process>>,
    happened: Mutex<BTreeMap<&'static str, u64>>,
    /// The last field, since the logs of the servers are in its directory.
    app: App,
}

impl Fleet {
    fn start(pauses: &'static [Duration]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name: &'static str = Box::leak(format!("chaos_{}_{number}", std::process::id()).into_boxed_str());
        let app = App::new("");
        let code = format!(
            "{}local site = require('site').application\n\
             return function(environ, start_response)\n\
             \x20 if environ.PATH_INFO == '/child' then os.execute('sleep 1 &') end\n\
             \x20 return site(environ, start_response)\nend\n",
            reloads::path()
        );
        fs::write(app.root().join(format!("{name}.lua")), code).unwrap();
        let builder = Server::builder().application(app.root(), name).workers(WORKERS);
        let first = builder.arguments(SETTINGS).environment(MARK, name).start();
        Self { app, name, pauses, first, takers: Mutex::default(), happened: Mutex::default() }
    }

    fn socket(&self) -> PathBuf {
        self.first.socket()
    }

    /// The running gateways, oldest first.
    fn gateways(&self) -> Vec<u32> {
        let takers = self.takers.lock().unwrap();
        let pids = [self.first.pid()].into_iter().chain(takers.iter().map(Process::pid));
        pids.filter(|pid| runs(*pid)).collect()
    }

    fn zygotes(&self) -> Vec<u32> {
        self.gateways().into_iter().flat_map(children).collect()
    }

    fn workers(&self) -> Vec<u32> {
        self.zygotes().into_iter().flat_map(children).collect()
    }

    /// The number of processes of these servers, by the kind in their title.
    fn processes(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let text = |file| {
                let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let title = text("cmdline");
            if title.contains(self.name) || text("environ").contains(self.name) {
                let kind = title.split(' ').nth(1).unwrap_or_default().to_owned();
                *found.entry(kind).or_default() += 1;
            }
        }
        found
    }

    fn happened(&self, what: &'static str) {
        *self.happened.lock().unwrap().entry(what).or_default() += 1;
    }

    /// Starts another server with the same settings, which takes over.
    fn take_over(&self) {
        let mut command = nibiru();
        command.args(["serve", "--take-over", "--root"]).arg(self.app.root());
        command.arg("--listen").arg(format!("unix:{}", self.socket().display()));
        command.args(["--workers", WORKERS]).args(SETTINGS).arg(self.name);
        command.env(MARK, self.name);
        let mut takers = self.takers.lock().unwrap();
        let directory = self.app.root().join(format!("taker.{}", takers.len()));
        fs::create_dir(&directory).unwrap();
        takers.push(Process::start("taker", &directory, command));
    }

    fn log(&self) -> String {
        let takers = self.takers.lock().unwrap();
        let logs = takers.iter().map(|taker| format!("--- taker {}\n{}", taker.pid(), taker.log()));
        format!("--- first {}\n{}{}", self.first.pid(), self.first.log(), logs.collect::<String>())
    }
}

/// The descriptors of each process of a server, with the kind of process.
type Held = Vec<(&'static str, BTreeMap<String, usize>)>;

/// The descriptors of each process of the only server; `None` unless there are exactly a gateway, a zygote and its
/// workers.
fn held(fleet: &Fleet) -> Option<Held> {
    let ([gateway], [zygote]) = (&fleet.gateways()[..], &fleet.zygotes()[..]) else { return None };
    let workers = fleet.workers();
    let expected = [("gateway", 1), ("zygote", 1), ("worker", WORKERS.parse().unwrap())];
    let expected = expected.map(|(kind, count)| (kind.to_owned(), count));
    if fleet.processes() != BTreeMap::from(expected) {
        return None;
    }
    let mut held = vec![("gateway", kinds(*gateway)), ("zygote", kinds(*zygote))];
    held.extend(workers.into_iter().map(|worker| ("worker", kinds(worker))));
    Some(held)
}

/// As [`held`], once two reads in a row are the same.
fn at_rest(fleet: &Fleet) -> Option<Held> {
    let mut last = None;
    wait_within(SETTLED, || {
        let now = held(fleet);
        let rests = now.is_some() && now == std::mem::replace(&mut last, now.clone());
        if rests { now } else { None }
    })
}

/// A task that repeats an action while the second argument returns true.
type Agent = fn(&Fleet, &dyn Fn() -> bool);

/// A name for the table, and a hostile client.
type Flood = (&'static str, fn(&Path));

/// All failures at once, for some time.
pub(super) fn chaos(scale: Scale) -> Row {
    let fleet = Fleet::start(match scale {
        Scale::Short => &PAUSES[..3],
        Scale::Long(_) => &PAUSES,
    });
    let proxy = Proxy::start(Kind::Nginx, &fleet.first);
    // The server at the end has taken over, so the fresh one has to, too. A server that still loads refuses a
    // take-over.
    fleet.first.logged(&["gateway ready"]);
    fleet.take_over();
    assert!(one_is_left(&fleet) && !runs(fleet.first.pid()), "{}", fleet.log());
    let fresh =
        at_rest(&fleet).unwrap_or_else(|| panic!("the fresh server is not at rest: {:?}", fleet.processes()));
    let time = Duration::from_secs(scale.of(2, 600).into());
    let (books, socket) = (Books::new(), fleet.socket());
    let load = Load::new(&books, Mix::All).with(2, &Way::Kept(socket.clone()));
    let load = load.with(2, &Way::OneShot(socket.clone())).with(1, &Way::Interleaved(socket)).through(&proxy);
    let mut row = Row::default();
    let comes_on = load.during(|| {
        let over = AtomicBool::new(false);
        let go_on = || !over.load(Ordering::Relaxed);
        let agents: [Agent; 6] = [kill, stop_workers, stop_the_others, change, flood, flood];
        std::thread::scope(|scope| {
            let _over = SetOnDrop(&over);
            let (fleet, go_on) = (&fleet, &go_on);
            for agent in agents {
                scope.spawn(move || agent(fleet, go_on));
            }
            pace(time);
        });
        row.promise(one_is_left(&fleet), "one server is left");
        let before = books.over();
        wait_within(TAKEN_OVER, || (books.over() > before + 200).then_some(())).is_some()
    });
    row.promise(comes_on, "the clients are served when it is over");
    let account = books.close();
    row.add(&account);
    let allowed = [500, 502, 503, 504];
    row.promise(
        account.failed.keys().all(|status| allowed.contains(status)),
        "every failure is a 500, 502, 503 or 504",
    );
    // When too many workers die, requests are 503 at once for a while.
    row.promise(account.whole > account.count / 10, "most requests are answered");
    let answers = || (Connection::open(&fleet.socket()).get("/hello").status() == 200).then_some(());
    row.promise(wait_within(TAKEN_OVER, answers).is_some(), "the remaining server serves");

    // Workers whose zygote was killed are not children of the new zygote; a reload replaces them.
    fleet.gateways().into_iter().for_each(|gateway| signal(gateway, Signal::HUP));
    drop(proxy);
    let last = at_rest(&fleet);
    row.promise(
        last.as_ref() == Some(&fresh),
        format!(
            "processes and descriptors are those of the beginning, {fresh:?}, not {last:?} of {:?}",
            fleet.processes()
        ),
    );
    let happened = fleet.happened.lock().unwrap().clone();
    row.measured(
        happened.iter().map(|(what, times)| format!("{times} {what}")).collect::<Vec<_>>().join(", "),
    );
    if !row.holds() {
        println!("{}", fleet.log());
    }
    row
}

/// Waits until all servers but one have ended.
fn one_is_left(fleet: &Fleet) -> bool {
    wait_within(TAKEN_OVER, || (fleet.gateways().len() == 1).then_some(())).is_some()
}

/// A random duration of this range in milliseconds.
fn some(milliseconds: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(fastrand::u64(milliseconds))
}

/// Kills random workers, and sometimes a zygote.
fn kill(fleet: &Fleet, go_on: &dyn Fn() -> bool) {
    while go_on() {
        let (victims, what) = match fastrand::u8(..) {
            0..16 => (fleet.zygotes(), "zygotes killed"),
            _ => (fleet.workers(), "workers killed"),
        };
        if let Some(victim) = fastrand::choice(victims) {
            signal(victim, Signal::KILL);
            fleet.happened(what);
        }
        pace(some(20..200));
    }
}

/// Stops a random one of `victims` for a while.
fn pause(fleet: &Fleet, victims: Vec<u32>, what: &'static str) {
    let Some(victim) = fastrand::choice(victims) else { return };
    signal(victim, Signal::STOP);
    fleet.happened(what);
    pace(*fastrand::choice(fleet.pauses).expect("not empty"));
    signal(victim, Signal::CONT);
}

fn stop_workers(fleet: &Fleet, go_on: &dyn Fn() -> bool) {
    while go_on() {
        pause(fleet, fleet.workers(), "workers stopped");
        pace(some(20..200));
    }
}

fn stop_the_others(fleet: &Fleet, go_on: &dyn Fn() -> bool) {
    while go_on() {
        match fastrand::bool() {
            true => pause(fleet, fleet.gateways(), "gateways stopped"),
            false => pause(fleet, fleet.zygotes(), "zygotes stopped"),
        }
        pace(some(100..400));
    }
}

/// Reloads, and starts servers that take over.
fn change(fleet: &Fleet, go_on: &dyn Fn() -> bool) {
    while go_on() {
        pace(some(100..500));
        if fastrand::u8(..) < 160 {
            fleet.gateways().into_iter().for_each(|gateway| signal(gateway, Signal::HUP));
            fleet.happened("reloads");
            continue;
        }
        // Of several take-overs at once, one is accepted at a time.
        for _ in 0..*fastrand::choice(&[1, 1, 2, 6]).expect("not empty") {
            fleet.take_over();
            fleet.happened("take-overs");
        }
        if !one_is_left(fleet) {
            fleet.happened("take-overs that did not end");
        }
    }
}

/// Runs random hostile clients.
fn flood(fleet: &Fleet, go_on: &dyn Fn() -> bool) {
    let socket = fleet.socket();
    let floods: [Flood; 7] = [
        ("half requests", half_requests),
        ("abort floods", aborts),
        ("begin floods", begins),
        ("floods of questions", questions),
        ("garbage", garbage),
        ("children left behind", |socket| ask(socket, "/child")),
        ("crashes", |socket| ask(socket, "/bomb/exit")),
    ];
    while go_on() {
        let (what, flood) = *fastrand::choice(&floods).expect("not empty");
        flood(&socket);
        fleet.happened(what);
        pace(some(1..20));
    }
}

/// A connection with short time-outs, after which the client leaves; they are not an outcome. The server may close the
/// connection at any time.
fn stranger(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("the connect is not refused");
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    stream
}

fn half_requests(socket: &Path) {
    let mut random = fastrand::Rng::new();
    let strangers: Vec<UnixStream> = (0..20)
        .filter_map(|_| {
            let pieces = in_pieces(&get(1, "/hello", true), &mut random).concat();
            let mut stream = stranger(socket);
            stream.write_all(&pieces[..random.usize(1..pieces.len())]).ok().map(|()| stream)
        })
        .collect();
    pace(some(1..50));
    drop(strangers);
}

/// Sends a request and ignores its response.
fn ask(socket: &Path, url: &str) {
    let mut stream = stranger(socket);
    let _ = stream.write_all(&get(1, url, false));
    let _ = stream.read(&mut [0; 4096]);
}

/// Requests that are aborted at once, and whose ids are reused.
fn aborts(socket: &Path) {
    let mut stream = stranger(socket);
    let request = get(1, "/hello", true);
    let taken_back = [request, record(ABORT_REQUEST, 1, b"")].concat();
    let _ = stream.write_all(&taken_back.repeat(200));
    let _ = stream.read(&mut [0; 4096]);
}

fn begins(socket: &Path) {
    let mut stream = stranger(socket);
    let flood: Vec<u8> = (1..=200).flat_map(|id| begin(id, RESPONDER, true)).collect();
    let _ = stream.write_all(&flood);
    let _ = stream.write_all(&record(PARAMS, fastrand::u16(1..200), &get_params("/hello")));
}

fn questions(socket: &Path) {
    let mut stream = stranger(socket);
    let question = record(GET_VALUES, 0, &pair(b"FCGI_MPXS_CONNS", b""));
    let _ = stream.write_all(&question.repeat(500));
    let _ = stream.read(&mut [0; 4096]);
}

/// A request with some bytes changed at random.
fn garbage(socket: &Path) {
    let mut stream = stranger(socket);
    let mut bytes = [get(1, "/hello", true), record(STDIN, 1, b"too much")].concat();
    for _ in 0..fastrand::usize(1..8) {
        let at = fastrand::usize(..bytes.len());
        bytes[at] = fastrand::u8(..);
    }
    let _ = stream.write_all(&bytes);
    let _ = stream.read(&mut [0; 4096]);
}
