//! The proxies in front of nibiru, each with its files of `deploy/` in a scratch directory.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::child::{Process, system_program};
use super::curl::{Reply, curl};
use super::net::free_port;
use super::server::Server;
use super::{front_ends, is_root, repository};

/// A proxy by program and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// nginx from the distribution.
    Nginx,
    /// Caddy 2.6 from the distribution.
    OldCaddy,
    /// The Caddy 2.11 that `tests/install` puts into `target/tools`.
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
    /// Directory of the static files.
    pub(crate) public: PathBuf,
    process: Process,
    _scratch: TempDir,
}

impl Proxy {
    /// nginx, both Caddys and HAProxy in front of `server`.
    pub(crate) fn main_kinds(server: &Server) -> [Self; 4] {
        [Kind::Nginx, Kind::OldCaddy, Kind::NewCaddy, Kind::HaProxy].map(|kind| Self::start(kind, server))
    }

    /// A proxy of every kind in front of `server`.
    pub(crate) fn all_kinds(server: &Server) -> impl Iterator<Item = Self> {
        let others = [Kind::Apache, Kind::Lighttpd].map(|kind| Self::start(kind, server));
        Self::main_kinds(server).into_iter().chain(others)
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
                front_ends::give_apache_access(scratch.path(), &server.socket());
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

    /// Sends one request with curl; `arguments` come before the URL.
    #[track_caller]
    pub(crate) fn curl<const N: usize>(&self, arguments: [&str; N], path: &str) -> Reply {
        Reply::of(&mut self.curl_command(arguments, path))
    }

    /// The curl command itself, for tests that read its output while it runs.
    pub(crate) fn curl_command<const N: usize>(&self, arguments: [&str; N], path: &str) -> Command {
        curl(arguments, &self.url(path))
    }

    /// The proxy's log so far.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// nginx in a scratch directory: the test sets only paths and the process model.
fn nginx(scratch: &Path, site: &str) -> Command {
    let user = if is_root() { "user root;\n" } else { "" };
    let mut main = format!("{user}worker_processes 1;\npid nginx.pid;\nerror_log stderr;\n");
    main.push_str("events {\n    worker_connections 1024;\n}\nhttp {\n    access_log off;\n");
    for kind in ["client_body", "fastcgi", "proxy", "scgi", "uwsgi"] {
        main.push_str(&format!("    {kind}_temp_path {kind}_temp;\n"));
    }
    main.push_str("    include /etc/nginx/mime.types;\n    include nibiru.conf;\n}\n");
    fs::write(scratch.join("nginx.conf"), main).unwrap();
    fs::write(scratch.join("nibiru.conf"), site).unwrap();
    fs::copy(repository("deploy/nginx/nibiru_params"), scratch.join("nibiru_params")).unwrap();
    let mut command = system_program("nginx");
    command.arg("-p").arg(scratch).arg("-c").arg(scratch.join("nginx.conf"));
    command.args(["-e", "stderr", "-g", "daemon off;"]);
    command
}

/// Caddy in a scratch directory: the test adds only the global options.
fn caddy(kind: Kind, scratch: &Path, site: &str) -> Command {
    fs::write(scratch.join("Caddyfile"), format!("{{\n\tadmin off\n}}\n\n{site}")).unwrap();
    fs::copy(repository("deploy/caddy/nibiru.caddy"), scratch.join("nibiru.caddy")).unwrap();
    let mut command = Command::new(caddy_program(kind));
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(scratch.join("Caddyfile"));
    command.env("HOME", scratch).env("XDG_DATA_HOME", scratch).env("XDG_CONFIG_HOME", scratch);
    command
}

/// HAProxy as the test's user, who has access to the socket.
fn haproxy(scratch: &Path, site: &str) -> Command {
    let user = "    user haproxy\n    group haproxy\n";
    assert!(site.contains(user), "haproxy.cfg has no user");
    fs::write(scratch.join("haproxy.cfg"), site.replace(user, "")).unwrap();
    let mut command = system_program("haproxy");
    command.arg("-db").arg("-f").arg(scratch.join("haproxy.cfg"));
    command
}

/// The program of Caddy 2.6 or 2.11.
pub(crate) fn caddy_program(kind: Kind) -> PathBuf {
    assert!(matches!(kind, Kind::OldCaddy | Kind::NewCaddy));
    if kind == Kind::OldCaddy {
        return "caddy".into();
    }
    let program = repository("target/tools/caddy");
    assert!(program.exists(), "{} is missing: tests/run installs it", program.display());
    program
}
