//! Interrupts the running request from outside: for its stack, or to make it fail at its deadline. So it does with an
//! application that takes too long to load, or to start in a worker.
//!
//! The worker's signal handler calls [`interrupt`]. That sets a hook on the Lua state that runs, as `lua.c` does for
//! Ctrl-C, and the hook does the work from within Lua, before its next instruction. No hook is set
//! otherwise: one that only counts doubles the time of Lua 5.4. What holds no Lua instruction (C code, a
//! trace that LuaJIT compiled) takes no notice; the gateway kills that.
#![allow(unsafe_code, reason = "hooks, and what a signal handler may call, exist only in Lua's C interface")]

use std::ffi::c_void;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU64, Ordering, compiler_fence};

use mlua::ffi::{self, lua_State};
use mlua::{Function, Lua};

use super::Interrupt;
use super::host::Host;

/// What a request is told at its deadline; its place in the code is put before it.
pub(super) const TIMED_OUT: &str = "the request has run for too long";

/// The same while there is one limit only. What limits a stream, the gateway's log says.
const TIMED_OUT_BEFORE_HEAD: &str = "the request has run for too long (--request-timeout)";

/// What an application is told that takes too long to load, or to start in a worker. The gateway says which limit it was.
const STILL_STARTING: &str = "still running";

/// The number under which the start is interrupted: no request of a worker has it before two thousand million others.
const START: u32 = 0;

/// The state of this process that signals interrupt.
static INTERRUPTIBLE: AtomicPtr<Interrupts> = AtomicPtr::new(ptr::null_mut());

/// Interrupts request number `serial`, if that runs. Async-signal-safe: it reads and writes atomics, and calls
/// `lua_sethook`, which "can be called asynchronously" (Lua's manual).
pub fn interrupt(serial: u32, kind: Interrupt) {
    // SAFETY: the pointer is null, or of a value that does not move and takes itself out before it is dropped.
    if let Some(interrupts) = unsafe { INTERRUPTIBLE.load(Ordering::Acquire).as_ref() } {
        interrupts.receive(serial, kind);
    }
}

/// No request runs: unlike every serial number, which has 32 bits.
const NONE: u64 = u64::MAX;

/// Keys in Lua's registry: the address of each is its own.
static INTERRUPTS: u8 = 0;
static DESCRIBE: u8 = 1;

/// What a signal handler and the code that it interrupts share. One for each Lua state; it outlives that, and does not move.
pub(super) struct Interrupts {
    host: Rc<Host>,
    main: AtomicPtr<lua_State>,
    /// Whose code runs: the main state, or the coroutine that [`super::coroutine`] knows of.
    running: AtomicPtr<lua_State>,
    /// The number of the request that may be interrupted, or [`NONE`].
    serial: AtomicU64,
    /// What runs is no request, but the application's start.
    starting: AtomicBool,
    /// What has come for that request; the same does not come twice.
    came: AtomicU8,
    /// What of it the hook has not done yet.
    pending: AtomicU8,
    /// [`hook`], always through this one pointer, so that it compares.
    hook: ffi::lua_Hook,
    /// The application's own hook (`debug.sethook`), while ours is in its place.
    saved: Saved,
    #[cfg(not(feature = "luajit"))]
    pub(super) library: super::coroutine::Library,
}

#[derive(Default)]
struct Saved {
    hook: AtomicPtr<c_void>,
    mask: AtomicI32,
    count: AtomicI32,
}

impl Interrupts {
    /// Prepares `lua`. `describe` is `interrupted` of `lua/nibiru/core/traceback.lua`. The result must be kept until `lua` is
    /// closed.
    pub(super) fn new(lua: &Lua, host: Rc<Host>, describe: &Function) -> mlua::Result<Rc<Self>> {
        let interrupts = Rc::new(Self {
            host,
            main: AtomicPtr::default(),
            running: AtomicPtr::default(),
            serial: AtomicU64::new(NONE),
            starting: AtomicBool::new(false),
            came: AtomicU8::new(0),
            pending: AtomicU8::new(0),
            hook,
            saved: Saved::default(),
            #[cfg(not(feature = "luajit"))]
            library: super::coroutine::Library::of(lua)?,
        });
        let this = Rc::as_ptr(&interrupts);
        // SAFETY: mlua runs the closure under lua_pcall, on the main state, since nothing else runs, with the function on
        // the stack. Its captures are pointers, so an error of Lua's skips no destructor. `this` is valid
        // as long as the Rc, which stays where it is.
        unsafe {
            lua.exec_raw::<()>(describe, |state| {
                (*this).main.store(state, Ordering::Relaxed);
                ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, (&raw const DESCRIBE).cast());
                ffi::lua_pushlightuserdata(state, this.cast_mut().cast());
                ffi::lua_rawsetp(state, ffi::LUA_REGISTRYINDEX, (&raw const INTERRUPTS).cast());
                #[cfg(not(feature = "luajit"))]
                super::coroutine::replace(state, this);
            })?;
        }
        Ok(interrupts)
    }

    /// Makes this the one that [`interrupt`] is about.
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
        self.running.store(self.main.load(Ordering::Relaxed), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        self.serial.store(u64::from(serial), Ordering::Relaxed);
    }

    /// The request is over: what comes for it now is too late.
    pub(super) fn end(&self) {
        self.serial.store(NONE, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        self.pending.store(0, Ordering::Relaxed);
        // SAFETY: the state is open, since `self` is only used while it is, and no code runs in it now.
        unsafe { self.disarm(self.main.load(Ordering::Relaxed)) };
    }

    /// In a signal handler, or in a test that stands for one.
    pub(super) fn receive(&self, serial: u32, kind: Interrupt) {
        if self.serial.load(Ordering::Relaxed) != u64::from(serial)
            || self.came.fetch_or(kind.bit(), Ordering::Relaxed) & kind.bit() != 0
        {
            return;
        }
        self.pending.fetch_or(kind.bit(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: while a request runs, `running` is the main state or a coroutine that is being resumed,
        // which whoever resumes it holds on to.
        unsafe { self.arm(self.running.load(Ordering::Relaxed)) };
    }

    /// Calls `act` as the code of `coroutine`.
    ///
    /// # Safety
    /// `coroutine` is of this Lua, and stays alive while `act` runs. `act` must not leave by a Lua error: `running`
    /// would be left behind.
    #[cfg(not(feature = "luajit"))]
    pub(super) unsafe fn within<T>(&self, coroutine: *mut lua_State, act: impl FnOnce() -> T) -> T {
        let before = self.running.load(Ordering::Relaxed);
        self.running.store(coroutine, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        let result = act();
        compiler_fence(Ordering::SeqCst);
        self.running.store(before, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // It came after the last instruction of the coroutine, whose hook it set.
        if self.pending.load(Ordering::Relaxed) != 0 {
            // SAFETY: what ran before still does, further out.
            unsafe { self.arm(before) };
        }
        result
    }

    /// Sets the hook, and keeps the application's.
    ///
    /// # Safety
    /// `state` is a state of this Lua, and alive.
    unsafe fn arm(&self, state: *mut lua_State) {
        // SAFETY: as above. The first three only read; the last may be called at any time.
        unsafe {
            let theirs = ffi::lua_gethook(state);
            let (mask, count) = (ffi::lua_gethookmask(state), ffi::lua_gethookcount(state));
            // The second look: a signal between the reads has set the hook, and kept what was there.
            if !self.is_ours(theirs) && !self.is_ours(ffi::lua_gethook(state)) {
                let theirs = theirs.map_or(ptr::null_mut(), |theirs| theirs as *mut c_void);
                self.saved.hook.store(theirs, Ordering::Relaxed);
                self.saved.mask.store(mask, Ordering::Relaxed);
                self.saved.count.store(count, Ordering::Relaxed);
            }
            // Only between two instructions of Lua code: see `hook` for why not at calls, too.
            ffi::lua_sethook(state, Some(self.hook), ffi::LUA_MASKCOUNT, 1);
        }
    }

    /// Puts the application's hook back, where ours is set.
    ///
    /// # Safety
    /// As for [`Self::arm`].
    unsafe fn disarm(&self, state: *mut lua_State) {
        // SAFETY: as above; what was saved is a hook that Lua gave, or null, which is None.
        unsafe {
            if self.is_ours(ffi::lua_gethook(state)) {
                let theirs = std::mem::transmute::<*mut c_void, Option<ffi::lua_Hook>>(
                    self.saved.hook.load(Ordering::Relaxed),
                );
                let (mask, count) = (&self.saved.mask, &self.saved.count);
                ffi::lua_sethook(state, theirs, mask.load(Ordering::Relaxed), count.load(Ordering::Relaxed));
            }
        }
    }

    fn is_ours(&self, hook: Option<ffi::lua_Hook>) -> bool {
        hook.is_some_and(|hook| ptr::fn_addr_eq(hook, self.hook))
    }

    /// In the hook: what is to be done, with the application's hook back in its place.
    ///
    /// # Safety
    /// As for [`Self::arm`].
    unsafe fn take(&self, state: *mut lua_State) -> u8 {
        let pending = self.pending.swap(0, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as above.
        unsafe {
            self.disarm(state);
            compiler_fence(Ordering::SeqCst);
            // Another may have come before the hook was taken away.
            if self.pending.load(Ordering::Relaxed) != 0 {
                self.arm(state);
            }
        }
        pending
    }

    /// In the hook: sends the stack. Leaves one value on `state`: the error that a timeout raises.
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
                // No memory, or no stack, to describe it with.
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
        // Where another state is the one, it stays so.
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

/// Runs between two instructions of Lua code, once for each time that it is set.
///
/// It raises an error, which unwinds the stack up to the nearest `lua_pcall`, and no frame of Rust that has something
/// to drop may lie between. None does: the hook counts instructions, so it runs straight from the interpreter's loop, and
/// mlua enters that by `lua_pcall` only. (A hook at calls also runs where C code calls a C
/// function, in the middle of mlua's own.) A finaliser cannot be hit: Lua runs those with hooks off.
unsafe extern "C-unwind" fn hook(state: *mut lua_State, _: *mut ffi::lua_Debug) {
    // SAFETY: Lua calls a hook with a running state and room for LUA_MINSTACK values. The registry has the pointer that
    // `Interrupts::new` put there, and its target outlives the state. This frame has no destructors.
    unsafe {
        ffi::lua_rawgetp(state, ffi::LUA_REGISTRYINDEX, (&raw const INTERRUPTS).cast());
        let interrupts = &*ffi::lua_touserdata(state, -1).cast::<Interrupts>();
        ffi::lua_pop(state, 1);
        // Nothing: the coroutine was made, or went to sleep, while the hook was set, and has kept it.
        let pending = interrupts.take(state);
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

/// # Safety
/// `state` has room for a value. May raise an error of Lua's, out of memory.
unsafe fn push(state: *mut lua_State, text: &'static str) {
    // SAFETY: as above; Lua copies the bytes.
    unsafe { ffi::lua_pushlstring(state, text.as_ptr().cast(), text.len()) };
}

/// The [`Interrupts`] that are the first upvalue of the C function that `state` runs.
///
/// # Safety
/// They are.
#[cfg(not(feature = "luajit"))]
pub(super) unsafe fn upvalue<'a>(state: *mut lua_State) -> &'a Interrupts {
    // SAFETY: as above; they outlive the state.
    unsafe { &*ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)).cast() }
}
