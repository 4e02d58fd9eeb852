//! Properties of the readers of untrusted bytes. Each is a function of bytes that panics if the property does not hold.
//!
//! Two generators call them: `tests/properties/main.rs` (proptest, in every run of the tests) and the targets in `fuzz/`
//! (libFuzzer, for longer). Only the public API is used.

#![allow(dead_code, unused_imports, reason = "each fuzz target uses one of the properties")]

mod client;
mod connection;
mod heads;
mod params;
mod worker_messages;

pub(crate) use client::{client, records};
pub(crate) use connection::connection;
pub(crate) use heads::{request_head, response_head};
pub(crate) use params::params;
pub(crate) use worker_messages::worker_messages;

/// The most controls of an input: lengths of pieces, and decisions of the caller.
const MAX_CONTROLS: usize = 15;

/// Splits an input into the data and the controls at its end, so that captured bytes are valid inputs: the last byte is the
/// number of controls.
fn controls(data: &[u8]) -> (&[u8], &[u8]) {
    let Some((last, rest)) = data.split_last() else { return (data, &[]) };
    let count = usize::from(*last) & MAX_CONTROLS;
    rest.split_at(rest.len().saturating_sub(count))
}

/// Splits an input into pieces of these lengths, which repeat. Without lengths, every piece is one byte.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        // Every fourth length is long, so that large inputs do not come in small pieces only.
        let length = lengths.next().map_or(1, |length| match usize::from(*length) {
            long @ 192.. => (long - 191) * 64,
            short => short,
        });
        let (piece, rest) = bytes.split_at(length.clamp(usize::from(!pieces.is_empty()), bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// Adds a line about a stream. A piece is joined with the piece before it, because only the bytes of the stream count.
fn push_joined(line: String, bytes: &[u8], lines: &mut Vec<(String, Vec<u8>)>) {
    match lines.last_mut() {
        Some((last, joined)) if !bytes.is_empty() && *last == line => joined.extend_from_slice(bytes),
        _ => lines.push((line, bytes.to_vec())),
    }
}
