//! A running `nibiru serve`: its start, log, status, processes and sockets.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use super::app::Gate;
use super::child::{Process, nibiru, output};
use super::proc::{children, descriptors, signal};
use super::wait::wait_for;
use super::wire::{Connection, Response, get};
use super::{is_root, repository};

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

    /// The response to a GET on a new FastCGI connection.
    #[track_caller]
    pub(crate) fn get(&self, url: &str) -> Response {
        Connection::open(&self.socket()).get(url)
    }

    /// The body of the response to a GET. Its status must be 200.
    #[track_caller]
    pub(crate) fn get_text(&self, url: &str) -> String {
        let response = self.get(url);
        assert_eq!(response.status(), 200, "{url}: {response:?}\n{}", self.log());
        response.text()
    }

    /// The pid of the worker that serves `/pid` of `tests/apps`.
    #[track_caller]
    pub(crate) fn answering_worker(&self) -> u32 {
        self.get_text("/pid").parse().unwrap()
    }

    /// A request that holds a worker until the test opens `go` of the gate.
    #[track_caller]
    pub(crate) fn hold(&self) -> (Connection, Gate) {
        let gate = Gate::new();
        let mut connection = Connection::open(&self.socket());
        connection.send(&get(1, &gate.url("/wait"), true));
        gate.announced("started");
        (connection, gate)
    }

    /// Waits until the gateway refuses new connections.
    #[track_caller]
    pub(crate) fn wait_for_refusal(&self) {
        let socket = self.socket();
        wait_for("new connections are refused", || UnixStream::connect(&socket).is_err().then_some(()));
    }

    /// The address of the control socket, as `--control` takes it.
    pub(crate) fn control(&self) -> String {
        format!("unix:{}.ctl", self.socket().display())
    }

    /// A control command for this server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = nibiru();
        command.args(arguments).args(["--control", &self.control()]).env_remove("NIBIRU_CONTROL");
        command
    }

    /// The status, as `nibiru status --json` prints it.
    pub(crate) fn status(&self) -> serde_json::Value {
        let said = output(&mut self.command(&["status", "--json"]));
        serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    /// The gateway's pid.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Waits for a line of the log that contains all of `parts`, and returns it.
    #[track_caller]
    pub(crate) fn logged(&self, parts: &[&str]) -> String {
        wait_for(&format!("a line of the log has {parts:?}"), || {
            let log = self.log();
            let line = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
            line.map(str::to_owned)
        })
    }

    /// Waits until `times.start` lines of the log contain `part`, and expects fewer than `times.end`. The log comes a
    /// moment after its events, since another thread writes it.
    #[track_caller]
    pub(crate) fn logged_between(&self, part: &str, times: Range<usize>) {
        let lines = || self.log().lines().filter(|line| line.contains(part)).count();
        wait_for(&format!("{} lines of the log have {part:?}", times.start), || {
            (lines() >= times.start).then_some(())
        });
        assert!(lines() < times.end, "{} lines have {part:?}:\n{}", lines(), self.log());
    }

    /// Waits for the line about a reload. "reloaded" alone would match "preloaded", which is logged at the start.
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

    /// The pid of the zygote, the gateway's only child.
    #[track_caller]
    pub(crate) fn zygote(&self) -> u32 {
        wait_for("the gateway has one child, the zygote", || match children(self.pid())[..] {
            [zygote] => Some(zygote),
            _ => None,
        })
    }

    /// Waits until there are exactly `count` workers, and returns their pids.
    #[track_caller]
    pub(crate) fn workers(&self, count: usize) -> BTreeSet<u32> {
        wait_for(&format!("there are {count} workers"), || {
            let workers: BTreeSet<u32> = children(self.pid()).into_iter().flat_map(children).collect();
            (workers.len() == count).then_some(workers)
        })
    }

    /// Waits until the status has `count` idle workers. A worker's process runs before the gateway has its `Ready`.
    #[track_caller]
    pub(crate) fn wait_for_idle(&self, count: usize) {
        wait_for(&format!("{count} workers are idle"), || {
            let status = self.status();
            let workers = status["workers"].as_array()?;
            (workers.iter().filter(|worker| worker["state"] == "idle").count() == count).then_some(())
        });
    }

    /// The inodes of the open connections to the socket.
    pub(crate) fn connections(&self) -> BTreeSet<String> {
        self.sockets_in_state("03")
    }

    /// Waits until neither the socket nor the control socket has a connection.
    #[track_caller]
    pub(crate) fn wait_for_no_client(&self) {
        wait_for("no connection is open", || {
            (self.connections().is_empty() && self.sockets("/app.sock.ctl", "03").is_empty()).then_some(())
        });
    }

    /// The inodes of the gateway's sockets for clients, listening (state 01) or connected (03). Needs
    /// [`ServerBuilder::inspectable`].
    pub(crate) fn sockets_in_state(&self, state: &str) -> BTreeSet<String> {
        self.sockets("/app.sock", state)
    }

    fn sockets(&self, path: &str, state: &str) -> BTreeSet<String> {
        let held: BTreeSet<String> = descriptors(self.pid()).into_iter().map(|(_, target)| target).collect();
        let table = fs::read_to_string("/proc/net/unix").unwrap();
        let found = table.lines().filter_map(|line| {
            // The columns: Num RefCount Protocol Flags Type St Inode Path. The path is that at which the socket was
            // bound, before its rename.
            let fields: Vec<&str> = line.split_whitespace().collect();
            let of_clients = fields.len() == 8 && fields[7].ends_with(path) && fields[5] == state;
            (of_clients && held.contains(&format!("socket:[{}]", fields[6]))).then(|| fields[6].to_owned())
        });
        found.collect()
    }
}

/// The options for the start of a [`Server`].
#[derive(Debug)]
pub(crate) struct ServerBuilder {
    root: PathBuf,
    application: &'static str,
    environment: Vec<(&'static str, OsString)>,
    workers: &'static str,
    arguments: Vec<OsString>,
    /// The program that starts nibiru, with its arguments.
    wrapper: Vec<OsString>,
    /// The listening socket that nibiru inherits as descriptor 0.
    listener: Option<UnixListener>,
    scratch: TempDir,
}

impl ServerBuilder {
    /// Serves another application than that of `tests/apps`. An empty root means the working directory.
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

    /// Adds arguments of `nibiru serve`, before the application.
    pub(crate) fn arguments<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(OsString::from));
        self
    }

    /// Starts nibiru from a shell that first runs this command, such as `ulimit -n 100`. An empty text changes nothing.
    pub(crate) fn after(self, shell: &str) -> Self {
        if shell.is_empty() {
            return self;
        }
        self.through(["sh", "-c", &format!("{shell} && exec \"$0\" \"$@\"")])
    }

    /// Starts nibiru by a program that executes the command after its own arguments, such as `nice`.
    pub(crate) fn through<const N: usize>(mut self, wrapper: [&str; N]) -> Self {
        self.wrapper = wrapper.map(OsString::from).into();
        self
    }

    /// Starts nibiru as a user that owns only the socket's directory, as in docs/how-to/operate.md. Changes nothing
    /// unless the test runs as root.
    pub(crate) fn by_ordinary_user(self) -> Self {
        if !is_root() {
            return self;
        }
        let script = "for word; do case $word in unix:*) socket=${word#unix:};; esac; done; \
                      chown 65534 \"${socket%/*}\" \"${socket%/*}\"/*; \
                      exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" \"$@\"";
        self.through(["sh", "-c", script])
    }

    /// Lets the test read the descriptors of gateway and zygote, which otherwise only root may.
    pub(crate) fn inspectable(self) -> Self {
        if is_root() { self } else { self.arguments(["--dumpable", "on"]) }
    }

    /// Also listens on this inherited socket.
    pub(crate) fn inherit(mut self, listener: UnixListener) -> Self {
        self.listener = Some(listener);
        self.arguments(["--listen", "fd:0"])
    }

    /// Starts nibiru, and waits until every socket listens.
    #[track_caller]
    pub(crate) fn start(self) -> Server {
        let socket = self.scratch.path().join("app.sock");
        let mut addresses = vec![format!("unix:{}", socket.display())];
        addresses.extend(values(&self.arguments, "--listen"));
        let control = match values(&self.arguments, "--control").pop() {
            Some(control) => control.strip_prefix("unix:").map(PathBuf::from),
            // The configuration file may name another control socket.
            None if !values(&self.arguments, "--config").is_empty() => None,
            None => Some(socket.with_extension("sock.ctl")),
        };
        let mut words = self.wrapper.into_iter().chain([env!("CARGO_BIN_EXE_nibiru").into()]);
        let mut command = Command::new(words.next().expect("at least nibiru itself"));
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

/// The values of a flag that may be repeated.
fn values(arguments: &[OsString], flag: &str) -> Vec<String> {
    let given = arguments.windows(2).filter(|pair| pair[0] == flag);
    let values = given.map(|pair| pair[1].to_str().expect("text").split(','));
    values.flatten().map(str::to_owned).collect()
}

/// Whether a socket listens at an address of `--listen`. An inherited one (`fd:0`) always does.
fn listens(address: &str) -> bool {
    match address.split_once(':') {
        Some(("unix", path)) => UnixStream::connect(path).is_ok(),
        // A connect could add a refused peer to the log.
        Some(("tcp", address)) => {
            let (_, port) = address.rsplit_once(':').expect("a port");
            let local = format!(":{:04X}", port.parse::<u16>().unwrap());
            // The local address is the second field, the state the fourth; 0A is LISTEN.
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
