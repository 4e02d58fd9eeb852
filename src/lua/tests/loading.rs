//! The search for an application's callable, and the errors of a target that has none.

use super::*;

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
