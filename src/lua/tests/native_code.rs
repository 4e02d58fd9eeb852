//! Code that is not Lua: Debian's C modules, and the note that a state makes of such code.

#[cfg(not(feature = "lua55"))]
use super::tables::run_table;
use super::*;

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
