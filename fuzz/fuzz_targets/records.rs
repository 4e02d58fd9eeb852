//! The record reader against a naive one; headers there and back.
//!
//! The property is in `tests/properties/check`, which the tests try for a few seconds in every run.
#![no_main]

#[path = "../../tests/properties/check/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::records(data));
