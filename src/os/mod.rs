//! Services of the kernel and the C library that no safe crate offers. The lowest layer: names no other module of this crate.

pub mod beneath;
pub mod descriptors;
pub mod dumpable;
pub mod fork;
pub mod interrupt;
pub mod lifeline;
pub mod memory;
pub mod monotonic;
pub mod process;
pub mod random;
pub mod rlimit;
pub mod safe_path;
pub mod shared_memory;
pub mod signals;
pub mod title;
pub mod users;
