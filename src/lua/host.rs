//! What the Lua side may ask of the worker: send bytes, log, read the request's body, end the process.
//!
//! Each function is a field of the `host` table that nibiru's own chunks receive; applications never
//! see it. The functions check nothing that the Lua side has already checked, and none of them raises.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mlua::{Lua, LuaString, Table, Value};
use rustix::event::Timespec;

use super::body::Reader;
use super::{Body, Gone, Interrupt, Level, LoadingLog, Outcome, Output, Settings, interrupt};
use crate::cgi::{proxy, proxy_headers, response};
use crate::log::{escape, fields, redact};
use crate::os::sys;

/// The exit status of a process whose application does not load.
const EXIT_NOT_LOADED: i32 = 3;

/// Bytes of a warning after which no more pieces are added: no message of the log is longer.
#[cfg(any(feature = "lua54", feature = "lua55"))]
const MAX_WARNING: usize = 64 * 1024;

/// How many bodies a request has at most.
const MOST_BODIES: u64 = 2;

/// How long the kernel is asked to wait at a time: what it takes in any case. The Lua side asks again.
const LONGEST_WAIT: Duration = Duration::from_secs(60 * 60);

/// The state of `warn`. As in the `lua` program, warnings are off until a `warn("@on")`.
#[cfg(any(feature = "lua54", feature = "lua55"))]
#[derive(Default)]
struct Warnings {
    on: bool,
    /// What has come of a warning whose end is still to come.
    begun: Option<String>,
}

/// Shared between the state and the functions it gave to Lua.
///
/// Nothing in here is borrowed while Lua may run, and that is at every allocation: the collector may call a finaliser of the
/// application's, which may call any of these functions again.
#[derive(Default)]
pub(super) struct Host {
    /// None until the worker starts: the zygote has nobody to send to.
    output: RefCell<Option<Box<dyn Output>>>,
    /// Takes log lines until then.
    loading_log: RefCell<Option<LoadingLog>>,
    #[cfg(any(feature = "lua54", feature = "lua55"))]
    warnings: RefCell<Warnings>,
    head_sent: Cell<bool>,
    /// The application has loaded code that is not Lua.
    native_code: Cell<bool>,
    /// A request runs whose answer is not over.
    answers: Cell<bool>,
    /// Counts bodies, so that an input that outlives its request cannot read the next one's: the number of the first
    /// in `bodies`.
    serial: Cell<u64>,
    /// Of the request that is running: its body, and a Filter's data.
    bodies: RefCell<Vec<Rc<Reader>>>,
}

impl Host {
    pub(super) fn attach(&self, output: Box<dyn Output>) {
        *self.output.borrow_mut() = Some(output);
    }

    /// Makes these the bodies that are read; gives the serial number of the first. The second's is the next.
    pub(super) fn begin(&self, body: Body, data: Option<Body>) -> u64 {
        self.head_sent.set(false);
        self.answers.set(true);
        let mut bodies = self.bodies.borrow_mut();
        // A request may have been left without its end.
        bodies.clear();
        self.serial.set(self.serial.get() + MOST_BODIES);
        bodies.extend([Some(body), data].into_iter().flatten().map(|body| Rc::new(Reader::new(body))));
        self.serial.get()
    }

    pub(super) fn has_native_code(&self) -> bool {
        self.native_code.get()
    }

    /// The answer of the request is over.
    pub(super) fn answered(&self) {
        self.answers.set(false);
    }

    /// Frees the bodies; an input that is still around is closed from now on.
    pub(super) fn end(&self) {
        self.bodies.borrow_mut().clear();
    }

    pub(super) fn head_sent(&self) -> bool {
        self.head_sent.get()
    }

    pub(super) fn send(&self, head: Option<&[u8]>, body: Option<&[u8]>, flush: bool) -> Result<(), Gone> {
        let mut output = self.output.borrow_mut();
        let output = output.as_mut().ok_or(Gone)?;
        if let Some(head) = head {
            self.head_sent.set(true);
            output.head(head)?;
        }
        if let Some(body) = body {
            output.body(body)?;
        }
        if flush { output.flush() } else { Ok(()) }
    }

    /// Waits for so many seconds, or until a signal comes, whose work is done in Lua code, or the client goes away. Gives
    /// what is left of the time, and whether the client is still there; outside of a request nobody can go.
    fn sleep(&self, seconds: f64) -> (f64, bool) {
        let began = Instant::now();
        let time = Duration::from_secs_f64(seconds.clamp(0.0, LONGEST_WAIT.as_secs_f64()));
        let here = match self.output.borrow_mut().as_mut() {
            Some(output) if self.answers.get() && !sys::is_forked() => output.wait(time).is_ok(),
            _ => {
                // Not std's, which goes on after a signal.
                let _ = rustix::event::poll(&mut [], Timespec::try_from(time).ok().as_ref());
                true
            }
        };
        (seconds - began.elapsed().as_secs_f64(), here)
    }

    pub(super) fn log_while_loading(&self, log: Option<LoadingLog>) {
        *self.loading_log.borrow_mut() = log;
    }

    /// Not while the output is in use, where a warning could come from: that loses the line rather than the process.
    pub(super) fn log(&self, level: Level, message: &[u8], given: &str) {
        let Ok(mut output) = self.output.try_borrow_mut() else { return };
        // A process that the application has forked: the ways to the gateway are its parent's.
        let forked = sys::is_forked();
        if let Some(output) = output.as_mut().filter(|_| !forked) {
            return output.log(level, message, given);
        }
        if let Some(log) = self.loading_log.borrow().as_ref().filter(|_| !forked) {
            return log(level, message, given);
        }
        let line = fields::after(message, given) + "\n";
        // Standard output and error lead to the log, at a level each. A closed one has no reader to miss the line.
        let _ = match level {
            Level::Debug | Level::Info if forked => io::stdout().write_all(line.as_bytes()),
            _ => io::stderr().write_all(line.as_bytes()),
        };
    }

    /// A piece of a warning; `more` follow. One that is a whole and begins with `@` is for this function: `@on`, `@off`;
    /// others are ignored, as Lua's manual says.
    #[cfg(any(feature = "lua54", feature = "lua55"))]
    pub(super) fn warning(&self, piece: &str, more: bool) {
        let Ok(mut warnings) = self.warnings.try_borrow_mut() else { return };
        if warnings.begun.is_none() && !more && piece.starts_with('@') {
            match piece {
                "@on" => warnings.on = true,
                "@off" => warnings.on = false,
                _ => {}
            }
            return;
        }
        let on = warnings.on;
        let begun = warnings.begun.get_or_insert_default();
        // A warning that is longer than any message of the log is cut.
        if on && begun.len() <= MAX_WARNING {
            begun.push_str(piece);
        }
        if !more {
            let text = warnings.begun.take().unwrap_or_default();
            drop(warnings);
            if on {
                self.log(Level::Warn, text.as_bytes(), "");
            }
        }
    }

    /// Called in the middle of Lua code, and never while the output is in use: that runs no Lua.
    pub(super) fn stack(&self, interrupt: Interrupt, text: &[u8]) {
        if let Ok(mut output) = self.output.try_borrow_mut()
            && let Some(output) = output.as_mut()
        {
            output.stack(interrupt, text);
        }
    }

    fn exit(&self, outcome: Option<Outcome>, code: i32) -> ! {
        match self.output.borrow_mut().as_mut() {
            // A forked process ends as any program does; its parent's request goes on.
            _ if sys::is_forked() => std::process::exit(code),
            Some(output) => output.exit(outcome, code),
            // While the application is loaded: one that exits does not load, whatever status it names.
            None => std::process::exit(EXIT_NOT_LOADED),
        }
    }

    /// The body with this number, where its request still runs.
    fn reader(&self, serial: u64) -> Option<Rc<Reader>> {
        let position = usize::try_from(serial.checked_sub(self.serial.get())?).ok()?;
        self.bodies.borrow().get(position).cloned()
    }
}

/// What `serve` and `abandon` in `lua/nibiru/core/server.lua` return.
pub(super) fn outcome(number: i64) -> Outcome {
    match number {
        0 => Outcome::Complete,
        2 => Outcome::Aborted,
        _ => Outcome::Broken,
    }
}

/// The `host` table for nibiru's own chunks.
pub(super) fn table(lua: &Lua, host: &Rc<Host>, settings: &Settings) -> mlua::Result<Table> {
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

    table.raw_set("timed_out", interrupt::TIMED_OUT)?;

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
            shared.native_code.set(true);
            Ok(())
        })?,
    )?;
    table.raw_set("is_forked", lua.create_function(|_, ()| Ok(sys::is_forked()))?)?;
    table.raw_set(
        "end_if_forked",
        lua.create_function(|_, ()| {
            sys::end_if_forked();
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

/// The fields of a log line, which `lua/nibiru/init.lua` has made strings, numbers and booleans.
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
/// sends it where the proxy can; or nil, what is wrong, and the system's number for that.
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

/// The path of a file that ends: no directory, and no pipe, which would be waited for. Without steps in it, so that
/// the file which is opened is the one that the proxy is told of.
fn find(path: &[u8]) -> io::Result<Vec<u8>> {
    let path = proxy::normalise(path).ok_or_else(|| io::Error::other("Above the root directory"))?;
    let metadata = std::fs::metadata(OsStr::from_bytes(&path))?;
    if metadata.is_dir() {
        Err(io::Error::from_raw_os_error(rustix::io::Errno::ISDIR.raw_os_error()))
    } else if metadata.is_file() {
        Ok(path)
    } else {
        Err(io::Error::other("Not a regular file"))
    }
}

/// The functions behind `wsgi.input` and `nibiru.filter_data`, which name a body by its serial number.
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
