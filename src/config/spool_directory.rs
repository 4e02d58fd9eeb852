//! The default directory for spooled bodies and responses.
//!
//! A directory on a disk comes first, since files of a tmpfs are memory, and `/tmp` is a tmpfs on many systems.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use crate::os::memory;

/// The directories for temporary files that every system has, in order of preference. `/var/tmp` outlives a restart of the machine
/// (FHS 3.0 §5.15), so it is on a disk.
const USUAL: [&str; 2] = ["/var/tmp", "/tmp"];

/// The storage behind a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The directory does not exist, or no file can be made in it.
    Unusable,
    /// Files there are memory.
    Memory,
    /// Files there are on a disk.
    Disk,
}

impl Kind {
    fn of(directory: &Path) -> Self {
        if !directory.is_dir() || rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).is_err() {
            Self::Unusable
        } else if memory::holds_files(directory) {
            Self::Memory
        } else {
            Self::Disk
        }
    }
}

/// The directory for this process: `$TMPDIR`, or the first of the usual directories that is on a disk.
pub(super) fn default() -> PathBuf {
    choose(std::env::var_os("TMPDIR"), Kind::of)
}

/// The directory to spool in. A usable `$TMPDIR` is an order, also where it is a tmpfs: its operator may want nothing of a request on
/// a disk, and is warned. An unusable one is ignored, since it is often set for a whole session and names another user's directory.
fn choose(ordered: Option<OsString>, kind: impl Fn(&Path) -> Kind) -> PathBuf {
    if let Some(ordered) = ordered.filter(|path| !path.is_empty()).map(PathBuf::from)
        && kind(&ordered) != Kind::Unusable
    {
        return ordered;
    }
    let first = |wanted| USUAL.map(Path::new).into_iter().find(|directory| kind(directory) == wanted);
    // With none usable, the message is about the first.
    first(Kind::Disk).or_else(|| first(Kind::Memory)).unwrap_or(Path::new(USUAL[0])).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The choice where `/var/tmp`, `/tmp` and `/mine` are of these kinds; `$TMPDIR` may name the last.
    fn chosen(ordered: Option<&str>, var_tmp: Kind, tmp: Kind, mine: Kind) -> String {
        let kind = |directory: &Path| match directory.to_str() {
            Some("/var/tmp") => var_tmp,
            Some("/tmp") => tmp,
            Some("/mine") => mine,
            other => panic!("looks at {other:?}"),
        };
        choose(ordered.map(OsString::from), kind).display().to_string()
    }

    #[test]
    fn a_directory_on_a_disk_comes_before_one_in_memory() {
        use Kind::{Disk, Memory, Unusable};
        for (var_tmp, tmp, expected) in [
            (Disk, Memory, "/var/tmp"),
            (Disk, Disk, "/var/tmp"),
            (Memory, Disk, "/tmp"),
            (Unusable, Disk, "/tmp"),
            (Memory, Memory, "/var/tmp"),
            (Unusable, Memory, "/tmp"),
            (Unusable, Unusable, "/var/tmp"),
        ] {
            assert_eq!(chosen(None, var_tmp, tmp, Unusable), expected, "{var_tmp:?} {tmp:?}");
        }
    }

    #[test]
    fn the_variable_decides_where_it_names_a_directory_that_can_be_used() {
        use Kind::{Disk, Memory, Unusable};
        assert_eq!(chosen(Some("/mine"), Disk, Disk, Disk), "/mine");
        assert_eq!(chosen(Some("/mine"), Disk, Disk, Memory), "/mine");
        assert_eq!(chosen(Some("/mine"), Disk, Disk, Unusable), "/var/tmp");
        assert_eq!(chosen(Some(""), Disk, Disk, Unusable), "/var/tmp");
    }

    #[test]
    fn a_directory_that_is_not_there_or_is_none_cannot_be_used() {
        let directory = tempfile::tempdir().unwrap();
        assert_ne!(Kind::of(directory.path()), Kind::Unusable);
        let file = directory.path().join("file");
        assert_eq!(Kind::of(&file), Kind::Unusable);
        std::fs::write(&file, "").unwrap();
        assert_eq!(Kind::of(&file), Kind::Unusable);
    }
}
