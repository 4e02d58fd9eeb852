//! One Lua state, from its libraries to its last hook.
//!
//! Called by the zygote (`new`, `load`, `settle`) and by a worker (the rest, in order).

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::rc::Rc;

use mlua::{Lua, LuaString, Table, Value};

use super::body::Body;
use super::embed::{Functions, embed};
use super::environ::EnvironBuilder;
use super::error::{Error, LoadError};
use super::host::{self, Host};
use super::interrupt::Interrupts;
use super::missing;
use super::output::{LoadingLog, Outcome, Output};
use super::paths::Paths;
use super::programs;
use super::request::{Request, Role};
use super::settings::Settings;
use super::target::{Source, Target};
use crate::log::Level;

/// The response where not even the Lua side could answer. The very bytes of `core/server.lua`.
const ERROR_HEAD: &[u8] = b"Status: 500 Internal Server Error\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 22\r\n\r\n";
const ERROR_BODY: &[u8] = b"Internal Server Error\n";

/// A Lua state with one application in it.
pub struct State {
    lua: Lua,
    /// After `lua`, so that it is dropped once that is closed.
    host: Rc<Host>,
    root: PathBuf,
    target: Target,
    functions: Functions,
    environs: EnvironBuilder,
    /// The limit of the heap, in bytes.
    heap_limit: Option<u64>,
    /// The last request has left functions for [`Self::after_response`], or its Lua side did not come to its end.
    unfinished: bool,
    /// The last field, so that it is dropped once the state is closed.
    interrupts: Rc<Interrupts>,
}

impl State {
    /// A fresh state: libraries, search paths, `require("nibiru")`; no application yet.
    ///
    /// # Errors
    /// Only for want of memory, or when nibiru's own Lua code is broken.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        #[allow(unsafe_code)] // mlua offers C modules in no other way
        // SAFETY: this lets the application load C modules, `debug` and LuaJIT's `ffi`, which can break
        // any invariant of the process. That is its purpose: the operator trusts the application as far
        // as its own process, and a worker is a process that holds nothing but the application.
        let lua = unsafe { Lua::unsafe_new() };
        let host = Rc::new(Host::default());
        set_paths(&lua, settings)?;
        let functions = embed(&lua, &host, settings)?;
        programs::replace(&lua, &host)?;
        #[cfg(any(feature = "lua54", feature = "lua55"))]
        {
            let host = Rc::clone(&host);
            lua.set_warning_function(move |_, piece, more| {
                host.warning(piece, more);
                Ok(())
            });
        }
        let interrupts = Interrupts::new(&lua, Rc::clone(&host), &functions.interrupted)?;
        Ok(Self {
            environs: EnvironBuilder::new(&lua)?,
            heap_limit: None,
            unfinished: false,
            lua,
            host,
            root: settings.root.clone(),
            target: settings.target.clone(),
            functions,
            interrupts,
        })
    }

    /// Loads the application and finds its callable.
    ///
    /// # Errors
    /// A syntax error, a missing module, an error raised while loading, no callable. The message names the place, the value that was
    /// found, and the names that were tried.
    pub fn load(&mut self) -> Result<(), LoadError> {
        self.interrupts.begin_start();
        let loaded = self.load_application();
        self.interrupts.end();
        loaded
    }

    fn load_application(&self) -> Result<(), LoadError> {
        let (module, file) = match &self.target.source {
            Source::Module(module) => (Some(module.as_str()), None),
            Source::File(path) => {
                if let Some(problem) = missing::file(&self.root, path) {
                    return Err(LoadError::new(problem.as_bytes()));
                }
                (None, Some(self.lua.create_string(self.root.join(path).as_os_str().as_bytes())?))
            }
        };
        let (application, problem): (Value, Option<LuaString>) =
            self.functions.load.call((module, file, self.target.name.as_deref()))?;
        if let Some(problem) = problem {
            let mut error = LoadError::new(&problem.as_bytes());
            // Only for the application's own module: Lua's message explains a module that the application requires.
            if let Some(module) = module
                && let Some(places) = error.message.strip_prefix(&format!("module '{module}' not found:"))
            {
                error.message = missing::module(&self.root, module) + places;
            }
            return Err(error);
        }
        Ok(self.functions.set_application.call(application)?)
    }

    /// Sets the receiver of log lines until the worker starts. Without a receiver they go to standard error.
    pub fn log_while_loading(&self, log: Option<LoadingLog>) {
        self.host.log_while_loading(log);
    }

    /// Makes the heap ready to be shared by forks: garbage gone, so that the children's first
    /// collections find little to write to, and buffers empty, so that no child prints them again.
    pub fn settle(&mut self) {
        // A finaliser that raises is the application's own affair; the collection is done all the same.
        let _ = self.lua.gc_collect();
        let _ = self.lua.gc_collect();
        // A full incremental collection in a child would touch, and so copy, every page of the heap; a
        // young collection leaves the old objects alone.
        #[cfg(any(feature = "lua54", feature = "lua55"))]
        self.lua.gc_set_mode(mlua::state::GcMode::Generational(mlua::state::GcGenParams::default()));
        let _ = self.functions.flush.call::<()>(());
    }

    /// Turns the copy that a fork made into worker number `worker`, then runs the start hooks. `seed`
    /// comes from the kernel: every copy has inherited the same random numbers.
    ///
    /// # Errors
    /// The first hook that fails; the worker must not serve.
    pub fn start_worker(&mut self, worker: u32, seed: u64, output: Box<dyn Output>) -> Result<(), LoadError> {
        self.host.attach(output);
        self.functions.seed.call::<()>((seed >> 32, seed & 0xFFFF_FFFF))?;
        self.interrupts.begin_start();
        let failed = self.functions.start_hooks.call::<Option<LuaString>>(worker);
        self.interrupts.end();
        match failed? {
            Some(problem) => Err(LoadError::new(&problem.as_bytes())),
            None => Ok(()),
        }
    }

    /// Makes this the state that [`super::interrupt`] interrupts.
    pub fn accept_interrupts(&mut self) {
        self.interrupts.accept();
    }

    /// Runs one request to its end; it can be interrupted until [`Self::after_response`] is done. An error of the application is
    /// logged here, and answered with `500` while that is possible.
    pub fn serve(&mut self, request: Request<'_>) -> Outcome {
        self.interrupts.begin(request.serial);
        // `environ.lua` knows the roles by these numbers.
        let (role, data) = match request.role {
            Role::Responder => (1, None),
            Role::Authorizer => (2, None),
            Role::Filter { data } => (3, Some(data)),
        };
        let (length, data_length) = (request.body.length(), data.as_ref().map(Body::length));
        let serial = self.host.begin(request.body, data);
        let outcome = self.environs.table(&self.lua, request.id, request.variables).and_then(|environ| {
            self.functions.serve.call::<(i64, bool)>((environ, serial, length, role, data_length))
        });
        self.unfinished = !matches!(outcome, Ok((_, true)));
        match outcome {
            Ok((number, _)) => host::outcome(number),
            Err(error) => {
                // An interrupt hit the Lua side outside of every `xpcall`.
                if let Err(error) = self.functions.tidy.call::<()>(()) {
                    self.log_failure(&error);
                }
                let head_request = request.variables.get(b"REQUEST_METHOD") == Some(b"HEAD");
                self.answer_without_lua(&error, head_request)
            }
        }
    }

    /// Runs the functions registered with `nibiru.after_response`; call it once the response is out.
    pub fn after_response(&mut self) {
        self.host.answered();
        if self.unfinished
            && let Err(error) = self.functions.after_response.call::<()>(())
        {
            self.log_failure(&error);
            // Runs the rest of the functions. The interrupt that stopped the first call comes once.
            if let Err(error) = self.functions.after_response.call::<()>(()) {
                self.log_failure(&error);
            }
        }
        self.interrupts.end();
        self.host.end();
    }

    /// Runs the stop hooks. Their errors are logged.
    pub fn stop_worker(&mut self) {
        if let Err(error) =
            self.functions.stop_hooks.call(()).and_then(|()| self.functions.flush.call::<()>(()))
        {
            self.log_failure(&error);
        }
    }

    /// The heap, in bytes, as Lua's collector counts it.
    pub fn heap(&self) -> u64 {
        self.lua.used_memory() as u64
    }

    /// Limits the heap, in bytes: beyond, Lua raises "not enough memory".
    pub fn limit_heap(&mut self, bytes: u64) {
        // Where this Lua cannot be limited, the process's own limit is the only one.
        let _ = self.lua.set_memory_limit(usize::try_from(bytes).unwrap_or(usize::MAX));
        self.heap_limit = Some(bytes);
    }

    /// Whether three quarters of the heap's limit are taken, so that the next request may not find enough. A request that ran
    /// into the limit leaves its garbage behind, and LuaJIT does not collect for want of memory.
    pub fn is_nearly_full(&self) -> bool {
        self.heap_limit.is_some_and(|limit| self.heap() > limit / 4 * 3)
    }

    /// Whether the application has loaded C modules, or uses LuaJIT's `ffi`.
    pub fn has_native_code(&self) -> bool {
        self.host.has_native_code()
    }

    /// Collects all garbage.
    pub fn collect(&self) {
        // A finaliser that raises is the application's own affair; the collection is done all the same.
        let _ = self.lua.gc_collect();
    }

    /// Puts a function in the application's place.
    #[cfg(test)]
    pub(super) fn set_application(&self, application: mlua::Function) {
        self.functions.set_application.call::<()>(application).expect("the Lua side takes any callable");
    }

    #[cfg(test)]
    pub(super) fn interrupts(&self) -> *const Interrupts {
        Rc::as_ptr(&self.interrupts)
    }

    #[cfg(test)]
    pub(super) fn lua(&self) -> &Lua {
        &self.lua
    }

    /// Every function of nibiru's Lua side that is called from here.
    #[cfg(test)]
    pub(super) fn entry_points(&self) -> Vec<&mlua::Function> {
        self.functions.all()
    }

    /// Answers with `500` where the Lua side failed itself: memory ran out in its own frames.
    fn answer_without_lua(&self, error: &mlua::Error, head_request: bool) -> Outcome {
        self.log_failure(error);
        if self.host.head_sent() {
            return Outcome::Broken;
        }
        match self.host.send(Some(ERROR_HEAD), (!head_request).then_some(ERROR_BODY), false) {
            Ok(()) => Outcome::Complete,
            Err(_) => Outcome::Aborted,
        }
    }

    fn log_failure(&self, error: &mlua::Error) {
        self.host.log(Level::Error, error.to_string().as_bytes(), "");
    }
}

fn set_paths(lua: &Lua, settings: &Settings) -> mlua::Result<()> {
    let paths = Paths::new(&settings.root, |name| std::env::var_os(name).map(OsStringExt::into_vec));
    let package: Table = lua.globals().get("package")?;
    package.set("path", lua.create_string(paths.lua)?)?;
    package.set("cpath", lua.create_string(paths.c)?)
}
