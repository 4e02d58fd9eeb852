//! The directory for spooled bodies and answers where nobody names one.
//!
//! Files of a tmpfs are memory, and `/tmp` is one on many systems. So a directory on a disk comes first.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use crate::os::memory;

/// Where every system keeps temporary files, in the order in which they are taken. `/var/tmp` outlives a restart of the machine, so it is
/// on a disk (FHS 3.0 §5.15).
const USUAL: [&str; 2] = ["/var/tmp", "/tmp"];

/// What a directory is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It is not there, or no file can be made in it.
    Unusable,
    /// Its files are memory.
    Memory,
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

/// `$TMPDIR` is an order: an operator who sets it to a tmpfs may want nothing of a request on a disk, and is warned. But it is often set for
/// a whole session, and may name a directory of another user; then it says nothing about this one.
fn choose(ordered: Option<OsString>, kind: impl Fn(&Path) -> Kind) -> PathBuf {
    if let Some(ordered) = ordered.filter(|path| !path.is_empty()).map(PathBuf::from)
        && kind(&ordered) != Kind::Unusable
    {
        return ordered;
    }
    let first = |wanted| USUAL.map(Path::new).into_iter().find(|directory| kind(directory) == wanted);
    // Where neither can be used, the message is about the first.
    first(Kind::Disk).or_else(|| first(Kind::Memory)).unwrap_or(Path::new(USUAL[0])).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The choice where `/var/tmp`, `/tmp` and `/mine`, which `$TMPDIR` may name, are so.
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
