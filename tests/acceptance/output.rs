//! What an application, a client and an operator write, where people read it: no sink lets hostile bytes through or shows
//! a secret.

use std::fs;

use serde_json::Value;

use crate::support::{App, Gate, Server, nibiru, output, repository, wait_for};
use crate::wire::{self, Connection};

/// What the log and the command line must never show as it is: a terminal's commands, other line ends, and text that runs
/// the other way round. The same as Lua and as a URI have them.
const IN_LUA: &str = r"\27[2J\7\r\127\194\155\226\128\174\255";
const IN_URI: &str = "\u{1b}[2J\u{7}\r\u{7f}\u{9b}\u{202e}";

/// How messages show them.
const SHOWN: &str = r"\x1B[2J\x07\x0D\x7F\xC2\x9B\xE2\x80\xAE\xFF";

#[track_caller]
fn is_harmless(what: &str, text: &str) {
    let hostile = |character: char| {
        (character.is_control() && character != '\n' && character != '\t')
            || ('\u{202a}'..='\u{202e}').contains(&character)
            // In the place of bytes that were no UTF-8.
            || character == '\u{fffd}'
    };
    let found: Vec<char> = text.chars().filter(|character| hostile(*character)).collect();
    assert!(found.is_empty(), "{what} has {found:?}:\n{text:?}");
}

/// An application that says hostile things in every way it has.
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
fn no_hostile_byte_reaches_a_log_a_page_or_a_terminal() {
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
        // In JSON the backslashes are doubled, in quotes too.
        let shown = if format == "json" { SHOWN.replace('\\', r"\\") } else { SHOWN.to_owned() };
        for said in ["loading", "print", "stderr", "errors", "log", "app.lua", "no newline"] {
            server.logged(&[said, &shown]);
        }

        let gate = Gate::new();
        let mut running = open();
        running.send(&wire::get(1, &gate.url(&format!("/wait/{IN_URI}")), true));
        gate.announced("started");
        let control = format!("unix:{}.ctl", server.socket().display());
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
        assert_eq!(running.response(1).expect("an answer").status(), 200);
        let lines = wait_for("the access log has every line", || {
            let text = fs::read_to_string(&access_log).unwrap();
            (text.lines().count() == 8).then_some(text)
        });
        is_harmless("the access log", &lines);
        is_harmless("the log", &server.log());
        if format == "json" {
            for line in server.log().lines() {
                let value: Value = serde_json::from_str(line).unwrap();
                is_harmless("a message, out of its JSON", value["message"].as_str().unwrap());
            }
        } else {
            // A traceback keeps its lines.
            assert!(server.log().contains("\n    stack traceback:\n    \t[C]: in function 'error'"));
        }
    }
}

#[test]
fn no_hostile_byte_of_an_argument_or_an_application_reaches_the_terminal_of_a_command() {
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

/// A request with a secret in every place that is known to hold one.
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
fn secrets_of_a_request_are_in_no_log_line_no_traceback_and_no_status() {
    let app = App::new(
        "local gate = require('gate')\n\
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
        .arguments(["--slow-log", "100ms", "--request-timeout", "2s", "--max-body", "10"])
        .arguments(["--status-path", "/-/status", "--log-level", "debug"])
        .start();
    let ask = |path: &str| {
        let mut connection = Connection::open(&server.socket());
        connection.send(&secretive(path));
        connection
    };
    for path in ["/error", "/table", "/exit"] {
        assert_eq!(ask(path).response(1).expect("an answer").status(), 500);
        server.logged(&["ERROR", &format!("GET {path}?kept=1&token=[redacted]&user[password]=[redacted]")]);
    }
    server.logged(&["error object is a table: { api_key = [redacted], code = 42, password = [redacted] }"]);

    let mut spinning = ask("/spin");
    server.logged(&["GET /spin?kept=1&token=[redacted]", "(--slow-log)"]);
    let control = format!("unix:{}.ctl", server.socket().display());
    let said = output(nibiru().args(["status", "--json", "--control", &control]));
    let status: Value = serde_json::from_slice(&said.stdout).unwrap();
    let line = status["workers"][0]["request"]["line"].as_str().unwrap();
    assert!(line.starts_with("GET /spin?kept=1&token=[redacted]&"), "{line}");
    for form in ["html", "json"] {
        let page = Connection::open(&server.socket()).get(&format!("/-/status?{form}"));
        let page = String::from_utf8_lossy(page.body()).into_owned();
        assert!(page.contains("GET /spin") && !page.contains("XYZZY"), "{page}");
    }
    assert_eq!(spinning.response(1).expect("an answer").status(), 504);
    server.logged(&["GET /spin?kept=1&token=[redacted]", "(--request-timeout)", "app.lua:"]);

    let mut large = Connection::open(&server.socket());
    large.send(&wire::begin(1, wire::RESPONDER, false));
    let params = [wire::get_params("/large?token=XYZZY"), wire::pair(b"CONTENT_LENGTH", b"11")].concat();
    large.send(&wire::stream(wire::PARAMS, 1, &params));
    assert_eq!(large.response(1).expect("an answer").status(), 413);
    server.logged(&["request refused", "GET /large?token=[redacted]"]);
    assert!(!server.log().contains("XYZZY"), "{}", server.log());
}

#[test]
fn the_access_log_has_as_much_of_the_query_as_its_option_says() {
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
            Connection::open(&server.socket()).get("/hello?kept=1&token=XYZZY");
            if format == "text" {
                server.logged(&[&format!("\"{text}\" 200 14 ")]);
            } else {
                let line = server.logged(&["\"method\":\"GET\""]);
                assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["uri"], json, "{query:?}");
            }
        }
    }
}
