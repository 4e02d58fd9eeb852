//! A worker's life around its requests: hooks, random numbers, and memory.

use super::*;

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

/// A request that became old with the first reference to it would stay until the next full collection, with all its objects.
#[cfg(any(feature = "lua54", feature = "lua55"))]
#[test]
fn a_young_collection_frees_the_requests_that_are_over() {
    let (mut state, recorder) = started("hello.lua");
    let register = "environ['nibiru.after_response'](function() return environ end)";
    for (before, body) in [
        ("", "'text'"),
        (register, "'text'"),
        (register, "{ 'text', close = function() end }"),
        ("", "function() end"),
    ] {
        let code = format!(
            "kept = setmetatable({{}}, {{ __mode = 'v' }})
            return function(environ)
              {before}
              kept[#kept + 1] = environ
              collectgarbage('step')
              return 200, {{}}, {body}
            end"
        );
        state.set_application(state.lua().load(code).eval().unwrap());
        state.settle();
        for _ in 0..10 {
            assert_eq!(serve(&mut state, "GET", Body::Memory(vec![])), Outcome::Complete);
            recorder.take();
        }
        // A request that was marked while it ran takes a collection more.
        state.lua().load("for _ = 1, 3 do collectgarbage('step') end").exec().unwrap();
        let left: u32 = state
            .lua()
            .load("local left = 0 for _ in pairs(kept) do left = left + 1 end return left")
            .eval()
            .unwrap();
        assert_eq!(left, 0, "{before} {body}");
    }
}
