//! Fuzz target: the client, on hostile bytes of a server.
//!
//! The property is in `tests/properties/check`, where every run of the tests checks it for a few seconds.
#![no_main]

#[path = "../../tests/properties/check/mod.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::client(data));
