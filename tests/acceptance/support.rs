//! What every test of this binary shares: nibiru, nginx, both Caddys and HAProxy as child processes on a scratch
//! directory, curl, and waiting for conditions.
//!
//! Never sleeps for luck: a wait polls its condition, and its bound only says when to give up.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::front_ends;

/// When a wait gives up. Far beyond what anything here takes, even on a busy machine.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(5);

/// How much of a log's end a test shows that fails.
const SHOWN: usize = 4 << 20;

/// A file or directory of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Polls until `condition` gives a value; panics with `what` when it never does.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(GIVE_UP, condition).unwrap_or_else(|| panic!("gave up waiting: {what}"))
}

/// Polls until `condition` gives a value, or `bound` has passed.
pub(crate) fn wait_within<T>(bound: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + bound;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(POLL);
    }
}

/// Builds a `NAME.c` into a library that Lua loads: `NAME.so`, in a directory of its own.
pub(crate) fn library_of(source: &Path, flags: &[&str]) -> TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]).args(flags).arg("-o");
    compiler.arg(scratch.path().join(source.with_extension("so").file_name().unwrap())).arg(source);
    let built = output(&mut compiler);
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    scratch
}

/// The nibiru under test, for commands that end by themselves: see [`output`].
pub(crate) fn nibiru() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nibiru"));
    command.stdin(Stdio::null());
    command
}

/// What a command printed, once it has ended; one that does not end is killed and fails the test.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> Output {
    let mut files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    command.stdout(files[0].try_clone().unwrap()).stderr(files[1].try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    let ended = wait_within(GIVE_UP, || child.try_wait().unwrap());
    let _ = child.kill();
    let [stdout, stderr] = files.each_mut().map(|file| {
        let mut text = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut text).unwrap();
        text
    });
    let Some(status) = ended else {
        child.wait().unwrap();
        panic!("does not end: {command:?}\n{}", String::from_utf8_lossy(&stderr));
    };
    Output { status, stdout, stderr }
}

/// An application in a scratch directory that can be rewritten while it is served: `app.lua`.
#[derive(Debug)]
pub(crate) struct App(TempDir);

impl App {
    pub(crate) fn new(text: &str) -> Self {
        let app = Self(tempfile::tempdir().unwrap());
        app.write(text);
        app
    }

    /// Whole from the moment it can be read.
    pub(crate) fn write(&self, text: &str) {
        let path = self.0.path().join("app.lua");
        fs::write(path.with_extension("new"), text).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

/// What a test and its application meet in: the application announces and waits, the test looks and lets go.
/// See `tests/apps/gate.lua`.
#[derive(Debug)]
pub(crate) struct Gate(TempDir);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Where it is, for an application that is told in another way than by [`Self::url`].
    pub(crate) fn directory(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    /// `path` of an application, with this gate in its query string.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{path}?dir={}", self.0.path().display())
    }

    /// Lets an application that waits for `name` go on.
    pub(crate) fn open(&self, name: &str) {
        fs::write(self.0.path().join(name), "").unwrap();
    }

    /// Waits for the application to announce `name`; what it said.
    #[track_caller]
    pub(crate) fn announced(&self, name: &str) -> String {
        wait_for(&format!("the application announces {name}"), || self.said(name))
    }

    /// What the application announced as `name`, if it did.
    pub(crate) fn said(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.path().join(name)).ok()
    }
}

/// A child process with its scratch directory and its output in a file there.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    pub(crate) fn start(name: &'static str, scratch: &Path, command: Command) -> Self {
        Self::with_stdin(name, scratch, command, Stdio::null())
    }

    pub(crate) fn with_stdin(name: &'static str, scratch: &Path, mut command: Command, stdin: Stdio) -> Self {
        let log = scratch.join(format!("{name}.log"));
        let file = fs::File::create(&log).unwrap();
        command.stdin(stdin).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { name, child, log, status: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status
    }

    /// Waits until `ready`; panics with the log when the process ends first.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self, mut ready: impl FnMut() -> bool) {
        let name = self.name;
        wait_for(&format!("{name} is ready"), || {
            if let Some(status) = self.ended() {
                panic!("{name} ended while starting, {status}:\n{}", self.log());
            }
            ready().then_some(())
        });
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        signal(self.pid(), Signal::TERM);
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let name = self.name;
        wait_for(&format!("{name} ends"), || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            signal(self.pid(), Signal::TERM);
            if wait_within(Duration::from_secs(10), || self.ended()).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        if std::thread::panicking() {
            let log = self.log();
            let beyond = log.len().saturating_sub(SHOWN);
            let end = String::from_utf8_lossy(&log.as_bytes()[beyond..]);
            eprintln!("--- log of {} (beyond {beyond} bytes):\n{end}", self.name);
        }
    }
}

/// A running `nibiru serve`.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    scratch: TempDir,
}

impl Server {
    /// `site:application` of `tests/apps` with two workers.
    pub(crate) fn start() -> Self {
        Self::builder().start()
    }

    pub(crate) fn builder() -> ServerBuilder {
        ServerBuilder {
            root: repository("tests/apps"),
            application: "site:application",
            environment: Vec::new(),
            workers: "2",
            arguments: Vec::new(),
            wrapper: Vec::new(),
            listener: None,
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.scratch.path().join("app.sock")
    }

    /// What `nibiru status --json` says.
    pub(crate) fn status(&self) -> serde_json::Value {
        let control = format!("unix:{}.ctl", self.socket().display());
        let said = output(nibiru().args(["status", "--json", "--control", &control]));
        serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    /// The gateway's pid.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Everything nibiru has logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Waits for a line of the log that contains all of `parts`.
    #[track_caller]
    pub(crate) fn logged(&self, parts: &[&str]) -> String {
        wait_for(&format!("a line of the log has {parts:?}"), || {
            let log = self.log();
            let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            line.map(str::to_owned)
        })
    }

    /// Waits until so many lines of the log contain `part`, and not more: the log is written by a thread of its own, a moment
    /// after what it tells of.
    #[track_caller]
    pub(crate) fn logged_between(&self, part: &str, times: Range<usize>) {
        let lines = || self.log().lines().filter(|line| line.contains(part)).count();
        wait_for(&format!("{} lines of the log have {part:?}", times.start), || {
            (lines() >= times.start).then_some(())
        });
        assert!(lines() < times.end, "{} lines have {part:?}:\n{}", lines(), self.log());
    }

    /// Waits for the line about a reload. "reloaded" alone is in "preloaded", too, which is there from the start.
    #[track_caller]
    pub(crate) fn reloaded(&self) {
        self.logged(&["gateway reloaded"]);
    }

    pub(crate) fn signal(&self, number: Signal) {
        signal(self.pid(), number);
    }

    /// Waits for the gateway to end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// The fork server: the gateway's only child.
    #[track_caller]
    pub(crate) fn zygote(&self) -> u32 {
        wait_for("the gateway has one child, the zygote", || match children(self.pid())[..] {
            [zygote] => Some(zygote),
            _ => None,
        })
    }

    /// The pids of exactly `count` workers: children of the gateway's child.
    #[track_caller]
    pub(crate) fn workers(&self, count: usize) -> BTreeSet<u32> {
        wait_for(&format!("there are {count} workers"), || {
            let workers: BTreeSet<u32> = children(self.pid()).into_iter().flat_map(children).collect();
            (workers.len() == count).then_some(workers)
        })
    }

    /// Waits until the gateway knows `count` workers that are idle. Before that, one that runs may not be all there for it.
    #[track_caller]
    pub(crate) fn idle(&self, count: usize) {
        wait_for(&format!("{count} workers are idle"), || {
            let status = self.status();
            let workers = status["workers"].as_array()?;
            (workers.iter().filter(|worker| worker["state"] == "idle").count() == count).then_some(())
        });
    }

    /// The connections that proxies hold to the socket now, by inode.
    pub(crate) fn connections(&self) -> BTreeSet<String> {
        self.sockets_in_state("03")
    }

    /// Waits until nobody is connected to it any more, neither to its socket nor to its control socket.
    #[track_caller]
    pub(crate) fn left_alone(&self) {
        wait_for("nobody is connected", || {
            (self.connections().is_empty() && self.sockets("/app.sock.ctl", "03").is_empty()).then_some(())
        });
    }

    /// The sockets that the gateway has to its clients, by inode: those that listen (state 01) or are connected (03). Needs
    /// [`ServerBuilder::looked_into`].
    pub(crate) fn sockets_in_state(&self, state: &str) -> BTreeSet<String> {
        self.sockets("/app.sock", state)
    }

    fn sockets(&self, path: &str, state: &str) -> BTreeSet<String> {
        let held: BTreeSet<String> = descriptors(self.pid()).into_iter().map(|(_, target)| target).collect();
        let table = fs::read_to_string("/proc/net/unix").unwrap();
        let found = table.lines().filter_map(|line| {
            // Num RefCount Protocol Flags Type St Inode Path, which is that of the directory where the socket began.
            let fields: Vec<&str> = line.split_whitespace().collect();
            let of_clients = fields.len() == 8 && fields[7].ends_with(path) && fields[5] == state;
            (of_clients && held.contains(&format!("socket:[{}]", fields[6]))).then(|| fields[6].to_owned())
        });
        found.collect()
    }
}

/// How to start a [`Server`].
#[derive(Debug)]
pub(crate) struct ServerBuilder {
    root: PathBuf,
    application: &'static str,
    environment: Vec<(&'static str, OsString)>,
    workers: &'static str,
    arguments: Vec<OsString>,
    /// The program that starts nibiru, with its arguments.
    wrapper: Vec<OsString>,
    /// What it is given as descriptor 0.
    listener: Option<UnixListener>,
    scratch: TempDir,
}

impl ServerBuilder {
    /// Another application than that of `tests/apps`. An empty root: the directory in which nibiru is started.
    pub(crate) fn application(mut self, root: PathBuf, application: &'static str) -> Self {
        (self.root, self.application) = (root, application);
        self
    }

    pub(crate) fn environment(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    pub(crate) fn workers(mut self, workers: &'static str) -> Self {
        self.workers = workers;
        self
    }

    /// More arguments of `nibiru serve`, before the application.
    pub(crate) fn arguments<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(OsString::from));
        self
    }

    /// Starts it from a shell that does this first, such as `ulimit -n 100`; nothing where that is empty.
    pub(crate) fn after(self, shell: &str) -> Self {
        if shell.is_empty() {
            return self;
        }
        self.through(["sh", "-c", &format!("{shell} && exec \"$0\" \"$@\"")])
    }

    /// Starts it through a program that in the end executes what follows its arguments.
    pub(crate) fn through<const N: usize>(mut self, wrapper: [&str; N]) -> Self {
        self.wrapper = wrapper.map(OsString::from).into();
        self
    }

    /// Where this is root, starts it as a user that owns nothing but the directory of the socket, as docs/how-to/operate.md does.
    pub(crate) fn by_ordinary_user(self) -> Self {
        if !rustix::process::geteuid().is_root() {
            return self;
        }
        let script = "for word; do case $word in unix:*) socket=${word#unix:};; esac; done; \
                      chown 65534 \"${socket%/*}\" \"${socket%/*}\"/*; \
                      exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" \"$@\"";
        self.through(["sh", "-c", script])
    }

    /// Lets this test look at the descriptors of gateway and zygote, which only root may otherwise.
    pub(crate) fn looked_into(self) -> Self {
        if rustix::process::geteuid().is_root() { self } else { self.arguments(["--dumpable", "on"]) }
    }

    /// Has it listen on this socket too, which is its descriptor 0.
    pub(crate) fn inherit(mut self, listener: UnixListener) -> Self {
        self.listener = Some(listener);
        self.arguments(["--listen", "fd:0"])
    }

    /// Waits until every socket accepts.
    #[track_caller]
    pub(crate) fn start(self) -> Server {
        let socket = self.scratch.path().join("app.sock");
        let mut addresses = vec![format!("unix:{}", socket.display())];
        addresses.extend(values(&self.arguments, "--listen"));
        let control = match values(&self.arguments, "--control").pop() {
            Some(control) => control.strip_prefix("unix:").map(PathBuf::from),
            // The file may have another one.
            None if !values(&self.arguments, "--config").is_empty() => None,
            None => Some(socket.with_extension("sock.ctl")),
        };
        let mut words = self.wrapper.into_iter().chain([env!("CARGO_BIN_EXE_nibiru").into()]);
        let mut command = Command::new(words.next().expect("nibiru at least"));
        command.args(words);
        command.arg("serve");
        if !self.root.as_os_str().is_empty() {
            command.arg("--root").arg(&self.root);
        }
        command.arg("--listen").arg(&addresses[0]);
        command.args(["--workers", self.workers]).args(&self.arguments).arg(self.application);
        command.envs(self.environment);
        let stdin = self.listener.map_or_else(Stdio::null, |listener| OwnedFd::from(listener).into());
        let mut process = Process::with_stdin("nibiru", self.scratch.path(), command, stdin);
        process.wait_ready(|| {
            addresses.iter().all(|address| listens(address)) && control.iter().all(|path| path.exists())
        });
        Server { process, scratch: self.scratch }
    }
}

/// The values of a flag that may be given more than once.
fn values(arguments: &[OsString], flag: &str) -> Vec<String> {
    let given = arguments.windows(2).filter(|pair| pair[0] == flag);
    let values = given.map(|pair| pair[1].to_str().expect("text").split(','));
    values.flatten().map(str::to_owned).collect()
}

/// Whether somebody listens at an address of `--listen`. One that was inherited (`fd:0`) is listened at.
fn listens(address: &str) -> bool {
    match address.split_once(':') {
        Some(("unix", path)) => UnixStream::connect(path).is_ok(),
        // Not by connecting: the log would have a peer that is refused.
        Some(("tcp", address)) => {
            let (_, port) = address.rsplit_once(':').expect("a port");
            let local = format!(":{:04X}", port.parse::<u16>().unwrap());
            // The local address is the second field, the state the fourth; 0A is of one that listens.
            let listening = |line: &str| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                fields[1].ends_with(&local) && fields[3] == "0A"
            };
            let tables =
                ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
            tables.iter().flat_map(|table| table.lines()).any(listening)
        }
        _ => true,
    }
}

/// Which proxy stands in front of nibiru.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// nginx from the distribution.
    Nginx,
    /// Caddy 2.6 from the distribution.
    OldCaddy,
    /// The Caddy that `tests/run` puts into `target/tools`.
    NewCaddy,
    /// HAProxy from the distribution.
    HaProxy,
    /// Apache from the distribution.
    Apache,
    /// lighttpd from the distribution.
    Lighttpd,
}

/// A running proxy with the files of `deploy/`.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    port: u16,
    /// What it serves as static files.
    pub(crate) public: PathBuf,
    process: Process,
    _scratch: TempDir,
}

impl Proxy {
    /// Every kind in front of `server`.
    pub(crate) fn each(server: &Server) -> [Self; 4] {
        [Kind::Nginx, Kind::OldCaddy, Kind::NewCaddy, Kind::HaProxy].map(|kind| Self::start(kind, server))
    }

    /// These, and the two that are no proxies alone.
    pub(crate) fn every(server: &Server) -> impl Iterator<Item = Self> {
        let others = [Kind::Apache, Kind::Lighttpd].map(|kind| Self::start(kind, server));
        Self::each(server).into_iter().chain(others)
    }

    #[track_caller]
    pub(crate) fn start(kind: Kind, server: &Server) -> Self {
        Self::with_edits(kind, server, |site| site)
    }

    /// As [`Self::start`], with `edit` applied to the site's file (`nibiru.conf`, `Caddyfile` or
    /// `haproxy.cfg`).
    #[track_caller]
    pub(crate) fn with_edits(kind: Kind, server: &Server, edit: impl Fn(String) -> String) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let public = scratch.path().join("public");
        fs::create_dir(&public).unwrap();
        let port = free_port();
        let fill_in = |path: &str, listen: (&str, String)| {
            let site = fs::read_to_string(repository(path)).unwrap();
            for placeholder in [listen.0, "/srv/app/public", "/run/nibiru/app.sock"] {
                assert!(site.contains(placeholder), "{path} has no {placeholder}");
            }
            edit(
                site.replace(listen.0, &listen.1)
                    .replace("/srv/app/public", &public.display().to_string())
                    .replace("/run/nibiru/app.sock", &server.socket().display().to_string()),
            )
        };
        let command = match kind {
            Kind::Nginx => {
                let site =
                    fill_in("deploy/nginx/nibiru.conf", ("listen 80;", format!("listen 127.0.0.1:{port};")));
                nginx(scratch.path(), &site)
            }
            Kind::OldCaddy | Kind::NewCaddy => {
                let site = fill_in("deploy/caddy/Caddyfile", ("\n:80 {", format!("\nhttp://:{port} {{")));
                caddy(kind, scratch.path(), &site)
            }
            Kind::HaProxy => {
                let listen = ("bind :80", format!("bind 127.0.0.1:{port}"));
                haproxy(scratch.path(), &fill_in("deploy/haproxy/haproxy.cfg", listen))
            }
            Kind::Apache => {
                let site = fill_in("deploy/apache/nibiru.conf", ("*:80", format!("127.0.0.1:{port}")));
                front_ends::let_apache_in(scratch.path(), &server.socket());
                front_ends::apache(scratch.path(), port, &site)
            }
            Kind::Lighttpd => {
                let site =
                    fill_in("deploy/lighttpd/nibiru.conf", ("server.modules", "server.modules".to_owned()));
                front_ends::lighttpd(scratch.path(), port, &site)
            }
        };
        let mut process = Process::start("proxy", scratch.path(), command);
        process.wait_ready(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { kind, port, public, process, _scratch: scratch }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// One request with curl; `arguments` come before the address.
    #[track_caller]
    pub(crate) fn curl<const N: usize>(&self, arguments: [&str; N], path: &str) -> Reply {
        Reply::from_curl(self.curl_command(arguments, path).output().unwrap())
    }

    /// The curl command itself, for tests that watch it run. It prints the head, then the body.
    pub(crate) fn curl_command<const N: usize>(&self, arguments: [&str; N], path: &str) -> Command {
        curl(arguments, &self.url(path))
    }

    /// What the proxy has logged so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// curl for one request. It prints the head, then the body.
pub(crate) fn curl<const N: usize>(arguments: [&str; N], url: &str) -> Command {
    let mut command = Command::new("curl");
    // Globbing off: square brackets are themselves. `Expect` off: no `100 Continue` in the output.
    command.args(["--silent", "--show-error", "--include", "--no-buffer", "--path-as-is", "--globoff"]);
    command.args(["--noproxy", "*", "--header", "Expect:", "--max-time", "120"]);
    command.args(arguments).arg(url);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// nginx on a scratch directory: only paths and the process model are the test's own.
fn nginx(scratch: &Path, site: &str) -> Command {
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let mut main = format!("{user}worker_processes 1;\npid nginx.pid;\nerror_log stderr;\n");
    main.push_str("events {\n    worker_connections 1024;\n}\nhttp {\n    access_log off;\n");
    for kind in ["client_body", "fastcgi", "proxy", "scgi", "uwsgi"] {
        main.push_str(&format!("    {kind}_temp_path {kind}_temp;\n"));
    }
    main.push_str("    include /etc/nginx/mime.types;\n    include nibiru.conf;\n}\n");
    fs::write(scratch.join("nginx.conf"), main).unwrap();
    fs::write(scratch.join("nibiru.conf"), site).unwrap();
    fs::copy(repository("deploy/nginx/nibiru_params"), scratch.join("nibiru_params")).unwrap();
    // Debian keeps it where only root has it on the PATH.
    let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    let mut command = Command::new(program);
    command.arg("-p").arg(scratch).arg("-c").arg(scratch.join("nginx.conf"));
    command.args(["-e", "stderr", "-g", "daemon off;"]);
    command
}

/// Caddy on a scratch directory: the test adds only the global options.
fn caddy(kind: Kind, scratch: &Path, site: &str) -> Command {
    fs::write(scratch.join("Caddyfile"), format!("{{\n\tadmin off\n}}\n\n{site}")).unwrap();
    fs::copy(repository("deploy/caddy/nibiru.caddy"), scratch.join("nibiru.caddy")).unwrap();
    let mut command = Command::new(caddy_program(kind));
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(scratch.join("Caddyfile"));
    command.env("HOME", scratch).env("XDG_DATA_HOME", scratch).env("XDG_CONFIG_HOME", scratch);
    command
}

/// HAProxy as whoever runs the test, who may use the socket.
fn haproxy(scratch: &Path, site: &str) -> Command {
    let user = "    user haproxy\n    group haproxy\n";
    assert!(site.contains(user), "haproxy.cfg has no user");
    fs::write(scratch.join("haproxy.cfg"), site.replace(user, "")).unwrap();
    // Debian keeps it where only root has it on the PATH.
    let program = if Path::new("/usr/sbin/haproxy").exists() { "/usr/sbin/haproxy" } else { "haproxy" };
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(scratch.join("haproxy.cfg"));
    command
}

/// The program of either Caddy.
pub(crate) fn caddy_program(kind: Kind) -> PathBuf {
    assert!(matches!(kind, Kind::OldCaddy | Kind::NewCaddy));
    if kind == Kind::OldCaddy {
        return "caddy".into();
    }
    let program = repository("target/tools/caddy");
    assert!(program.exists(), "{} is missing: tests/run installs it", program.display());
    program
}

/// A connection with the small window of a slow network: the loopback's own is so large that
/// the server's kernel takes whole responses.
pub(crate) fn across_a_network(port: u16) -> TcpStream {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for("it listens", || {
        let socket =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
        rustix::net::connect(&socket, &address).ok()?;
        Some(TcpStream::from(socket))
    })
}

/// One kept-alive HTTP connection, for loads that curl is too slow for.
#[derive(Debug)]
pub(crate) struct HttpClient(TcpStream, Vec<u8>);

impl HttpClient {
    pub(crate) fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(GIVE_UP)).unwrap();
        Self(stream, Vec::new())
    }

    /// The status of one GET, whose answer must have a length and be whole.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> u16 {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.write_all(request.as_bytes()).unwrap();
        let Self(stream, buffer) = self;
        buffer.clear();
        loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                let length: usize = length.expect("a length").parse().unwrap();
                if buffer.len() >= end + 4 + length {
                    return head[9..12].parse().unwrap();
                }
            }
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece).unwrap();
            assert_ne!(length, 0, "the proxy closed the connection: {}", String::from_utf8_lossy(buffer));
            buffer.extend_from_slice(&piece[..length]);
        }
    }
}

/// What curl saw of one response.
#[derive(Debug)]
pub(crate) struct Reply {
    /// 0 when no head arrived.
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
    /// curl's exit code: 0 only when the transfer was complete.
    pub(crate) exit: i32,
    /// What curl complained about.
    pub(crate) complaint: String,
}

impl Reply {
    pub(crate) fn from_curl(output: Output) -> Self {
        let end = output.stdout.windows(4).position(|window| window == b"\r\n\r\n");
        let (head, body) =
            end.map_or((&b""[..], &b""[..]), |end| (&output.stdout[..end + 2], &output.stdout[end + 4..]));
        let head = String::from_utf8_lossy(head).into_owned();
        Self {
            status: head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0),
            head,
            body: body.to_vec(),
            exit: output.status.code().unwrap_or(-1),
            complaint: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Every value of the header `name`, in order.
    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let pairs = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().copied()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Fails unless the response is complete and has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        let complete = self.exit == 0 && self.status == status;
        assert!(complete, "expected a complete {status}: {}{self:?}", self.complaint);
        self
    }
}

/// Sends a signal to a process that this test started, or to a descendant of one.
pub(crate) fn signal(pid: u32, number: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    match rustix::process::kill_process(pid, number) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("cannot signal {pid:?}: {error}"),
    }
}

/// Whether the process still runs; one that only waits to be reaped does not.
pub(crate) fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

/// Whether a process is stopped by a signal.
pub(crate) fn is_stopped(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state == "T")
}

/// What `ps` shows of a process.
pub(crate) fn title(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

/// The running children of a process.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(state, of)| of == parent && state != "Z")).collect()
}

/// How long a process has run on a processor so far.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let fields = stat_fields(pid).unwrap();
    // Fields 14 and 15 of proc(5), counted from the third.
    let ticks: u64 = fields[14 - 3..=15 - 3].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// State and parent of a process.
fn stat(pid: u32) -> Option<(String, u32)> {
    let fields = stat_fields(pid)?;
    Some((fields[0].clone(), fields[1].parse().ok()?))
}

/// From the third field of `/proc/PID/stat` on.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from its end.
    Some(stat[stat.rfind(')')? + 2..].split(' ').map(str::to_owned).collect())
}

/// What the descriptors of a process point at, by number.
pub(crate) fn descriptors(pid: u32) -> Vec<(u32, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let describe = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, target.display().to_string()))
    };
    entries.filter_map(describe).collect()
}

/// A loopback port below the range that the kernel gives to clients, never handed out twice here.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    // Where to begin differs between test processes that run side by side.
    let offset = u16::try_from(std::process::id() * 61 % u32::from(COUNT)).unwrap();
    loop {
        let port = FIRST + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
