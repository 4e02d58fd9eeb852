//! Helpers of the acceptance tests: nibiru, proxies and clients as child processes on scratch directories, and waits
//! for conditions.

pub(crate) mod disks;
pub(crate) mod front_ends;
pub(crate) mod http;
pub(crate) mod seccomp;
pub(crate) mod wire;

mod app;
mod child;
mod curl;
mod needs;
mod net;
mod proc;
mod proxy;
mod server;
mod wait;

use std::path::{Path, PathBuf};

pub(crate) use app::{App, Gate, response_text, says};
pub(crate) use child::{Process, library_of, nibiru, output, system_program, wait_for_exit};
pub(crate) use curl::{Reply, curl};
pub(crate) use needs::{Need, is_root, lacks, skip};
pub(crate) use net::{across_a_network, close, free_port, make_stale_socket};
pub(crate) use proc::{
    children, descriptors, is_stopped, niceness, peak_memory, process_group, processor_share, processor_time,
    resident_memory, runs, scheduling_policy, signal, status_field, title, zombies,
};
pub(crate) use proxy::{Kind, Proxy, caddy_program};
pub(crate) use server::{Server, ServerBuilder};
pub(crate) use wait::{
    GIVE_UP, nothing_happens_for, pace, wait_causing, wait_for, wait_until_still, wait_within,
};

/// A file or directory of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
