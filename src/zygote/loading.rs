//! The load of the application: in the zygote, or in each worker if forks would share opened descriptors or lack threads.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use super::reports::{send, warn};
use crate::config::Preload;
use crate::link::Link;
use crate::link::launch::{Launch, NAME};
use crate::link::message::{FromZygote, shortened};
use crate::log::Level;
use crate::lua;
use crate::os::descriptors;
use crate::worker;

/// Most descriptors opened by loading that the log names.
const DESCRIPTORS_LOGGED: usize = 8;

/// A state with the loaded application, or an empty state if workers load the application.
pub(super) fn load(launch: &Launch, log: Link) -> Result<lua::State, String> {
    let target = launch.app.parse::<lua::Target>().map_err(|error| error.to_string())?;
    let settings = lua::Settings {
        root: launch.root.clone(),
        target,
        generation: launch.generation,
        proxy_headers: launch.proxy_headers(),
    };
    let mut state = lua::State::new(&settings).map_err(|error| error.to_string())?;
    state.log_while_loading(Some(Box::new(move |level: Level, message: &[u8], fields: &str| {
        let (message, fields) = (&*shortened(message), fields.as_bytes());
        // The error is ignored: without a gateway the line has no reader.
        let _ = send(&log, &FromZygote::Log { level: level.into(), message, fields }, None);
    })));
    if launch.preload != Preload::Off {
        // For an application that takes too long to load. Without a handler it would end without its stack.
        state.accept_interrupts();
        let _ = lua::handle_interrupts();
        let loaded = state.load();
        worker::end_fork_of_load(&loaded);
        loaded.map_err(|error| error.to_string())?;
    }
    Ok(state)
}

/// Executes the zygote again without a load, because loading opened descriptors or started threads, which forked workers would share
/// or lack. Returns the error if the execution fails.
pub(super) fn load_in_workers(launch: &Launch, control: Link, shared: &[(i32, PathBuf)]) -> io::Error {
    for (_, target) in &shared[..shared.len().min(DESCRIPTORS_LOGGED)] {
        warn(
            &control,
            &format!("loading the application opened {}, which forked workers would share", target.display()),
        );
    }
    if let Some(more) = shared.len().checked_sub(DESCRIPTORS_LOGGED).filter(|more| *more > 0) {
        warn(
            &control,
            &format!("loading the application opened {more} more, which forked workers would share"),
        );
    }
    for (number, _) in shared {
        // The descriptor was open a moment ago.
        let _ = descriptors::keep_from_program(*number);
    }
    warn(
        &control,
        "every worker loads the application itself (use nibiru.on_worker_start for what a worker needs of its own, \
         or set --preload)",
    );
    let again = Launch { preload: Preload::Off, ..launch.clone() };
    Command::new("/proc/self/exe").arg0(NAME).args(again.arguments()).stdin(OwnedFd::from(control)).exec()
}
