//! A worker's memory: its limit, and its own measure of it. The kernel's figures come as the text of `/proc`.

use std::io;

use rustix::process::{Resource, Rlimit};

use crate::log::ByteSize;

/// The part of `--memory-limit` that is kept for memory that is not Lua's: an eighth.
const HEADROOM: u64 = 8;

/// The error of a worker whose loaded application takes so much of the memory limit (in bytes) that a request would have too little;
/// `None` where it leaves enough. `status` is the text of `/proc/self/status`.
pub(super) fn excess(status: &str, limit: u64) -> Option<String> {
    let taken = kilobytes(status, "VmData:")?;
    (taken > lua_part(limit)).then(|| {
        format!(
            "the application takes {} once it is loaded, which leaves too little of the {} that a worker may \
             have (--memory-limit)",
            ByteSize(taken),
            ByteSize(limit)
        )
    })
}

/// The part of a memory limit that Lua may have, in bytes. Lua meets this limit first, as an error of one request, and leaves
/// room to say so.
pub(super) fn lua_part(limit: u64) -> u64 {
    limit - limit / HEADROOM
}

/// Limits the memory that this process can write to, in bytes: Lua's heap, the heap of C modules, nibiru's own. A process that
/// meets this limit mostly ends.
pub(super) fn set_wall(limit: u64) -> io::Result<()> {
    let wall = Rlimit { current: Some(limit), maximum: Some(limit) };
    Ok(rustix::process::setrlimit(Resource::Data, wall)?)
}

/// The proportional share of memory in bytes: pages of the process's own in full, shared pages in part (`Pss` of proc(5)). 0
/// where the kernel does not say. `rollup` is the text of `/proc/self/smaps_rollup`.
pub(super) fn proportional_share(rollup: &str) -> u64 {
    kilobytes(rollup, "Pss:").unwrap_or(0)
}

/// A figure of `/proc`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_may_take_seven_eighths_of_the_limit_and_no_more() {
        let status = |kilobytes: u64| format!("Name:\tnibiru\nVmPeak:\t 9 kB\nVmData:\t  {kilobytes} kB\n");
        let limit = 64 << 20;
        assert_eq!(excess(&status(56 << 10), limit), None);
        let error = excess(&status((56 << 10) + 1), limit).unwrap();
        assert!(
            error.starts_with("the application takes 56.0 MiB") && error.contains("of the 64 MiB"),
            "{error}"
        );
        assert_eq!(excess("", limit), None);
    }

    #[test]
    fn the_share_is_the_kernels_or_nothing() {
        assert_eq!(proportional_share("Rss: 9 kB\nPss:    12 kB\nPss_Dirty: 3 kB\n"), 12 << 10);
        assert_eq!(proportional_share(""), 0);
        assert_eq!(proportional_share("Pss: many kB\n"), 0);
    }
}
