//! The descriptors that loading an application has opened, which forked workers would share.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

/// The open descriptors of this process, each with the path of its target.
pub(super) struct OpenDescriptors(BTreeSet<(i32, PathBuf)>);

impl OpenDescriptors {
    /// The descriptors that are open now.
    pub(super) fn open() -> io::Result<Self> {
        let mut open = BTreeSet::new();
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let entry = entry?;
            let number = entry.file_name().to_string_lossy().parse();
            // The directory that is being read is among them; later it has no target.
            if let (Ok(number), Ok(target)) = (number, std::fs::read_link(entry.path())) {
                open.insert((number, target));
            }
        }
        Ok(Self(open))
    }

    /// The descriptors that are new since `before` and that forks must not share. Devices may be shared, which have no position,
    /// and `/proc`, which shows each process its own.
    pub(super) fn since(&self, before: &Self) -> Vec<(i32, PathBuf)> {
        let shared_memory = |target: &PathBuf| target.starts_with("/dev/shm");
        let harmless = |target: &PathBuf| {
            (target.starts_with("/dev") && !shared_memory(target)) || target.starts_with("/proc")
        };
        self.0.difference(&before.0).filter(|(_, target)| !harmless(target)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_descriptors_with_a_state_of_their_own_are_shared_for_worse() {
        let open = |list: &[(i32, &str)]| {
            OpenDescriptors(list.iter().map(|(number, target)| (*number, PathBuf::from(target))).collect())
        };
        let before = open(&[(0, "socket:[1]"), (3, "/srv/a.db")]);
        let after = open(&[
            (0, "socket:[1]"),
            (3, "/srv/b.db"),
            (4, "/dev/urandom"),
            (5, "/dev/shm/cache"),
            (6, "/proc/meminfo"),
            (7, "socket:[2]"),
        ]);
        let shared: Vec<i32> = after.since(&before).into_iter().map(|(number, _)| number).collect();
        assert_eq!(shared, [3, 5, 7]);
    }
}
