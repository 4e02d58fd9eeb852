//! Interrupts, without signals: the application calls `interrupt` where a signal would come, in the middle of C
//! code. What the signal itself does is in `tests/acceptance/deadlines.rs`.

use super::*;

/// Of the request that runs in all tests here.
const SERIAL: u32 = 1;

/// A state whose application is `source`, which may call `interrupt("timeout")`, `interrupt("trace")` and
/// `interrupt(KIND, SERIAL)`.
fn application(source: &str) -> (State, Recorder) {
    let (state, recorder) = started("harness.lua");
    let interrupts = state.interrupts();
    let interrupt = state
        .lua()
        .create_function(move |_, (kind, serial): (String, Option<u32>)| {
            let kind = if kind == "trace" { Interrupt::Trace } else { Interrupt::Timeout };
            #[allow(unsafe_code)]
            // SAFETY: a function of the state runs, so the state has not been dropped.
            unsafe { &*interrupts }.receive(serial.unwrap_or(SERIAL), kind);
            Ok(())
        })
        .unwrap();
    state.lua().globals().set("interrupt", interrupt).unwrap();
    state.set_application(state.lua().load(source).set_name("=app").eval().unwrap());
    (state, recorder)
}

fn get(state: &mut State) -> Outcome {
    serve(state, "GET", Body::Memory(Vec::new()))
}

/// Serves one request that times out and one that does not; gives what is left of the first.
#[track_caller]
fn times_out(source: &str) -> Record {
    let (mut state, recorder) = application(source);
    get(&mut state);
    let record = recorder.take();
    let [(Interrupt::Timeout, text)] = &record.stacks[..] else { panic!("{:?}", record.stacks) };
    assert!(text.starts_with("app:") && text.contains(": the request has run for too long"), "{text}");
    assert!(text.contains("\nstack traceback:\n\t"), "{text}");
    assert!(!text.contains("nibiru/"), "{text}");
    let fine = state.lua().load("return function() assert(not debug.gethook()) return 200, {}, 'fine' end");
    state.set_application(fine.eval().unwrap());
    assert_eq!(get(&mut state), Outcome::Complete);
    let next = recorder.take();
    assert_eq!(String::from_utf8(next.chunks.concat()).unwrap(), "fine", "{:?}", next.log);
    assert_eq!((next.log, next.stacks), (vec![], vec![]));
    record
}

#[test]
fn a_timeout_is_an_error_in_the_code_that_runs() {
    let record = times_out(
        "return function() interrupt('timeout') for _ = 1, 1e7 do local x = 1 end error('not interrupted') end",
    );
    assert!(record.head.unwrap().starts_with("Status: 500 "));
    assert_eq!(record.log, [], "the gateway logs it");
}

#[test]
fn the_application_can_tidy_up_after_a_timeout() {
    let record = times_out(
        "local function spin() for _ = 1, 1e7 do local x = 1 end error('not interrupted') end\n\
         return function()\n\
         \x20 local ok, problem = pcall(function() interrupt('timeout') spin() end)\n\
         \x20 return 200, {}, { tostring(ok) .. ' ' .. problem, close = function() require('nibiru').log.info('closed') end }\n\
         end",
    );
    let body = String::from_utf8(record.chunks.concat()).unwrap();
    assert!(body.starts_with("false app:3: the request has run for too long"), "{body}");
    assert_eq!(record.log, [(Level::Info, "closed".to_owned())]);
}

// A coroutine has no hook of its own in LuaJIT: all of a state's share one.
#[test]
fn a_timeout_finds_the_coroutine_that_runs() {
    for (name, call) in [
        ("resume", "assert(coroutine.resume(coroutine.create(spin)))"),
        ("wrap", "coroutine.wrap(spin)()"),
        ("both", "assert(coroutine.resume(coroutine.create(function() coroutine.wrap(spin)() end)))"),
        ("after a yield", "local co = coroutine.wrap(function() coroutine.yield() spin() end) co() co()"),
        ("back in the main state", "coroutine.wrap(function() end)() spin()"),
        ("back in a coroutine", "coroutine.wrap(function() coroutine.wrap(function() end)() spin() end)()"),
        ("after an error", "pcall(coroutine.wrap(function() error('x') end)) spin()"),
        ("after a bad argument", "pcall(coroutine.resume, 1) pcall(coroutine.wrap, 1) spin()"),
    ] {
        let source = format!(
            "local function spin() interrupt('timeout') for _ = 1, 1e7 do local x = 1 end error('not interrupted') end\nreturn function() {call} end"
        );
        let record = times_out(&source);
        let text = &record.stacks[0].1;
        let inside =
            !name.contains("main") && !name.starts_with("after an") && !name.starts_with("after a bad");
        assert_eq!(text.contains("\n\t(a coroutine, resumed by)\n\t"), inside, "{name}: {text}");
        assert!(record.head.unwrap().starts_with("Status: 500 "), "{name}");
    }
}

/// A signal that comes when the coroutine has no instruction left.
#[test]
#[cfg(not(any(feature = "lua51", feature = "luajit")))] // these make no coroutine of a C function
fn a_timeout_at_the_end_of_a_coroutine_is_met_outside() {
    times_out(
        "return function()\n\
         \x20 coroutine.resume(coroutine.create(interrupt), 'timeout')\n\
         \x20 for _ = 1, 1e7 do local x = 1 end error('not interrupted')\n\
         end",
    );
}

#[test]
fn a_trace_tells_the_stack_and_changes_nothing() {
    let (mut state, recorder) = application(
        "local function work() interrupt('trace') return 'fine' end\n\
         return function() local text = coroutine.wrap(work)() return 200, {}, text end",
    );
    assert_eq!(get(&mut state), Outcome::Complete);
    let record = recorder.take();
    assert_eq!(String::from_utf8(record.chunks.concat()).unwrap(), "fine");
    let [(Interrupt::Trace, text)] = &record.stacks[..] else { panic!("{:?}", record.stacks) };
    assert!(text.starts_with("stack traceback:\n\t"), "{text}");
    assert!(text.contains("app:1: in ") && text.contains("app:2: in "), "{text}");
}

#[test]
fn an_interrupt_comes_once_and_only_for_the_request_that_runs() {
    let (mut state, recorder) = application(
        "return function()\n\
         \x20 interrupt('timeout', 0) interrupt('timeout', 2) interrupt('trace', 7)\n\
         \x20 interrupt('trace') interrupt('trace')\n\
         \x20 local ok = pcall(function() interrupt('timeout') local x = 1 end)\n\
         \x20 interrupt('timeout') interrupt('timeout')\n\
         \x20 return 200, {}, tostring(ok)\n\
         end",
    );
    assert_eq!(get(&mut state), Outcome::Complete);
    let record = recorder.take();
    assert_eq!(String::from_utf8(record.chunks.concat()).unwrap(), "false");
    let kinds: Vec<_> = record.stacks.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Interrupt::Trace, Interrupt::Timeout]);
    // Between two requests.
    state.lua().load("interrupt('timeout') local x = 1").exec().unwrap();
}

#[test]
fn the_hook_of_the_application_survives_a_look() {
    let (mut state, recorder) = application(
        "return function()\n\
         \x20 local function mine() end\n\
         \x20 debug.sethook(mine, 'c', 1000)\n\
         \x20 interrupt('trace')\n\
         \x20 local hook, mask, count = debug.gethook()\n\
         \x20 debug.sethook()\n\
         \x20 return 200, {}, tostring(hook == mine) .. mask .. count\n\
         end",
    );
    assert_eq!(get(&mut state), Outcome::Complete);
    let record = recorder.take();
    assert_eq!(record.stacks.len(), 1);
    assert_eq!(String::from_utf8(record.chunks.concat()).unwrap(), "truec1000", "{:?}", record.log);
}

#[test]
#[cfg(not(feature = "luajit"))] // whose coroutines share one hook
fn a_coroutine_made_while_the_hook_is_set_has_the_applications_hook_later() {
    let (mut state, recorder) = application(
        "local function body() return debug.gethook() == nil and 'fine' end\n\
         return function()\n\
         \x20 local before = made_while_set(body)\n\
         \x20 local _, text = coroutine.resume(before)\n\
         \x20 return 200, {}, text\n\
         end",
    );
    let interrupts = state.interrupts();
    let made_while_set = state
        .lua()
        .create_function(move |lua, body: Function| {
            #[allow(unsafe_code)]
            // SAFETY: a function of the state runs, so the state has not been dropped.
            unsafe { &*interrupts }.receive(SERIAL, Interrupt::Trace);
            lua.create_thread(body)
        })
        .unwrap();
    state.lua().globals().set("made_while_set", made_while_set).unwrap();
    assert_eq!(get(&mut state), Outcome::Complete);
    let record = recorder.take();
    assert_eq!(record.stacks.len(), 1, "{:?}", record.stacks);
    assert_eq!(String::from_utf8(record.chunks.concat()).unwrap(), "fine");
}

/// Where nibiru's own Lua code is hit, outside of what catches errors.
#[test]
fn a_timeout_in_between_leaves_nothing_behind() {
    let (mut state, recorder) = application(
        "return function(environ)\n\
         \x20 environ['nibiru.after_response'](function() require('nibiru').log.info('after') end)\n\
         \x20 return 200, {}, setmetatable({ 'x' }, { __index = lookup })\n\
         end",
    );
    // The body's `close` is looked up by this C code, so the next instruction is nibiru's.
    let lookup = state
        .lua()
        .create_function(|lua, (_, key): (Value, Value)| {
            if key.as_string().is_none_or(|key| key != "close") {
                return Ok(Value::Nil);
            }
            lua.globals().get::<Function>("interrupt")?.call::<()>("timeout")?;
            Ok(Value::Function(lua.load("require('nibiru').log.info('closed')").into_function()?))
        })
        .unwrap();
    state.lua().globals().set("lookup", lookup).unwrap();
    get(&mut state);
    let record = recorder.take();
    assert_eq!(record.stacks.len(), 1);
    assert_eq!(record.log, [(Level::Info, "closed".to_owned()), (Level::Info, "after".to_owned())]);
    assert_eq!(get(&mut state), Outcome::Complete);
}

#[test]
fn a_timeout_in_after_response_spares_the_functions_that_follow() {
    let (mut state, recorder) = application(
        "return function(environ)\n\
         \x20 local later = environ['nibiru.after_response']\n\
         \x20 later(function() interrupt('timeout') for _ = 1, 1e7 do local x = 1 end error('not interrupted') end)\n\
         \x20 later(interrupt)\n\
         \x20 later(function() require('nibiru').log.info('last') end)\n\
         \x20 return 200, {}, 'fine'\n\
         end",
    );
    assert_eq!(get(&mut state), Outcome::Complete);
    let record = recorder.take();
    assert_eq!(String::from_utf8(record.chunks.concat()).unwrap(), "fine");
    assert_eq!(record.stacks.len(), 1);
    assert_eq!(record.log.last().unwrap().1, "last", "{:?}", record.log);
}

#[test]
fn a_timeout_in_a_message_handler_still_ends_the_request() {
    let (mut state, recorder) = application(
        "return function()\n\
         \x20 local ok = xpcall(error, function() interrupt('timeout') local x = 1 return x end)\n\
         \x20 return 200, {}, tostring(ok)\n\
         end",
    );
    assert_eq!(get(&mut state), Outcome::Complete);
    let record = recorder.take();
    assert_eq!(String::from_utf8(record.chunks.concat()).unwrap(), "false");
    assert_eq!(record.stacks.len(), 1);
}

/// `coroutine.resume` and `coroutine.wrap` are ours. Nobody may notice.
#[test]
fn coroutines_behave_as_luas_own() {
    let source = fs::read_to_string(lua_tests().join("coroutines.lua")).unwrap();
    #[allow(unsafe_code)]
    // SAFETY: the chunk is our own; it uses `debug`, and breaks nothing with it.
    let plain = unsafe { mlua::Lua::unsafe_new() };
    let run = |lua: &mlua::Lua| -> String { lua.load(&*source).set_name("=script").call(()).unwrap() };
    let (expected, ours) = (run(&plain), run(started("harness.lua").0.lua()));
    for (expected, ours) in expected.lines().zip(ours.lines()) {
        assert_eq!(ours, expected);
    }
    assert_eq!(ours, expected);
    assert!(ours.lines().count() > 30, "{ours}");
}
