//! Releases in separate directories, with a symbolic link to the current one, as Capistrano and others deploy: a reload
//! serves the release that the link names by then.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::wire::{Connection, get};
use crate::support::{
    Process, Reply, Server, ServerBuilder, curl, free_port, nibiru, output, signal, wait_for,
};

/// A scratch directory with `releases/1`, `releases/2` …, and `current`, a link to one of them.
struct Deployment(TempDir);

impl Deployment {
    /// A deployment with release 1 as the current one.
    fn new() -> Self {
        let deployment = Self(tempfile::tempdir().unwrap());
        deployment.release("1");
        deployment.switch("1");
        deployment
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn current(&self) -> PathBuf {
        self.path("current")
    }

    /// Creates a release: an application that answers with its name, a module that it loads in the request, and its
    /// working directory; and a `nibiru.toml` that sets `workers` to `name`.
    fn release(&self, name: &str) {
        let directory = self.path("releases").join(name);
        fs::create_dir_all(&directory).unwrap();
        let app = format!(
            "return function()\n\
             \x20 local pipe = io.popen('pwd -P')\n\
             \x20 local directory = pipe:read('*l')\n\
             \x20 pipe:close()\n\
             \x20 return 200, {{}}, '{name} ' .. require('part') .. ' ' .. directory\n\
             end"
        );
        fs::write(directory.join("app.lua"), app).unwrap();
        fs::write(directory.join("part.lua"), format!("return 'part-{name}'")).unwrap();
        fs::write(directory.join("nibiru.toml"), format!("workers = {name}\n")).unwrap();
    }

    /// Replaces the link by one to another release, in one step.
    fn switch(&self, name: &str) {
        let new = self.path("new");
        symlink(Path::new("releases").join(name), &new).unwrap();
        fs::rename(new, self.current()).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_dir_all(self.path("releases").join(name)).unwrap();
    }

    fn expected_response(&self, name: &str) -> String {
        let directory = self.0.path().canonicalize().unwrap().join("releases").join(name);
        format!("{name} part-{name} {}", directory.display())
    }

    /// A server of the current release, which a shell starts within the link.
    fn server(&self, root: &str) -> ServerBuilder {
        Server::builder().application(root.into(), "app").after(&format!("cd {}", self.current().display()))
    }
}

fn reload(server: &Server) {
    let output = output(&mut server.command(&["reload"]));
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stderr), server.log());
}

/// For each form of --root. The first release is removed before the second reload.
#[test]
fn a_reload_serves_the_release_that_the_link_names() {
    for root in ["", ".", "../../current", "LINK"] {
        let deployment = Deployment::new();
        let link = deployment.current().display().to_string();
        let server = deployment.server(&root.replace("LINK", &link)).start();
        assert_eq!(server.get("/").text(), deployment.expected_response("1"), "{root:?}");
        let inode = fs::metadata(server.socket()).unwrap();

        deployment.release("2");
        deployment.switch("2");
        assert_eq!(server.get("/").text(), deployment.expected_response("1"), "{root:?}: before the reload");
        reload(&server);
        assert_eq!(server.get("/").text(), deployment.expected_response("2"), "{root:?}");

        deployment.remove("1");
        deployment.release("3");
        deployment.switch("3");
        server.signal(Signal::HUP);
        let expected = deployment.expected_response("3");
        wait_for(&format!("{root:?}: the third release is served"), || {
            (server.get("/").text() == expected).then_some(())
        });
        // The sockets are the same, and no setting has changed.
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::metadata(server.socket()).unwrap().ino(), inode.ino());
        assert!(!server.log().contains("takes effect with a restart"), "{}", server.log());
    }
}

/// For the file in the working directory, and for one with a relative path.
#[test]
fn a_reload_reads_the_configuration_file_of_the_new_release() {
    for arguments in [&[][..], &["--config", "nibiru.toml"], &["--config", "../../current/nibiru.toml"]] {
        let deployment = Deployment::new();
        // The command has no `--workers`, which would override the file.
        let socket = deployment.path("app.sock");
        let mut command = Command::new("sh");
        let shell = format!("cd {} && exec \"$0\" \"$@\"", deployment.current().display());
        command.args(["-c", &shell]).arg(env!("CARGO_BIN_EXE_nibiru")).arg("serve").args(arguments);
        command.arg("--listen").arg(format!("unix:{}", socket.display())).arg("app");
        let mut process = Process::start("nibiru", deployment.0.path(), command);
        process.wait_ready(|| std::os::unix::net::UnixStream::connect(&socket).is_ok());
        let control = format!("unix:{}.ctl", socket.display());
        let workers = || {
            let status = output(nibiru().args(["status", "--json", "--control", &control])).stdout;
            let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
            status["workers"].as_array().unwrap().len()
        };
        let has = |count: usize| {
            wait_for(&format!("the status has {count} workers"), || (workers() == count).then_some(()))
        };
        assert_eq!(Connection::open(&socket).get("/").status(), 200);
        has(1);
        deployment.release("2");
        deployment.switch("2");
        deployment.remove("1");
        let reloaded = output(nibiru().args(["reload", "--control", &control]));
        assert!(reloaded.status.success(), "{}", process.log());
        has(2);
        // A release without the file has the defaults, not the old release's settings.
        fs::remove_file(deployment.current().join("nibiru.toml")).unwrap();
        let reloaded = output(nibiru().args(["reload", "--control", &control]));
        assert_eq!(reloaded.status.success(), arguments.is_empty(), "{}", process.log());
        signal(process.pid(), Signal::TERM);
        assert_eq!(process.wait().code(), Some(0));
    }
}

/// Every response is complete and from the old or the new release.
#[test]
fn reloads_to_new_releases_under_load_fail_no_request() {
    const CLIENTS: usize = 3;
    let deployment = Deployment::new();
    let server = deployment.server("").workers("2").start();
    assert_eq!(server.get("/").text(), deployment.expected_response("1"));
    let (stop, served) = (AtomicBool::new(false), AtomicU32::new(0));
    let releases: Vec<String> = (1..=4).map(|number| number.to_string()).collect();
    let answers: Vec<String> = releases.iter().map(|name| deployment.expected_response(name)).collect();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut newest = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut connection = Connection::open(&server.socket());
                    connection.send(&get(1, "/", false));
                    let response = connection.response(1).expect("a response");
                    let text = response.text();
                    let which = answers.iter().position(|expected_response| *expected_response == text);
                    let which = which.unwrap_or_else(|| panic!("{text} ({})", response.status()));
                    assert!(which >= newest, "release {which} after {newest}");
                    newest = which;
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for name in &releases[1..] {
            let before = served.load(Ordering::Relaxed);
            wait_for("50 more requests are served", || {
                (served.load(Ordering::Relaxed) > before + 50).then_some(())
            });
            deployment.release(name);
            deployment.switch(name);
            reload(&server);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(server.get("/").text(), answers[3]);
}

/// The served release may be removed before the reload: workers are forked from the loaded code.
#[test]
fn a_worker_is_forked_after_its_release_was_removed() {
    let deployment = Deployment::new();
    let server = deployment.server("").workers("1").start();
    let first = server.get("/").text();
    deployment.release("2");
    deployment.switch("2");
    deployment.remove("1");
    let worker = *server.workers(1).first().unwrap();
    signal(worker, Signal::KILL);
    wait_for("the worker is replaced", || (!server.workers(1).contains(&worker)).then_some(()));
    // The killed worker had loaded `part`, whose file is gone.
    let response = server.get("/");
    assert_eq!(response.status(), 500, "{first}");
    server.logged(&["module 'part' not found"]);
    reload(&server);
    assert_eq!(server.get("/").text(), deployment.expected_response("2"));
}

/// If the served release is removed before the reload, a load comes from the release that the link names by then: when
/// the zygote is replaced, and when workers load the application themselves.
#[test]
fn a_load_after_the_release_was_removed_takes_the_current_one() {
    for preload in ["on", "off"] {
        let deployment = Deployment::new();
        let server = deployment.server("").workers("1").arguments(["--preload", preload]).start();
        assert_eq!(server.get("/").text(), deployment.expected_response("1"));
        deployment.release("2");
        deployment.switch("2");
        deployment.remove("1");
        let ends = if preload == "on" { server.zygote() } else { *server.workers(1).first().unwrap() };
        signal(ends, Signal::KILL);
        let expected = deployment.expected_response("2");
        wait_for(&format!("{preload}: the second release is served"), || {
            (server.get("/").text() == expected).then_some(())
        });
        server.logged(&["the root has been removed"]);
        // Later loads take the same release.
        let worker = *server.workers(1).first().unwrap();
        signal(server.zygote(), Signal::KILL);
        signal(worker, Signal::KILL);
        wait_for("a new worker serves the second release", || {
            (!server.workers(1).contains(&worker) && server.get("/").text() == expected).then_some(())
        });
    }
}

/// Both servers are started within the link.
#[test]
fn a_server_that_takes_over_serves_the_release_that_the_link_names() {
    let deployment = Deployment::new();
    let mut server = deployment.server("").start();
    assert_eq!(server.get("/").text(), deployment.expected_response("1"));
    deployment.release("2");
    deployment.switch("2");
    let mut command = Command::new("sh");
    let shell = format!("cd {} && exec \"$0\" \"$@\"", deployment.current().display());
    command.args(["-c", &shell]).arg(env!("CARGO_BIN_EXE_nibiru")).args(["serve", "--take-over", "--listen"]);
    command.arg(format!("unix:{}", server.socket().display())).arg("app");
    let mut new = Process::start("new", deployment.0.path(), command);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert_eq!(server.get("/").text(), deployment.expected_response("2"));
    deployment.remove("1");
    deployment.release("3");
    deployment.switch("3");
    reload(&server);
    assert_eq!(server.get("/").text(), deployment.expected_response("3"));
    signal(new.pid(), Signal::TERM);
    assert_eq!(new.wait().code(), Some(0), "{}", new.log());
}

/// `$PWD` can name another directory if no shell has set it. The working directory counts then.
#[test]
fn a_pwd_of_another_directory_is_ignored() {
    let deployment = Deployment::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let server = deployment.server("").environment("PWD", elsewhere.path());
    let server = server.through(["env", "-C", &deployment.current().display().to_string()]).start();
    assert_eq!(server.get("/").text(), deployment.expected_response("1"));
    deployment.release("2");
    deployment.switch("2");
    reload(&server);
    assert_eq!(server.get("/").text(), deployment.expected_response("1"));
}

/// The static files are those of the new release, too, and changes in it are seen.
#[test]
fn dev_serves_the_release_that_the_link_names_after_a_reload() {
    let deployment = Deployment::new();
    let public = |name: &str| {
        let directory = deployment.path("releases").join(name).join("public");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("name.txt"), name).unwrap();
    };
    public("1");
    let port = free_port();
    let mut command = Command::new("sh");
    let shell = format!("cd {} && exec \"$0\" \"$@\"", deployment.current().display());
    command.args(["-c", &shell]).arg(env!("CARGO_BIN_EXE_nibiru")).args(["dev", "app", "--http"]);
    command.arg(format!("127.0.0.1:{port}"));
    let mut dev = Process::start("dev", deployment.0.path(), command);
    dev.wait_ready(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let fetch = |path: &str| Reply::of(&mut curl([], &format!("http://127.0.0.1:{port}{path}"))).text();
    assert_eq!((fetch("/"), fetch("/name.txt")), (deployment.expected_response("1"), "1".to_owned()));
    deployment.release("2");
    public("2");
    deployment.switch("2");
    signal(dev.pid(), Signal::HUP);
    let expected = deployment.expected_response("2");
    wait_for("the new release is served", || (fetch("/") == expected).then_some(()));
    assert_eq!(fetch("/name.txt"), "2");
    let app = deployment.path("releases/2/app.lua");
    fs::write(&app, "return function() return 200, {}, 'changed' end").unwrap();
    assert_eq!(fetch("/"), "changed");
    signal(dev.pid(), Signal::TERM);
    assert_eq!(dev.wait().code(), Some(0), "{}", dev.log());
}
