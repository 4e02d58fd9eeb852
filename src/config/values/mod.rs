//! The types of the settings' values: parsed from text, checked, never a bare number with a meaning of its own.

mod body_file;
mod control;
mod listen;
mod logs;
mod network;
mod quantity;
mod queue;
mod sendfile;
mod socket_file;
mod switch;
mod url_path;
mod value;
mod workers;

pub use body_file::{BodyFileParam, BodyFiles};
pub use control::{Control, control, control_beside};
pub use listen::Listen;
pub use logs::{AccessLog, AccessLogQuery, LogTarget};
pub use network::Network;
pub use quantity::{Count, Positive, Size, Time};
pub use queue::{ParamName, PriorityParam, QueueOrder};
pub use sendfile::{ProxyHeader, Sendfile, SendfileMap, proxy_headers};
pub use socket_file::{SocketMode, SocketOwner};
pub use switch::{Preload, Switch};
pub use url_path::UrlPath;
pub use value::{OrOff, Value};
pub use workers::{MAX_WORKERS, Workers};
