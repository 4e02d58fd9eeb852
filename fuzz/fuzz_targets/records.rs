//! Fuzz target: the record reader, compared with a naive one. Headers survive a round trip.
//!
//! The property is in `tests/properties/check`, where every run of the tests checks it for a few seconds.
#![no_main]

#[path = "../../tests/properties/check/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::records(data));
