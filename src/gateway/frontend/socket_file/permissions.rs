//! The mode and the owner of a socket file: who may connect.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Gid, Uid};

use crate::config::{Config, SocketMode, SocketOwner};

/// How a socket file is made.
#[derive(Clone, Debug)]
pub(crate) struct Permissions {
    pub(super) mode: SocketMode,
    pub(super) owner: Option<SocketOwner>,
}

impl Permissions {
    /// The permissions in the settings.
    pub(crate) fn of(config: &Config) -> Self {
        Self { mode: config.socket_mode, owner: config.socket_owner.clone() }
    }

    /// Permissions that let only this user connect.
    pub(crate) fn private() -> Self {
        Self { mode: SocketMode(0o600), owner: None }
    }

    /// The user that owns the file, where the settings name one.
    pub(super) fn user(&self) -> Option<u32> {
        self.owner.as_ref().and_then(|owner| owner.user)
    }

    /// Gives the file of a socket these permissions. `file`: opened by its path, since the socket's own descriptor has another mode.
    pub(super) fn apply(&self, file: &OwnedFd) -> io::Result<()> {
        std::fs::set_permissions(by_descriptor(file), PermissionsExt::from_mode(self.mode.0))?;
        if let Some(SocketOwner { user, group }) = self.owner {
            let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
            rustix::fs::chownat(file, c"", user, group, AtFlags::EMPTY_PATH)?;
        }
        Ok(())
    }
}

/// A path to the file that a descriptor is of, whatever the file's names are by now.
pub(super) fn by_descriptor(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}
