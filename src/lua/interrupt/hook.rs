//! The hook of one Lua: set by a signal handler on the running state, removed by the hook itself.
//!
//! Called by [`super::Interrupts`] and, for the state that runs, by [`super::coroutine`]. Only carries the bits of the
//! pending interrupts, and does not interpret them.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU8, Ordering, compiler_fence};

use mlua::ffi::{self, lua_State};

/// The hook, shared by a signal handler and the code that the handler interrupts. It outlives its Lua, and does not move.
pub(super) struct Hook {
    main: *mut lua_State,
    /// The state whose code runs: the main state, or the coroutine of [`Self::within`].
    running: AtomicPtr<lua_State>,
    /// The interrupts that the hook has not served yet, as bits.
    pending: AtomicU8,
    /// The hook's function, always through this one pointer, so that it compares.
    function: ffi::lua_Hook,
    /// The application's own hook (`debug.sethook`), while ours is in its place.
    saved: SavedHook,
}

#[derive(Default)]
struct SavedHook {
    hook: AtomicPtr<c_void>,
    mask: AtomicI32,
    count: AtomicI32,
}

impl Hook {
    /// A hook that is not set, of the Lua whose main state is `main`.
    ///
    /// # Safety
    /// `main` is a main state, and open whenever any other method is called.
    pub(super) unsafe fn new(main: *mut lua_State, function: ffi::lua_Hook) -> Self {
        Self {
            main,
            running: AtomicPtr::new(main),
            pending: AtomicU8::new(0),
            function,
            saved: SavedHook::default(),
        }
    }

    /// The main state runs from now on.
    pub(super) fn follow_main(&self) {
        self.running.store(self.main, Ordering::Relaxed);
    }

    /// Adds pending interrupts and sets the hook on the state that runs. Async-signal-safe.
    pub(super) fn raise(&self, bits: u8) {
        self.pending.fetch_or(bits, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: `running` is the main state, of `new`, or a coroutine of `within`; the callers of both vouch for it.
        unsafe { self.arm(self.running.load(Ordering::Relaxed)) };
    }

    /// Drops the pending interrupts and takes the hook off the main state. Call it while no code runs in the Lua.
    pub(super) fn clear(&self) {
        self.pending.store(0, Ordering::Relaxed);
        // SAFETY: the caller of `new` vouches for the main state.
        unsafe { self.disarm(self.main) };
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
        // An interrupt that came after the coroutine's last instruction has set the hook of the coroutine only.
        if self.pending.load(Ordering::Relaxed) != 0 {
            // SAFETY: the state that ran before still does, further out.
            unsafe { self.arm(before) };
        }
        result
    }

    /// In the hook's function: the pending interrupts, with the application's hook back in its place.
    ///
    /// # Safety
    /// `state` is a state of this Lua, and alive.
    pub(super) unsafe fn take(&self, state: *mut lua_State) -> u8 {
        let pending = self.pending.swap(0, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as above.
        unsafe {
            self.disarm(state);
            compiler_fence(Ordering::SeqCst);
            // Another interrupt may have come before the hook was taken away.
            if self.pending.load(Ordering::Relaxed) != 0 {
                self.arm(state);
            }
        }
        pending
    }

    /// Sets the hook, and keeps the application's.
    ///
    /// # Safety
    /// As for [`Self::take`].
    unsafe fn arm(&self, state: *mut lua_State) {
        // SAFETY: as above. The first three only read; the last may be called at any time ("can be called asynchronously",
        // Lua's manual).
        unsafe {
            let theirs = ffi::lua_gethook(state);
            let (mask, count) = (ffi::lua_gethookmask(state), ffi::lua_gethookcount(state));
            // The second look: a signal between the reads has set the hook, and kept the application's.
            if !self.is_ours(theirs) && !self.is_ours(ffi::lua_gethook(state)) {
                let theirs = theirs.map_or(ptr::null_mut(), |theirs| theirs as *mut c_void);
                self.saved.hook.store(theirs, Ordering::Relaxed);
                self.saved.mask.store(mask, Ordering::Relaxed);
                self.saved.count.store(count, Ordering::Relaxed);
            }
            // Only between two instructions of Lua code: see `super::on_hook` for the reason against calls.
            ffi::lua_sethook(state, Some(self.function), ffi::LUA_MASKCOUNT, 1);
        }
    }

    /// Puts the application's hook back, where ours is set.
    ///
    /// # Safety
    /// As for [`Self::take`].
    unsafe fn disarm(&self, state: *mut lua_State) {
        // SAFETY: as above; the saved pointer is a hook that Lua gave, or null, which is None.
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
        hook.is_some_and(|hook| ptr::fn_addr_eq(hook, self.function))
    }
}
