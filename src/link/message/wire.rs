//! The encoding of messages: little-endian integers, and bytes led by a `u32` length.

use thiserror::Error;

use super::limits::{MAX_CHUNK, MAX_FIELDS};

/// The level of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// A detail for debugging.
    Debug,
    /// Ordinary news.
    Info,
    /// Something to look at.
    Warn,
    /// A request or a worker failed.
    Error,
}

/// A packet that does not follow the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed message")]
pub struct Malformed;

pub(super) fn put_log(packet: &mut Vec<u8>, level: LogLevel, message: &[u8], fields: &[u8]) {
    packet.push(level as u8);
    put_bytes(packet, message);
    put_bytes(packet, fields);
}

pub(super) fn take_log<'a>(packet: &mut &'a [u8]) -> Result<(LogLevel, &'a [u8], &'a [u8]), Malformed> {
    let level = match take_u8(packet)? {
        0 => LogLevel::Debug,
        1 => LogLevel::Info,
        2 => LogLevel::Warn,
        3 => LogLevel::Error,
        _ => return Err(Malformed),
    };
    let (message, fields) = (take_chunk(packet)?, take_bytes(packet)?);
    if fields.len() <= MAX_FIELDS { Ok((level, message, fields)) } else { Err(Malformed) }
}

pub(super) fn put_u32(packet: &mut Vec<u8>, value: u32) {
    packet.extend_from_slice(&value.to_le_bytes());
}

pub(super) fn put_bytes(packet: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("no message exceeds MAX_PACKET");
    put_u32(packet, length);
    packet.extend_from_slice(bytes);
}

pub(super) fn take<const N: usize>(packet: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (bytes, rest) = packet.split_first_chunk::<N>().ok_or(Malformed)?;
    *packet = rest;
    Ok(*bytes)
}

pub(super) fn take_u8(packet: &mut &[u8]) -> Result<u8, Malformed> {
    take::<1>(packet).map(|[byte]| byte)
}

pub(super) fn take_bool(packet: &mut &[u8]) -> Result<bool, Malformed> {
    match take_u8(packet)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

pub(super) fn take_u32(packet: &mut &[u8]) -> Result<u32, Malformed> {
    take(packet).map(u32::from_le_bytes)
}

pub(super) fn take_u64(packet: &mut &[u8]) -> Result<u64, Malformed> {
    take(packet).map(u64::from_le_bytes)
}

pub(super) fn take_bytes<'a>(packet: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = take_u32(packet)? as usize;
    let (bytes, rest) = packet.split_at_checked(length).ok_or(Malformed)?;
    *packet = rest;
    Ok(bytes)
}

pub(super) fn take_chunk<'a>(packet: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    take_bytes(packet).and_then(|bytes| if bytes.len() <= MAX_CHUNK { Ok(bytes) } else { Err(Malformed) })
}
