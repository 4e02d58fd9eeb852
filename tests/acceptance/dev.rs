//! `nibiru dev`: HTTP, reload on change, the error page.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::http::Http;
use crate::support::{Gate, Process, Reply, curl, nibiru, output, repository, says, signal, wait_for};

/// The Accept header of a browser.
const BROWSER: &str = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// A running `nibiru dev` on a port that the kernel chose.
struct Dev {
    process: Process,
    address: String,
    /// The server's TMPDIR, in which it makes its private directory. Its log is here, too.
    scratch: TempDir,
}

impl Dev {
    #[track_caller]
    fn start(root: &Path, application: &str) -> Self {
        Self::with([], root, application)
    }

    #[track_caller]
    fn with<const N: usize>(arguments: [&str; N], root: &Path, application: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nibiru"));
        command
            .args(["dev", "--http", "127.0.0.1:0"])
            .args(arguments)
            .arg("--root")
            .arg(root)
            .arg(application);
        command.env("TMPDIR", scratch.path());
        let mut process = Process::start("nibiru", scratch.path(), command);
        let log = scratch.path().join("nibiru.log");
        let mut address = String::new();
        process.wait_ready(|| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            let said = log.split_once("http://").and_then(|(_, rest)| rest.split_once('/'));
            address = said.map(|(address, _)| address.to_owned()).unwrap_or_default();
            !address.is_empty()
        });
        Self { process, address, scratch }
    }

    /// `nibiru dev` with the application of most acceptance tests.
    fn site() -> Self {
        Self::start(&repository("tests/apps"), "site:application")
    }

    fn curl_command<const N: usize>(&self, arguments: [&str; N], path: &str) -> Command {
        curl(arguments, &format!("http://{}{path}", self.address))
    }

    #[track_caller]
    fn curl<const N: usize>(&self, arguments: [&str; N], path: &str) -> Reply {
        Reply::of(&mut self.curl_command(arguments, path))
    }

    /// Starts a curl and reads the head of the response; the body is left to the caller.
    #[track_caller]
    fn begin(&self, path: &str) -> (Child, BufReader<std::process::ChildStdout>) {
        let mut curl = self.curl_command([], path).spawn().unwrap();
        let mut output = BufReader::new(curl.stdout.take().unwrap());
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "no head: {}", self.process.log());
        }
        (curl, output)
    }
}

/// An application of several files, in a scratch directory, which the test edits.
struct App(TempDir);

impl App {
    fn new(source: &str) -> Self {
        let app = Self(tempfile::tempdir().unwrap());
        app.write("app.lua", source);
        app
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn dev(&self) -> Dev {
        Dev::start(&self.path(), "app")
    }
}

#[test]
fn a_request_is_served_and_logged() {
    let dev = Dev::site();
    let reply = dev.curl([], "/hello?x=1").expect(200);
    assert_eq!(reply.text(), "Hello, World!\n");
    wait_for("the log names the request", || {
        dev.process.log().contains("GET /hello?x=1 200 in ").then_some(())
    });
    let log = dev.process.log();
    assert!(log.trim_start().lines().next().unwrap().contains("http://127.0.0.1:"), "{log}");
}

#[test]
fn the_environ_is_the_same_as_behind_nginx() {
    let app = App::new(
        "return function(environ) local names = {}\n\
         for name, value in pairs(environ) do\n\
         if type(value) == 'string' then names[#names + 1] = name .. '=' .. value .. ';' end end\n\
         return 200, {}, names end\n",
    );
    let dev = app.dev();
    let reply = dev.curl(
        [
            "-HX-Two: a",
            "-HX-Two: b",
            "-HX_Two: c",
            "-HProxy: evil",
            "-HCookie: d=1",
            "-HCookie: e=2",
            "--data",
            "f=g",
        ],
        "/a//%C3%A9%3f/./x?q=%20",
    );
    let text = reply.expect(200).text();
    for variable in [
        "PATH_INFO=/a/é?/x;",
        "REQUEST_URI=/a//%C3%A9%3f/./x?q=%20;",
        "QUERY_STRING=q=%20;",
        "SCRIPT_NAME=;",
        "REQUEST_METHOD=POST;",
        "SERVER_PROTOCOL=HTTP/1.1;",
        "SERVER_NAME=127.0.0.1;",
        "REMOTE_ADDR=127.0.0.1;",
        "CONTENT_LENGTH=3;",
        "CONTENT_TYPE=application/x-www-form-urlencoded;",
        "HTTP_X_TWO=a, b;",
        "HTTP_COOKIE=d=1; e=2;",
        "wsgi.url_scheme=http;",
    ] {
        assert!(text.contains(variable), "no {variable} in {text}");
    }
    assert!(!text.contains("evil") && !text.contains("HTTP_CONTENT"), "{text}");
    assert_eq!(dev.curl([], "/../x").status, 400);
}

#[test]
fn the_first_request_after_a_save_runs_the_new_code() {
    let app = App::new(&says("version 0"));
    app.write("lib/part.lua", &says("unused"));
    let dev = app.dev();
    for version in 1..=20 {
        let text = format!("version {version}");
        // The connection is opened before the save, so that the request follows it at once: curl would take longer to
        // start than the kernel to report the change.
        let mut connection = Http::from(TcpStream::connect(&dev.address).unwrap());
        app.write("app.lua", &says(&text));
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let reply = connection.response(false).expect("a response");
        assert!(reply.whole && reply.body == text.as_bytes(), "{text}: {reply:?}");
    }
    app.write("app.lua", "return require('lib.part')\n");
    assert_eq!(dev.curl([], "/").expect(200).text(), "unused");
    app.write("lib/part.lua", &says("used"));
    assert_eq!(dev.curl([], "/").expect(200).text(), "used");
    wait_for("the log names the file", || dev.process.log().contains("changed: lib/part.lua").then_some(()));
}

#[test]
fn a_module_in_a_new_directory_is_reloaded_on_change() {
    let app = App::new(&says("before"));
    let dev = app.dev();
    dev.curl([], "/").expect(200);
    app.write("new/deep/part.lua", &says("first"));
    app.write("app.lua", "return require('new.deep.part')\n");
    assert_eq!(dev.curl([], "/").expect(200).text(), "first");
    app.write("new/deep/part.lua", &says("second"));
    assert_eq!(dev.curl([], "/").expect(200).text(), "second");
}

#[test]
fn a_change_of_a_file_that_is_not_code_reloads_nothing() {
    let app = App::new(&says("same"));
    let dev = app.dev();
    for file in ["notes.txt", ".git/hook.lua", ".app.lua.swp"] {
        app.write(file, "x");
    }
    assert_eq!(dev.curl([], "/").expect(200).text(), "same");
    assert!(!dev.process.log().contains("reloading"), "{}", dev.process.log());
}

#[test]
fn a_syntax_error_is_a_page_with_file_and_line_until_it_is_fixed() {
    let app = App::new("return require('lib.part')\n");
    app.write("lib/part.lua", &says("fine"));
    let dev = app.dev();
    dev.curl([], "/").expect(200);
    app.write("lib/part.lua", "local M = {}\n\nfunction M.f(\n\nreturn M <&>\n");
    let reply = dev.curl(["-H", BROWSER], "/").expect(500);
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    let page = reply.text();
    for part in
        ["does not load", "lib/part.lua<span>:5<", "<span class=\"fault\"><i>5</i>return M &lt;&amp;&gt;"]
    {
        assert!(page.contains(part), "no {part} in {page}");
    }
    app.write("lib/part.lua", &says("mended"));
    assert_eq!(dev.curl([], "/").expect(200).text(), "mended");
}

#[test]
fn an_application_that_does_not_load_at_the_start_serves_once_it_is_fixed() {
    let app = App::new("error('no configuration')\n");
    let dev = app.dev();
    let reply = dev.curl([], "/").expect(500);
    assert!(reply.text().contains("app.lua:1: no configuration"), "{}", reply.text());
    app.write("app.lua", &says("mended"));
    assert_eq!(dev.curl([], "/").expect(200).text(), "mended");
}

#[test]
fn an_error_page_is_html_json_or_text_by_the_accept_header() {
    let app = App::new(
        "return function(environ)\n  environ['wsgi.errors']:write('a hint\\n')\n\
         \x20 local item = nil\n  return item.price\nend\n",
    );
    let dev = app.dev();
    let html = dev.curl(["-H", BROWSER], "/a?b&c").expect(500);
    assert_eq!(html.header("content-type"), Some("text/html; charset=utf-8"));
    let page = html.text();
    for part in [
        // The rest of the message differs in LuaJIT.
        "<h1>attempt to index ",
        "app.lua<span>:4<",
        "a hint",
        "/a?b&amp;c",
    ] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    let json = dev.curl(["-HAccept: application/json"], "/").expect(500);
    assert_eq!(json.header("content-type"), Some("application/json"));
    let value: serde_json::Value = serde_json::from_slice(&json.body).unwrap();
    assert_eq!((&value["source"][0]["file"], &value["source"][0]["line"]), (&"app.lua".into(), &4.into()));
    assert!(value["traceback"][0].as_str().unwrap().contains("app.lua:4"), "{value}");
    assert_eq!(value["written"], "a hint\n");
    let id = value["request"]["id"].as_str().unwrap();
    wait_for("the log names the request", || dev.process.log().contains(id).then_some(()));

    let text = dev.curl([], "/").expect(500);
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(text.text().contains("app.lua:4: attempt to index"), "{}", text.text());
    let head = dev.curl(["--head"], "/").expect(500);
    assert!(head.body.is_empty());
}

#[test]
fn a_request_beyond_its_deadline_is_504_with_the_stack() {
    let app = App::new(
        "local function spin()\n  if jit then jit.off() end\n  while true do end\nend\n\
         return function(e)\n  if e.PATH_INFO == '/c' then os.execute('exec sleep 20') end\n  spin()\nend\n",
    );
    let limits = ["--request-timeout", "300ms", "--kill-after", "500ms", "--workers", "1"];
    let dev = Dev::with(limits, &app.path(), "app");
    let page = dev.curl(["-H", BROWSER], "/").expect(504).text();
    assert!(page.contains("the request has run for too long (--request-timeout)"), "{page}");
    assert!(page.contains("while true do end") && page.contains("app.lua:7"), "{page}");
    let json = dev.curl(["-H", "Accept: application/json"], "/").expect(504).text();
    assert!(json.contains("\"status\": 504") && json.contains("app.lua:3"), "{json}");
    let page = dev.curl(["-H", BROWSER], "/c").expect(504).text();
    assert!(page.contains("did not stop"), "{page}");
}

#[test]
fn an_error_page_of_the_application_is_not_replaced() {
    let app = App::new(
        "return function(environ)\n  environ['wsgi.errors']:write('caught\\n')\n  return 500, {}, 'my own page'\nend\n",
    );
    assert_eq!(app.dev().curl(["-H", BROWSER], "/").expect(500).text(), "my own page");
}

#[test]
fn large_bodies_pass_unchanged_with_a_length_and_chunked() {
    let dev = Dev::site();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("body");
    let body: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(10 << 20).collect();
    fs::write(&file, &body).unwrap();
    let data = format!("@{}", file.display());
    for coding in ["X-Plain: 1", "Transfer-Encoding: chunked"] {
        let reply = dev.curl(["--data-binary", &data, "-H", coding], "/echo").expect(200);
        assert!(reply.body == body, "{coding}: {} bytes came back", reply.body.len());
    }
}

#[test]
fn each_chunk_of_a_stream_reaches_the_client_before_the_next_is_made() {
    let dev = Dev::site();
    for how in ["function", "write", "for", "events", "sized"] {
        let gate = Gate::new();
        let (mut curl, mut output) = dev.begin(&gate.url(&format!("/flow/{how}")));
        for chunk in 1..=3 {
            let mut line = String::new();
            while !line.ends_with(&format!("chunk {chunk}\n")) {
                assert_ne!(output.read_line(&mut line).unwrap(), 0, "{how}: {line:?}");
            }
            gate.open(&format!("seen{chunk}"));
        }
        let mut rest = Vec::new();
        output.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, if how == "events" { &b"\n"[..] } else { b"" });
        assert!(curl.wait().unwrap().success());
    }
}

#[test]
fn a_response_that_breaks_off_never_looks_complete() {
    let dev = Dev::site();
    for how in ["with", "without"] {
        let gate = Gate::new();
        let (mut curl, mut output) = dev.begin(&gate.url(&format!("/fail/killed_in_body_{how}_length")));
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "only the beginning\n");
        gate.open("seen1");
        output.read_to_end(&mut Vec::new()).unwrap();
        assert!(!curl.wait().unwrap().success(), "{how} length: {}", dev.process.log());
    }
    dev.curl([], &Gate::new().url("/fail/killed_before_head")).expect(502);
}

#[test]
fn a_client_that_leaves_ends_its_request() {
    let app = App::new(
        "local gate = require('gate')\n\
         return function(environ)\n  local directory = gate.directory(environ)\n  local body = {}\n\
         \x20 setmetatable(body, { __call = function() return ('x'):rep(1000) end })\n\
         \x20 body.close = function() gate.announce(directory, 'closed') end\n  return 200, {}, body\nend\n",
    );
    fs::copy(repository("tests/apps/gate.lua"), app.path().join("gate.lua")).unwrap();
    let (dev, gate) = (app.dev(), Gate::new());
    let (mut curl, _output) = dev.begin(&gate.url("/"));
    curl.kill().unwrap();
    curl.wait().unwrap();
    gate.announced("closed");

    // The same for a response of which nothing more is sent.
    let (dev, gate) = (Dev::site(), Gate::new());
    let (mut curl, _output) = dev.begin(&gate.url("/flow/sleep"));
    gate.announced("asleep");
    curl.kill().unwrap();
    curl.wait().unwrap();
    gate.announced("closed");
}

#[test]
fn responses_to_head_and_with_204_or_304_have_no_body() {
    let app = App::new(
        "return function(environ, start_response)\n  local status = environ.PATH_INFO:match('%d+')\n\
         \x20 start_response(status, { { 'Content-Type', 'text/plain' }, { 'X-A', '1' }, { 'X-A', '2' } })\n\
         \x20 return { 'four' }\nend\n",
    );
    let dev = app.dev();
    for (arguments, path, status, length) in [
        (["--head"], "/200", 200, Some("4")),
        (["--get"], "/204", 204, None),
        (["--get"], "/304", 304, None),
        (["--get"], "/200", 200, Some("4")),
    ] {
        let reply = dev.curl(arguments, path).expect(status);
        assert_eq!(reply.body.is_empty(), arguments == ["--head"] || status != 200, "{path}: {reply:?}");
        assert_eq!(reply.header("content-length"), length, "{path}");
        assert_eq!(reply.headers("x-a"), ["1", "2"]);
    }
}

#[test]
fn only_files_in_public_are_served() {
    let app = App::new(&says("the application"));
    app.write("public/a b.css", "body {}");
    app.write("public/.env", "SECRET=1");
    app.write("secret.txt", "secret");
    let dev = app.dev();
    let reply = dev.curl([], "/a%20b.css").expect(200);
    assert_eq!((reply.text(), reply.header("content-type")), ("body {}".to_owned(), Some("text/css")));
    assert_eq!(dev.curl(["-HRange: bytes=0-3"], "/a%20b.css").expect(206).text(), "body");
    assert!(dev.curl(["--head"], "/a%20b.css").expect(200).body.is_empty());
    for path in ["/", "/.env", "/%2eenv", "/absent", "/x/%2e%2e/..%2fsecret.txt", "/a%20b.css/"] {
        let reply = dev.curl([], path);
        assert!(!reply.text().to_lowercase().contains("secret"), "{path}: {reply:?}");
        assert!(reply.status == 400 || reply.text() == "the application", "{path}: {reply:?}");
    }
    assert_eq!(dev.curl(["--request", "POST"], "/a%20b.css").expect(200).text(), "the application");
}

/// The HTTP front end of `dev` would pass X-Accel-Redirect on to the browser, which ignores it.
#[test]
fn a_file_that_the_proxy_would_send_is_sent_by_the_worker() {
    let app = App::new(
        "return function(environ) return 200, {}, environ['wsgi.file_wrapper']('files/a b.txt') end\n",
    );
    app.write("files/a b.txt", "the file");
    app.write("nibiru.toml", "sendfile = 'x-accel-redirect'\nsendfile-map = '/=/-/files'\n");
    let toml = app.path().join("nibiru.toml");
    let dev = Dev::with(["--config", toml.to_str().unwrap()], &app.path(), "app");
    let reply = dev.curl([], "/").expect(200);
    assert_eq!((reply.text().as_str(), reply.header("X-Accel-Redirect")), ("the file", None));
    assert_eq!(reply.header("Content-Length"), Some("8"));
}

#[test]
fn an_occupied_port_is_exit_code_1_and_is_named() {
    let app = App::new(&says("never seen"));
    let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap().to_string();
    let output = output(nibiru().args(["dev", "--http", &address, "--root"]).arg(app.path()).arg("app"));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message, format!("nibiru: cannot listen on {address} (--http): address already in use\n"));
}

#[test]
fn ctrl_c_during_an_open_stream_stops_with_exit_code_0_and_leaves_no_file() {
    let (mut dev, gate) = (Dev::site(), Gate::new());
    let (mut curl, mut output) = dev.begin(&gate.url("/stream"));
    output.read_line(&mut String::new()).unwrap();
    signal(dev.process.pid(), Signal::INT);
    assert_eq!(dev.process.wait().code(), Some(0), "{}", dev.process.log());
    assert!(!curl.wait().unwrap().success(), "a stream that was cut looks complete");
    let left: Vec<_> =
        fs::read_dir(dev.scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["nibiru.log"]);
}
