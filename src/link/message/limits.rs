//! The limits of messages and packets.

use std::borrow::Cow;

/// Bytes in one packet, at most.
///
/// A `SOCK_SEQPACKET` packet must fit the socket's send buffer whole, and that is 212,992 bytes
/// (`net.core.wmem_default`) for a process without privileges.
pub const MAX_PACKET: usize = 200 * 1024;

/// Bytes of a request body inside `Request`, at most; a longer body travels as a descriptor.
pub const MAX_INLINE_BODY: usize = 64 * 1024;

/// [`MAX_INLINE_BODY`] for each of a Filter's two bodies, so that both fit a packet with the variables.
pub const MAX_INLINE_BODY_OF_TWO: usize = MAX_INLINE_BODY / 2;

/// Bytes in one `Body`, `Log`, `Stack` or `StartFailed`, at most. Two of them never exceed [`MAX_PACKET`].
pub const MAX_CHUNK: usize = 64 * 1024;

/// Bytes of a `File`, at least: fewer cost less as `Body`.
pub const MIN_FILE: u64 = 128 * 1024;

/// Bytes of a `Log`'s fields, at most. Two messages of the greatest length still fit a packet.
pub const MAX_FIELDS: usize = 32 * 1024;

/// A message for people. Cut where it is longer than [`MAX_CHUNK`]; its end then gives the number of missing bytes.
pub fn shortened(message: &[u8]) -> Cow<'_, [u8]> {
    /// Room for the note.
    const NOTE: usize = 64;
    if message.len() <= MAX_CHUNK {
        return Cow::Borrowed(message);
    }
    let mut end = MAX_CHUNK - NOTE;
    // Never cuts within a character of UTF-8.
    while end > MAX_CHUNK - NOTE - 4 && message[end] & 0b1100_0000 == 0b1000_0000 {
        end -= 1;
    }
    let note = format!("… ({} bytes are left out)", message.len() - end);
    Cow::Owned([&message[..end], note.as_bytes()].concat())
}
