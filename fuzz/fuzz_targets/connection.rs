//! One connection of the FastCGI server: the same events and output in any split, whenever and however the caller answers.
//!
//! The property is in `tests/properties/check`, which the tests try for a few seconds in every run.
#![no_main]

#[path = "../../tests/properties/check/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::connection(data));
