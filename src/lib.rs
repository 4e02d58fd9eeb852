//! nibiru, the FastCGI application server for Lua.
//!
//! ```text
//!                                    lane: shared memory
//! nginx / Caddy ──FastCGI──► gateway ◄─────────────────► worker 1..N   (persistent, forked, one Lua state each)
//!                               │          socket           ▲ fork
//!                               └──control──► zygote ───────┘          (loads the app once, forks workers)
//! ```
//!
//! A request flows one way: listener → connection → [`fastcgi`] → queue → worker → Lua → back. [`gateway`] never names [`lua`],
//! [`worker`] or [`zygote`], nor the reverse: all of them use [`link`].

pub mod cgi;
pub mod cli;
pub mod cmd;
pub mod config;
pub mod fastcgi;
pub mod gateway;
pub mod link;
pub mod log;
pub mod lua;
pub mod os;
pub mod proto;
pub mod worker;
pub mod zygote;
