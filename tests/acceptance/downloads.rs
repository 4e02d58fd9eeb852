//! Downloads of files, sent by the worker or, on its X-Accel-Redirect or X-Sendfile header, by the proxy.

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::front_ends;
use crate::support::wire::{Connection, STDOUT, get};
use crate::support::{Gate, Kind, Process, Proxy, Reply, Server, curl, free_port, is_root, peak_memory};

/// A directory of files to download.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        // Apache reads the files as another user.
        fs::set_permissions(files.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
        files
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        path
    }

    /// nibiru with `--sendfile`, which maps this directory to `prefix`.
    fn server(&self, sendfile: &str, prefix: &str) -> Server {
        let map = format!("{}={prefix}", self.path().display());
        Server::builder().workers("1").arguments(["--sendfile", sendfile, "--sendfile-map", &map]).start()
    }

    /// nibiru and a proxy that sends the files of this directory.
    fn behind(&self, kind: Kind) -> (Server, Proxy) {
        let (sendfile, prefix) =
            if kind == Kind::Nginx { ("x-accel-redirect", "/-/files") } else { ("x-sendfile", "/") };
        let server = self.server(sendfile, prefix);
        let proxy = Proxy::with_edits(kind, &server, |site| self.with_files(kind, &site));
        (server, proxy)
    }

    /// The site's configuration with its commented example of file sending enabled.
    fn with_files(&self, kind: Kind, site: &str) -> String {
        let files = self.path().display().to_string();
        if kind != Kind::Nginx {
            let site = site.replace("\timport nibiru ", "\t# import nibiru ");
            let site = site.replace("\t# import nibiru_with_files ", "\timport nibiru_with_files ");
            return site.replace("/srv/app/files", &files);
        }
        let start = site.find("    # location ^~ /-/files/").expect("the example is in nibiru.conf");
        let end = start + site[start..].find("    # }\n").expect("the example ends") + "    # }\n".len();
        let example = site[start..end].lines().map(|line| line.strip_prefix("    #").unwrap_or(line));
        let example = example.collect::<Vec<_>>().join("\n").replace("/srv/app/files", &files);
        format!("{}{example}\n{}", &site[..start], &site[end..])
    }
}

const KINDS: [Kind; 3] = [Kind::Nginx, Kind::OldCaddy, Kind::NewCaddy];

/// The request target for a download of `path`.
fn url(path: &Path) -> String {
    let encoded: String = path.as_os_str().as_bytes().iter().map(|byte| format!("%{byte:02X}")).collect();
    format!("/download?path={encoded}")
}

fn random_bytes(length: usize) -> Vec<u8> {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

#[test]
fn a_file_is_downloaded_unchanged_from_the_worker_and_from_the_proxy() {
    let files = Files::new();
    let contents = random_bytes(3_000_000);
    let path = files.write("deep/tablet", &contents);
    for kind in KINDS {
        let (server, proxy) = files.behind(kind);
        let direct = server.get(&url(&path));
        assert_eq!(direct.body(), b"", "{kind:?}: the worker sent the file");
        let plain = Server::start();
        for (proxy, by_proxy) in [(&proxy, true), (&Proxy::start(kind, &plain), false)] {
            let reply = proxy.curl([], &url(&path)).expect(200);
            assert!(reply.body == contents, "{kind:?}: the file changed on its way");
            assert_eq!(reply.header("Content-Length"), Some("3000000"), "{kind:?}");
            assert_eq!(reply.header("Content-Type"), Some("application/x-tablet"), "{kind:?}");
            for (name, value) in [
                ("Content-Disposition", "attachment; filename=\"tablet\""),
                ("Cache-Control", "private, max-age=60"),
                ("Expires", "Thu, 01 Jan 2099 00:00:00 GMT"),
                ("Set-Cookie", "a=1"),
                ("Content-Security-Policy", "sandbox"),
            ] {
                assert_eq!(reply.headers(name), [value], "{kind:?}");
            }
            for order in ["X-Accel-Redirect", "X-Sendfile"] {
                assert_eq!(reply.header(order), None, "{kind:?}");
            }
            let head = proxy.curl(["--head"], &url(&path)).expect(200);
            assert_eq!(head.header("Content-Length"), Some("3000000"), "{kind:?}");
            // A range is only answered by a proxy that sends the file itself.
            let range = proxy.curl(["--range", "1000000-1000009"], &url(&path));
            assert_eq!(range.status, if by_proxy { 206 } else { 200 }, "{kind:?}");
            if by_proxy {
                assert_eq!(range.body, contents[1_000_000..1_000_010], "{kind:?}");
                assert_eq!(range.header("Content-Range"), Some("bytes 1000000-1000009/3000000"), "{kind:?}");
                let posted = proxy.curl(["--data", "a=1"], &url(&path)).expect(200);
                assert!(posted.body == contents, "{kind:?}: the file changed after a POST");
            }
        }
    }
}

#[test]
fn file_names_with_special_characters_reach_the_proxy_unchanged() {
    let files = Files::new();
    let names = [
        "a b.txt",
        "h\u{e9}/\u{12097}.txt",
        "100%.txt",
        "a%20b.txt",
        "a?b#c.txt",
        "plus+semi;amp&.txt",
        "line\nbreak.txt",
        "quote\"'\\.txt",
        ".hidden",
        "end ",
        "{env.HOME}",
    ];
    for kind in KINDS {
        let (_server, proxy) = files.behind(kind);
        for name in names {
            let path = files.write(name, format!("this is {name}").as_bytes());
            let reply = proxy.curl([], &url(&path)).expect(200);
            assert_eq!(reply.text(), format!("this is {name}"), "{kind:?}");
        }
    }
}

#[test]
fn a_file_outside_the_mapped_directory_is_sent_by_the_worker() {
    let (files, outside) = (Files::new(), Files::new());
    let inside = files.write("files/a.txt", b"inside");
    let secret = outside.write("secret.txt", b"outside");
    let map = format!("{}/files=/-/files", files.path().display());
    let arguments = ["--sendfile", "x-accel-redirect", "--sendfile-map", &map];
    let server = Server::builder().workers("1").arguments(arguments).start();
    let ask = |path: &Path| server.get(&url(path));
    assert_eq!(ask(&inside).header("X-Accel-Redirect").as_deref(), Some("/-/files/a.txt"));
    let sibling = files.write("files2/b.txt", b"beside");
    let steps = files.path().join("files/../files2/b.txt");
    for (path, contents) in [(&secret, &b"outside"[..]), (&sibling, b"beside"), (&steps, b"beside")] {
        let response = ask(path);
        assert_eq!((response.header("X-Accel-Redirect"), response.body()), (None, contents), "{path:?}");
    }
}

#[test]
fn the_location_of_the_files_is_internal_to_nginx() {
    let files = Files::new();
    let path = files.write("a.txt", b"inside");
    let (_server, proxy) = files.behind(Kind::Nginx);
    assert_eq!(proxy.curl([], &url(&path)).expect(200).text(), "inside");
    for path in ["/-/files/a.txt", "/-/../-/files//a.txt", "/%2D/files/a.txt", "/-/files/"] {
        proxy.curl([], path).expect(404);
    }
}

#[test]
fn a_mapped_directory_may_be_named_by_a_symbolic_link() {
    let files = Files::new();
    let path = files.write("real/files/a.txt", b"linked");
    symlink(files.path().join("real"), files.path().join("current")).unwrap();
    let map = format!("{}/current/files=/-/files", files.path().display());
    let arguments = ["--sendfile", "x-accel-redirect", "--sendfile-map", &map];
    let server = Server::builder().workers("1").arguments(arguments).start();
    for path in [path, files.path().join("current/files/a.txt")] {
        let response = server.get(&url(&path));
        assert_eq!(response.header("X-Accel-Redirect").as_deref(), Some("/-/files/a.txt"), "{path:?}");
    }
}

#[test]
fn a_missing_file_is_answered_by_the_application() {
    let files = Files::new();
    for kind in KINDS {
        let (_server, proxy) = files.behind(kind);
        let reply = proxy.curl([], &url(&files.path().join("none"))).expect(404);
        assert!(reply.text().ends_with("/none: No such file or directory\n"), "{kind:?}: {reply:?}");
        fs::create_dir_all(files.path().join("directory")).unwrap();
        let reply = proxy.curl([], &url(&files.path().join("directory"))).expect(404);
        assert!(reply.text().ends_with("Is a directory\n"), "{kind:?}: {reply:?}");
    }
}

#[test]
fn status_and_content_encoding_of_the_application_are_kept() {
    let files = Files::new();
    let path = files.write("page", b"nothing here");
    for kind in KINDS {
        let (_server, proxy) = files.behind(kind);
        let reply = proxy.curl([], &format!("{}&status=410", url(&path))).expect(410);
        assert_eq!(reply.text(), "nothing here", "{kind:?}");
        let reply = proxy.curl([], &format!("{}&encoding=br", url(&path))).expect(200);
        assert_eq!((reply.text().as_str(), reply.header("Content-Encoding")), ("nothing here", Some("br")));
    }
}

#[test]
fn a_file_that_shrinks_during_the_download_breaks_the_transfer() {
    let server = Server::start();
    for proxy in Proxy::main_kinds(&server) {
        let gate = Gate::new();
        let mut curl = proxy.curl_command([], &gate.url("/shrink")).spawn().unwrap();
        let (mut output, mut seen) = (curl.stdout.take().unwrap(), vec![0; 10_000]);
        output.read_exact(&mut seen).unwrap();
        gate.open("go");
        output.read_to_end(&mut seen).unwrap();
        let mut end = curl.wait_with_output().unwrap();
        end.stdout = seen;
        let reply = Reply::from_curl(end);
        assert_ne!(reply.exit, 0, "{:?} passed a short file as whole: {reply:?}", proxy.kind);
        assert_eq!(reply.header("Content-Length"), Some("20000"), "{:?}", proxy.kind);
    }
    server.logged(&["the body ended after", "but its Content-Length is 20000"]);
}

#[test]
fn a_download_of_200_mib_does_not_grow_the_worker() {
    const LENGTH: u64 = 200 << 20;
    // The most growth, in KiB: blocks that Lua's garbage collector has not freed yet.
    const MORE: u64 = 16 << 10;
    let files = Files::new();
    let path = files.write("large", b"");
    fs::File::options().write(true).open(&path).unwrap().set_len(LENGTH).unwrap();
    let server = Server::builder().workers("1").start();
    let worker = *server.workers(1).first().unwrap();
    let mut connection = Connection::open(&server.socket());
    connection.get("/hello");
    let before = peak_memory(worker);
    connection.send(&get(1, &url(&path), true));
    let mut received = 0;
    while let Some(record) = connection.record() {
        if record.kind != STDOUT {
            break;
        }
        received += record.content.len() as u64;
    }
    assert!(received > LENGTH, "{received} bytes");
    let after = peak_memory(worker);
    assert!(after < before + MORE, "from {before} to {after} KiB");
}

#[test]
fn proxy_control_headers_of_the_application_are_removed_and_logged_once() {
    let files = Files::new();
    files.write("a.txt", b"the proxy's");
    let (server, proxy) = files.behind(Kind::Nginx);
    for _ in 0..3 {
        let reply = proxy.curl([], "/order?X-Accel-Redirect=/-/files/a.txt&X-Other=1").expect(200);
        assert_eq!((reply.text().as_str(), reply.header("X-Other")), ("the application's own\n", Some("1")));
    }
    let line = server.logged(&["X-Accel-Redirect"]);
    assert!(line.contains("WARN") && line.contains("--proxy-headers"), "{line}");
    assert_eq!(server.log().matches("is left out").count(), 1, "{}", server.log());
    // X-Accel-Buffering is allowed: it affects only its own response.
    proxy.curl([], "/order?X-Accel-Buffering=no").expect(200);
    let direct = server.get("/order?X-Accel-Buffering=no");
    assert_eq!(direct.header("X-Accel-Buffering").as_deref(), Some("no"));
}

/// lighttpd acts on more header names than its documentation puts first, and it can read files that are not meant for
/// clients.
#[test]
fn no_sendfile_header_of_lighttpd_in_any_spelling_passes() {
    let files = Files::new();
    let secret = files.write("secret", b"the proxy's");
    let scratch = tempfile::tempdir().unwrap();
    let port = free_port();
    let lighttpd = |server: &Server| {
        // lighttpd may send any file.
        let command = lighttpd(scratch.path(), &server.socket(), Path::new("/"), port);
        let mut process = Process::start("lighttpd", scratch.path(), command);
        process.wait_ready(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        process
    };
    let ask = |order: &str| {
        let mut command = curl(["--request", "GET"], &format!("http://127.0.0.1:{port}/order?{order}"));
        Reply::of(&mut command).expect(200).text()
    };
    let secret = secret.display();
    let orders = [
        ("X-Sendfile", format!("X-Sendfile={secret}")),
        ("X-SENDFILE2", format!("X-SENDFILE2={secret} 0-10")),
        ("X-LIGHTTPD-send-file", format!("X-LIGHTTPD-send-file={secret}")),
    ];
    let server = Server::start();
    let process = lighttpd(&server);
    for (name, order) in &orders {
        assert_eq!(ask(&order.replace(' ', "%20")), "the application's own\n", "{name}");
        server.logged(&[&format!("header {name} is left out")]);
    }
    drop(process);
    // With the headers allowed, lighttpd does send the file.
    let names = orders.each_ref().map(|(name, _)| *name).join(",");
    let server = Server::builder().arguments(["--proxy-headers", &names]).start();
    let _process = lighttpd(&server);
    for (name, order) in &orders {
        assert_eq!(ask(&order.replace(' ', "%20")), "the proxy's", "{name}");
    }
}

#[test]
fn proxy_control_headers_pass_with_proxy_headers() {
    let files = Files::new();
    files.write("a.txt", b"the proxy's");
    let server = Server::builder().arguments(["--proxy-headers", "X-Accel-Redirect"]).start();
    let proxy = Proxy::with_edits(Kind::Nginx, &server, |site| files.with_files(Kind::Nginx, &site));
    let reply = proxy.curl([], "/order?X-Accel-Redirect=/-/files/a.txt").expect(200);
    assert_eq!(reply.text(), "the proxy's");
    let direct = server.get("/order?X-Sendfile=/etc/passwd");
    assert_eq!(direct.header("X-Sendfile"), None);
}

#[test]
fn a_worker_that_sends_a_forged_proxy_control_header_is_502_and_replaced() {
    let files = Files::new();
    let server = files.server("x-accel-redirect", "/-/files");
    let worker = server.workers(1);
    let mut connection = Connection::open(&server.socket());
    let mut ask = |value: &str| {
        // A worker that has answered a request does not count as failing from its start.
        assert_eq!(connection.get("/hello").status(), 200);
        connection.get(&format!("/order?X-Accel-Redirect={value}&stubborn=1"))
    };
    // A path that `file_wrapper` could produce is allowed.
    let response = ask("/-/files/any");
    assert_eq!(response.header("X-Accel-Redirect").as_deref(), Some("/-/files/any"));
    for value in ["/etc/passwd", "/-/files/../etc/passwd", "/-/files/%2e%2e/etc/passwd", "/-/files2/a"] {
        let response = ask(value);
        assert_eq!((response.status(), response.header("X-Accel-Redirect")), (502, None), "{value}");
    }
    server.logged(&["orders for the proxy"]);
    assert!(server.workers(1).is_disjoint(&worker));
}

#[test]
fn lighttpd_and_apache_send_files() {
    let files = Files::new();
    let contents = random_bytes(300_000);
    let map = format!("{0}={0}", files.path().display());
    // Both switch to www-data when root starts them.
    let server = Server::builder().arguments(["--sendfile", "x-sendfile", "--sendfile-map", &map]);
    let server =
        if is_root() { server.arguments(["--socket-owner", ":www-data"]).start() } else { server.start() };
    let scratch = server.socket().parent().unwrap().to_owned();
    fs::set_permissions(&scratch, fs::Permissions::from_mode(0o755)).unwrap();
    for (name, command) in
        [("lighttpd", lighttpd as fn(&Path, &Path, &Path, u16) -> Command), ("apache", apache)]
    {
        let port = free_port();
        let command = command(&scratch, &server.socket(), files.path(), port);
        let mut process = Process::start(name, &scratch, command);
        process.wait_ready(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        for file in ["tablet", "a b.txt", "h\u{e9}.txt", "100%.txt", "a%20b.txt", "a?b#c.txt", "a+b;c&d"] {
            let path = files.write(file, &contents);
            let ask = |arguments: [&str; 2]| {
                let mut command = curl(arguments, &format!("http://127.0.0.1:{port}{}", url(&path)));
                Reply::of(&mut command)
            };
            let reply = ask(["--request", "GET"]).expect(200);
            assert!(reply.body == contents, "{name}: {file} changed on its way");
            assert_eq!(reply.header("Content-Type"), Some("application/x-tablet"), "{name}");
            assert_eq!(reply.header("X-Own"), Some("stays"), "{name}");
            assert_eq!(reply.header("X-Sendfile"), None, "{name}");
            if file == "tablet" {
                let range = ask(["--range", "1000-1009"]).expect(206);
                assert_eq!(range.body, contents[1000..1010], "{name}");
            }
        }
    }
}

fn lighttpd(scratch: &Path, socket: &Path, files: &Path, port: u16) -> Command {
    let site = format!(
        r#"
server.modules += ( "mod_fastcgi" )
fastcgi.server = ( "/" => ((
    "socket"              => "{socket}",
    "check-local"         => "disable",
    "fix-root-scriptname" => "enable",
    "x-sendfile"          => "enable",
    "x-sendfile-docroot"  => ( "{files}" )
)))
"#,
        socket = socket.display(),
        files = files.display(),
    );
    front_ends::lighttpd(scratch, port, &site)
}

fn apache(scratch: &Path, socket: &Path, files: &Path, port: u16) -> Command {
    let site = format!(
        r#"
LoadModule xsendfile_module /usr/lib/apache2/modules/mod_xsendfile.so
ProxyPass    "/" "unix:{socket}|fcgi://localhost/"
ProxyFCGISetEnvIf "true" SCRIPT_NAME ""
ProxyFCGISetEnvIf "true" PATH_INFO "%{{REQUEST_URI}}"
XSendFile     on
XSendFilePath {files}
"#,
        socket = socket.display(),
        files = files.display(),
    );
    front_ends::apache(scratch, port, &site)
}
