//! The command `nibiru check`: a trial of whether `serve` would start with these settings.
//!
//! The gateway itself is started, with a zygote and a worker, and stops before it serves: see [`crate::gateway::try_out`].

use std::fmt::Write as _;

use crate::config::Config;
use crate::gateway;
use crate::gateway::Error;
use crate::gateway::Trial;
use crate::log::{self, Span};

/// The settings with a log of warnings and errors alone, unless the log level asks for more than usual. The lines about a start
/// and a stop do not belong in a check's output.
pub fn quietly(mut config: Config) -> Config {
    if config.log_level == log::Level::Info {
        config.log_level = log::Level::Warn;
    }
    config
}

/// Starts with `config`, and stops. Gives a line for the application and one for each address.
///
/// # Errors
/// The error with which `serve` would fail.
pub fn run(config: Config) -> Result<String, Error> {
    let app = config.app.clone();
    let Trial { addresses, took } = gateway::block_on(gateway::try_out(config))?;
    let mut text = format!("{app}: loads, and a worker starts, in {}\n", Span::from(took));
    for (address, tried) in addresses {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}: {tried}");
    }
    Ok(text)
}
