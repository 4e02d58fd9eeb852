//! Bodies in files that nginx has written (`--body-file-param`): nibiru opens them, copies nothing, and takes no other file.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::wire::{self, Connection, PARAMS, RESPONDER, STDIN, begin, record, stream};
use crate::support::{App, Gate, Kind, Need, Proxy, Server, ServerBuilder, lacks, nibiru, output, wait_for};

/// An application that copies its body to the file `copy` of the directory in its query. It announces the path of the
/// proxy's file. At `/wait` it waits until it may go on, at `/keep` it renames the proxy's file to `kept`.
const COPIES: &str = r#"
local gate = dofile(os.getenv("GATE"))

return { application = function(environ)
  local directory = gate.directory(environ)
  gate.announce(directory, "begun", environ.REQUEST_BODY_FILE or "none")
  if environ.PATH_INFO == "/wait" then
    gate.wait(directory, "go")
  end
  if environ.PATH_INFO == "/keep" then
    assert(os.rename(environ.REQUEST_BODY_FILE, directory .. "/kept"))
  end
  local input, length = environ["wsgi.input"], 0
  local copy = assert(io.open(directory .. "/copy", "wb"))
  for piece in function() return input:read(65536) end do
    copy:write(piece)
    length = length + #piece
  end
  copy:close()
  return 200, {}, { string.format("%d %s", length, environ.CONTENT_LENGTH) }
end }
"#;

/// A directory of the proxy's, and an application.
struct Uploads {
    scratch: TempDir,
    app: App,
    gate: Gate,
}

impl Uploads {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("body")).unwrap();
        Self { scratch, app: App::new(COPIES), gate: Gate::new() }
    }

    fn directory(&self) -> PathBuf {
        self.scratch.path().join("body")
    }

    /// The path of a name in the directory, which may be none of a file there.
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory().display())
    }

    fn write(&self, name: &str, contents: &[u8]) -> String {
        fs::write(self.path(name), contents).unwrap();
        self.path(name)
    }

    fn builder(&self) -> ServerBuilder {
        let directory = self.directory().display().to_string();
        Server::builder()
            .application(self.app.root(), "app")
            .environment("GATE", crate::support::repository("tests/apps/gate.lua"))
            .arguments(["--body-file-param", "REQUEST_BODY_FILE", "--body-file-dir", &directory])
    }

    fn copy(&self) -> Vec<u8> {
        fs::read(self.gate.directory().join("copy")).unwrap()
    }

    /// nginx with the commented lines of its site in force, and this directory for its files. `edit` changes them further.
    fn nginx(&self, server: &Server, edit: impl Fn(String) -> String) -> Proxy {
        let directory = self.directory().display().to_string();
        Proxy::with_edits(Kind::Nginx, server, |site| {
            let start =
                site.find("        # client_body_in_file_only").expect("the lines are in nibiru.conf");
            let end = start + site[start..].find("    }\n").unwrap();
            let lines = site[start..end].replace("        # ", "        ");
            let lines = format!("        client_body_temp_path {directory};\n{lines}");
            edit(format!("{}{lines}{}", &site[..start], &site[end..]))
        })
    }
}

/// A POST whose body is in the file at `path`: its head, and the end of STDIN.
fn post(url: &str, length: Option<u64>, path: &str) -> Vec<u8> {
    let mut params = wire::params("POST", url);
    if let Some(length) = length {
        params.extend(wire::pair(b"CONTENT_LENGTH", length.to_string().as_bytes()));
    }
    params.extend(wire::pair(b"REQUEST_BODY_FILE", path.as_bytes()));
    [begin(1, RESPONDER, true), stream(PARAMS, 1, &params), record(STDIN, 1, b"")].concat()
}

fn random_bytes(length: usize) -> Vec<u8> {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

#[test]
fn a_large_upload_through_nginx_is_whole_while_the_spool_holds_nothing() {
    let uploads = Uploads::new();
    // Neither the spool nor memory could have it.
    let limits = ["--max-spool", "128K", "--buffer-memory", "1M"];
    let server = uploads.builder().workers("1").arguments(limits).start();
    let nginx = uploads.nginx(&server, |site| site);
    let body = random_bytes(30_000_000);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &body).unwrap();
    let data = format!("@{}", file.path().display());
    let url = uploads.gate.url("/wait");
    let upload = || nginx.curl_command(["--data-binary", &data], &url).spawn().unwrap();
    let mut first = upload();
    let of_nginx = uploads.gate.announced("begun");
    assert!(of_nginx.starts_with(&uploads.path("")), "{of_nginx}");
    assert_eq!(fs::metadata(&of_nginx).unwrap().len(), 30_000_000);
    let spool = || {
        let status = server.status();
        (status["spool"]["bytes"].as_u64().unwrap(), status["spool"]["files"].as_u64().unwrap())
    };
    assert_eq!(spool(), (0, 1), "a descriptor, and no byte");
    // A second upload waits for the worker.
    let mut second = upload();
    wait_for("it is in the queue", || (server.status()["queue"]["length"] == 1).then_some(()));
    assert_eq!(spool(), (0, 2));
    uploads.gate.open("go");
    for curl in [&mut first, &mut second] {
        assert!(curl.wait().unwrap().success());
    }
    assert!(uploads.copy() == body, "the upload changed on its way");
    wait_for("nginx removes its files", || {
        fs::read_dir(uploads.directory()).unwrap().next().is_none().then_some(())
    });
    assert_eq!(spool(), (0, 0));
    // Bodies of other forms, and none.
    for (arguments, length) in [
        (&["--data", "small"][..], "5 5"),
        (&["--data-binary", &data, "--header", "Transfer-Encoding: chunked"], "30000000 30000000"),
        (&["--data", ""], "0 0"),
        (&[], "0 nil"),
    ] {
        let mut command = nginx.curl_command([], &uploads.gate.url("/"));
        let reply = crate::support::Reply::of(command.args(arguments));
        assert_eq!((reply.status, reply.text()), (200, length.to_owned()), "{arguments:?}");
    }
}

#[test]
fn an_application_may_keep_nginxs_file() {
    let uploads = Uploads::new();
    let server = uploads.builder().start();
    let nginx = uploads.nginx(&server, |site| site);
    let reply = nginx.curl(["--data", "to be kept"], &uploads.gate.url("/keep"));
    assert_eq!((reply.status, reply.text()), (200, "10 10".to_owned()));
    assert_eq!(uploads.copy(), b"to be kept");
    assert_eq!(fs::read(uploads.gate.directory().join("kept")).unwrap(), b"to be kept");
    assert_eq!(fs::read_dir(uploads.directory()).unwrap().count(), 0);
}

#[test]
fn without_the_parameter_or_with_an_empty_one_a_body_comes_in_stdin() {
    let uploads = Uploads::new();
    let server = uploads.builder().start();
    let body = random_bytes(200_000);
    let mut connection = Connection::open(&server.socket());
    let url = uploads.gate.url("/");
    connection.send(&wire::post(1, &url, &body, true));
    assert_eq!(connection.response(1).unwrap().text(), "200000 200000");
    assert!(uploads.copy() == body);
    let empty = post(&url, Some(5), "");
    let end = record(STDIN, 1, b"");
    connection.send(&[&empty[..empty.len() - end.len()], &record(STDIN, 1, b"hello"), &end].concat());
    assert_eq!(connection.response(1).unwrap().text(), "5 5");
    assert_eq!(uploads.copy(), b"hello");
    // Without the option, the parameter is the application's alone.
    let plain = Server::builder()
        .application(uploads.app.root(), "app")
        .environment("GATE", crate::support::repository("tests/apps/gate.lua"))
        .start();
    let path = uploads.write("file", b"12345");
    let mut connection = Connection::open(&plain.socket());
    connection.send(&post(&url, Some(5), &path));
    assert_eq!(connection.response(1).unwrap().text(), "0 0");
}

/// Every refusal comes through nginx, which sends the path from the query.
#[test]
fn every_other_file_is_refused_by_name() {
    let uploads = Uploads::new();
    let server = uploads.builder().arguments(["--max-body", "1M"]).start();
    let nginx = uploads.nginx(&server, |site| site.replace("$request_body_file", "$arg_file"));
    let outside = uploads.scratch.path().join("outside");
    fs::write(&outside, "12345").unwrap();
    uploads.write("file", b"12345");
    uploads.write("short", b"1234");
    fs::create_dir(uploads.path("directory")).unwrap();
    symlink(uploads.path("file"), uploads.path("link")).unwrap();
    symlink(uploads.path("directory"), uploads.path("linked")).unwrap();
    uploads.write("directory/file", b"12345");
    assert!(output(Command::new("mkfifo").arg(uploads.path("pipe"))).status.success());
    let _socket = UnixListener::bind(uploads.path("socket")).unwrap();
    let refusals = [
        (uploads.path("none"), 500, "the body's file does not exist"),
        (uploads.path("file/x"), 500, "the body's file does not exist"),
        (outside.display().to_string(), 500, "the body's file is not below --body-file-dir"),
        ("/etc/passwd".to_owned(), 500, "the body's file is not below --body-file-dir"),
        (uploads.path("../outside"), 500, "the body's file is not below --body-file-dir"),
        (uploads.path("directory/../file"), 500, "the body's file is not below --body-file-dir"),
        ("file".to_owned(), 500, "the body's file is not below --body-file-dir"),
        (uploads.path(""), 500, "the body's file is not below --body-file-dir"),
        (uploads.path("link"), 500, "the path of the body's file has a symbolic link"),
        (uploads.path("linked/file"), 500, "the path of the body's file has a symbolic link"),
        (uploads.path("pipe"), 500, "the body's file is a named pipe"),
        (uploads.path("directory"), 500, "the body's file is a directory"),
        (uploads.path("socket"), 500, "the body's file is a socket or a device"),
        (uploads.path("short"), 400, "the body's file has 4 bytes, CONTENT_LENGTH is 5"),
    ];
    for (path, status, message) in &refusals {
        for _ in 0..2 {
            let reply = nginx.curl(["--data", "hello"], &format!("/?file={path}"));
            assert_eq!(reply.status, *status, "{path}: {reply:?}");
            assert!(reply.text().contains(message) && !reply.text().contains("/body/"), "{path}: {reply:?}");
        }
    }
    server.logged(&[
        "INFO",
        "request refused: the body's file does not exist (--body-file-param)",
        "status=500",
    ]);
    assert_eq!(server.status()["requests"]["refused"]["body_file"], 2 * refusals.len());
    let advice = |message: &str| format!("not taken as a body (--body-file-param): {message}");
    for (_, _, message) in &refusals {
        // One of the three that are no regular files speaks for all.
        if !message.contains("the body's file is a ") || message.contains("named pipe") {
            server.logged_between(&advice(message), 1..2);
        }
    }
    server.logged(&["WARN", &advice("the body's file does not exist"), &uploads.path("none")]);
    // A file in a directory beneath is none of these.
    let reply = nginx.curl(
        ["--data", "hello"],
        &format!("{}&file={}", uploads.gate.url("/"), uploads.path("directory/file")),
    );
    assert_eq!((reply.status, reply.text()), (200, "5 5".to_owned()));
    // 413 is not the proxy's fault.
    uploads.write("large", &vec![0; (1 << 20) + 1]);
    let mut connection = Connection::open(&server.socket());
    for length in [Some((1 << 20) + 1), None] {
        connection.send(&post("/", length, &uploads.path("large")));
        let response = connection.response(1).unwrap();
        assert_eq!(response.status(), 413);
        assert!(
            response.text().contains("the body has 1048577 bytes, --max-body is 1048576"),
            "{response:?}"
        );
    }
    // Without CONTENT_LENGTH the file's own length counts.
    connection.send(&post(&uploads.gate.url("/"), None, &uploads.path("file")));
    assert_eq!(connection.response(1).unwrap().text(), "5 5");
    assert_eq!(server.status()["spool"]["files"], 0);
}

#[test]
fn a_body_that_nginx_sends_as_well_is_refused_by_name() {
    let uploads = Uploads::new();
    let server = uploads.builder().start();
    let nginx = uploads.nginx(&server, |site| site.replace("fastcgi_pass_request_body off;", ""));
    for length in [5, 500_000] {
        let data = "x".repeat(length);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), data).unwrap();
        let data = format!("@{}", file.path().display());
        let reply = nginx.curl(["--data-binary", &data], &uploads.gate.url("/"));
        assert_eq!(reply.status, 500, "{reply:?}");
        assert!(reply.text().contains("the body came in STDIN as well as in a file"), "{reply:?}");
    }
    server.logged(&["WARN", "(--body-file-param)", "fastcgi_pass_request_body off", &uploads.path("")]);
    assert_eq!(server.status()["spool"]["files"], 0);
}

#[test]
fn a_file_of_another_user_is_taken_only_from_the_user_himself_on_the_unix_socket() {
    if lacks(Need::Root) {
        return;
    }
    const NGINX: u32 = 65_534;
    let uploads = Uploads::new();
    let port = crate::support::free_port();
    let tcp = format!("tcp:127.0.0.1:{port}");
    let server = uploads.builder().arguments(["--listen", &tcp, "--socket-owner", "65534"]).start();
    let path = uploads.write("file", b"12345");
    chown(&path, Some(NGINX), None).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().uid(), NGINX);
    // Root has connected.
    let url = uploads.gate.url("/");
    let mut connection = Connection::open(&server.socket());
    connection.send(&post(&url, Some(5), &path));
    let response = connection.response(1).unwrap();
    assert_eq!(response.status(), 500);
    assert!(response.text().contains("the body's file belongs to another user"), "{response:?}");
    server.logged(&["WARN", "belongs to another user; its owner is user 65534"]);
    // The owner has connected, as nginx's own user does.
    let asked = |address: &str| {
        let script = "import encodings.idna, os, socket, sys\n\
                      os.setgroups([]); os.setgid(65534); os.setuid(65534)\n\
                      at = sys.argv[1]\n\
                      if at.startswith('/'):\n\
                      \x20   s = socket.socket(socket.AF_UNIX); s.connect(at)\n\
                      else:\n\
                      \x20   s = socket.create_connection(('127.0.0.1', int(at)))\n\
                      s.sendall(bytes.fromhex(sys.argv[2]))\n\
                      out = b''\n\
                      while True:\n\
                      \x20   piece = s.recv(65536)\n\
                      \x20   if not piece: break\n\
                      \x20   out += piece\n\
                      print(out)\n";
        let mut bytes = post(&url, Some(5), &path);
        // Without keep-alive.
        bytes[10] = 0;
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let said = output(Command::new("python3").args(["-c", script, address, &hex]));
        format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr))
    };
    fs::set_permissions(server.socket().parent().unwrap(), fs::Permissions::from_mode(0o711)).unwrap();
    let said = asked(&server.socket().display().to_string());
    assert!(said.contains("Status: 200") && said.contains("5 5"), "{said}");
    assert_eq!(uploads.copy(), b"12345");
    let said = asked(&port.to_string());
    assert!(said.contains("Status: 500") && said.contains("belongs to another user"), "{said}");
}

#[test]
fn a_file_that_nibiru_may_not_read_is_refused_and_a_directory_that_it_may_not_search_ends_the_start() {
    if lacks(Need::Root) {
        return;
    }
    let uploads = Uploads::new();
    let path = uploads.write("file", b"12345");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for directory in [uploads.scratch.path().to_owned(), uploads.directory(), uploads.app.root()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let server = uploads.builder().by_ordinary_user().start();
    let mut connection = Connection::open(&server.socket());
    connection.send(&post("/", Some(5), &path));
    let response = connection.response(1).unwrap();
    assert_eq!(response.status(), 500);
    assert!(response.text().contains("the body's file cannot be opened: permission denied"), "{response:?}");
    server.logged(&["WARN", "run nibiru as that user", &path]);
    drop(server);
    fs::set_permissions(uploads.directory(), fs::Permissions::from_mode(0o700)).unwrap();
    let mut check = Command::new("setpriv");
    check.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(nibiru().get_program());
    check.arg("check").current_dir("/").arg("--root").arg(uploads.app.root());
    check
        .args(["--body-file-param", "A", "--control", "off"])
        .arg("--body-file-dir")
        .arg(uploads.directory());
    let said = output(&mut check);
    let said = (said.status.code(), String::from_utf8_lossy(&said.stderr).into_owned());
    let cause = "no file can be opened there: permission denied";
    assert_eq!(
        said,
        (Some(2), format!("nibiru: --body-file-dir {}: {cause}\n", uploads.directory().display()))
    );
}

#[test]
fn a_reload_opens_the_directory_anew_and_turns_the_option_on_and_off() {
    let uploads = Uploads::new();
    let file = uploads.app.root().join("nibiru.toml");
    let settings = |directory: &Path| {
        let directory = directory.display();
        format!("body-file-param = 'REQUEST_BODY_FILE'\nbody-file-dir = '{directory}'\n")
    };
    fs::write(&file, "").unwrap();
    let config = file.display().to_string();
    let server = Server::builder()
        .application(uploads.app.root(), "app")
        .environment("GATE", crate::support::repository("tests/apps/gate.lua"))
        .arguments(["--config", &config])
        .start();
    let mut connection = Connection::open(&server.socket());
    let url = uploads.gate.url("/");
    let mut ask = |path: &str| {
        connection.send(&post(&url, Some(5), path));
        let response = connection.response(1).unwrap();
        (response.status(), response.text())
    };
    let reload = || output(&mut server.command(&["reload"]));
    let path = uploads.write("file", b"12345");
    assert_eq!(ask(&path), (200, "0 0".to_owned()));
    // A link to the directory: the proxy may know it by either path.
    let link = uploads.scratch.path().join("link");
    symlink(uploads.directory(), &link).unwrap();
    fs::write(&file, settings(&link)).unwrap();
    assert!(reload().status.success());
    for path in [&path, &link.join("file").display().to_string()] {
        assert_eq!(ask(path), (200, "5 5".to_owned()));
    }
    // The directory that was opened counts until a reload, whatever has its name.
    let moved = uploads.scratch.path().join("moved");
    fs::rename(uploads.directory(), &moved).unwrap();
    assert_eq!(ask(&path).0, 200);
    let failed = reload();
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && said.contains("body-file-dir"), "{said}");
    fs::create_dir(uploads.directory()).unwrap();
    assert_eq!(ask(&path).0, 200);
    assert!(reload().status.success());
    assert_eq!(ask(&path).0, 500);
    fs::write(&file, "").unwrap();
    assert!(reload().status.success());
    assert_eq!(ask(&path), (200, "0 0".to_owned()));
}

#[test]
fn names_that_a_client_could_write_are_refused_at_the_start() {
    let uploads = Uploads::new();
    for (name, cause) in [
        ("HTTP_X_FILE", "a client's header, so that every client could name a file"),
        ("CONTENT_LENGTH", "it has a meaning of its own"),
        ("PATH_INFO", "it has a meaning of its own"),
    ] {
        let mut check = nibiru();
        check.arg("check").arg("--root").arg(uploads.app.root()).args(["--body-file-param", name]);
        let said = output(check.arg("--body-file-dir").arg(uploads.directory()));
        assert_eq!(said.status.code(), Some(2));
        let said = String::from_utf8_lossy(&said.stderr);
        assert!(said.contains("--body-file-param") && said.contains(cause), "{said}");
    }
}
