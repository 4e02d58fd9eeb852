//! Builds the `environ` table from a request's variables. The server's own keys are added by the Lua
//! side afterwards, so that no variable can displace them.

use mlua::{Lua, LuaString, Table};

use crate::cgi::Variables;

/// Keys that the Lua side adds: room for them, so that the table never grows twice.
const SERVER_KEYS: usize = 12;

/// Builds one table per request, and remembers the strings of the last one.
///
/// A proxy sends the same names in the same order every time, and most of the same values. A string
/// that is still there need not be hashed, copied and collected again. The strings of at most one request are kept.
pub(super) struct EnvironBuilder {
    id_key: LuaString,
    last: Vec<Pair>,
}

/// A variable, as bytes for comparison and as Lua's strings.
struct Pair {
    name: Box<[u8]>,
    value: Vec<u8>,
    lua_name: LuaString,
    lua_value: LuaString,
}

impl EnvironBuilder {
    pub(super) fn new(lua: &Lua) -> mlua::Result<Self> {
        Ok(Self { id_key: lua.create_string("nibiru.request_id")?, last: Vec::new() })
    }

    /// A new table of the variables and the request's id. Of two variables with one name the later stays.
    pub(super) fn table(&mut self, lua: &Lua, id: &[u8], variables: &Variables) -> mlua::Result<Table> {
        let mut count = 0;
        for (name, value) in variables {
            match self.last.get_mut(count) {
                Some(pair) if *pair.name == *name => {
                    if pair.value != value {
                        pair.lua_value = lua.create_string(value)?;
                        pair.value.clear();
                        pair.value.extend_from_slice(value);
                    }
                }
                slot => {
                    let pair = Pair {
                        lua_name: lua.create_string(name)?,
                        lua_value: lua.create_string(value)?,
                        name: name.into(),
                        value: value.to_vec(),
                    };
                    match slot {
                        Some(slot) => *slot = pair,
                        None => self.last.push(pair),
                    }
                }
            }
            count += 1;
        }
        self.last.truncate(count);
        let id = lua.create_string(id)?;
        let pairs = self.last.iter().map(|pair| (&pair.lua_name, &pair.lua_value));
        lua.create_table_from(WithSpareCapacity(pairs.chain([(&self.id_key, &id)])))
    }
}

/// An iterator that promises [`SERVER_KEYS`] more items than it gives: mlua sizes the table by the promise.
struct WithSpareCapacity<I>(I);

impl<I: Iterator> Iterator for WithSpareCapacity<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.size_hint().0 + SERVER_KEYS, None)
    }
}
