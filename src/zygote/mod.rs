//! The zygote: loads the application once, then forks a worker whenever the gateway asks.
//!
//! One thread, one blocking loop over its control link and its children's pidfds. Never opens a listening
//! socket, never starts a thread, never runs a request.

mod forking;
mod loading;
mod open_descriptors;
mod reports;

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Instant;

use rustix::process::Signal;

use self::forking::Zygote;
use self::loading::{load, load_in_workers};
use self::open_descriptors::OpenDescriptors;
use self::reports::{send, warn};
use crate::config::Preload;
use crate::link::Link;
use crate::link::launch::Launch;
use crate::link::message::{FromZygote, shortened};
use crate::os::descriptors;
use crate::os::dumpable;
use crate::os::fork;
use crate::os::process;
use crate::os::rlimit;
use crate::os::signals;
use crate::os::title::Title;

/// The exit status of a zygote whose application does not load.
const LOAD_FAILED: u8 = 3;

/// Runs a zygote to its end. Standard input is the control link.
pub fn run(launch: &Launch) -> ExitCode {
    match start(launch) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("zygote failed: {}", crate::log::cause(&error)));
            ExitCode::FAILURE
        }
    }
}

fn start(launch: &Launch) -> io::Result<ExitCode> {
    let closed = if launch.dumpable.is_on() { Ok(()) } else { dumpable::close() };
    // Executed as /proc/self/exe, it would be listed as "exe".
    rustix::thread::set_name(c"nibiru")?;
    // A session of its own: Ctrl-C at the terminal is for the gateway, which stops the others in good order.
    let _ = rustix::process::setsid();
    // The gateway's priority is not the application's. Where it cannot be reset, workers have the zygote's.
    let _ = process::set_batch(false);
    let _ = process::reset_scheduling_on_fork();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The gateway has restored all but SIGXFSZ, which it ignores for itself.
    signals::restore_defaults();
    signals::restore_sigpipe_for_programs();
    rlimit::set(launch.open_files)?;
    let mut title = Title::take();
    title.set(&format!("zygote gen {} loading {}", launch.generation, launch.app));
    let control = Link::from(descriptors::take_standard_input()?);
    fork::claim_process();
    if let Err(error) = closed {
        warn(&control, &format!("{}: {}", dumpable::NOT_CLOSED, crate::log::cause(&error)));
    }
    std::env::set_current_dir(&launch.root).map_err(|error| {
        let cause = crate::log::cause(&error);
        io::Error::new(error.kind(), format!("cannot enter the root {}: {cause}", launch.root.display()))
    })?;

    let begin = Instant::now();
    // The way of log lines while the application loads, and only then: no worker inherits it.
    let log = Link::from(control.as_fd().try_clone_to_owned()?);
    let before = OpenDescriptors::open()?;
    let mut state = match load(launch, log) {
        Ok(state) => state,
        Err(message) => {
            send(&control, &FromZygote::LoadFailed { message: &shortened(message.as_bytes()) }, None)?;
            return Ok(ExitCode::from(LOAD_FAILED));
        }
    };
    let preloaded = launch.preload != Preload::Off;
    // Collects garbage first, so that a file which was read and forgotten is closed before the comparison.
    state.settle();
    if preloaded && fork::threads()? > 1 {
        warn(&control, "loading the application started a thread, which forked workers would not have");
        return Err(load_in_workers(launch, control, &[]));
    }
    if launch.preload == Preload::Auto {
        let shared = OpenDescriptors::open()?.since(&before);
        if !shared.is_empty() {
            return Err(load_in_workers(launch, control, &shared));
        }
    }
    state.log_while_loading(None);
    let micros = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    send(&control, &FromZygote::Loaded { preloaded, micros }, None)?;
    // From here on only workers run the application. The zygote needs a descriptor for each of them.
    let open_files = rlimit::raise();
    let zygote = Zygote::new(control, launch.generation, preloaded, launch.memory_limit, open_files);
    title.set(&format!("zygote gen {} {}", launch.generation, launch.app));
    zygote.serve(state, title)
}

/// Writes a line to standard error, a pipe into the gateway's log. Errors are ignored: without a gateway it has no reader.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
