//! Workers that are killed, stopped or left by their clients while requests are in their lanes. Each request runs once at most, and what
//! never reached Lua is not lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::forks::module_path;
use crate::support::wire::{Connection, get};
use crate::support::{
    App, Server, ServerBuilder, descriptors, is_stopped, repository, runs, signal, wait_for,
};

const CLIENTS: u32 = 8;

/// Writes the query into a file, once for each run, and answers with it. The path says when its worker is killed. A worker that has
/// answered nothing yet answers 409 instead: workers that die before their first answer are replaced with a delay.
const APP: &str = r#"
local pid, executions, answered
return function(environ, start_response)
  if not answered and environ.PATH_INFO ~= "/" then
    answered = true
    return 409, {}, "not yet"
  end
  answered = true
  if not executions then
    executions = assert(io.open("EXECUTIONS", "a"))
    executions:setvbuf("no")
    pid = io.open("/proc/self/stat"):read("n")
  end
  local name, path = environ.QUERY_STRING, environ.PATH_INFO
  local function kill() os.execute("kill -9 " .. pid) end
  if name ~= "" then executions:write(name .. "\n") end
  if path == "/before_the_head" then kill() end
  if path == "/between_two_chunks" then
    start_response(200, {})("one")
    kill()
  elseif path == "/after_the_end" then
    environ["nibiru.after_response"](kill)
  end
  return 200, {}, name
end
"#;

/// What a killed request's client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    Whole,
    Status502,
    Broken,
}

const KILLS: [(&str, Gets); 3] = [
    ("/before_the_head", Gets::Status502),
    ("/between_two_chunks", Gets::Broken),
    ("/after_the_end", Gets::Whole),
];

/// The application, with the file of its runs.
struct Counted {
    app: App,
    directory: TempDir,
}

impl Counted {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("executions");
        Self { app: App::new(&APP.replace("EXECUTIONS", file.to_str().unwrap())), directory }
    }

    fn server(&self, workers: &'static str) -> ServerBuilder {
        Server::builder().application(self.app.root(), "app").workers(workers)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("executions")
    }

    /// How often each request has run.
    fn runs(&self) -> BTreeMap<String, usize> {
        let mut runs = BTreeMap::new();
        for name in fs::read_to_string(self.file()).unwrap_or_default().lines() {
            *runs.entry(name.to_owned()).or_default() += 1;
        }
        runs
    }
}

/// What the client of a request gets.
fn outcome(client: &mut Connection, path: &str, name: &str) -> Gets {
    client.send(&get(1, &format!("{path}?{name}"), true));
    match client.try_response(1) {
        Ok(response) if response.status() == 409 => outcome(client, path, name),
        Ok(response) if response.status() == 200 && response.text() == name => Gets::Whole,
        Ok(response) if response.status() == 502 => Gets::Status502,
        Ok(response) => panic!("{name}: {} {}", response.status(), response.text()),
        Err(_) => Gets::Broken,
    }
}

/// Short requests, so that further ones wait in lanes.
fn warm_up(socket: &Path) {
    let mut client = Connection::open(socket);
    for _ in 0..100 {
        assert_eq!(client.get("/").status(), 200);
    }
}

#[test]
fn a_worker_killed_at_any_step_fails_its_own_request_and_no_request_runs_twice() {
    const EACH: u32 = 90;
    let counted = Counted::new();
    let server = counted.server("2").start();
    let socket = &server.socket();
    warm_up(socket);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                let mut client = Connection::open(socket);
                for count in 0..EACH {
                    let name = format!("{number}-{count}");
                    let kill = (count % 30 == 10 + number).then(|| KILLS[(count / 30) as usize]);
                    let (path, expected) = kill.unwrap_or(("/", Gets::Whole));
                    assert_eq!(outcome(&mut client, path, &name), expected, "{path} {name}");
                    if expected == Gets::Broken {
                        client = Connection::open(socket);
                    }
                }
            });
        }
    });
    let runs = counted.runs();
    assert_eq!(runs.len(), (CLIENTS * EACH) as usize);
    assert!(runs.values().all(|count| *count == 1), "{runs:?}");
}

#[test]
fn a_worker_killed_at_a_random_moment_fails_one_request_and_loses_none() {
    const WORKERS: usize = 3;
    const KILLS: u32 = 60;
    let counted = Counted::new();
    let server = counted.server("3").start();
    let (socket, over) = (&server.socket(), AtomicBool::new(false));
    warm_up(socket);
    let (sent, failed) = (AtomicU32::new(0), Mutex::new(BTreeSet::new()));
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = Connection::open(socket);
                while !over.load(Ordering::Relaxed) {
                    let name = sent.fetch_add(1, Ordering::Relaxed).to_string();
                    match outcome(&mut client, "/", &name) {
                        Gets::Whole => continue,
                        Gets::Status502 => {}
                        Gets::Broken => client = Connection::open(socket),
                    }
                    failed.lock().unwrap().insert(name);
                }
            });
        }
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..KILLS {
            let workers: Vec<u32> = server.workers(WORKERS).into_iter().collect();
            // Another number of requests each time, so that each kill meets another moment.
            let until = sent.load(Ordering::Relaxed) + random.u32(1..300);
            wait_for("requests are answered", || (sent.load(Ordering::Relaxed) >= until).then_some(()));
            signal(workers[random.usize(..WORKERS)], Signal::KILL);
        }
        over.store(true, Ordering::Relaxed);
    });
    let (runs, failed) = (counted.runs(), failed.into_inner().unwrap());
    assert!(failed.len() <= KILLS as usize, "{} requests failed by {KILLS} kills", failed.len());
    for number in 0..sent.into_inner() {
        let name = number.to_string();
        let count = runs.get(&name).copied().unwrap_or_default();
        // A request that was claimed may have run, or may not.
        assert!(count == 1 || count == 0 && failed.contains(&name), "request {name} ran {count} times");
    }
}

/// No worker has claimed a request, so all of them go to the workers that follow.
#[test]
fn requests_that_wait_for_stopped_workers_are_run_by_their_successors() {
    let counted = Counted::new();
    let server = counted.server("2").arguments(["--request-timeout", "off"]).start();
    let socket = &server.socket();
    warm_up(socket);
    server.wait_for_idle(2);
    let stopped = server.workers(2);
    for worker in &stopped {
        signal(*worker, Signal::STOP);
        wait_for("the worker is stopped", || is_stopped(*worker).then_some(()));
    }
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Connection::open(socket)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&get(1, &format!("/?{number}"), true));
    }
    server.wait_for_idle(0);
    for worker in &stopped {
        signal(*worker, Signal::KILL);
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let response = client.response(1).expect("a response");
        assert_eq!((response.status(), response.text()), (200, number.to_string()));
    }
    let runs = counted.runs();
    assert!(runs.len() == CLIENTS as usize && runs.values().all(|count| *count == 1), "{runs:?}");
}

#[test]
fn a_stopped_worker_delays_only_the_request_that_was_sent_to_it() {
    const EACH: u32 = 200;
    let counted = Counted::new();
    let arguments = ["--request-timeout", "3s", "--kill-after", "1s"];
    let server = counted.server("3").arguments(arguments).start();
    let socket = &server.socket();
    warm_up(socket);
    let stopped = *server.workers(3).first().unwrap();
    let late = AtomicU32::new(0);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let late = &late;
            scope.spawn(move || {
                let mut client = Connection::open(socket);
                for count in 0..EACH {
                    if (number, count) == (0, 20) {
                        signal(stopped, Signal::STOP);
                    }
                    let response = client.get(&format!("/?{number}-{count}"));
                    match response.status() {
                        200 => assert_eq!(response.text(), format!("{number}-{count}")),
                        504 => _ = late.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    }
                }
            });
        }
    });
    assert!(late.into_inner() <= 1, "one request was with the stopped worker: {}", server.log());
    let runs = counted.runs();
    assert!(runs.values().all(|count| *count == 1), "{runs:?}");
    assert!(runs.len() >= (CLIENTS * EACH - 1) as usize, "{}", runs.len());
    signal(stopped, Signal::CONT);
    server.wait_for_idle(3);
}

#[test]
fn clients_that_leave_while_their_requests_wait_in_lanes_disturb_nobody() {
    const EACH: u32 = 300;
    let counted = Counted::new();
    let server = counted.server("2").start();
    let socket = &server.socket();
    warm_up(socket);
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            scope.spawn(move || {
                if number % 2 == 0 {
                    for count in 0..EACH {
                        Connection::open(socket).send(&get(1, &format!("/?left-{number}-{count}"), true));
                    }
                    return;
                }
                let mut client = Connection::open(socket);
                for count in 0..EACH {
                    let name = format!("{number}-{count}");
                    assert_eq!(outcome(&mut client, "/", &name), Gets::Whole, "{name}");
                }
            });
        }
    });
    server.wait_for_idle(2);
    let runs = counted.runs();
    assert!(runs.values().all(|count| *count == 1), "{runs:?}");
    let stayed = runs.keys().filter(|name| !name.starts_with("left")).count();
    assert_eq!(stayed, (CLIENTS / 2 * EACH) as usize);
}

/// The inodes of the lanes that a process has mapped.
fn lanes_of(pid: u32) -> Vec<String> {
    lanes_in(&fs::read_to_string(format!("/proc/{pid}/maps")).unwrap())
}

fn lanes_in(maps: &str) -> Vec<String> {
    let lanes = maps.lines().filter(|line| line.contains("nibiru-lane"));
    lanes.map(|line| line.split_whitespace().nth(4).unwrap().to_owned()).collect()
}

#[test]
fn a_worker_has_its_own_lane_and_its_children_have_none() {
    let maps = tempfile::tempdir().unwrap();
    // The child writes its mappings, and the worker waits for it.
    let app = App::new(
        r#"
local process = require("process")
return function(environ)
  local path = environ.QUERY_STRING
  if environ.PATH_INFO == "/execute" then os.execute("cat /proc/self/maps > " .. path) end
  if environ.PATH_INFO == "/popen" then io.popen("cat /proc/self/maps > " .. path):close() end
  if environ.PATH_INFO == "/fork" then
    local child = process.fork()
    if child == 0 then
      local file = io.open(path, "w")
      for line in io.lines("/proc/self/maps") do file:write(line, "\n") end
      file:close()
      os.exit(0)
    end
    process.wait(child)
  end
  return 200, {}, "done"
end
"#,
    );
    let cpath = format!("{};;", module_path().display());
    let server = Server::builder()
        .inspectable()
        .application(app.root(), "app")
        .environment("LUA_CPATH", cpath)
        .environment("LUA_PATH", repository("tests/apps/?.lua;;"))
        .workers("3")
        .start();
    for path in ["/execute", "/popen", "/fork"] {
        let file = maps.path().join(&path[1..]);
        assert_eq!(
            server.get(&format!("{path}?{}", file.display())).text(),
            "done",
            "{path}: {}",
            server.log()
        );
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("[stack]"), "{path}: {text}");
        assert_eq!(lanes_in(&text), [""; 0], "{path}");
    }
    let workers = server.workers(3);
    server.wait_for_idle(3);
    let own: Vec<Vec<String>> = workers.iter().map(|worker| lanes_of(*worker)).collect();
    assert!(own.iter().all(|lanes| lanes.len() == 1), "{own:?}");
    let all: BTreeSet<&String> = own.iter().flatten().collect();
    let mapped = lanes_of(server.pid());
    assert!(all.len() == 3 && mapped.iter().collect::<BTreeSet<_>>() == all, "{own:?}, gateway {mapped:?}");
    assert_eq!(lanes_of(server.zygote()), [""; 0]);
    for pid in workers.into_iter().chain([server.pid(), server.zygote()]) {
        assert!(runs(pid));
        let open = descriptors(pid).into_iter().filter(|(_, target)| target.contains("nibiru-lane"));
        assert_eq!(open.count(), 0, "{pid} keeps the memory's descriptor open");
    }
}
