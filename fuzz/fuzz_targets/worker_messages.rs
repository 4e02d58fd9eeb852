//! Fuzz target: packets of a hostile worker. Its clients get one whole response, or see that it is not whole.
//!
//! The property is in `tests/properties/check`, where every run of the tests checks it for a few seconds.
#![no_main]

#[path = "../../tests/properties/check/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::worker_messages(data));
