//! Flags, environment and `nibiru.toml` become one checked [`Config`].
//!
//! [`SETTINGS`] is the one table of settings: [`Options`], which clap reads from flags and `NIBIRU_…` variables and serde from
//! the file, the defaults and the check of a reload are generated from it. Flags beat the environment beats the file beats the
//! defaults.

#[macro_use]
mod table;

mod addresses;
mod de;
mod error;
mod file;
mod limits;
mod options;
mod peers;
#[cfg(test)]
mod samples;
mod settings;
mod source;
mod spool_directory;
mod start_directory;
mod suggest;
mod values;

pub use error::ConfigError;
pub use file::FILE;
pub use options::{Options, SETTINGS};
pub use peers::Peers;
pub use settings::Config;
pub use source::{Origin, Sources};
pub use start_directory::StartDirectory;
pub use table::{Change, Setting};
pub use values::{
    AccessLog, AccessLogQuery, BodyFileParam, BodyFiles, Control, Count, Listen, LogTarget, MAX_WORKERS,
    Network, OrOff, ParamName, Positive, Preload, PriorityParam, ProxyHeader, QueueOrder, Sendfile,
    SendfileMap, Size, SocketMode, SocketOwner, Switch, Time, UrlPath, Value, Workers, control,
    control_beside, proxy_headers,
};
