//! The title of each process, and what children inherit from it: the limit of open files, signals, and the scheduling policy.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Resource, Signal, getrlimit};

use crate::support::wire::Connection;
use crate::support::{
    App, Need, Process, Server, children, lacks, library_of, scheduling_policy, title, wait_for,
};

#[track_caller]
fn has_title(pid: u32, expected: &str) {
    wait_for(&format!("{pid} is {expected}, and not {}", title(pid)), || {
        (title(pid) == expected).then_some(())
    });
}

#[test]
fn process_titles_name_kind_generation_application_and_state() {
    let server = Server::builder().workers("1").start();
    has_title(server.pid(), "nibiru: gateway site:application");
    has_title(server.zygote(), "nibiru: zygote gen 1 site:application");
    let worker = *server.workers(1).first().unwrap();
    has_title(worker, "nibiru: worker 1 gen 1 idle");
    let (mut connection, gate) = server.hold();
    has_title(worker, "nibiru: worker 1 gen 1 busy");
    gate.open("go");
    connection.response(1).expect("a response");
    has_title(worker, "nibiru: worker 1 gen 1 idle");

    server.signal(Signal::HUP);
    server.reloaded();
    wait_for("the new worker has its title", || {
        let zygotes = children(server.pid());
        let workers = zygotes.iter().flat_map(|zygote| children(*zygote));
        let titles: Vec<String> = workers.map(title).collect();
        (titles == ["nibiru: worker 2 gen 2 idle"]).then_some(())
    });
    for pid in [server.pid(), server.zygote()] {
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "nibiru\n");
    }
}

#[test]
fn process_titles_of_a_loading_zygote_and_a_starting_worker_say_so() {
    let app = App::new(
        "local function wait(gate)\n\
         \x20 while not io.open(gate) do os.execute('sleep 0.02') end\n\
         end\n\
         wait(os.getenv('GATE') .. '-of-the-zygote')\n\
         require('nibiru').on_worker_start(function() wait(os.getenv('GATE')) end)\n\
         return function() return 200, {}, 'fine' end",
    );
    let gate = app.root().join("gate");
    let mut command = crate::support::nibiru();
    command.args(["serve", "--workers", "1", "--root"]).arg(app.root()).arg("--listen");
    command.arg(format!("unix:{}", app.root().join("app.sock").display())).arg("app").env("GATE", &gate);
    let mut server = Process::start("nibiru", &app.root(), command);
    wait_for("the zygote's title says loading", || {
        let titles: Vec<String> = children(server.pid()).into_iter().map(title).collect();
        (titles == ["nibiru: zygote gen 1 loading app"]).then_some(())
    });
    fs::write(app.root().join("gate-of-the-zygote"), "").unwrap();
    wait_for("the worker's title says starting", || {
        let workers: Vec<u32> = children(server.pid()).into_iter().flat_map(children).collect();
        workers.into_iter().find(|worker| title(*worker) == "nibiru: worker 1 gen 1 starting")
    });
    server.terminate();
    server.wait();
}

/// The file name of the application is longer than the memory of the arguments.
#[test]
fn a_process_title_that_does_not_fit_is_truncated() {
    let name = format!("{}.lua", "x".repeat(200));
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(&name), "return function() return 200, {}, 'fine' end").unwrap();
    fs::write(root.path().join("nibiru.toml"), format!("app = '{name}'\n")).unwrap();
    let socket = root.path().join("app.sock");
    let mut command = crate::support::nibiru();
    // Without `--dumpable on`, only root may read the environment.
    command.current_dir(root.path()).args(["serve", "--dumpable", "on", "--workers", "1", "--listen"]);
    command.arg(format!("unix:{}", socket.display()));
    let mut server = Process::start("nibiru", root.path(), command);
    wait_for("the server listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
    assert_eq!(Connection::open(&socket).get("/").status(), 200);
    assert!(title(server.pid()).starts_with("nibiru: gateway xxx"), "{}", title(server.pid()));
    let environment = fs::read_to_string(format!("/proc/{}/environ", server.pid())).unwrap();
    assert!(environment.contains("PATH="), "the environment is not overwritten");
    server.terminate();
    server.wait();
}

/// A server of the application in `app`, started after the shell command `shell`, and its response.
fn start_and_get(app: &App, shell: &'static str, preload: &str) -> (Server, String) {
    let root: PathBuf = app.root();
    let server = Server::builder().application(root, "app").workers("1").after(shell);
    let server = server.arguments(["--preload", preload]).start();
    let response = server.get("/");
    assert_eq!(response.status(), 200, "{}", server.log());
    let text = response.text();
    (server, text)
}

#[test]
fn the_gateway_raises_its_nofile_limit_and_the_application_keeps_the_inherited_one() {
    let app = App::new(
        "local function limit()\n\
         \x20 return io.open('/proc/self/limits'):read('a'):match('Max open files%s+(%S+)')\n\
         end\n\
         local loaded = limit()\n\
         return function() return 200, {}, loaded .. ' ' .. limit() end",
    );
    let hard = getrlimit(Resource::Nofile).maximum.map_or("unlimited".to_owned(), |limit| limit.to_string());
    for preload in ["on", "off", "auto"] {
        let (server, limits) = start_and_get(&app, "ulimit -Sn 300", preload);
        assert_eq!(limits, "300 300", "{preload}");
        let own = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
        let line = own.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(line.split_whitespace().nth(3), Some(hard.as_str()));
    }
}

#[test]
fn sigpipe_ends_programs_of_the_application_but_not_the_worker() {
    let app = App::new(
        "local function ignored()\n\
         \x20 local pipe = io.popen('cat /proc/self/status')\n\
         \x20 local text = pipe:read('*a')\n\
         \x20 pipe:close()\n\
         \x20 return text:match('SigIgn:%s+(%x+)')\n\
         end\n\
         local loaded = ignored()\n\
         return function()\n\
         \x20 os.execute('yes | head -n 1 > /dev/null')\n\
         \x20 local pipe = io.popen('exec true', 'w')\n\
         \x20 local written = pipe:write(('x'):rep(1000000)) and pipe:flush()\n\
         \x20 pipe:close()\n\
         \x20 return 200, {}, loaded .. ' ' .. ignored() .. ' ' .. tostring(written)\n\
         end",
    );
    let (server, text) = start_and_get(&app, "", "on");
    let words: Vec<&str> = text.split(' ').collect();
    for mask in &words[..2] {
        let mask = u64::from_str_radix(mask, 16).unwrap();
        assert_eq!(mask & 1 << (Signal::PIPE.as_raw() - 1), 0, "{text}");
    }
    assert!(matches!(words[2], "nil" | "false"), "a write to a closed pipe fails: {text}");
    assert!(!server.log().contains("Broken pipe"), "{}", server.log());
    assert!(!server.log().contains("worker exited"), "{}", server.log());
}

/// An application that answers, for the load and for the request: the exit codes of a command and of a pipe, and the
/// masks of blocked and ignored signals in a program that it starts.
const SIGNALS: &str = "local five = _VERSION == 'Lua 5.1' and 5 * 256 or 5\n\
    local function code(...)\n\
    \x20 local a, _, c = ...\n\
    \x20 return tostring(c or (a == five and 5) or a)\n\
    end\n\
    local function look()\n\
    \x20 local pipe = io.popen('cat /proc/self/status; exit 6')\n\
    \x20 local text = pipe:read('*a')\n\
    \x20 local closed = code(pipe:close())\n\
    \x20 local masks = text:match('SigBlk:%s+(%x+)') .. ' ' .. text:match('SigIgn:%s+(%x+)')\n\
    \x20 return code(os.execute('exit 5')) .. ' ' .. closed .. ' ' .. masks\n\
    end\n\
    local loaded = look()\n\
    return function() return 200, {}, loaded .. ' ' .. look() end";

/// Signals 32 and 33, which glibc reserves: no program can send or change them.
const OF_LIBC: u64 = 3 << 31;

#[test]
fn programs_start_with_default_signals_whatever_nibiru_inherited() {
    let all = "import os, signal, sys\n\
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n\
        \x20   signal.signal(number, signal.SIG_IGN)\n\
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))\n\
        os.execvp(sys.argv[1], sys.argv[1:])";
    let app = App::new(SIGNALS);
    for wrapper in
        [&["sh", "-c", "trap '' CHLD; exec \"$0\" \"$@\""][..], &["nohup"], &["python3", "-c", all]]
    {
        for preload in ["on", "off"] {
            let builder = Server::builder().application(app.root(), "app").workers("1");
            let builder = builder.arguments(["--preload", preload]);
            let mut server = match wrapper {
                [one] => builder.through([one]),
                [one, two, three] => builder.through([one, two, three]),
                _ => unreachable!(),
            }
            .start();
            let response = server.get("/");
            let text = response.text();
            let words: Vec<&str> = text.split(' ').collect();
            assert_eq!(words.len(), 8, "{wrapper:?}: {text}");
            for [executed, closed, blocked, ignored] in
                [[0, 1, 2, 3], [4, 5, 6, 7]].map(|at| at.map(|at| words[at]))
            {
                assert_eq!(executed, "5", "{wrapper:?}: {text}");
                // Lua 5.1, and LuaJIT in its default build, do not return the exit code of a pipe.
                assert!(
                    closed == "6" || (closed == "true" && cfg!(any(feature = "luajit", feature = "lua51"))),
                    "{text}"
                );
                for mask in [blocked, ignored] {
                    let mask = u64::from_str_radix(mask, 16).unwrap();
                    assert_eq!(mask & !OF_LIBC, 0, "{wrapper:?}: {text}");
                }
            }
            // The zygote reaps a killed worker and survives it.
            let (zygote, worker) = (server.zygote(), *server.workers(1).first().unwrap());
            crate::support::signal(worker, Signal::KILL);
            server.logged(&["worker exited", &worker.to_string()]);
            assert_eq!(server.get("/").status(), 200);
            assert_eq!(server.zygote(), zygote, "{wrapper:?}: {}", server.log());
            server.signal(Signal::HUP);
            server.reloaded();
            server.signal(Signal::TERM);
            assert_eq!(server.wait().code(), Some(0), "{wrapper:?}: {}", server.log());
        }
    }
}

/// An application whose requests take two milliseconds, so that eight clients at a time are a load. `/programs` answers its pid and
/// policies: its own, that of a program of `os.execute`, that of a program of `io.popen`.
const POLICIES: &str = r#"
local own = "sed 's/.*) //' /proc/self/stat | cut -d' ' -f39"
local function policy()
  local file = io.open("/proc/self/stat")
  local stat = file:read("*a")
  file:close()
  local fields = {}
  for field in stat:match(".*%) (.*)"):gmatch("%S+") do fields[#fields + 1] = field end
  return stat:match("^%d+"), fields[39]
end
return function(environ)
  local pid, before = policy()
  if environ.PATH_INFO == "/programs" and before == "3" then
    local name = os.tmpname()
    os.execute("(" .. own .. ") >" .. name)
    local file = io.open(name)
    local executed = file:read("*l")
    file:close()
    os.remove(name)
    local pipe = io.popen(own)
    local piped = pipe:read("*l")
    pipe:close()
    return 200, {}, table.concat({ pid, before, executed, piped }, " ")
  end
  local from = os.clock()
  while os.clock() - from < 0.002 do end
  return 200, {}, table.concat({ pid, before }, " ")
end
"#;

#[test]
fn programs_are_not_scheduled_in_batches_while_their_worker_is() {
    let app = App::new(POLICIES);
    let server = Server::builder().application(app.root(), "app").workers("4").start();
    let (socket, over) = (&server.socket(), &AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(move || {
                let mut client = Connection::open(socket);
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(client.get("/").status(), 200);
                }
            });
        }
        // Also where the test fails.
        let _end = EndOfLoad(over);
        assert_eq!(policies_of_programs(&server), "0 0", "os.execute, io.popen");
    });
    wait_for("the gateway is scheduled as before the load", || {
        server.get("/");
        (scheduling_policy(server.pid()) == 0).then_some(())
    });
}

/// Ends the clients of a load when it is dropped.
struct EndOfLoad<'a>(&'a AtomicBool);

impl Drop for EndOfLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The policies of the two programs, from a worker that is scheduled in batches. Returns when that worker is so again.
#[track_caller]
fn policies_of_programs(server: &Server) -> String {
    let (worker, programs) = wait_for("a worker in batches starts programs", || {
        let text = server.get_text("/programs");
        let (worker, policies) = text.split_once(' ')?;
        Some((worker.parse().ok()?, policies.strip_prefix("3 ")?.to_owned()))
    });
    wait_for("the worker is scheduled in batches again", || (scheduling_policy(worker) == 3).then_some(()));
    programs
}

#[test]
fn an_application_that_ignores_sigchld_does_not_end_the_zygote() {
    let app = App::new(
        "assert(package.loadlib('./ignore.so', 'ignore_sigchld'))()\n\
         return function() return 200, {}, 'fine' end",
    );
    let source =
        "#include <signal.h>\nint ignore_sigchld(void *state) { signal(SIGCHLD, SIG_IGN); return 0; }\n";
    fs::write(app.root().join("ignore.c"), source).unwrap();
    let built = library_of(&app.root().join("ignore.c"), &[]);
    fs::copy(built.path().join("ignore.so"), app.root().join("ignore.so")).unwrap();
    let (server, _) = start_and_get(&app, "", "on");
    let (zygote, worker) = (server.zygote(), *server.workers(1).first().unwrap());
    crate::support::signal(worker, Signal::KILL);
    wait_for("the worker is replaced", || (!server.workers(1).contains(&worker)).then_some(()));
    assert_eq!(server.get("/").status(), 200);
    assert_eq!(server.zygote(), zygote, "{}", server.log());
}

#[test]
fn a_start_as_root_logs_a_warning_and_one_as_another_user_does_not() {
    if lacks(Need::Root) {
        return;
    }
    let warning = "workers run as root, and the application with them: start nibiru as a user of its own";
    let server = Server::start();
    server.logged(&["ready"]);
    assert_eq!(server.log().matches(warning).count(), 1, "{}", server.log());
    let server = Server::builder().by_ordinary_user().start();
    server.logged(&["ready"]);
    assert!(!server.log().contains("root"), "{}", server.log());
}
