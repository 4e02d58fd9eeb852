//! Replacements of `coroutine.resume` and `coroutine.wrap` that tell the [`Hook`] which coroutine runs.
//!
//! In Lua proper a hook belongs to one coroutine, so an interrupt has to find the coroutine that runs. LuaJIT's hooks are the
//! whole state's, and its library is left alone. Coroutines that C code resumes by itself are not known.
#![allow(unsafe_code, reason = "Lua's C interface tells which state runs, and mlua's safe one does not")]

use std::ffi::c_int;
use std::rc::Rc;

use mlua::ffi::{self, lua_State};
use mlua::{Function, Lua, Table};

use super::hook::Hook;

/// The replacements' state: their hook, and the functions of Lua's own `coroutine` that do the work. It outlives its Lua, and
/// does not move.
pub(super) struct Coroutines {
    hook: Rc<Hook>,
    create: ffi::lua_CFunction,
    resume: ffi::lua_CFunction,
}

impl Coroutines {
    /// Finds Lua's own functions, and replaces none yet.
    pub(super) fn new(lua: &Lua, hook: Rc<Hook>) -> mlua::Result<Rc<Self>> {
        let table: Table = lua.globals().get("coroutine")?;
        let function = |name: &str| -> mlua::Result<ffi::lua_CFunction> {
            let mut found = None;
            let place = &raw mut found;
            // SAFETY: the function is on the stack, and `place` outlives the call.
            unsafe {
                lua.exec_raw::<()>(table.get::<Function>(name)?, |state| {
                    *place = ffi::lua_tocfunction(state, -1);
                    ffi::lua_pop(state, 1);
                })?;
            }
            found.ok_or_else(|| mlua::Error::runtime("coroutine: not Lua's own"))
        };
        Ok(Rc::new(Self { hook, create: function("create")?, resume: function("resume")? }))
    }

    /// Puts the functions below in the place of Lua's own.
    ///
    /// # Safety
    /// `this` must outlive the Lua of `state`. Raises an error of Lua's, out of memory.
    pub(super) unsafe fn replace(this: *const Self, state: *mut lua_State) {
        let functions: [(_, ffi::lua_CFunction); 2] = [(c"resume", resume), (c"wrap", wrap)];
        // SAFETY: the stack has room for the three values that are on it at most.
        unsafe {
            ffi::lua_getglobal(state, c"coroutine".as_ptr());
            for (name, function) in functions {
                ffi::lua_pushlightuserdata(state, this.cast_mut().cast());
                ffi::lua_pushcclosure(state, function, 1);
                ffi::lua_setfield(state, -2, name.as_ptr());
            }
            ffi::lua_pop(state, 1);
        }
    }

    /// The state that is the first upvalue of the C function that `state` runs.
    ///
    /// # Safety
    /// [`Self::replace`] has given that upvalue.
    unsafe fn upvalue<'a>(state: *mut lua_State) -> &'a Self {
        // SAFETY: as above; the target outlives the Lua.
        unsafe { &*ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)).cast() }
    }
}

/// `coroutine.resume (co [, val1, ···])`
///
/// Lua's own is called as a C function, in this one's frame: it finds the same arguments and gives the same results and
/// errors, and no call of Lua's is added.
unsafe extern "C-unwind" fn resume(state: *mut lua_State) -> c_int {
    // SAFETY: `replace` gave the upvalue. An argument that is no coroutine is left to Lua's own, which raises an error;
    // otherwise it raises none, unless the memory ends while it words one. This frame has no destructors.
    unsafe {
        let coroutines = Coroutines::upvalue(state);
        let coroutine = ffi::lua_tothread(state, 1);
        if coroutine.is_null() {
            return (coroutines.resume)(state);
        }
        coroutines.hook.within(coroutine, || (coroutines.resume)(state))
    }
}

/// `coroutine.wrap (f)`
unsafe extern "C-unwind" fn wrap(state: *mut lua_State) -> c_int {
    // SAFETY: `replace` gave the upvalue. `create` leaves a coroutine on top, or raises the error that is
    // wrap's as well. This frame has no destructors.
    unsafe {
        (Coroutines::upvalue(state).create)(state);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_insert(state, -2);
        ffi::lua_pushcclosure(state, wrapped, 2);
    }
    1
}

/// The function that `wrap` returns: as `auxwrap` of Lua's own lcorolib.c, which no name gives access to.
unsafe extern "C-unwind" fn wrapped(state: *mut lua_State) -> c_int {
    // SAFETY: `wrap` gave the upvalues, so the second is a coroutine, and stays while this function does. The stack
    // of a C function has room for LUA_MINSTACK values beside the arguments. This frame has no destructors.
    unsafe {
        let coroutines = Coroutines::upvalue(state);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        let coroutine = ffi::lua_tothread(state, -1);
        ffi::lua_insert(state, 1);
        let results = coroutines.hook.within(coroutine, || (coroutines.resume)(state));
        if ffi::lua_toboolean(state, -results) != 0 {
            return results - 1;
        }
        if place_is_added(state, coroutine, &coroutines.hook) {
            ffi::luaL_where(state, 1);
            ffi::lua_insert(state, -2);
            ffi::lua_concat(state, 2);
        }
        ffi::lua_error(state)
    }
}

/// Closes a coroutine that failed, which puts the error as its `__close` left it on top. Says whether the caller's place is put
/// before that error.
///
/// # Safety
/// Both are states of one Lua, and alive.
#[cfg(any(feature = "lua54", feature = "lua55"))]
unsafe fn place_is_added(state: *mut lua_State, coroutine: *mut lua_State, hook: &Hook) -> bool {
    // SAFETY: as above. lua_closethread runs the application's code, but protected: it raises nothing.
    unsafe {
        let mut status = ffi::lua_status(coroutine);
        if status != ffi::LUA_OK && status != ffi::LUA_YIELD {
            status = hook.within(coroutine, || ffi::lua_closethread(coroutine, state));
            ffi::lua_xmove(coroutine, state, 1);
        }
        status != ffi::LUA_ERRMEM && ffi::lua_type(state, -1) == ffi::LUA_TSTRING
    }
}

/// Says whether the caller's place is put before the error on top.
///
/// # Safety
/// `state` is alive.
#[cfg(not(any(feature = "lua54", feature = "lua55")))]
unsafe fn place_is_added(state: *mut lua_State, _: *mut lua_State, _: &Hook) -> bool {
    // SAFETY: as above. Before 5.3 numbers count as strings here.
    unsafe {
        if cfg!(feature = "lua53") {
            ffi::lua_type(state, -1) == ffi::LUA_TSTRING
        } else {
            ffi::lua_isstring(state, -1) != 0
        }
    }
}
