//! Signal actions of this process, in place of harmful inherited ones.
#![allow(unsafe_code, reason = "sigaction has no safe wrapper")]

/// Resets inherited signal states: afterwards no signal is blocked, and none but SIGPIPE is ignored. Programs that the application
/// starts inherit the new states.
///
/// Parents leave much behind: `nohup` ignores HUP, a shell's background job INT and QUIT, Python PIPE and XFSZ. With CHLD ignored
/// the kernel reaps children itself, and their exit status is lost to the zygote (for workers) and to `os.execute`. A blocked TERM
/// is never received.
///
/// SIGPIPE stays ignored, as Rust has it: see [`restore_sigpipe_for_programs`]. So do signals that have a handler.
pub fn restore_defaults() {
    // SAFETY: both structures are this frame's own, and an all-zero sigaction is a valid one (SIG_DFL, no flags, an
    // empty mask). The calls change ignored signals to the default action, and no code of this process relies on an ignored
    // one at its start. They fail for KILL, STOP and numbers that do not exist only.
    unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        for signal in (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE) {
            let mut action = std::mem::zeroed::<libc::sigaction>();
            if libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
                && action.sa_sigaction == libc::SIG_IGN
            {
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// Restores SIGPIPE's default for programs that the application starts, which expect to die of it (`os.execute("yes | head")`).
/// A write of this process still fails with `EPIPE`.
///
/// Rust's runtime ignores the signal, and an executed program inherits an ignored signal. A handler is not inherited (execve(2)).
pub fn restore_sigpipe_for_programs() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing, so it may run at any time; SA_RESTART keeps it from interrupting
    // system calls. An all-zero sigaction has no flags, blocks no signals, and is then given its handler.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        // Fails for signals that do not exist only.
        libc::sigaction(libc::SIGPIPE, &action, std::ptr::null_mut());
    }
}

/// Ignores SIGXFSZ: a write beyond the limit of a file's size (`ulimit -f`) fails, as on a full disk, and does not end this
/// process. Executed programs inherit the ignored signal; [`restore_defaults`] undoes it there.
pub fn ignore_file_size_limit() {
    // SAFETY: an ignored signal runs no code. The call fails for signals that do not exist only.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
