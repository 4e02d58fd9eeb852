//! The result of a check of the path of a socket file.

use crate::gateway::frontend::socket_file::identity::Identity;

/// The state of a socket file's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathState {
    /// The file that this server created or took over.
    Ours,
    Nothing,
    /// Another file.
    Other(Identity),
    /// The path cannot be checked, for this cause.
    Unknown(String),
}
