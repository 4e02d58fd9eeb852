//! What the kernel offers and safe crates do not. The lowest layer: it names no other module of this crate.

pub mod dumpable;
pub mod memory;
pub mod rlimit;
pub mod safe_path;
pub mod sys;
pub mod title;
