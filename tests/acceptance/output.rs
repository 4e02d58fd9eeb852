//! Text of applications, clients and operators in every log, page and terminal: control characters are escaped and
//! secrets are redacted.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::support::wire::{self, Connection};
use crate::support::{App, Gate, Server, ServerBuilder, nibiru, output, repository, wait_for, wait_within};

/// Bytes that the log and the command line must always escape: terminal control sequences, other line ends, and
/// bidirectional controls. As written in Lua, and as sent in a URI.
const IN_LUA: &str = r"\27[2J\7\r\127\194\155\226\128\174\255";
const IN_URI: &str = "\u{1b}[2J\u{7}\r\u{7f}\u{9b}\u{202e}";

/// The escaped form in messages.
const SHOWN: &str = r"\x1B[2J\x07\x0D\x7F\xC2\x9B\xE2\x80\xAE\xFF";

#[track_caller]
fn is_harmless(what: &str, text: &str) {
    let hostile = |character: char| {
        (character.is_control() && character != '\n' && character != '\t')
            || ('\u{202a}'..='\u{202e}').contains(&character)
            // U+FFFD stands for bytes that were not UTF-8.
            || character == '\u{fffd}'
    };
    let found: Vec<char> = text.chars().filter(|character| hostile(*character)).collect();
    assert!(found.is_empty(), "{what} has {found:?}:\n{text:?}");
}

/// An application that writes the hostile bytes in each possible way.
fn hostile_application() -> App {
    App::new(&format!(
        "local evil = '{IN_LUA}'\nlocal nibiru = require('nibiru')\nlocal gate = require('gate')\n\
         print('loading ' .. evil)\n\
         return function(environ)\n\
         \x20 local path = environ.PATH_INFO:match('^/%w*')\n\
         \x20 if path == '/print' then print('print ' .. evil)\n\
         \x20 elseif path == '/stderr' then io.stderr:write('stderr ', evil, '\\n')\n\
         \x20 elseif path == '/errors' then environ['wsgi.errors']:write('errors ', evil, '\\n')\n\
         \x20 elseif path == '/log' then nibiru.log.warn('log ' .. evil, {{ [evil] = evil }})\n\
         \x20 elseif path == '/error' then error('error ' .. evil)\n\
         \x20 elseif path == '/table' then error({{ evil = evil }})\n\
         \x20 elseif path == '/exit' then print('no newline ' .. evil) os.exit(3)\n\
         \x20 elseif path == '/wait' then\n\
         \x20   local directory = gate.directory(environ)\n\
         \x20   gate.announce(directory, 'started')\n\
         \x20   gate.wait(directory, 'go')\n\
         \x20 end\n\
         \x20 return 200, {{}}, 'fine'\nend\n",
    ))
}

#[test]
fn hostile_bytes_are_escaped_in_every_log_and_status_page() {
    for format in ["text", "json"] {
        let app = hostile_application();
        fs::copy(repository("tests/apps/gate.lua"), app.root().join("gate.lua")).unwrap();
        let access_log = app.root().join("access.log");
        let arguments = [
            "--log-format",
            format,
            "--access-log",
            access_log.to_str().unwrap(),
            "--status-path",
            "/-/status",
            "--slow-log",
            "50ms",
        ];
        let server =
            Server::builder().application(app.root(), "app").workers("1").arguments(arguments).start();
        let open = || Connection::open(&server.socket());
        for path in ["print", "stderr", "errors", "log", "error", "table", "exit"] {
            open().get(&format!("/{path}/{IN_URI}?{IN_URI}={IN_URI}"));
        }
        // JSON doubles the backslashes, also within quotes.
        let shown = if format == "json" { SHOWN.replace('\\', r"\\") } else { SHOWN.to_owned() };
        for said in ["loading", "print", "stderr", "errors", "log", "app.lua", "no newline"] {
            server.logged(&[said, &shown]);
        }

        let gate = Gate::new();
        let mut running = open();
        running.send(&wire::get(1, &gate.url(&format!("/wait/{IN_URI}")), true));
        gate.announced("started");
        let control = server.control();
        for arguments in [&["status"][..], &["status", "--json"]] {
            let output = output(nibiru().args(arguments).args(["--control", &control]));
            assert!(output.status.success(), "{output:?}");
            let text = String::from_utf8_lossy(&output.stdout);
            is_harmless("nibiru status", &text);
            assert!(text.contains("GET /wait/"), "{text}");
        }
        for form in ["html", "json", "openmetrics"] {
            let page = open().get(&format!("/-/status?{form}"));
            is_harmless(form, &String::from_utf8_lossy(page.body()));
        }
        server.logged(&["GET /wait/", "(--slow-log)"]);
        gate.open("go");
        assert_eq!(running.response(1).expect("a response").status(), 200);
        let lines = wait_for("the access log has every line", || {
            let text = fs::read_to_string(&access_log).unwrap();
            (text.lines().count() == 8).then_some(text)
        });
        is_harmless("the access log", &lines);
        is_harmless("the log", &server.log());
        if format == "json" {
            for line in server.log().lines() {
                let value: Value = serde_json::from_str(line).unwrap();
                is_harmless("a decoded JSON message", value["message"].as_str().unwrap());
            }
        } else {
            // The lines of a traceback stay separate.
            assert!(server.log().contains("\n    stack traceback:\n    \t[C]: in function 'error'"));
        }
    }
}

#[test]
fn hostile_bytes_are_escaped_in_the_messages_of_every_command() {
    let app = App::new(&format!("error('{IN_LUA}')"));
    let root = app.root();
    let evil = IN_URI.replace('\r', "");
    let no_socket = format!("unix:/nonexistent/{evil}");
    let no_root = format!("/nonexistent/{evil}");
    for arguments in [
        &["check", "--root", root.to_str().unwrap(), "app"][..],
        &["check", "--root", &no_root, "app"],
        &["check", "--root", root.to_str().unwrap(), &evil],
        &["status", "--control", &no_socket],
        &["reload", "--control", &no_socket],
        &["request", "GET", "/", "--to", &no_socket],
        &["serve", "--config", &no_root, "app"],
        &["serve", "--workers", &evil, "app"],
        &["serve", &format!("--{evil}")],
    ] {
        let output = output(nibiru().args(arguments));
        assert_ne!(output.status.code(), Some(0), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        is_harmless(&format!("{arguments:?}"), &text);
        assert!(text.starts_with("nibiru: "), "{text}");
    }
}

/// A request with a secret in every parameter and header that is redacted.
fn secretive(path: &str) -> Vec<u8> {
    let params = [
        wire::get_params(&format!(
            "{path}?kept=1&token=XYZZY&user[password]=XYZZY&next=%2F%3Fapi_key%3DXYZZY&code=XYZZY"
        )),
        wire::pairs(&[
            ("HTTP_AUTHORIZATION", "Basic XYZZY"),
            ("HTTP_PROXY_AUTHORIZATION", "XYZZY"),
            ("HTTP_COOKIE", "sid=XYZZY"),
            ("HTTP_REFERER", "http://localhost/?session=XYZZY"),
        ]),
    ]
    .concat();
    [
        wire::begin(1, wire::RESPONDER, true),
        wire::stream(wire::PARAMS, 1, &params),
        wire::record(wire::STDIN, 1, b""),
    ]
    .concat()
}

#[test]
fn secrets_of_a_request_are_redacted_in_logs_tracebacks_and_status() {
    // A loop that LuaJIT has compiled sees neither the slow log's interrupt nor the deadline's.
    let app = App::new(
        "if jit then jit.off() end\n\
         local gate = require('gate')\n\
         return function(environ)\n\
         \x20 local path = environ.PATH_INFO\n\
         \x20 if path == '/error' then error('failed')\n\
         \x20 elseif path == '/table' then error({ password = 'XYZZY', api_key = 'XYZZY', code = 42 })\n\
         \x20 elseif path == '/spin' then while true do end\n\
         \x20 elseif path == '/exit' then os.exit(1) end\n\
         \x20 return 200, { ['Set-Cookie'] = 'sid=XYZZY' }, 'fine'\nend\n",
    );
    fs::copy(repository("tests/apps/gate.lua"), app.root().join("gate.lua")).unwrap();
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--slow-log", "10ms", "--request-timeout", "1s", "--max-body", "10"])
        .arguments(["--status-path", "/-/status", "--log-level", "debug"])
        .start();
    let ask = |path: &str| {
        let mut connection = Connection::open(&server.socket());
        connection.send(&secretive(path));
        connection
    };
    for path in ["/error", "/table", "/exit"] {
        assert_eq!(ask(path).response(1).expect("a response").status(), 500);
        server.logged(&["ERROR", &format!("GET {path}?kept=1&token=[redacted]&user[password]=[redacted]")]);
    }
    server.logged(&["error object is a table: { api_key = [redacted], code = 42, password = [redacted] }"]);

    let mut spinning = ask("/spin");
    server.logged(&["GET /spin?kept=1&token=[redacted]", "(--slow-log)"]);
    let status = server.status();
    let line = status["workers"][0]["request"]["line"].as_str().unwrap();
    assert!(line.starts_with("GET /spin?kept=1&token=[redacted]&"), "{line}");
    for form in ["html", "json"] {
        let page = server.get(&format!("/-/status?{form}"));
        let page = page.text();
        assert!(page.contains("GET /spin") && !page.contains("XYZZY"), "{page}");
    }
    assert_eq!(spinning.response(1).expect("a response").status(), 504);
    server.logged(&["GET /spin?kept=1&token=[redacted]", "(--request-timeout)", "app.lua:"]);

    let mut large = Connection::open(&server.socket());
    large.send(&wire::begin(1, wire::RESPONDER, false));
    let params = [wire::get_params("/large?token=XYZZY"), wire::pair(b"CONTENT_LENGTH", b"11")].concat();
    large.send(&wire::stream(wire::PARAMS, 1, &params));
    assert_eq!(large.response(1).expect("a response").status(), 413);
    server.logged(&["request refused", "GET /large?token=[redacted]"]);
    assert!(!server.log().contains("XYZZY"), "{}", server.log());
}

#[test]
fn access_log_query_chooses_the_query_redacted_or_without() {
    for (query, text, json) in [
        (None, "GET /hello?kept=1&token=XYZZY HTTP/1.1", "/hello?kept=1&token=XYZZY"),
        (Some("on"), "GET /hello?kept=1&token=XYZZY HTTP/1.1", "/hello?kept=1&token=XYZZY"),
        (Some("redact"), "GET /hello?kept=1&token=[redacted] HTTP/1.1", "/hello?kept=1&token=[redacted]"),
        (Some("off"), "GET /hello HTTP/1.1", "/hello"),
    ] {
        for format in ["text", "json"] {
            let mut builder =
                Server::builder().workers("1").arguments(["--access-log", "-", "--log-format", format]);
            if let Some(query) = query {
                builder = builder.arguments(["--access-log-query", query]);
            }
            let server = builder.start();
            server.get("/hello?kept=1&token=XYZZY");
            if format == "text" {
                server.logged(&[&format!("\"{text}\" 200 14 ")]);
            } else {
                let line = server.logged(&["\"method\":\"GET\""]);
                assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["uri"], json, "{query:?}");
            }
        }
    }
}

/// The log's JSON record whose message begins with `message`.
#[track_caller]
fn record(server: &Server, message: &str) -> Value {
    let line = server.logged(&[&format!("\"message\":\"{message}")]);
    serde_json::from_str(&line).unwrap()
}

#[test]
fn standard_output_is_logged_as_info_and_standard_error_as_error() {
    let app = App::new(
        "return function(environ)\n\
         \x20 print('printed')\n\
         \x20 io.stderr:write('complained\\n')\n\
         \x20 if environ.PATH_INFO == '/die' then\n\
         \x20   os.execute('(sleep 20 >/dev/null &) ; printf \"free(): invalid pointer\" >&2; kill -ABRT $PPID; sleep 20')\n\
         \x20 end\n\
         \x20 return 200, {}, 'fine'\nend",
    );
    for (level, printed) in [("info", true), ("warn", false), ("error", false)] {
        let arguments = ["--log-level", level, "--log-format", "json"];
        let server =
            Server::builder().application(app.root(), "app").workers("1").arguments(arguments).start();
        assert_eq!(server.get("/die").status(), 502);
        assert_eq!(record(&server, "complained")["level"], "error");
        // A last line without a line end is logged as well, even if a child of the worker keeps the pipe open.
        let last = record(&server, "free(): invalid pointer");
        assert_eq!(
            (&last["level"], &last["process"], &last["worker"]),
            (&"error".into(), &"worker".into(), &1.into())
        );
        if printed {
            assert_eq!(record(&server, "printed")["level"], "info");
        }
        assert_eq!(server.log().contains("\"printed\""), printed, "{}", server.log());
    }
}

#[test]
fn lines_up_to_64_kib_are_whole_and_longer_ones_are_split_into_numbered_parts() {
    let app = App::new(
        "return function(environ)\n\
         \x20 for _, length in ipairs({ 8191, 8192, 20000, 65536 }) do print(('x'):rep(length)) end\n\
         \x20 print(('é'):rep(50000))\n\
         \x20 for i = 1, 30 do io.stderr:write(('y'):rep(1000)) end io.stderr:write('\\n')\n\
         \x20 return 200, {}, 'fine'\nend",
    );
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--log-format", "json"])
        .start();
    assert_eq!(server.get("/").status(), 200);
    let lines = |first: char| -> Vec<Value> {
        let log = server.log();
        let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.filter(|record| record["message"].as_str().unwrap().starts_with(first)).collect()
    };
    let length = |record: &Value| record["message"].as_str().unwrap().len();
    let complained = wait_for("the line on standard error is logged", || {
        Some(lines('y')).filter(|lines| !lines.is_empty())
    });
    assert_eq!(complained.iter().map(length).collect::<Vec<_>>(), [30_000]);
    let in_pieces = wait_for("both parts of the long line are logged", || {
        Some(lines('é')).filter(|lines| lines.len() == 2)
    });
    assert_eq!(in_pieces.iter().map(length).sum::<usize>(), 100_000);
    assert_eq!((&in_pieces[0]["part"], &in_pieces[1]["part"]), (&1.into(), &2.into()));
    let printed = lines('x');
    assert_eq!(printed.iter().map(length).collect::<Vec<_>>(), [8191, 8192, 20_000, 65_536]);
    assert!(printed.iter().all(|line| line.get("part").is_none()));
}

/// The number of line ends of `/all`, each of which is an empty line of the log.
const LINE_ENDS: usize = 1 << 20;

/// The number of line ends of `/some`: three times as many as the log's queue and the worker's pipe hold together.
const SOME: usize = 250_000;

/// An application that prints [`LINE_ENDS`] line ends at `/all` and [`SOME`] at `/some`, and a server for it. Without a
/// request deadline, since a busy machine may take long.
fn flooding() -> (App, ServerBuilder) {
    let app = App::new(&format!(
        "return function(environ)\n\
         \x20 local lines = ({{ ['/all'] = {LINE_ENDS}, ['/some'] = {SOME} }})[environ.PATH_INFO]\n\
         \x20 io.write(('\\n'):rep(lines or 0))\n\
         \x20 return 200, {{}}, 'fine'\n\
         end"
    ));
    let server = Server::builder().application(app.root(), "app").arguments(["--request-timeout", "off"]);
    (app, server)
}

/// The number of empty lines of workers in `log`, and the sum of the lines that it reports as left out.
fn empty_lines_of(log: &str) -> (usize, usize) {
    let empty = log.lines().filter(|line| line.contains(" INFO  worker  worker=")).count();
    // The last line may be incomplete.
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let left_out = whole.lines().filter(|line| line.contains("lines of the log were left out"));
    let counts = left_out.map(|line| line.rsplit_once('=').unwrap().1.parse::<usize>().unwrap());
    (empty, counts.sum())
}

#[test]
fn a_million_line_ends_are_logged_or_counted_while_other_requests_are_served() {
    /// A million lines take a few seconds of processor time; a busy machine needs longer.
    const PATIENCE: Duration = Duration::from_secs(600);
    let (_app, server) = flooding();
    let server = server.start();
    let (mut flood, mut other) = (Connection::open(&server.socket()), Connection::open(&server.socket()));
    flood.send(&wire::get(1, "/all", true));
    let mut answered = 0;
    let ended = wait_within(PATIENCE, || {
        assert_eq!(other.get("/").status(), 200);
        answered += 1;
        (flood.unread() > 0).then_some(())
    });
    assert!(ended.is_some() && answered > 1, "{answered} other requests were answered");
    assert_eq!(flood.response(1).expect("a response").status(), 200);
    let mut counted = (0, 0);
    wait_within(PATIENCE, || {
        counted = empty_lines_of(&server.log());
        (counted.0 + counted.1 >= LINE_ENDS).then_some(())
    });
    // The lines that are left out may include some of the gateway's own.
    assert!((LINE_ENDS..LINE_ENDS + 20).contains(&(counted.0 + counted.1)), "{counted:?}");
}

/// The log is a pipe that is not read during the flood, so most lines are left out and counted.
#[test]
fn lines_left_out_by_a_blocked_log_are_counted_when_it_is_read_again() {
    use std::io::Read as _;
    let (app, server) = flooding();
    let path = app.root().join("pipe");
    let (mode, flags) = (rustix::fs::Mode::RWXU, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK);
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let pipe = rustix::fs::open(&path, flags | rustix::fs::OFlags::CLOEXEC, mode).unwrap();
    let server = server.arguments(["--log", path.to_str().unwrap()]).start();
    assert_eq!(server.get("/some").status(), 200);
    let (mut log, mut pipe) = (Vec::new(), fs::File::from(pipe));
    let (logged, left_out) = wait_for("all lines are logged or counted", || {
        // Reads what the pipe holds.
        assert_eq!(pipe.read_to_end(&mut log).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let (logged, left_out) = empty_lines_of(str::from_utf8(&log).unwrap());
        (logged + left_out >= SOME).then_some((logged, left_out))
    });
    assert!(left_out > SOME / 2, "{left_out}");
    assert!(logged <= SOME && logged + left_out < SOME + 20, "{logged} + {left_out}");
}

#[test]
fn a_stop_logs_the_last_output_of_every_worker() {
    let app = App::new(
        "require('nibiru').on_worker_stop(function() io.write('goodbye from ', 'a worker') end)\n\
         return function() return 200, {}, 'fine' end",
    );
    let mut server = Server::builder().application(app.root(), "app").workers("4").start();
    server.workers(4);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(server.log().matches("goodbye from a worker").count(), 4, "{}", server.log());
}

#[test]
fn log_lines_during_the_load_keep_their_level_and_fields() {
    let text = "local log = require('nibiru').log\nlog.info('loading', { n = 1 })\nlog.warn('odd')\nlog.debug('quiet')\n\
                return function() return 200, {}, 'fine' end";
    for preload in ["on", "off"] {
        let app = App::new(text);
        let arguments = ["--log-format", "json", "--preload", preload];
        let server =
            Server::builder().application(app.root(), "app").workers("1").arguments(arguments).start();
        let process = if preload == "on" { "zygote" } else { "worker" };
        let loading = record(&server, "loading");
        assert_eq!(
            (&loading["level"], &loading["n"], &loading["process"]),
            (&"info".into(), &1.into(), &process.into())
        );
        assert_eq!(record(&server, "odd")["level"], "warn");
        assert!(!server.log().contains("quiet"), "{}", server.log());
    }
    // Output of a library that aborts the process during the load.
    let app =
        App::new("io.stderr:write('no such device')\nos.execute('kill -ABRT $PPID')\nwhile true do end");
    let listen = format!("unix:{}", app.root().join("app.sock").display());
    let output = output(nibiru().args(["serve", "--listen", &listen, "--root"]).arg(app.root()).arg("app"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("ERROR zygote no such device"), "{text}");
}

#[test]
fn fields_of_the_application_keep_their_types_and_never_replace_the_servers() {
    let app = App::new(
        "local log = require('nibiru').log\n\
         return function()\n\
         \x20 log.warn('fields', { n = 1, f = 1.5, yes = true, text = 'a \"b\"', level = 'mine', pid = 'mine', request = 'mine',\n\
         \x20   ['a b'] = 'c', shown = setmetatable({}, { __tostring = function() return 'as text' end }) })\n\
         \x20 return 200, {}, 'fine'\nend",
    );
    for format in ["json", "text"] {
        let server = Server::builder()
            .application(app.root(), "app")
            .workers("1")
            .arguments(["--log-format", format])
            .start();
        assert_eq!(server.get("/").status(), 200);
        if format == "text" {
            let line = server.logged(&["WARN  worker fields "]);
            let fields = " fields \"a b\"=\"c\" f=1.5 fields.level=\"mine\" n=1 fields.pid=\"mine\" fields.request=\"mine\" \
                          shown=\"as text\" text=\"a \\\"b\\\"\" yes=true worker=1 gen=1 pid=";
            assert!(line.contains(fields), "{line}");
            continue;
        }
        let record = record(&server, "fields");
        for (name, value) in [
            ("n", Value::from(1)),
            ("f", 1.5.into()),
            ("yes", true.into()),
            ("text", "a \"b\"".into()),
            ("a b", "c".into()),
            ("shown", "as text".into()),
            ("level", "warn".into()),
            ("fields.level", "mine".into()),
            ("fields.pid", "mine".into()),
            ("fields.request", "mine".into()),
        ] {
            assert_eq!(record[name], value, "{name} in {record}");
        }
        assert!(record["pid"].is_number() && record["request"] != "mine", "{record}");
    }
}

/// Lua 5.4 and later; `lua5.4` writes `Lua warning: seen` to standard error for the same call.
#[test]
fn lua_warnings_are_logged_once_they_are_turned_on() {
    let app = App::new(
        "if not warn then return function() return 204, {}, '' end end\n\
         warn('not yet')\nwarn('@on')\n\
         return function() warn('seen ', 'in pieces') return 200, {}, 'fine' end",
    );
    let server = Server::builder()
        .application(app.root(), "app")
        .workers("1")
        .arguments(["--log-format", "json"])
        .start();
    if server.get("/").status() == 204 {
        return;
    }
    let warning = record(&server, "seen in pieces");
    assert_eq!((&warning["level"], &warning["process"]), (&"warn".into(), &"worker".into()));
    assert!(warning["request"].is_string() && !server.log().contains("not yet"), "{}", server.log());
}
