//! nibiru's own Lua code, which is embedded in the binary: loads it in front of the application.
//!
//! Called once for each state.

use std::rc::Rc;

use mlua::{Function, Lua, Table, Value};

use super::functions;
use super::host::Host;
use super::interrupt;
use super::settings::Settings;

/// The entry points of nibiru's Lua side.
pub(super) struct Functions {
    pub(super) load: Function,
    pub(super) set_application: Function,
    pub(super) serve: Function,
    pub(super) tidy: Function,
    pub(super) after_response: Function,
    pub(super) start_hooks: Function,
    pub(super) stop_hooks: Function,
    pub(super) seed: Function,
    pub(super) flush: Function,
    pub(super) interrupted: Function,
}

#[cfg(test)]
impl Functions {
    /// Every entry point.
    pub(super) fn all(&self) -> Vec<&Function> {
        let Self {
            load,
            set_application,
            serve,
            tidy,
            after_response,
            start_hooks,
            stop_hooks,
            seed,
            flush,
            interrupted,
        } = self;
        vec![
            load,
            set_application,
            serve,
            tidy,
            after_response,
            start_hooks,
            stop_hooks,
            seed,
            flush,
            interrupted,
        ]
    }
}

/// Runs an embedded file with the parts that it asks for, in the environment that [`environment`] made. Tracebacks show the name.
macro_rules! run {
    ($lua:expr, $environment:expr, $file:literal, $result:ty, $arguments:expr) => {
        $lua.load(include_str!(concat!("../../lua/nibiru/", $file)))
            .set_name(concat!("@nibiru/", $file))
            .set_mode(mlua::chunk::ChunkMode::Text)
            .set_environment($environment.clone())
            .call::<$result>($arguments)
    };
}

/// The globals of nibiru's own chunks: a copy, made before the application can touch the original. An application may
/// give `_G` a metatable that raises an error for an unknown name (strict mode), or replace `print` and its kin; nibiru's chunks
/// see neither.
fn environment(lua: &Lua) -> mlua::Result<Table> {
    let environment = lua.create_table()?;
    for pair in lua.globals().pairs::<Value, Value>() {
        let (name, value) = pair?;
        environment.raw_set(name, value)?;
    }
    Ok(environment)
}

/// Loads nibiru's Lua side. Its parts are handed to each other here and not found by `require`: an
/// application can neither see the files of `core/` nor put its own in their place.
pub(super) fn embed(lua: &Lua, host: &Rc<Host>, settings: &Settings) -> mlua::Result<Functions> {
    let own = &environment(lua)?;
    let host = &functions::table(lua, host, settings, interrupt::TIMED_OUT)?;
    let traceback = &run!(lua, own, "core/traceback.lua", Table, (host, lua.current_thread()))?;
    let strings = &run!(lua, own, "core/strings.lua", Table, ())?;
    let warnings = &run!(lua, own, "core/warnings.lua", Table, host)?;
    let status_line = run!(lua, own, "core/status_line.lua", Table, (host, strings))?;
    let header_rules = run!(lua, own, "core/header_rules.lua", Table, (host, strings, warnings))?;
    let head = run!(lua, own, "core/head.lua", Table, (host, strings, status_line, header_rules))?;
    let response = run!(lua, own, "core/response.lua", Table, (host, &head, warnings))?;
    let input = run!(lua, own, "core/input.lua", Table, host)?;
    let file = run!(lua, own, "core/file.lua", Table, host)?;
    let environ = run!(lua, own, "core/environ.lua", Table, (host, input, &file))?;
    let loader = &run!(lua, own, "core/loader.lua", Table, traceback)?;
    let authorizer = run!(lua, own, "core/authorizer.lua", Table, (&head, strings))?;
    let after = run!(lua, own, "core/after_response.lua", Table, (host, loader, traceback))?;
    let request = run!(lua, own, "core/request.lua", Table, (host, traceback))?;
    let start_response = run!(lua, own, "core/start_response.lua", Table, &response)?;
    let body = run!(lua, own, "core/body.lua", Table, (host, &response, file, loader, &request, traceback))?;
    let locale = run!(lua, own, "core/locale.lua", Table, warnings)?;
    let server = run!(
        lua,
        own,
        "core/server.lua",
        Table,
        (host, head, response, environ, traceback, authorizer, after, request, start_response, body, locale)
    )?;
    let process = run!(lua, own, "process.lua", Table, (host, &server, traceback))?;
    let (nibiru, hooks) = run!(lua, own, "init.lua", (Table, Table), (host, traceback))?;
    run!(lua, own, "core/native.lua", (), host)?;
    lua.register_module("nibiru", nibiru)?;
    lua.register_module("nibiru.text", run!(lua, own, "text.lua", Table, host)?)?;
    if lua.globals().raw_get::<Value>("utf8")?.is_nil() {
        let utf8 = run!(lua, own, "utf8.lua", Table, ())?;
        lua.globals().raw_set("utf8", &utf8)?;
        lua.register_module("utf8", utf8)?;
    }
    Ok(Functions {
        load: loader.get("load")?,
        set_application: server.get("set_application")?,
        serve: server.get("serve")?,
        tidy: server.get("tidy")?,
        after_response: server.get("after_response")?,
        start_hooks: hooks.get("start_worker")?,
        stop_hooks: hooks.get("stop_worker")?,
        seed: process.get("start_worker")?,
        flush: process.get("flush")?,
        interrupted: traceback.get("interrupted")?,
    })
}
