//! A socket file that this process has made or taken over.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;

use crate::gateway::frontend::socket_file::identity::{self, Identity};
use crate::gateway::frontend::socket_file::path_state::PathState;
use crate::gateway::frontend::socket_file::permissions::Permissions;
use crate::os::safe_path::SafePath;

/// A socket file, known by device and inode, so that a successor's is never removed. Removed when this is dropped, unless it is
/// released. Its owner keeps the socket open as long as this lives, so that the kernel gives the inode to no other file.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    permissions: Permissions,
    identity: Identity,
    /// Whether the file stays when this is dropped.
    released: bool,
}

impl SocketFile {
    /// A file that is not in its place yet: released until [`Self::keep`].
    pub(super) fn staged(path: &Path, permissions: &Permissions, identity: Identity) -> Self {
        Self { path: path.to_owned(), permissions: permissions.clone(), identity, released: true }
    }

    /// The file of a socket that another process has made and handed over: that process's, until [`Self::keep`].
    pub(crate) fn known(path: &Path, permissions: &Permissions) -> Self {
        // A file that is gone has no identity, and the next look makes it anew.
        let identity = std::fs::symlink_metadata(path).map_or((0, 0), |data| identity::of_metadata(&data));
        Self::staged(path, permissions, identity)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn permissions(&self) -> &Permissions {
        &self.permissions
    }

    /// The file that is at the path now.
    pub(crate) fn path_state(&self) -> PathState {
        match std::fs::symlink_metadata(&self.path) {
            Ok(data) if identity::of_metadata(&data) == self.identity => PathState::Ours,
            Ok(data) => PathState::Other(identity::of_metadata(&data)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => PathState::Nothing,
            Err(error) => PathState::Unknown(crate::log::cause(&error)),
        }
    }

    /// Makes the file this process's, whichever process has made it.
    pub(crate) fn keep(&mut self) {
        self.released = false;
    }

    /// Leaves the file to the process that has the socket after this one.
    pub(crate) fn release(&mut self) {
        self.released = true;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.released || self.path_state() != PathState::Ours {
            return;
        }
        // By descriptor, since the path may lead elsewhere by now. A file that is gone already is as good.
        if let Ok(place) = SafePath::of(&self.path)
            && identity::at(&place).is_ok_and(|identity| identity == self.identity)
        {
            let _ = rustix::fs::unlinkat(place.directory(), place.name(), AtFlags::empty());
        }
    }
}
