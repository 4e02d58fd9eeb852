//! Memory: the limit of this process, directories whose files are memory (tmpfs), and free memory of the allocator.
#![allow(unsafe_code, reason = "malloc_trim has no safe wrapper")]

use std::fs;
use std::path::{Path, PathBuf};

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of statfs(2): file systems whose files are memory.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// The mount point of control groups (cgroups(7)), by convention.
const GROUPS: &str = "/sys/fs/cgroup";

/// The memory that this process can have, in bytes: the smallest of the machine's memory and the limits of its control groups.
pub fn available() -> u64 {
    let machine = machine();
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = limit_files(&groups, Path::new(GROUPS))
        .into_iter()
        .filter_map(|file| limit(&fs::read_to_string(file).ok()?));
    limits.chain([machine]).min().unwrap_or(machine)
}

/// Whether files that are made in `directory` are memory. An overlay over such a file system cannot be told.
pub fn holds_files(directory: &Path) -> bool {
    rustix::fs::statfs(directory).is_ok_and(|system| is_in_memory(system.f_type as u64))
}

/// Whether `f_type` of statfs(2) is that of a file system in memory. A field of 32 bits with a sign is extended by its sign.
fn is_in_memory(kind: u64) -> bool {
    IN_MEMORY.iter().any(|magic| u64::from(*magic) == kind & 0xffff_ffff)
}

fn machine() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// The files with the memory limits of the groups in `/proc/self/cgroup`, and of the groups around them. Some may not exist: in a
/// container the path is the host's, and the mount begins at the container's own group.
fn limit_files(groups: &str, mounted: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, file) = if controllers.is_empty() {
            (mounted.to_path_buf(), "memory.max")
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (mounted.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        let path = Path::new(path.trim_start_matches('/'));
        files.extend(path.ancestors().map(|group| mount.join(group).join(file)));
    }
    files
}

/// The limit in a control group's file, in bytes; `None` for `max`. Version 1 writes a number beyond any machine's memory for "no
/// limit", so that the machine's memory is the smaller one.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Returns the allocator's free memory to the system. Other threads that allocate wait meanwhile.
pub fn give_back() {
    // Only glibc has the call. Other allocators return memory by themselves, or never.
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes the locks of the allocator, may be called in any thread, and moves nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_around_ones_own_bound_it_too() {
        let files = |groups| {
            let files = limit_files(groups, Path::new("/g"));
            files.into_iter().map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            files("0::/system.slice/a.service\n"),
            ["/g/system.slice/a.service/memory.max", "/g/system.slice/memory.max", "/g/memory.max"]
        );
        assert_eq!(
            files("12:pids:/x\n4:cpu,memory:/docker/1\n0::/\n"),
            [
                "/g/memory/docker/1/memory.limit_in_bytes",
                "/g/memory/docker/memory.limit_in_bytes",
                "/g/memory/memory.limit_in_bytes",
                "/g/memory.max"
            ]
        );
        assert!(files("").is_empty() && files("nonsense\n").is_empty());
    }

    #[test]
    fn a_limit_is_a_number_or_none() {
        assert_eq!(limit("268435456\n"), Some(256 << 20));
        assert_eq!((limit("max\n"), limit("")), (None, None));
    }

    #[test]
    fn files_of_a_tmpfs_and_a_ramfs_are_memory() {
        assert!(holds_files(Path::new("/dev/shm")) && !holds_files(Path::new("/proc")));
        assert!(!holds_files(Path::new("/nonexistent")));
        assert!(is_in_memory(0xffff_ffff_8584_58f6) && is_in_memory(0x8584_58f6) && !is_in_memory(0xef53));
    }

    #[test]
    fn this_machine_has_some() {
        assert!(available() > 1 << 20);
    }
}
