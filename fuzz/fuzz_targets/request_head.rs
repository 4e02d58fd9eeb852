//! Fuzz target: heads of requests. An accepted head is unambiguous.
//!
//! The property is in `tests/properties/check`, where every run of the tests checks it for a few seconds.
#![no_main]

#[path = "../../tests/properties/check/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::request_head(data));
