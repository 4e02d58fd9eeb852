//! The Lua bridge: one Lua state that holds an application, and its ways to the worker.
//!
//! The only user of mlua. The worker calls [`State`] in the order of its methods; the application's
//! answers come back through the worker's [`Output`]. PEP 3333's rules are Lua (`lua/nibiru/core/`): this
//! side loads that code, builds `environ`, keeps the request's body and carries bytes. Never opens a
//! socket, never forks.

mod body;
mod embed;
mod environ;
mod error;
mod file_handle;
mod functions;
mod host;
mod interrupt;
mod missing;
mod output;
mod paths;
mod programs;
mod request;
mod settings;
mod state;
mod target;
#[cfg(any(feature = "lua54", feature = "lua55"))]
mod warnings;

#[cfg(test)]
mod tests;

pub use body::Body;
pub use error::{Error, LoadError};
pub use interrupt::handle_interrupts;
pub use output::{ClientGone, Interrupt, LoadingLog, Outcome, Output};
pub use request::{Request, Role};
pub use settings::Settings;
pub use state::State;
pub use target::Target;
