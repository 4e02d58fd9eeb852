//! The tables of cases in `tests/lua/`.

use mlua::Table;

use super::*;

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
    recorder.0.borrow_mut().takes_files = case.get("takes_files").unwrap_or_default();
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
    if let Some(expected) = text(case, "files") {
        let files: Vec<_> =
            record.files.iter().map(|(offset, length)| format!("{offset}+{length}")).collect();
        compare("files", expected, files.join(" "));
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

pub(super) fn run_table(file: &str) {
    run_table_with(&settings("harness.lua"), file);
}

fn run_table_with(settings: &Settings, file: &str) {
    let (mut state, recorder) = started_with(settings);
    run_cases(&mut state, &recorder, file);
}

pub(super) fn run_cases(state: &mut State, recorder: &Recorder, file: &str) {
    let path = lua_tests().join(file);
    let cases: Table = state.lua().load(path.clone()).eval().unwrap_or_else(|error| panic!("{error}"));
    let mut failed = Vec::new();
    let mut count = 0;
    for case in cases.sequence_values::<Table>() {
        let case = case.unwrap();
        let name: String = case.get("name").unwrap();
        // A body reads the same from memory and from a file.
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
