//! `nibiru check`: loads the application the way a zygote would, and lets it go.

use std::time::Instant;

use crate::cgi::ProxyHeaders;
use crate::config::Config;
use crate::lua;

/// Loads the application of `config`. Gives a line that says so, or why it does not load.
pub fn run(config: &Config) -> Result<String, String> {
    let target = config.app.parse::<lua::Target>().map_err(|error| error.to_string())?;
    std::env::set_current_dir(&config.root)
        .map_err(|error| format!("{}: {}", config.root.display(), crate::log::cause(&error)))?;
    // It answers nobody, so there is no proxy either.
    let proxy_headers = ProxyHeaders::default();
    let settings = lua::Settings { root: config.root.clone(), target, generation: 1, proxy_headers };
    crate::sys::restore_signals();
    let begin = Instant::now();
    lua::State::new(&settings)
        .map_err(|error| error.to_string())?
        .load()
        .map_err(|error| error.to_string())?;
    Ok(format!("{}: loads in {:.1} ms", config.app, begin.elapsed().as_secs_f64() * 1000.0))
}
