//! Applications that guard the globals (strict mode), or put other functions in the place of Lua's own.

use super::tables::run_cases;
use super::*;

/// The forms of the interface, under an application that spoils the globals in one way or the other.
#[test]
fn every_form_works_under_strict_globals() {
    let (mut state, recorder) = started("strict_harness.lua:strict");
    assert_eq!(log_lines(&recorder), ["start hook 3"]);
    run_cases(&mut state, &recorder, "strict.lua");
    state.stop_worker();
    assert_eq!(log_lines(&recorder), ["stop hook"]);
}

#[test]
fn every_form_works_where_the_application_has_replaced_luas_functions() {
    let (mut state, recorder) = started("strict_harness.lua:replaced");
    recorder.take();
    run_cases(&mut state, &recorder, "strict.lua");
    state.stop_worker();
    assert_eq!(log_lines(&recorder), ["stop hook"]);
}

fn log_lines(recorder: &Recorder) -> Vec<String> {
    recorder.take().log.into_iter().map(|(_, line)| line).collect()
}

/// A module that raises an error for a field that it has not, as `pl.strict` makes them.
#[test]
fn a_module_in_strict_mode_is_an_application_under_each_name() {
    for fields in ["application = run", "app = run", "run = run"] {
        let directory = tempfile::tempdir().unwrap();
        let text = format!(
            "local function run() return 200, {{}}, 'fine' end\n\
             return setmetatable({{ {fields} }}, {{\n\
             \x20 __index = function(_, name) error('no field ' .. name) end,\n\
             \x20 __call = run,\n\
             }})"
        );
        fs::write(directory.path().join("app.lua"), text).unwrap();
        let settings = Settings { root: directory.path().to_owned(), ..settings("app") };
        let (mut state, recorder) = started_with(&settings);
        assert_eq!(serve(&mut state, "GET", Body::Memory(vec![])), Outcome::Complete);
        assert_eq!(recorder.take().chunks.concat(), b"fine", "{fields}");
    }
    let error = load_error(
        &[("app.lua", "return setmetatable({}, { __index = function() error('strict') end })")],
        "app",
    );
    assert!(error.message.contains("app has no callable"), "{error:?}");
}

/// From Lua 5.2 on, a function that uses a global, or that holds one which does, has the environment as its upvalue. So
/// this finds each use outside of what runs while nibiru itself is loaded.
#[test]
fn no_function_of_nibirus_uses_a_global() {
    let (state, _) = started("harness.lua");
    let walk: Function = state
        .lua()
        .load(fs::read_to_string(lua_tests().join("globals_used.lua")).unwrap())
        .into_function()
        .unwrap();
    let functions = state.lua().create_sequence_from(state.entry_points().into_iter().cloned()).unwrap();
    let (count, guilty): (usize, Vec<String>) = walk.call(functions).unwrap();
    assert!(count > 80, "the walk found {count} functions only");
    assert_eq!(guilty, Vec::<String>::new());
}
