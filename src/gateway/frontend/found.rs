//! The result of a look at the path of a socket file. Std only.

/// Device and inode of a file. The kernel gives an inode to no other file while the socket is open.
pub(crate) type Identity = (u64, u64);

/// The state of a socket file's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The file that this server made, or took over.
    Ours,
    Nothing,
    /// Another file.
    Other(Identity),
    /// The path cannot be looked at, for this cause.
    Unknown(String),
}
