//! Interrupts of the running request from outside: for its stack, or to make it fail at its deadline. An application that takes
//! too long to load, or to start in a worker, is interrupted the same way.
//!
//! The handler that [`handle_interrupts`] registers calls [`interrupt`]. That sets a [`hook`] on the Lua state that runs, as
//! `lua.c` does for Ctrl-C, and the hook does the work from within Lua, before its next instruction. No hook is set otherwise: a
//! hook that only counts doubles the time of Lua 5.4. Code without a Lua instruction (C code, a trace that LuaJIT compiled) takes
//! no notice; the gateway kills its worker.
#![allow(unsafe_code, reason = "hooks, and what a signal handler may call, exist only in Lua's C interface")]

#[cfg(not(feature = "luajit"))]
mod coroutine;
mod hook;

use std::io;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering, compiler_fence};

use mlua::ffi::{self, lua_State};
use mlua::{Function, Lua};

use self::hook::Hook;
use super::host::Host;
use super::output::Interrupt;
use crate::link::interrupt::Kind;
use crate::{link, os};

/// The error of a request at its deadline, without its place in the code.
pub(super) const TIMED_OUT: &str = "the request has run for too long";

/// The error while `--request-timeout` is the only limit: before the head. The gateway's log names the limit of a stream.
const TIMED_OUT_BEFORE_HEAD: &str = "the request has run for too long (--request-timeout)";

/// The error of an application that takes too long to load, or to start in a worker. The gateway names the limit.
const STILL_STARTING: &str = "still running";

/// The number under which the start is interrupted: no request of a worker has it before two thousand million others.
const START: u32 = 0;

/// The number that no request has: serial numbers have 32 bits.
const NONE: u64 = u64::MAX;

/// The state of this process that signals interrupt.
static INTERRUPTIBLE: AtomicPtr<Interrupts> = AtomicPtr::new(ptr::null_mut());

/// Keys in Lua's registry: the address of each is its own.
static INTERRUPTS: u8 = 0;
static DESCRIBE: u8 = 1;

/// Has the interrupts that the gateway sends to this process reach the running request.
///
/// # Errors
/// Those of sigaction(2).
pub fn handle_interrupts() -> io::Result<()> {
    fn received(number: u32) {
        let message = link::interrupt::Interrupt::decode(number);
        let kind = match message.kind {
            Kind::Trace => Interrupt::Trace,
            Kind::Timeout => Interrupt::Timeout,
        };
        interrupt(message.serial.number(), kind);
    }
    // SAFETY: decoding is arithmetic, and `interrupt` is async-signal-safe.
    unsafe { os::interrupt::handle(received) }
}

/// Interrupts request number `serial`, if that runs. Async-signal-safe: it reads and writes atomics, and calls
/// `lua_sethook`, which "can be called asynchronously" (Lua's manual).
fn interrupt(serial: u32, kind: Interrupt) {
    // SAFETY: the pointer is null, or of a value that does not move and takes itself out before it is dropped.
    if let Some(interrupts) = unsafe { INTERRUPTIBLE.load(Ordering::Acquire).as_ref() } {
        interrupts.receive(serial, kind);
    }
}

/// The interrupts of one Lua, shared by a signal handler and the code that the handler interrupts. It outlives its Lua, and does
/// not move.
pub(super) struct Interrupts {
    host: Rc<Host>,
    /// The number of the request that may be interrupted, or [`NONE`].
    serial: AtomicU64,
    /// The interrupted code is the application's start, and no request.
    starting: AtomicBool,
    /// The kinds of interrupts that have come for that number, as bits; each comes once.
    came: AtomicU8,
    hook: Rc<Hook>,
    /// The replaced functions of Lua hold a pointer to it.
    #[cfg(not(feature = "luajit"))]
    _coroutines: Rc<coroutine::Coroutines>,
}

impl Interrupts {
    /// Prepares `lua`. `describe` is `interrupted` of `lua/nibiru/core/traceback.lua`. The result must be kept until `lua` is
    /// closed.
    pub(super) fn new(lua: &Lua, host: Rc<Host>, describe: &Function) -> mlua::Result<Rc<Self>> {
        let mut main = ptr::null_mut();
        let place = &raw mut main;
        // SAFETY: mlua runs the closure under lua_pcall, on the main state, since nothing else runs, with the function on
        // the stack. Its captures are pointers, so an error of Lua's skips no destructor; `place` outlives the call.
        unsafe {
            lua.exec_raw::<()>(describe, |state| {
                ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, (&raw const DESCRIBE).cast());
                *place = state;
            })?;
        }
        // SAFETY: the hook belongs to a value that is used only while `lua` is open.
        let hook = Rc::new(unsafe { Hook::new(main, on_hook) });
        #[cfg(not(feature = "luajit"))]
        let coroutines = coroutine::Coroutines::new(lua, Rc::clone(&hook))?;
        #[cfg(not(feature = "luajit"))]
        let replacements = Rc::as_ptr(&coroutines);
        let interrupts = Rc::new(Self {
            host,
            serial: AtomicU64::new(NONE),
            starting: AtomicBool::new(false),
            came: AtomicU8::new(0),
            hook,
            #[cfg(not(feature = "luajit"))]
            _coroutines: coroutines,
        });
        let this = Rc::as_ptr(&interrupts);
        // SAFETY: as above, with nothing on the stack. Both pointers are valid as long as the Rc, whose target stays where it
        // is, and the caller keeps it until `lua` is closed.
        unsafe {
            lua.exec_raw::<()>((), |state| {
                ffi::lua_pushlightuserdata(state, this.cast_mut().cast());
                ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, (&raw const INTERRUPTS).cast());
                #[cfg(not(feature = "luajit"))]
                coroutine::Coroutines::replace(replacements, state);
            })?;
        }
        Ok(interrupts)
    }

    /// Makes this the target of [`interrupt`].
    pub(super) fn accept(&self) {
        INTERRUPTIBLE.store(ptr::from_ref(self).cast_mut(), Ordering::Release);
    }

    /// The application begins to load, or to start in a worker.
    pub(super) fn begin_start(&self) {
        self.starting.store(true, Ordering::Relaxed);
        self.open(START);
    }

    /// Request number `serial` begins.
    pub(super) fn begin(&self, serial: u32) {
        self.starting.store(false, Ordering::Relaxed);
        self.open(serial);
    }

    fn open(&self, serial: u32) {
        self.end();
        self.came.store(0, Ordering::Relaxed);
        self.hook.follow_main();
        compiler_fence(Ordering::SeqCst);
        self.serial.store(u64::from(serial), Ordering::Relaxed);
    }

    /// The request is over: an interrupt that comes for it now is too late.
    pub(super) fn end(&self) {
        self.serial.store(NONE, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        self.hook.clear();
    }

    /// In a signal handler, or in a test that stands for one.
    pub(super) fn receive(&self, serial: u32, kind: Interrupt) {
        let is_new = || self.came.fetch_or(kind.bit(), Ordering::Relaxed) & kind.bit() == 0;
        if self.serial.load(Ordering::Relaxed) == u64::from(serial) && is_new() {
            self.hook.raise(kind.bit());
        }
    }

    /// In the hook: sends the stack to the host. Leaves one value on `state`: the error that a timeout raises.
    ///
    /// # Safety
    /// `state` runs, and has room for three values. May raise an error of Lua's, out of memory.
    unsafe fn tell(&self, state: *mut lua_State, kind: Interrupt) {
        // SAFETY: as above. Until `remove` the text is on the stack, so its bytes stay; while Rust code has
        // them no call of Lua's is made, and nothing here has a destructor.
        unsafe {
            ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, (&raw const DESCRIBE).cast());
            push(
                state,
                match kind {
                    Interrupt::Trace => "",
                    Interrupt::Timeout if self.starting.load(Ordering::Relaxed) => STILL_STARTING,
                    Interrupt::Timeout if self.host.head_sent() => TIMED_OUT,
                    Interrupt::Timeout => TIMED_OUT_BEFORE_HEAD,
                },
            );
            if ffi::lua_pcall(state, 1, 2, 0) != ffi::LUA_OK {
                // No memory, or no stack, is left to describe it.
                ffi::lua_pop(state, 1);
                push(state, TIMED_OUT);
                push(state, TIMED_OUT);
            }
            let mut length = 0;
            let text = ffi::lua_tolstring(state, -2, &raw mut length);
            let text =
                if text.is_null() { &[] } else { std::slice::from_raw_parts(text.cast::<u8>(), length) };
            // At a start the stack goes with the error, and a worker that is not ready yet must send none.
            if !self.starting.load(Ordering::Relaxed) {
                self.host.stack(kind, text);
            }
            ffi::lua_remove(state, -2);
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let this = ptr::from_mut(self);
        // Another state that has taken the place keeps it.
        let _ = INTERRUPTIBLE.compare_exchange(this, ptr::null_mut(), Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Interrupt {
    fn bit(self) -> u8 {
        match self {
            Self::Trace => 1,
            Self::Timeout => 2,
        }
    }
}

/// The hook: runs between two instructions of Lua code, once for each time that it is set.
///
/// It raises an error, which unwinds the stack up to the nearest `lua_pcall`, and no frame of Rust that has something
/// to drop may lie between. None does: the hook counts instructions, so it runs straight from the interpreter's loop, and
/// mlua enters that by `lua_pcall` only. (A hook at calls also runs where C code calls a C
/// function, in the middle of mlua's own.) A finaliser cannot be hit: Lua runs those with hooks off.
unsafe extern "C-unwind" fn on_hook(state: *mut lua_State, _: *mut ffi::lua_Debug) {
    // SAFETY: Lua calls a hook with a running state and room for LUA_MINSTACK values. The registry has the pointer that
    // `Interrupts::new` put there, and its target outlives the state. This frame has no destructors.
    unsafe {
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, (&raw const INTERRUPTS).cast());
        let interrupts = &*ffi::lua_touserdata(state, -1).cast::<Interrupts>();
        ffi::lua_pop(state, 1);
        // May be none: a coroutine that was made, or went to sleep, while the hook was set has kept it.
        let pending = interrupts.hook.take(state);
        if pending & Interrupt::Trace.bit() != 0 {
            interrupts.tell(state, Interrupt::Trace);
            ffi::lua_pop(state, 1);
        }
        if pending & Interrupt::Timeout.bit() != 0 {
            interrupts.tell(state, Interrupt::Timeout);
            ffi::lua_error(state);
        }
    }
}

/// Pushes a text.
///
/// # Safety
/// `state` has room for a value. May raise an error of Lua's, out of memory.
unsafe fn push(state: *mut lua_State, text: &'static str) {
    // SAFETY: as above; Lua copies the bytes.
    unsafe { ffi::lua_pushlstring(state, text.as_ptr().cast(), text.len()) };
}
