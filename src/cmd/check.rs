//! `nibiru check`: says whether `serve` would start with these settings.
//!
//! The gateway itself is started, with a zygote and a worker, and stops before it serves: see [`crate::gateway::try_out`].

use std::fmt::Write as _;

use crate::config::Config;
use crate::gateway;
use crate::gateway::Error;
use crate::gateway::Trial;
use crate::log;

/// Has the log show warnings and errors alone, unless more than usual is asked for: the news of a start and of a stop are
/// no concern of a check.
pub fn quietly(mut config: Config) -> Config {
    if config.log_level == log::Level::Info {
        config.log_level = log::Level::Warn;
    }
    config
}

/// Starts with `config`, and stops. Gives lines that say what was tried.
///
/// # Errors
/// What `serve` would fail with.
pub fn run(config: Config) -> Result<String, Error> {
    let app = config.app.clone();
    let Trial { addresses, took } = gateway::block_on(gateway::try_out(config))?;
    let mut text = format!("{app}: loads, and a worker starts, in {:.1} ms\n", took.as_secs_f64() * 1000.0);
    for (address, tried) in addresses {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}: {tried}");
    }
    Ok(text)
}
