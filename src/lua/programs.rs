//! Replacements of `os.execute` and `io.popen` that tell the output before a program starts, so that the program does not inherit what
//! the worker has set for itself alone.
#![allow(unsafe_code, reason = "only Lua's C interface calls a C function in the frame of another")]

use std::ffi::c_int;
use std::rc::Rc;

use mlua::ffi::{self, lua_State};
use mlua::{Function, Lua, Table};

use super::host::Host;

/// Puts [`start_program`] in the place of both functions. `host` must be kept until `lua` is closed.
pub(super) fn replace(lua: &Lua, host: &Rc<Host>) -> mlua::Result<()> {
    for (library, name) in [("os", "execute"), ("io", "popen")] {
        let library: Table = lua.globals().get(library)?;
        let original: Function = library.get(name)?;
        let host = Rc::as_ptr(host);
        // SAFETY: mlua runs the closure under lua_pcall, with the function on the stack and room for the values that are pushed. Its
        // capture is a pointer, so an error of Lua's skips no destructor. The pointer is valid as long as the caller keeps the Rc.
        let replacement: Function = unsafe {
            lua.exec_raw(original, |state| {
                ffi::lua_pushlightuserdata(state, host.cast_mut().cast());
                ffi::lua_pushvalue(state, -2);
                ffi::lua_pushcclosure(state, start_program, 2);
                // The environment has the function that closes a pipe (Lua 5.1), or the type of files (LuaJIT).
                #[cfg(any(feature = "lua51", feature = "luajit"))]
                {
                    ffi::lua_getfenv(state, -2);
                    ffi::lua_setfenv(state, -2);
                }
                ffi::lua_remove(state, -2);
            })
        }?;
        library.set(name, replacement)?;
    }
    Ok(())
}

/// Lua's own function is called as a C function, in this one's frame: it finds the same arguments and gives the same results and
/// errors, and no call of Lua's is added, so that stacks show it under its name.
unsafe extern "C-unwind" fn start_program(state: *mut lua_State) -> c_int {
    // SAFETY: `replace` gave the upvalues: a Host that outlives the Lua, and Lua's own C function, which may raise an error. This frame
    // has no destructors.
    unsafe {
        let host = &*ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)).cast::<Host>();
        host.before_program();
        match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(2)) {
            Some(original) => original(state),
            None => 0,
        }
    }
}
