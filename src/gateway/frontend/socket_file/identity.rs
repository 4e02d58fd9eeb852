//! The identity of a file: two paths that show the same one lead to the same file.

use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, Stat};

use crate::os::safe_path::SafePath;

/// Device and inode. The kernel gives the inode of a socket's file to no other file while the socket is open.
pub(crate) type Identity = (u64, u64);

/// The identity of the file that these metadata are of.
pub(super) fn of_metadata(data: &std::fs::Metadata) -> Identity {
    (data.dev(), data.ino())
}

/// The identity of the file that this status is of.
pub(super) fn of_stat(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// The identity of the file at a place, which is not followed where it is a link.
pub(super) fn at(place: &SafePath) -> io::Result<Identity> {
    let stat = rustix::fs::statat(place.directory(), place.name(), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(of_stat(&stat))
}
