//! The descriptors behind Lua's file handles.
#![allow(unsafe_code, reason = "only Lua's C interface shows what a handle holds")]

use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use mlua::ffi::{self, lua_State};
use mlua::{AnyUserData, Lua};

use crate::os::descriptors::{self, Stream};

/// The file of a handle that is open, if it is a regular file with `length` bytes from `offset` on. A descriptor of its own, since the
/// application may close the handle.
pub(super) fn regular_file(
    lua: &Lua,
    handle: &AnyUserData,
    offset: u64,
    length: u64,
) -> mlua::Result<Option<OwnedFd>> {
    // SAFETY: mlua runs the closure under lua_pcall, with the handle on the stack and room for more values; it leaves one. It has no
    // destructors. Every Lua's handle begins with a pointer to its FILE (`luaL_Stream`; LuaJIT's `IOFileUD`), which is checked to be
    // one by its metatable. The caller has found it open, and no Lua has run since: so the FILE is, too.
    let file = unsafe {
        let mut stream = None;
        lua.exec_raw::<()>(handle, |state| {
            stream = stream_of(state);
            ffi::lua_pop(state, 1);
        })?;
        stream.and_then(|stream| descriptors::of_stream(stream).ok())
    };
    Ok(file.filter(|file| has_bytes(file, offset.saturating_add(length))))
}

/// The FILE of the handle at the top of the stack; `None` for another value.
///
/// # Safety
/// The state is one of Lua's with a value on its stack and room for two more.
unsafe fn stream_of(state: *mut lua_State) -> Option<NonNull<Stream>> {
    // SAFETY: as the caller has promised; the stack is left as it was.
    unsafe {
        let block = ffi::lua_touserdata(state, -1).cast::<*mut Stream>();
        if block.is_null() || ffi::lua_getmetatable(state, -1) == 0 {
            return None;
        }
        ffi::luaL_getmetatable(state, c"FILE*".as_ptr());
        let is_handle = ffi::lua_rawequal(state, -1, -2) != 0;
        ffi::lua_pop(state, 2);
        if is_handle { NonNull::new(block.read()) } else { None }
    }
}

/// Whether this is a regular file of at least so many bytes.
fn has_bytes(file: &OwnedFd, length: u64) -> bool {
    rustix::fs::fstat(file).is_ok_and(|found| {
        rustix::fs::FileType::from_raw_mode(found.st_mode).is_file()
            && u64::try_from(found.st_size).is_ok_and(|size| size >= length)
    })
}
