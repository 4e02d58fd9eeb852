//! Everything at once: workers and zygotes are killed and stopped, gateways are stopped, code is reloaded, servers are taken
//! over, and strangers flood the socket, while clients check every byte. What is left at the end is what there was before.

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

/// Beside these the settings are the defaults. A request that a stopped worker has fails soon, a birth in a stopped zygote too,
/// and an old server does not stay for long. Workers are replaced, too. An ordinary user's test looks into gateway and zygote as well.
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

/// The times for which processes are stopped: most are not noticed, the last outlasts deadlines.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(2500),
];

/// A variable that all processes of these servers have.
const MARK: &str = "CHAOS";

/// A taken-over server answers what it has, and is gone: `--grace`, and a stop's own time on a busy machine.
const TAKEN_OVER: Duration = Duration::from_secs(30);

/// For the processes and descriptors to be those of the beginning: what floods have begun is cut first.
const SETTLED: Duration = Duration::from_secs(60);

/// Every server of one address: the one that answers, and those that are leaving.
struct Fleet {
    /// In the title of gateways and zygotes, in the environment of all their processes, and nowhere else.
    name: &'static str,
    pauses: &'static [Duration],
    first: Server,
    takers: Mutex<Vec<Process>>,
    happened: Mutex<BTreeMap<&'static str, u64>>,
    /// Last, since the logs of the servers are in its directory.
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

    /// The gateways that live, oldest first.
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

    /// All processes that come from these servers, by what their titles say they are.
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

    /// Another server with the same settings, that is to take this one's place.
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

/// What each process of a server holds, by kind of process.
type Held = Vec<(&'static str, BTreeMap<String, usize>)>;

/// The processes of the one server that is left and what each holds; `None` where it is not a gateway, a zygote and its workers.
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

/// The same, once it has stopped to change.
fn at_rest(fleet: &Fleet) -> Option<Held> {
    let mut last = None;
    wait_within(SETTLED, || {
        let now = held(fleet);
        let rests = now.is_some() && now == std::mem::replace(&mut last, now.clone());
        if rests { now } else { None }
    })
}

/// Does something again and again, for as long as it is told to go on.
type Agent = fn(&Fleet, &dyn Fn() -> bool);

/// A client that means no good, and what it is called.
type Flood = (&'static str, fn(&Path));

/// All of it for some seconds.
pub(super) fn chaos(scale: Scale) -> Row {
    let fleet = Fleet::start(match scale {
        Scale::Short => &PAUSES[..3],
        Scale::Long(_) => &PAUSES,
    });
    let proxy = Proxy::start(Kind::Nginx, &fleet.first);
    // The server that is left at the end has taken over, too. One that has not started lets nobody do so.
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
    row.promise(comes_on, "the clients come on when it is over");
    let account = books.close();
    row.add(&account);
    let allowed = [500, 502, 503, 504];
    row.promise(
        account.failed.keys().all(|status| allowed.contains(status)),
        "every failure is one of these",
    );
    // Where too many die at once there is a 503 at once, for a while.
    row.promise(account.whole > account.count / 10, "most requests are answered");
    let answers = || (Connection::open(&fleet.socket()).get("/hello").status() == 200).then_some(());
    row.promise(wait_within(TAKEN_OVER, answers).is_some(), "the server that is left answers");

    // Workers whose zygote was killed are no children of the new one's.
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

/// Waits until all servers but one have left.
fn one_is_left(fleet: &Fleet) -> bool {
    wait_within(TAKEN_OVER, || (fleet.gateways().len() == 1).then_some(())).is_some()
}

/// Milliseconds of this range, by chance.
fn some(milliseconds: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(fastrand::u64(milliseconds))
}

/// Kills workers, and now and then a zygote.
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

/// Stops one of these for a while.
fn pause(fleet: &Fleet, victims: Vec<u32>, what: &'static str) {
    let Some(victim) = fastrand::choice(victims) else { return };
    signal(victim, Signal::STOP);
    fleet.happened(what);
    pace(*fastrand::choice(fleet.pauses).expect("there are some"));
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

/// Reloads and takes over.
fn change(fleet: &Fleet, go_on: &dyn Fn() -> bool) {
    while go_on() {
        pace(some(100..500));
        if fastrand::u8(..) < 160 {
            fleet.gateways().into_iter().for_each(|gateway| signal(gateway, Signal::HUP));
            fleet.happened("reloads");
            continue;
        }
        // Of several at once one is let in at a time.
        for _ in 0..*fastrand::choice(&[1, 1, 2, 6]).expect("there are some") {
            fleet.take_over();
            fleet.happened("take-overs");
        }
        if !one_is_left(fleet) {
            fleet.happened("take-overs that did not end");
        }
    }
}

/// A client that means no good, again and again.
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
        let (what, flood) = *fastrand::choice(&floods).expect("there are some");
        flood(&socket);
        fleet.happened(what);
        pace(some(1..20));
    }
}

/// A connection whose client soon loses patience (the time-outs are its behaviour, and no outcome). The server may close it at any
/// time.
fn stranger(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).expect("a connect is never refused");
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

/// A request whose answer is of no interest.
fn ask(socket: &Path, url: &str) {
    let mut stream = stranger(socket);
    let _ = stream.write_all(&get(1, url, false));
    let _ = stream.read(&mut [0; 4096]);
}

/// Requests that are taken back at once, and whose ids are used again.
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

/// A request with some bytes changed, or no request at all.
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
