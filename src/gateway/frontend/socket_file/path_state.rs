//! The result of a look at the path of a socket file. Std only.

use crate::gateway::frontend::socket_file::identity::Identity;

/// The state of a socket file's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathState {
    /// The file that this server made, or took over.
    Ours,
    Nothing,
    /// Another file.
    Other(Identity),
    /// The path cannot be looked at, for this cause.
    Unknown(String),
}
