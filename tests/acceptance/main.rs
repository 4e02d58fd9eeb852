//! Tests with real processes: nibiru behind real proxies, with real signals.
//!
//! `tests/run` installs the programs that these tests need.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed, and the helpers are tests too")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the test harness takes what a test says")]

#[path = "../support/mod.rs"]
mod support;

mod aborts;
mod access_log;
mod authorizer;
mod buffer_memory;
mod caddy;
mod check;
mod commands;
mod completeness;
mod configurations;
mod control;
mod deadlines;
mod dev;
mod docs;
mod downloads;
mod draining;
mod dumpable;
mod examples;
mod file_bodies;
mod forks;
mod haproxy;
mod health;
mod honesty;
mod hostile;
mod hostile_owner;
mod lane_kills;
mod lanes;
mod layering;
mod left_behind;
mod listen;
mod load;
mod log_floods;
mod log_lines;
mod lua_modules;
mod main_log;
mod multiplexing;
mod nginx;
mod options;
mod outliving;
mod output;
mod overload;
mod parameters;
mod pauses;
mod pool;
mod printing;
mod processes;
mod protocol;
mod proxies;
mod reaping;
mod recovery;
mod releases;
mod reliability;
mod request;
mod roles;
mod slow_clients;
mod slow_readers;
mod sockets;
mod status;
mod stops;
mod streams;
mod surroundings;
mod systemd;
mod terminal;
mod tracing;
mod truth;
mod units;
mod upgrade;
mod upload_files;
mod uploads;
mod vectors;
mod waiting;
mod walks;
mod zygotes;
