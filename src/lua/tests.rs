//! Runs the tables of cases in `tests/lua/` and what needs more than one request or one state.

use std::cell::RefCell;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use mlua::{BString, Function, Table, Value};

use super::*;

mod interrupts;
mod isolation;
mod strict;

/// What came out, in order.
#[derive(Default)]
struct Record {
    head: Option<String>,
    /// Bytes between two flushes belong together.
    chunks: Vec<Vec<u8>>,
    open: bool,
    log: Vec<(Level, String)>,
    stacks: Vec<(Interrupt, String)>,
    /// How many more bytes of body the client takes before it goes away.
    patience: Option<usize>,
}

/// Keeps everything in memory.
#[derive(Clone, Default)]
struct Recorder(Rc<RefCell<Record>>);

impl Output for Recorder {
    fn head(&mut self, head: &[u8]) -> Result<(), Gone> {
        let mut record = self.0.borrow_mut();
        assert!(record.head.is_none(), "a second head");
        record.head = Some(String::from_utf8_lossy(head).into_owned());
        Ok(())
    }

    fn body(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        let mut record = self.0.borrow_mut();
        assert!(record.head.is_some(), "a body before its head");
        assert!(!bytes.is_empty(), "an empty chunk");
        if let Some(patience) = &mut record.patience {
            *patience = patience.checked_sub(bytes.len()).ok_or(Gone)?;
        }
        if !record.open {
            record.chunks.push(Vec::new());
            record.open = true;
        }
        record.chunks.last_mut().expect("pushed above").extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Gone> {
        self.0.borrow_mut().open = false;
        Ok(())
    }

    fn wait(&mut self, _: std::time::Duration) -> Result<(), Gone> {
        if self.0.borrow().patience == Some(0) { Err(Gone) } else { Ok(()) }
    }

    fn log(&mut self, level: Level, message: &[u8], fields: &str) {
        let space = if fields.is_empty() { "" } else { " " };
        let line = format!("{}{space}{fields}", String::from_utf8_lossy(message));
        self.0.borrow_mut().log.push((level, line));
    }

    fn stack(&mut self, interrupt: Interrupt, text: &[u8]) {
        self.0.borrow_mut().stacks.push((interrupt, String::from_utf8_lossy(text).into_owned()));
    }

    fn exit(&mut self, outcome: Option<Outcome>, code: i32) -> ! {
        panic!("os.exit({code}) outside the test of it: {outcome:?}")
    }
}

impl Recorder {
    fn take(&self) -> Record {
        self.0.take()
    }
}

fn lua_tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lua")
}

fn settings(target: &str) -> Settings {
    let (root, target) = (lua_tests(), target.parse().unwrap());
    Settings { root, target, generation: 7, proxy_headers: ProxyHeaders::default() }
}

fn started(target: &str) -> (State, Recorder) {
    started_with(&settings(target))
}

fn started_with(settings: &Settings) -> (State, Recorder) {
    let mut state = State::new(settings).unwrap();
    state.load().unwrap();
    state.settle();
    let recorder = Recorder::default();
    state.start_worker(3, 42, Box::new(recorder.clone())).unwrap();
    (state, recorder)
}

fn spooled(bytes: &[u8]) -> Body {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Body::File { file, length: bytes.len() as u64 }
}

/// The variables of an ordinary request behind nginx.
fn variables(method: &str, more: &[(BString, BString)]) -> Variables {
    let mut variables = Variables::new();
    for (name, value) in [
        ("QUERY_STRING", "a=1"),
        ("REQUEST_METHOD", method),
        ("CONTENT_TYPE", ""),
        ("CONTENT_LENGTH", ""),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", "/path"),
        ("REQUEST_URI", "/path?a=1"),
        ("DOCUMENT_URI", "/path"),
        ("DOCUMENT_ROOT", "/usr/share/nginx/html"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_SCHEME", "http"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", "nginx/1.22.1"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("REMOTE_PORT", "49152"),
        ("SERVER_ADDR", "127.0.0.1"),
        ("SERVER_PORT", "80"),
        ("SERVER_NAME", "localhost"),
        ("HTTP_HOST", "localhost"),
        ("HTTP_USER_AGENT", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("HTTP_ACCEPT", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("HTTP_ACCEPT_LANGUAGE", "en-US,en;q=0.5"),
        ("HTTP_ACCEPT_ENCODING", "gzip, deflate, br"),
        ("HTTP_CONNECTION", "keep-alive"),
        ("HTTP_COOKIE", "session=0123456789abcdef0123456789abcdef"),
    ] {
        variables.push(name.as_bytes(), value.as_bytes());
    }
    for (name, value) in more {
        variables.push(name, value);
    }
    variables
}

fn serve(state: &mut State, method: &str, body: Body) -> Outcome {
    let variables = variables(method, &[]);
    let outcome = state.serve(Request {
        serial: 1,
        id: b"test-id",
        variables: &variables,
        body,
        role: Role::Responder,
    });
    state.after_response();
    outcome
}

/// One row of a table in `tests/lua/`; `harness.lua` there describes its fields.
fn run_case(
    state: &mut State,
    recorder: &Recorder,
    case: &Table,
    body: Body,
    data: Option<Body>,
) -> Result<(), String> {
    let text = |table: &Table, key: &str| -> Option<String> {
        table.get::<Option<mlua::LuaString>>(key).unwrap().map(|s| s.to_string_lossy())
    };
    state.set_application(case.get::<Function>("app").map_err(|_| "no app".to_owned())?);
    let method = text(case, "method").unwrap_or_else(|| "GET".to_owned());
    let more: Vec<(BString, BString)> = case
        .get::<Option<Table>>("variables")
        .unwrap()
        .map(|table| table.pairs().collect::<Result<_, _>>().unwrap())
        .unwrap_or_default();
    recorder.0.borrow_mut().patience = case.get("patience").unwrap();
    if let Some(memory) = case.get::<Option<usize>>("memory").unwrap() {
        let _ = state.lua().set_memory_limit(state.lua().used_memory() + memory); // LuaJIT keeps its own limit
    }
    let variables = variables(&method, &more);
    let role = match (data, text(case, "role").as_deref()) {
        (Some(data), _) => Role::Filter { data },
        (None, Some("authorizer")) => Role::Authorizer,
        (None, _) => Role::Responder,
    };
    let outcome = state.serve(Request { serial: 1, id: b"test-id", variables: &variables, body, role });
    let _ = state.lua().set_memory_limit(0);
    state.after_response();
    let record = recorder.take();

    let mut wrong = Vec::new();
    let mut compare = |what: &str, expected: String, got: String| {
        if expected != got {
            wrong.push(format!("{what}: expected {expected:?}, got {got:?}"));
        }
    };
    let expected = text(case, "outcome").unwrap_or_else(|| "Complete".to_owned());
    compare("outcome", expected, format!("{outcome:?}"));
    let head = record.head.unwrap_or_default();
    let (status, fields) = head.split_once("\r\n").unwrap_or_default();
    if let Some(expected) = text(case, "status") {
        compare("status", expected, status.strip_prefix("Status: ").unwrap_or(status).to_owned());
    }
    if let Some(expected) = text(case, "head") {
        compare("head", expected, fields.replace("\r\n", "|"));
    }
    let body = record.chunks.concat();
    if let Some(expected) = text(case, "body") {
        compare("body", expected, String::from_utf8_lossy(&body).into_owned());
    }
    if let Some(expected) = case.get::<Option<Vec<String>>>("chunks").unwrap() {
        let chunks: Vec<_> =
            record.chunks.iter().map(|chunk| String::from_utf8_lossy(chunk).into_owned()).collect();
        compare("chunks", format!("{expected:?}"), format!("{chunks:?}"));
    }
    let log: Vec<&str> = record.log.iter().map(|(_, line)| line.as_str()).collect();
    let expected: Vec<String> = match case.get("log").unwrap() {
        Value::Nil => vec![],
        Value::Table(lines) => lines.sequence_values().collect::<Result<_, _>>().unwrap(),
        line => vec![line.to_string().unwrap()],
    };
    if log.len() != expected.len()
        || log.iter().zip(&expected).any(|(line, part)| !line.contains(part.as_str()))
    {
        wrong.push(format!("log: expected lines with {expected:#?}, got {log:#?}"));
    }
    if let Some(unwanted) = text(case, "not_logged")
        && log.iter().any(|line| line.contains(&unwanted))
    {
        wrong.push(format!("log: unwanted {unwanted:?} in {log:#?}"));
    }
    if let Some(after) = case.get::<Option<Function>>("after").unwrap()
        && let Err(error) = after.call::<()>(())
    {
        wrong.push(format!("after: {error}"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
}

fn run_table(file: &str) {
    run_table_with(&settings("harness.lua"), file);
}

fn run_table_with(settings: &Settings, file: &str) {
    let (mut state, recorder) = started_with(settings);
    run_cases(&mut state, &recorder, file);
}

fn run_cases(state: &mut State, recorder: &Recorder, file: &str) {
    let path = lua_tests().join(file);
    let cases: Table = state.lua().load(path.clone()).eval().unwrap_or_else(|error| panic!("{error}"));
    let mut failed = Vec::new();
    let mut count = 0;
    for case in cases.sequence_values::<Table>() {
        let case = case.unwrap();
        let name: String = case.get("name").unwrap();
        // Whatever reads a body must not feel where it lies.
        let both = |key: &str| {
            let bytes = case.get::<Option<mlua::LuaString>>(key).unwrap()?.as_bytes().to_vec();
            Some([spooled(&bytes), Body::Memory(bytes)].map(Some))
        };
        let (bodies, data) = (both("input"), both("data"));
        let ways = if bodies.is_some() || data.is_some() { 2 } else { 1 };
        for (body, data) in bodies.unwrap_or_default().into_iter().zip(data.unwrap_or_default()).take(ways) {
            count += 1;
            let body = body.unwrap_or(Body::Memory(vec![]));
            if let Err(wrong) = run_case(state, recorder, &case, body, data) {
                failed.push(format!("{name}:\n  {wrong}"));
                break;
            }
        }
    }
    assert!(count > 0, "{file} holds no cases");
    assert!(
        failed.is_empty(),
        "{} of {count} cases in {file} failed\n\n{}",
        failed.len(),
        failed.join("\n\n")
    );
}

macro_rules! tables {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run_table(concat!(stringify!($name), ".lua")); })*
    };
}

tables! { status headers body length start_response failing environ input errors_and_log text utf8 files roles }

#[test]
fn sendfile() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let directories =
        [tests.clone(), tests.join("apps")].map(|path| path.into_os_string().into_encoded_bytes());
    let map = directories.iter().map(Vec::as_slice).zip([&b"/-/tests"[..], b"/apps"]);
    let sendfile = crate::cgi::Sendfile::new("X-Accel-Redirect", crate::cgi::Form::Uri, map);
    let allowed = ["X-Sendfile", "X-Accel-Limit-Rate"].map(str::to_owned).to_vec();
    let proxy_headers = ProxyHeaders::new(allowed, Some(sendfile));
    run_table_with(&Settings { proxy_headers, ..settings("harness.lua") }, "sendfile.lua");
}

/// Fails, and does not skip, where a package is missing: that C modules load is a promise.
fn load_c_module(module: &str, package: &str) {
    let (state, _) = started("harness.lua");
    let require: Function = state.lua().globals().get("require").unwrap();
    if let Err(error) = require.call::<Value>(module) {
        panic!(
            "cannot load {module}; is the Debian package {package} installed (apt install {package})?\n{error}"
        );
    }
}

/// Debian builds its modules up to Lua 5.4.
#[cfg(not(feature = "lua55"))]
#[test]
fn debians_cjson_loads_and_works() {
    load_c_module("cjson", "lua-cjson");
    run_table("with_cjson.lua");
}

#[cfg(not(feature = "lua55"))]
#[test]
fn debians_luasql_loads_and_works() {
    load_c_module("luasql.sqlite3", "lua-sql-sqlite3");
    run_table("with_luasql.lua");
}

/// Only such code can change what is the process's, so nothing is asked of others after each request.
#[test]
fn code_that_is_not_lua_is_noticed() {
    let (state, _) = started("harness.lua");
    let run = |code: &str| state.lua().load(code).exec().unwrap();
    run("require('harness') pcall(require, 'nosuch')\n\
         package.loadlib('/nosuch.so', 'f') package.loadlib('/nosuch.so', '*')");
    assert!(!state.has_native_code());
    #[cfg(feature = "luajit")]
    {
        // Many modules look whether it is there.
        run("assert(require('ffi') == ffi and ffi.new('int') == 0)");
        assert!(!state.has_native_code());
        run("ffi.cdef('int getpid(void);')");
        assert!(state.has_native_code());
        assert!(run_error(&state, "ffi.cdef('no type')").contains("expected"));
    }
    #[cfg(not(any(feature = "lua55", feature = "luajit")))]
    {
        run("assert(type(require('cjson')) == 'table' and require('cjson') == package.loaded.cjson)");
        assert!(state.has_native_code());
    }
    let (state, _) = started("harness.lua");
    let error = run_error(&state, "require('no.such.module')");
    assert!(error.contains("no.such.module' not found") && error.contains("no/such/module.so"), "{error}");
    let error = run_error(&state, "require('strict_harness.nosuch')");
    assert!(!error.contains("nibiru/core/native.lua"), "{error}");
}

fn run_error(state: &State, code: &str) -> String {
    state.lua().load(code).exec().unwrap_err().to_string()
}

fn load_error(files: &[(&str, &str)], target: &str) -> LoadError {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let settings = Settings { root: directory.path().to_owned(), ..settings(target) };
    let mut error = State::new(&settings).unwrap().load().expect_err(target);
    error.message = error.message.replace(&directory.path().display().to_string(), "ROOT");
    error
}

#[test]
fn a_target_that_does_not_load_says_where_and_why() {
    for (file, text, target, parts) in [
        ("a.lua", "return {\n  x = = 1 }", "a", &["a.lua:2:", "near '='"][..]),
        ("a.lua", "return {\n  x = = 1 }", "a.lua", &["a.lua:2:", "near '='"]),
        ("a.lua", "", "b", &["module 'b' not found: no b.lua in ROOT (--root)\n", "ROOT/b.lua"]),
        ("a.lua", "", "b.lua", &["b.lua: no such file in ROOT (--root)"]),
        ("shop/app.lua", "", "shop", &["module 'shop' not found", "write --root shop\n"]),
        ("shop/app.lua", "", "./shop", &["./shop: a directory; for the app.lua in it, write --root ./shop"]),
        ("a.lua", "require('missing')", "a", &["module 'missing' not found"]),
        ("a.lua", "\nerror('no database')", "a", &["a.lua:2: no database"]),
        ("a.lua", "error({ code = 5, text = 'down' })", "a", &["a table: { code = 5, text = \"down\" }"]),
        ("a.lua", "error()", "a", &["nil"]),
        ("a.lua", "x = 1", "a", &["module a has no callable", "`application`", "`app`", "returned nothing"]),
        ("a.lua", "x = 1", "a.lua", &["a.lua has no callable", "returned nothing"]),
        ("a.lua", "return { run = print }", "a", &["has no callable", "run (function)"]),
        ("a.lua", "return { run = print }", "a:go", &["module a has no go", "run (function)"]),
        ("a.lua", "return { go = 5 }", "a:go", &["module a: go is a number, and not callable"]),
        ("a.lua", "return 'x'", "a", &["it returned a string"]),
        ("a.lua", "return {}", "a", &["an empty table"]),
        ("web/init.lua", "return {}", "web", &["module web has no callable"]),
    ] {
        let error = load_error(&[(file, text)], target);
        for part in parts {
            assert!(error.message.contains(part), "{text:?} as {target}: no {part:?} in {:?}", error.message);
        }
        assert!(
            !error.message.contains("nibiru/"),
            "{text:?} as {target} blames nibiru: {:?}",
            error.message
        );
    }
}

#[test]
fn an_error_while_loading_carries_its_stack_and_not_nibirus() {
    let files = [
        ("a.lua", "local deep = require('deep')\nreturn deep"),
        ("deep.lua", "local function inner()\n  error('x')\nend\ninner()"),
    ];
    let error = load_error(&files, "a");
    assert!(error.message.ends_with("deep.lua:2: x"), "{error:?}");
    assert!(error.traceback.starts_with("stack traceback:\n"), "{error:?}");
    assert!(error.traceback.contains("a.lua:1:"), "{error:?}");
    assert!(!error.traceback.contains("nibiru/core/loader.lua"), "{error:?}");
}

#[test]
fn a_stack_of_c_alone_is_left_out() {
    for (text, target) in [("", "b"), ("error('x')", "a.lua"), ("require('missing')", "a")] {
        let error = load_error(&[("a.lua", text)], target);
        let application_ran = target != "b";
        assert_eq!(error.traceback.contains("a.lua:1: in "), application_ran, "{target}: {error:?}");
        assert_eq!(error.traceback.is_empty(), !application_ran, "{target}: {error:?}");
    }
}

#[test]
fn what_an_application_returned_wrong_shows_where_the_application_is() {
    let directory = tempfile::tempdir().unwrap();
    for (text, message) in [
        ("local M = {}\nfunction M.application()\nend\nreturn M", "returned nothing"),
        ("\nreturn function() return 200, {}, true end", "must be a string"),
        ("\nreturn setmetatable({}, { __call = function() return 'x', {}, 'x' end })", "status"),
        (
            "\nreturn function(_, start)\n start(200, { ['Content-Length'] = 9 })\n return 'x' end",
            "Content-Length",
        ),
        ("\nreturn function() return 200, {}, { 5 } end", "body[1]"),
    ] {
        fs::write(directory.path().join("a.lua"), text).unwrap();
        let settings = Settings { root: directory.path().to_owned(), ..settings("a") };
        let (mut state, recorder) = started_with(&settings);
        serve(&mut state, "GET", Body::Memory(Vec::new()));
        let log = recorder.take().log.remove(0).1;
        assert!(log.contains(message), "{text}: {log}");
        let place =
            format!("\nstack traceback:\n\t{}/a.lua:2: in the application", directory.path().display());
        assert!(log.ends_with(&place), "{text}: {log}");
        assert_eq!(log.matches("stack traceback").count(), 1, "{log}");
    }
    // One that raises has its own stack, and one of C alone has no place.
    for (text, end) in
        [("\nreturn function() error('x') end", None), ("return print", Some("start_response"))]
    {
        fs::write(directory.path().join("a.lua"), text).unwrap();
        let settings = Settings { root: directory.path().to_owned(), ..settings("a") };
        let (mut state, recorder) = started_with(&settings);
        serve(&mut state, "GET", Body::Memory(Vec::new()));
        let log = recorder.take().log.remove(0).1;
        assert!(!log.contains("in the application") && end.is_none_or(|end| log.ends_with(end)), "{log}");
    }
}

#[test]
fn finds_the_callable_in_the_promised_order() {
    for (text, target, expected) in [
        ("return { application = say('application'), app = say('app') }", "a", "application"),
        ("return setmetatable({ app = say('app') }, { __call = say('module') })", "a", "module"),
        ("return { app = say('app') }", "a", "app"),
        ("return say('function')", "a", "function"),
        ("return say('function')", "a.lua", "function"),
        ("return { go = say('go'), application = say('application') }", "a.lua:go", "go"),
        ("return { go = setmetatable({}, { __call = say('callable') }) }", "a:go", "callable"),
        (
            "return { application = coroutine.wrap(function() while true do coroutine.yield('200', {}, 'wrapped') end end) }",
            "a",
            "wrapped",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let say = "local function say(text) return function() return 200, {}, text end end\n";
        fs::write(directory.path().join("a.lua"), format!("{say}{text}")).unwrap();
        let settings = Settings { root: directory.path().to_owned(), ..settings(target) };
        let mut state = State::new(&settings).unwrap();
        state.load().unwrap();
        let recorder = Recorder::default();
        state.start_worker(1, 1, Box::new(recorder.clone())).unwrap();
        assert_eq!(serve(&mut state, "GET", Body::Memory(vec![])), Outcome::Complete);
        assert_eq!(String::from_utf8(recorder.take().chunks.concat()).unwrap(), expected, "{text}");
    }
}

#[test]
fn hooks_run_in_order_and_a_failing_start_is_reported() {
    let mut state = State::new(&settings("hooks.lua")).unwrap();
    state.load().unwrap();
    let recorder = Recorder::default();
    state.start_worker(3, 1, Box::new(recorder.clone())).unwrap();
    state.stop_worker();
    let log = recorder.take().log;
    let lines: Vec<&str> = log.iter().map(|(_, line)| line.lines().next().unwrap()).collect();
    assert_eq!(lines[0], r#"started {"worker":3}"#);
    assert_eq!(lines[1], "generation=7");
    assert_eq!(log[1].0, Level::Debug);
    assert!(
        lines[2].starts_with("error in on_worker_stop: ") && lines[2].ends_with("stop failed"),
        "{lines:?}"
    );
    assert_eq!(lines[3], "stopped");

    let mut state = State::new(&settings("hooks.lua:failing")).unwrap();
    state.load().unwrap();
    state.lua().globals().set("fail_start", true).unwrap();
    let error = state.start_worker(1, 1, Box::new(recorder)).unwrap_err();
    assert!(error.message.contains("hooks.lua:") && error.message.ends_with("no database"), "{error:?}");
    assert!(error.traceback.contains("hooks.lua:"), "{error:?}");
}

#[test]
fn workers_with_different_seeds_draw_different_numbers() {
    let draw = |seed: u64| {
        let mut state = State::new(&settings("harness.lua")).unwrap();
        state.load().unwrap();
        state.start_worker(1, seed, Box::new(Recorder::default())).unwrap();
        state
            .lua()
            .load("return math.random(2^30), math.random(2^30), math.random(2^30)")
            .eval::<(i64, i64, i64)>()
            .unwrap()
    };
    assert_ne!(draw(0x0123_4567_89AB_CDEF), draw(0xFEDC_BA98_7654_3210));
    assert_ne!(draw(1), draw(2));
    assert_ne!(draw(u64::MAX), draw(u64::MAX - 1));
}

#[test]
fn what_outlives_its_request_reaches_no_other() {
    let (mut state, recorder) = started("stale.lua");
    assert_eq!(serve(&mut state, "GET", Body::Memory(b"first".to_vec())), Outcome::Complete);
    recorder.take();
    assert_eq!(serve(&mut state, "GET", Body::Memory(b"second".to_vec())), Outcome::Complete);
    let record = recorder.take();
    assert_eq!(record.log, []);
    assert_eq!(String::from_utf8(record.chunks.concat()).unwrap(), "safe");
}

#[test]
fn memory_stays_flat_over_many_requests() {
    let (mut state, recorder) = started("hello.lua");
    let mut used = Vec::new();
    for _ in 0..3 {
        for _ in 0..2000 {
            serve(&mut state, "POST", Body::Memory(vec![b'x'; 1000]));
            recorder.take();
        }
        state.lua().gc_collect().unwrap();
        used.push(state.lua().used_memory());
    }
    assert!(used[2] <= used[1] + 4096, "{used:?}");
}

/// `Output::exit` never returns, so the thread that called it is parked there for good and the test
/// looks at what it left behind.
mod exit {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    enum Event {
        Out(String),
        Log(String),
        Exit(Option<Outcome>, i32),
    }

    struct Reporter(mpsc::Sender<Event>);

    impl Output for Reporter {
        fn head(&mut self, head: &[u8]) -> Result<(), Gone> {
            self.body(head)
        }
        fn body(&mut self, bytes: &[u8]) -> Result<(), Gone> {
            self.0.send(Event::Out(String::from_utf8_lossy(bytes).into_owned())).map_err(|_| Gone)
        }
        fn flush(&mut self) -> Result<(), Gone> {
            Ok(())
        }
        fn wait(&mut self, _: Duration) -> Result<(), Gone> {
            Ok(())
        }
        fn log(&mut self, _: Level, message: &[u8], _: &str) {
            let _ = self.0.send(Event::Log(String::from_utf8_lossy(message).into_owned()));
        }
        fn stack(&mut self, _: Interrupt, _: &[u8]) {
            unreachable!("nothing interrupts");
        }
        fn exit(&mut self, outcome: Option<Outcome>, code: i32) -> ! {
            let _ = self.0.send(Event::Exit(outcome, code));
            loop {
                thread::park();
            }
        }
    }

    /// Serves one request with a callable of `exits.lua`: what went out, the log, how it exited.
    fn run(name: &'static str) -> (String, Vec<String>, Option<Outcome>, i32) {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut state = State::new(&settings(&format!("exits.lua:{name}"))).unwrap();
            state.load().unwrap();
            state.start_worker(1, 1, Box::new(Reporter(sender))).unwrap();
            serve(&mut state, "GET", Body::Memory(vec![]));
        });
        let (mut out, mut log) = (String::new(), Vec::new());
        loop {
            match receiver.recv_timeout(Duration::from_secs(20)) {
                Ok(Event::Out(text)) => out.push_str(&text),
                Ok(Event::Log(text)) => log.push(text),
                Ok(Event::Exit(outcome, code)) => return (out, log, outcome, code),
                Err(error) => panic!("{name}: os.exit came back: {error}; sent {out:?}, logged {log:?}"),
            }
        }
    }

    #[test]
    fn before_the_head_the_client_gets_a_500_wherever_the_call_is() {
        for (name, code) in [
            ("plain", 3),
            ("protected", 0),
            ("in_coroutine", 1),
            ("in_wrap", 7),
            ("in_iterator", 9),
            ("in_handler", 2),
        ] {
            let (out, log, outcome, got) = run(name);
            assert!(out.starts_with("Status: 500 Internal Server Error\r\n"), "{name}: {out:?}");
            assert!(out.ends_with("\r\n\r\nInternal Server Error\n"), "{name}: {out:?}");
            assert_eq!((outcome, got), (Some(Outcome::Complete), code), "{name}");
            assert_eq!(log.iter().filter(|line| line.contains("os.exit(")).count(), 1, "{name}: {log:?}");
            assert!(log[0].contains("GET /path?a=1 HTTP/1.1 (request test-id)"), "{name}: {log:?}");
            assert!(log[0].contains("exits.lua:"), "{name}: {log:?}");
        }
    }

    /// As Lua's own: those with integers refuse what is none, before anything has ended; the others take what C makes of it.
    #[test]
    fn any_number_is_a_status_or_an_error() {
        for (name, code) in [("text", 3), ("negative", 255), ("whole", 4), ("large", 5)] {
            let (out, _, outcome, got) = run(name);
            assert!(out.starts_with("Status: 500 "), "{name}: {out:?}");
            assert_eq!((outcome, got), (Some(Outcome::Complete), code), "{name}");
        }
        for (name, code) in [
            ("nan", 0),
            ("huge", 0),
            ("minus_huge", 0),
            ("beyond", 0),
            ("fraction", 3),
            ("minus_fraction", 253),
        ] {
            if cfg!(any(feature = "lua53", feature = "lua54", feature = "lua55")) {
                let (mut state, recorder) = started(&format!("exits.lua:{name}"));
                for _ in 0..2 {
                    assert_eq!(serve(&mut state, "GET", Body::Memory(vec![])), Outcome::Complete, "{name}");
                    let record = recorder.take();
                    assert!(record.head.unwrap().starts_with("Status: 500 "), "{name}");
                    let [(_, line)] = &record.log[..] else { panic!("{name}: {:?}", record.log) };
                    assert!(
                        line.contains("bad argument #1 to 'exit' (number has no integer representation)"),
                        "{line}"
                    );
                }
            } else {
                let (out, _, outcome, got) = run(name);
                assert!(out.starts_with("Status: 500 "), "{name}: {out:?}");
                assert_eq!((outcome, got), (Some(Outcome::Complete), code), "{name}");
            }
        }
    }

    #[test]
    fn after_the_head_the_transport_breaks_and_close_still_runs() {
        let (out, log, outcome, code) = run("mid_body");
        assert!(out.ends_with("\r\n\r\npart"), "{out:?}");
        assert_eq!((outcome, code), (Some(Outcome::Broken), 4));
        assert!(log.iter().any(|line| line == "closed"), "{log:?}");
    }

    #[test]
    fn after_the_response_nothing_is_answered_twice() {
        let (out, _, outcome, code) = run("after");
        assert!(out.ends_with("\r\n\r\nwhole"), "{out:?}");
        assert_eq!((outcome, code), (None, 5));
        let (out, _, outcome, code) = run("in_close");
        assert!(out.ends_with("\r\n\r\nwhole"), "{out:?}");
        assert_eq!((outcome, code), (Some(Outcome::Complete), 6));
    }
}

/// Figures, not a verdict: `cargo test --release --lib lua::tests::bench -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures that mean something in release builds only"]
fn bench() {
    struct Sink(usize);
    impl Output for Sink {
        fn head(&mut self, head: &[u8]) -> Result<(), Gone> {
            self.0 += head.len();
            Ok(())
        }
        fn body(&mut self, bytes: &[u8]) -> Result<(), Gone> {
            self.0 += bytes.len();
            Ok(())
        }
        fn flush(&mut self) -> Result<(), Gone> {
            Ok(())
        }
        fn wait(&mut self, _: std::time::Duration) -> Result<(), Gone> {
            Ok(())
        }
        fn log(&mut self, _: Level, message: &[u8], _: &str) {
            panic!("{}", String::from_utf8_lossy(message));
        }
        fn stack(&mut self, _: Interrupt, _: &[u8]) {
            unreachable!("nothing interrupts");
        }
        fn exit(&mut self, _: Option<Outcome>, code: i32) -> ! {
            std::process::exit(code)
        }
    }
    const ROUNDS: u32 = 50_000;
    let variables = variables("GET", &[]);
    for target in ["hello.lua", "hello.lua:short", "hello.lua:five_headers", "hello.lua:iterated"] {
        let mut state = State::new(&settings(target)).unwrap();
        state.load().unwrap();
        state.settle();
        state.start_worker(1, 1, Box::new(Sink(0))).unwrap();
        // Time on the processor, so that neighbours on the machine do not count.
        let clock = || -> f64 {
            let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e3
        };
        let mut runs: Vec<f64> = (0..5)
            .map(|_| {
                let from = clock();
                for _ in 0..ROUNDS {
                    state.serve(Request {
                        serial: 1,
                        id: b"0123456789abcdef",
                        variables: &variables,
                        body: Body::Memory(vec![]),
                        role: Role::Responder,
                    });
                    state.after_response();
                }
                (clock() - from) / f64::from(ROUNDS)
            })
            .collect();
        runs.sort_by(f64::total_cmp);
        let mut environs = super::environ::Environs::new(state.lua()).unwrap();
        let from = clock();
        for _ in 0..ROUNDS {
            environs.table(state.lua(), b"0123456789abcdef", &variables).unwrap();
        }
        let environ = (clock() - from) / f64::from(ROUNDS);
        println!(
            "{target}: {:.2} µs a request ({:.2} to {:.2}), environ alone {environ:.2} µs",
            runs[2], runs[0], runs[4]
        );
    }
}
