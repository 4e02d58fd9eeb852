//! Fuzz target: one connection of the FastCGI server. Events and output are the same in any split, whenever and however the
//! caller answers.
//!
//! The property is in `tests/properties/check`, where every run of the tests checks it for a few seconds.
#![no_main]

#[path = "../../tests/properties/check/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::connection(data));
