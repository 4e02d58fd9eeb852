//! The Lua bridge: the only user of mlua.
