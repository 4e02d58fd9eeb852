//! Heads of requests: what is accepted is unambiguous.
//!
//! The property is in `tests/properties/check`, which the tests try for a few seconds in every run.
#![no_main]

#[path = "../../tests/properties/check/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::request_head(data));
