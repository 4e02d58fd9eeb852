//! Tests that start real processes: nibiru behind real proxies, with real signals.
//!
//! `tests/run` installs what they need.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed, and the helpers are tests too")]

mod support;
mod wire;

mod access_log;
mod caddy;
mod commands;
mod deadlines;
mod dev;
mod docs;
mod examples;
mod hostile;
mod layering;
mod listen;
mod load;
mod lua_modules;
mod nginx;
mod pool;
mod processes;
mod protocol;
mod proxies;
mod recovery;
mod reliability;
mod sockets;
mod status;
mod surroundings;
mod systemd;
mod truth;
mod upgrade;
mod vectors;
