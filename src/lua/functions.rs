//! The functions that nibiru's own chunks call: the fields of the `host` table.
//!
//! Applications never see the table. The functions check nothing that the Lua side has already checked, and none of them raises
//! an error.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use mlua::{AnyUserData, Lua, LuaString, Table, Value};

use super::file_handle;
use super::host::{Host, outcome};
use super::settings::Settings;
use crate::cgi::{path, proxy_headers, response};
use crate::log::{Level, escape, fields, redact};
use crate::os::fork;

/// The `host` table for nibiru's own chunks. `timed_out` is the error of a request at its deadline.
pub(super) fn table(lua: &Lua, host: &Rc<Host>, settings: &Settings, timed_out: &str) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("version", env!("CARGO_PKG_VERSION"))?;
    table.raw_set("generation", settings.generation)?;
    table.raw_set(
        "reason",
        lua.create_function(|_, status: u16| {
            Ok(match response::reason(status) {
                "" => "Unknown",
                reason => reason,
            })
        })?,
    )?;

    table.raw_set(
        "request_line",
        lua.create_function(|_, (method, uri, protocol): (LuaString, LuaString, LuaString)| {
            let (method, uri, protocol) = (method.as_bytes(), uri.as_bytes(), protocol.as_bytes());
            let uri = redact::uri(&uri);
            Ok(format!("{} {} {}", escape::Word(&method), escape::Word(&uri), escape::Word(&protocol)))
        })?,
    )?;
    table.raw_set(
        "is_secret",
        lua.create_function(|_, name: LuaString| Ok(redact::is_secret(&name.to_string_lossy())))?,
    )?;

    table.raw_set("timed_out", timed_out)?;

    let shared = Rc::clone(host);
    table.raw_set("max_head", response::MAX_HEAD)?;
    table.raw_set(
        "send",
        lua.create_function(move |_, (head, body, flush): (Option<LuaString>, Option<LuaString>, bool)| {
            let head = head.as_ref().map(LuaString::as_bytes);
            let body = body.as_ref().map(LuaString::as_bytes);
            Ok(shared.send(head.as_deref(), body.as_deref(), flush).is_ok())
        })?,
    )?;

    let shared = Rc::clone(host);
    table.raw_set(
        "send_file",
        lua.create_function(
            move |lua, (head, handle, offset, length): (Option<LuaString>, AnyUserData, u64, u64)| {
                if !shared.takes_file(length) {
                    return Ok((false, true));
                }
                let Some(file) = file_handle::regular_file(lua, &handle, offset, length)? else {
                    return Ok((false, true));
                };
                let head = head.as_ref().map(LuaString::as_bytes);
                Ok((true, shared.send_file(head.as_deref(), file, offset, length).is_ok()))
            },
        )?,
    )?;

    let shared = Rc::clone(host);
    table.raw_set(
        "log",
        lua.create_function(move |_, (level, message, given): (LuaString, LuaString, Option<Table>)| {
            let level = match &*level.as_bytes() {
                b"debug" => Level::Debug,
                b"info" => Level::Info,
                b"warn" => Level::Warn,
                _ => Level::Error,
            };
            let given = given.map(|table| plain(&table)).transpose()?;
            shared.log(level, &message.as_bytes(), &fields::encode(given.unwrap_or_default()));
            Ok(())
        })?,
    )?;

    let shared = Rc::clone(host);
    table.raw_set(
        "loaded_native_code",
        lua.create_function(move |_, ()| {
            shared.note_native_code();
            Ok(())
        })?,
    )?;
    table.raw_set("is_forked", lua.create_function(|_, ()| Ok(fork::is_forked()))?)?;
    table.raw_set(
        "end_if_forked",
        lua.create_function(|_, ()| {
            fork::end_if_forked();
            Ok(())
        })?,
    )?;

    let shared = Rc::clone(host);
    table.raw_set("sleep", lua.create_function(move |_, seconds: f64| Ok(shared.sleep(seconds)))?)?;

    let shared = Rc::clone(host);
    table.raw_set(
        "exit",
        lua.create_function(move |_, (number, code): (Option<i64>, i32)| -> mlua::Result<()> {
            shared.exit(number.map(outcome), code)
        })?,
    )?;

    let headers = settings.proxy_headers.clone();
    table.raw_set(
        "proxy_order",
        lua.create_function(move |_, name: LuaString| {
            let name = &*name.as_bytes();
            Ok((proxy_headers::is_order(name), headers.guards(name), proxy_headers::replaces_body(name)))
        })?,
    )?;
    files(lua, settings, &table)?;
    input(lua, host, &table)?;
    text(lua, &table)?;
    Ok(table)
}

/// The fields of a log line; `lua/nibiru/init.lua` has made the values strings, numbers and booleans.
fn plain(table: &Table) -> mlua::Result<Vec<(String, serde_json::Value)>> {
    let mut given = Vec::new();
    for pair in table.pairs::<LuaString, Value>() {
        let (key, value) = pair?;
        let value = match value {
            Value::Boolean(value) => value.into(),
            Value::Integer(value) => value.into(),
            // JSON has no infinity.
            Value::Number(value) => serde_json::Number::from_f64(value)
                .map_or_else(|| value.to_string().into(), serde_json::Value::Number),
            Value::String(text) => fields::text(&text.as_bytes()),
            other => other.type_name().into(),
        };
        given.push((fields::key(&key.as_bytes()), value));
    }
    Ok(given)
}

/// The function behind `wsgi.file_wrapper`: gives the absolute path of a file, and the header line by which the proxy
/// sends it where the proxy can; or nil, a message, and the system's error number.
fn files(lua: &Lua, settings: &Settings, table: &Table) -> mlua::Result<()> {
    let (root, sendfile) = (settings.root.clone(), settings.proxy_headers.sendfile().cloned());
    table.raw_set(
        "locate",
        lua.create_function(move |lua, path: LuaString| {
            let path = absolute(&root, &path.as_bytes());
            match find(&path) {
                Ok(path) => {
                    let address = sendfile.as_ref().and_then(|sendfile| {
                        let line = [sendfile.header().as_bytes(), b": ", &sendfile.address(&path)?, b"\r\n"];
                        Some(line.concat())
                    });
                    let address = address.map(|line| lua.create_string(line)).transpose()?;
                    Ok((Some(lua.create_string(path)?), address, None))
                }
                Err(error) => {
                    let cause = error.to_string();
                    let cause = cause.split(" (os error").next().unwrap_or_default();
                    let problem = [b"cannot open ", &path[..], b": ", cause.as_bytes()].concat();
                    Ok((None, Some(lua.create_string(problem)?), error.raw_os_error()))
                }
            }
        })?,
    )
}

fn absolute(root: &Path, path: &[u8]) -> Vec<u8> {
    if path.starts_with(b"/") { path.to_owned() } else { [root.as_os_str().as_bytes(), b"/", path].concat() }
}

/// The path of a regular file: no directory, and no pipe, which would be waited for. Without `.` and `..`, so that the
/// application opens the very file that the proxy is told of.
fn find(path: &[u8]) -> io::Result<Vec<u8>> {
    let path = path::normalise(path).ok_or_else(|| io::Error::other("Above the root directory"))?;
    let metadata = std::fs::metadata(OsStr::from_bytes(&path))?;
    if metadata.is_dir() {
        Err(io::Error::from_raw_os_error(rustix::io::Errno::ISDIR.raw_os_error()))
    } else if metadata.is_file() {
        Ok(path)
    } else {
        Err(io::Error::other("Not a regular file"))
    }
}

/// The functions behind `wsgi.input` and `nibiru.filter_data`. They name a body by its serial number.
fn input(lua: &Lua, host: &Rc<Host>, table: &Table) -> mlua::Result<()> {
    let shared = Rc::clone(host);
    table.raw_set(
        "input_live",
        lua.create_function(move |_, serial: u64| Ok(shared.reader(serial).is_some()))?,
    )?;

    // Both give nil and a message where the file cannot be read, as Lua's own file handles do.
    let shared = Rc::clone(host);
    table.raw_set(
        "input_read",
        lua.create_function(move |lua, (serial, position, count): (u64, u64, u64)| {
            let Some(reader) = shared.reader(serial) else {
                return Ok((None, Some("the request has ended".to_owned())));
            };
            Ok(match reader.read(position, count) {
                Ok(bytes) => (Some(lua.create_string(&*bytes)?), None),
                Err(error) => (None, Some(error.to_string())),
            })
        })?,
    )?;

    let shared = Rc::clone(host);
    table.raw_set(
        "input_line",
        lua.create_function(move |_, (serial, position): (u64, u64)| {
            Ok(match shared.reader(serial).map(|reader| reader.line_end(position)) {
                Some(Ok(end)) => (Some(end), None),
                Some(Err(error)) => (None, Some(error.to_string())),
                None => (None, Some("the request has ended".to_owned())),
            })
        })?,
    )
}

/// The functions behind `nibiru.text`.
fn text(lua: &Lua, table: &Table) -> mlua::Result<()> {
    table.raw_set(
        "invalid_utf8",
        lua.create_function(|_, s: LuaString| {
            Ok(std::str::from_utf8(&s.as_bytes()).err().map(|error| error.valid_up_to() + 1))
        })?,
    )?;
    table.raw_set(
        "scrub_utf8",
        lua.create_function(|lua, s: LuaString| {
            if std::str::from_utf8(&s.as_bytes()).is_ok() {
                return Ok(s);
            }
            let scrubbed = String::from_utf8_lossy(&s.as_bytes()).into_owned();
            lua.create_string(scrubbed)
        })?,
    )
}
