//! Apache and lighttpd: their commands, and both in front of nibiru with the files of `deploy/` for the role
//! Authorizer.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{
    Process, Reply, Server, ServerBuilder, curl, free_port, is_root, output, repository, system_program,
};

/// A front end that supports the role Authorizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Apache,
    Lighttpd,
}

/// A running Apache or lighttpd with its file of `deploy/`, and nibiru behind it as authorizer and as application.
#[derive(Debug)]
pub(crate) struct FrontEnd {
    pub(crate) kind: Kind,
    pub(crate) server: Server,
    port: u16,
    private: PathBuf,
    _scratch: TempDir,
    _process: Process,
}

impl FrontEnd {
    #[track_caller]
    pub(crate) fn start(kind: Kind, builder: ServerBuilder) -> Self {
        Self::with_edits(kind, builder, |site| site)
    }

    /// As [`Self::start`], with `edit` applied to the file of `deploy/`.
    #[track_caller]
    pub(crate) fn with_edits(kind: Kind, builder: ServerBuilder, edit: impl Fn(String) -> String) -> Self {
        let authorizer = format!("127.0.0.1:{}", free_port());
        let builder = builder.arguments(["--listen", &format!("tcp:{authorizer}")]);
        Self::serving(kind, builder, |socket, private| {
            let (path, placeholders) = match kind {
                Kind::Apache => (
                    "deploy/apache/authorizer.conf",
                    [
                        ("127.0.0.1:9000", &*authorizer),
                        ("/srv/app/private", private),
                        ("/run/nibiru/app.sock", socket),
                    ],
                ),
                Kind::Lighttpd => (
                    "deploy/lighttpd/authorizer.conf",
                    [
                        ("/run/nibiru/auth.sock", socket),
                        ("/srv/app/private", private),
                        ("/run/nibiru/app.sock", socket),
                    ],
                ),
            };
            let mut site = fs::read_to_string(repository(path)).unwrap();
            for (placeholder, value) in placeholders {
                assert!(site.contains(placeholder), "{path} has no {placeholder}");
                site = site.replace(placeholder, value);
            }
            edit(site)
        })
    }

    /// With the configuration `site` in place of the file of `deploy/`. It gets nibiru's socket.
    #[track_caller]
    pub(crate) fn with_site(kind: Kind, builder: ServerBuilder, site: impl Fn(&str) -> String) -> Self {
        Self::serving(kind, builder, |socket, _| site(socket))
    }

    /// Starts nibiru and the front end. `site` gets nibiru's socket and the directory of protected files.
    #[track_caller]
    fn serving(kind: Kind, mut builder: ServerBuilder, site: impl Fn(&str, &str) -> String) -> Self {
        if is_root() && kind == Kind::Apache {
            builder = builder.arguments(["--socket-owner", "root:www-data"]);
        }
        let server = builder.start();
        let scratch = tempfile::tempdir().unwrap();
        // If root starts Apache, it serves as another user.
        for directory in [scratch.path(), server.socket().parent().unwrap()] {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let private = scratch.path().join("private");
        let site = site(&server.socket().display().to_string(), &private.display().to_string());
        let port = free_port();
        let command = match kind {
            Kind::Apache => apache(scratch.path(), port, &site),
            Kind::Lighttpd => lighttpd(scratch.path(), port, &site),
        };
        let mut process = Process::start("front-end", scratch.path(), command);
        process.wait_ready(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        let front_end = Self { kind, server, port, private, _scratch: scratch, _process: process };
        fs::create_dir(&front_end.private).unwrap();
        front_end
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Writes a protected file for this path of the site, which only an authorized client gets.
    pub(crate) fn protect(&self, path: &str, text: &str) {
        // Apache's Alias removes the first segment, lighttpd's docroot does not.
        let below = if self.kind == Kind::Apache { path.trim_start_matches("/files/") } else { &path[1..] };
        let file = self.private.join(below);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[track_caller]
    pub(crate) fn curl<const N: usize>(&self, arguments: [&str; N], path: &str) -> Reply {
        Reply::of(&mut self.curl_command(arguments, path))
    }

    pub(crate) fn curl_command<const N: usize>(&self, arguments: [&str; N], path: &str) -> Command {
        curl(arguments, &format!("http://127.0.0.1:{}{path}", self.port))
    }
}

/// Gives Apache's user access to `scratch` and the socket: if root starts Apache, it serves as another user.
pub(crate) fn give_apache_access(scratch: &Path, socket: &Path) {
    for directory in [scratch, &scratch.join("public"), socket.parent().unwrap()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    if is_root() {
        let chgrp = output(Command::new("chgrp").arg("www-data").arg(socket));
        assert!(chgrp.status.success(), "{chgrp:?}");
    }
}

/// Apache on a scratch directory, with the modules that Debian enables and those that the files of `deploy/` need.
pub(crate) fn apache(scratch: &Path, port: u16, site: &str) -> Command {
    let modules = [
        "mpm_event",
        "authn_core",
        "authz_core",
        "authz_user",
        "alias",
        "dir",
        "env",
        "mime",
        "unique_id",
        "authnz_fcgi",
        "proxy",
        "proxy_fcgi",
    ];
    let load = |name: &&str| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n");
    let mut main: String = modules.iter().map(load).collect();
    if is_root() {
        main.push_str("User www-data\nGroup www-data\n");
    }
    let root = scratch.display();
    main.push_str(&format!(
        "ServerRoot \"{root}\"\nServerName localhost\nListen 127.0.0.1:{port}\nPidFile \"{root}/apache.pid\"\n\
         ErrorLog \"|/bin/cat\"\nTypesConfig /etc/mime.types\nDocumentRoot \"{root}\"\nDefaultRuntimeDir \"{root}\"\n\
         <Directory \"{root}\">\n    Require all granted\n</Directory>\nInclude \"{root}/site.conf\"\n"
    ));
    fs::write(scratch.join("apache.conf"), main).unwrap();
    fs::write(scratch.join("site.conf"), site).unwrap();
    let mut command = system_program("apache2");
    command.arg("-f").arg(scratch.join("apache.conf")).arg("-DFOREGROUND");
    command
}

/// lighttpd on a scratch directory.
pub(crate) fn lighttpd(scratch: &Path, port: u16, site: &str) -> Command {
    let root = scratch.display();
    let main = format!(
        "server.bind = \"127.0.0.1\"\nserver.port = {port}\nserver.document-root = \"{root}/public\"\n\
         server.modules = ()\nmimetype.assign = ( \".html\" => \"text/html\", \".css\" => \"text/css\" )\ninclude \"site.conf\"\n"
    );
    fs::write(scratch.join("lighttpd.conf"), main).unwrap();
    fs::write(scratch.join("site.conf"), site).unwrap();
    let mut command = system_program("lighttpd");
    command.arg("-D").arg("-f").arg(scratch.join("lighttpd.conf"));
    command
}
