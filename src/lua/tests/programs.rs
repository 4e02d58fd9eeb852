//! `os.execute` and `io.popen`, which tell the output before they start a program and are otherwise Lua's own.

use super::*;

/// Results, errors and stacks of both functions, as one text.
const USES: &str = r#"
    local told = {}
    local function tell(...)
      for position = 1, select('#', ...) do
        told[#told + 1] = tostring((select(position, ...)))
      end
    end
    tell(os.execute())
    tell(os.execute('exit 3'))
    tell(os.execute('kill -9 $$'))
    local pipe = io.popen('printf hello; exit 4')
    tell(io.type(pipe), pipe:read('*a'), pipe:close())
    tell(io.type(pipe), (tostring(pipe):gsub('0x%x+', '')))
    pipe = io.popen('exit 5', 'w')
    tell(pipe:write('') and true, pipe:close())
    for _, misuse in ipairs({
      function() os.execute({}) end,
      function() return os.execute({}) end,
      function() io.popen() end,
      function() local open = io.popen open('true', {}) end,
      function() os.execute(setmetatable({}, { __tostring = error })) end,
      function() local ok, problem = pcall(io.popen) error(problem, 0) end,
      function() coroutine.wrap(function() io.popen('true', {}) end)() end,
    }) do
      tell(xpcall(misuse, debug.traceback))
    end
    -- LuaJIT's own takes any mode.
    tell(pcall(io.popen, 'true', 'x') and 'opened' or 'refused')
    tell(debug.getinfo(os.execute, 'S').what, debug.getinfo(io.popen, 'S').what)
    -- LuaJIT tells a tail call of its own function by a number and an address, of any other C function by an address.
    return (table.concat(told, '\n'):gsub('%[builtin#%d+%]: at 0x%x+', '[C]: at'):gsub('%[C%]: at 0x%x+', '[C]: at'))
"#;

#[test]
fn results_errors_and_stacks_are_those_of_luas_own_functions() {
    #[allow(unsafe_code)]
    // SAFETY: the code loads no C module and breaks no invariant.
    let plain = unsafe { mlua::Lua::unsafe_new() };
    let (state, _) = started("harness.lua");
    let run = |lua: &mlua::Lua| lua.load(USES).set_name("@uses").eval::<String>().unwrap();
    let expected = run(&plain);
    assert!(expected.contains("hello\n") && expected.contains("'execute'"), "{expected}");
    assert_eq!(run(state.lua()), expected);
}

#[test]
fn the_output_is_told_before_each_program() {
    let (state, recorder) = started("harness.lua");
    let programs = |code: &str| {
        state.lua().load(code).exec().unwrap();
        recorder.take().programs
    };
    assert_eq!(programs("os.getenv('HOME') io.open('/dev/null'):close()"), 0);
    assert_eq!(programs("os.execute('true') os.execute('true')"), 2);
    assert_eq!(programs("io.popen('true'):close()"), 1);
    assert_eq!(programs("coroutine.wrap(function() os.execute('true') end)()"), 1);
}

/// Without an output, while the application is loaded.
#[test]
fn programs_start_also_before_the_worker_does() {
    let state = State::new(&settings("harness.lua")).unwrap();
    state.lua().load("assert(io.popen('echo fine'):read('*l') == 'fine')").exec().unwrap();
}
