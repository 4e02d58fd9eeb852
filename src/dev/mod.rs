//! `nibiru dev`: an HTTP front that speaks FastCGI to the gateway.

use crate::config::Config;
use crate::gateway;

/// Serves the application over HTTP at `http` until a signal stops it.
pub fn serve(config: Config, http: &str) -> Result<(), gateway::Error> {
    let _ = (config, http);
    Ok(())
}
