//! Processes as `/proc` shows them, and signals to them.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::wait::pace;

/// Sends a signal to a process that this test started, or to a descendant of one.
pub(crate) fn signal(pid: u32, number: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    match rustix::process::kill_process(pid, number) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("cannot signal {pid:?}: {error}"),
    }
}

/// Whether a process still runs. A zombie does not run.
pub(crate) fn runs(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

/// Whether a process is stopped by a signal.
pub(crate) fn is_stopped(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| state == "T")
}

/// Command line of a process, as `ps` shows it.
pub(crate) fn title(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

/// The running children of a process.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    pids().filter(|pid| stat(*pid).is_some_and(|(state, of)| of == parent && state != "Z")).collect()
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The processor time of a process.
pub(crate) fn processor_time(pid: u32) -> Duration {
    let fields = stat_fields(pid).unwrap();
    // utime and stime are the fields 14 and 15 of proc_pid_stat(5).
    let ticks: u64 = fields[14 - 3..=15 - 3].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// The share of a processor that a process takes during `span`.
pub(crate) fn processor_share(pid: u32, span: Duration) -> f64 {
    let (begun, before) = (Instant::now(), processor_time(pid));
    pace(span);
    (processor_time(pid) - before).as_secs_f64() / begun.elapsed().as_secs_f64()
}

/// The value of a field of `/proc/PID/status`, such as `NSpid`.
pub(crate) fn status_field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_else(|| panic!("no {name} in the status of {pid}")).trim().to_owned()
}

/// Resident memory of a process, in KiB.
pub(crate) fn resident_memory(pid: u32) -> u64 {
    kib(pid, "VmRSS")
}

/// Highest resident memory of a process so far, in KiB.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    kib(pid, "VmHWM")
}

fn kib(pid: u32, name: &str) -> u64 {
    status_field(pid, name).trim_end_matches(" kB").parse().unwrap()
}

/// Number of zombies among the children of a process.
pub(crate) fn zombies(parent: u32) -> usize {
    pids().filter(|pid| stat(*pid).is_some_and(|(state, of)| of == parent && state == "Z")).count()
}

/// Process group of a process.
pub(crate) fn process_group(pid: u32) -> u32 {
    stat_fields(pid).unwrap()[5 - 3].parse().unwrap()
}

/// Nice value of a process.
pub(crate) fn niceness(pid: u32) -> i32 {
    stat_fields(pid).unwrap()[19 - 3].parse().unwrap()
}

/// Scheduling policy of a process: 0 is the default, 3 is `SCHED_BATCH` (sched(7)).
pub(crate) fn scheduling_policy(pid: u32) -> u32 {
    stat_fields(pid).unwrap()[41 - 3].parse().unwrap()
}

/// State and parent of a process.
fn stat(pid: u32) -> Option<(String, u32)> {
    let fields = stat_fields(pid)?;
    Some((fields[0].clone(), fields[1].parse().ok()?))
}

/// The fields of `/proc/PID/stat` from the third on, so that field n of proc_pid_stat(5) has the index n - 3.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain any character, so the fields are counted from its end.
    Some(stat[stat.rfind(')')? + 2..].split(' ').map(str::to_owned).collect())
}

/// Descriptors of a process, each with its target.
pub(crate) fn descriptors(pid: u32) -> Vec<(u32, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let describe = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, target.display().to_string()))
    };
    entries.filter_map(describe).collect()
}
