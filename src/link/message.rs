//! The vocabulary between the processes, in the order of a worker's life. Std only, no I/O.
//!
//! | from → to | messages |
//! | --- | --- |
//! | gateway → zygote | `Spawn` (with four descriptors), `Shutdown` |
//! | zygote → gateway | `Loaded`, `LoadFailed`, `Spawned` (with a pidfd), `SpawnFailed`, `Exited`; while it loads `Log` |
//! | gateway → worker | `Request` (may carry its bodies' descriptors), `Abort`, `Measure`, `Drain` |
//! | worker → gateway | `Ready`, `StartFailed`, `Answering`, `Head`, `Body`, `End`, `Measured`, `Log`, `Stack` |
//!
//! A packet holds one or more messages back to back, so a small response is one packet: `Answering`, `Head`, `Body`,
//! `End`, `Ready`. Integers are little-endian; bytes are led by a `u32` length. The gateway trusts none
//! of it: a packet that does not decode costs its sender its life, not the gateway.
//!
//! What must reach a worker while it runs a request is no message but a signal: [`super::interrupt`]. `Stack` is
//! its answer.

use std::borrow::Cow;
use std::fmt;

/// The most bytes in one packet.
///
/// A `SOCK_SEQPACKET` packet must fit the socket's send buffer whole, and that is 212,992 bytes
/// (`net.core.wmem_default`) for a process without privileges.
pub const MAX_PACKET: usize = 200 * 1024;

/// The most bytes of a request body that travel inside `Request`; a longer body is a descriptor.
pub const MAX_INLINE_BODY: usize = 64 * 1024;

/// [`MAX_INLINE_BODY`] for each of a Filter's two bodies, so that both fit a packet with the variables.
pub const MAX_INLINE_BODY_OF_TWO: usize = MAX_INLINE_BODY / 2;

/// The most bytes in one `Body`, `Log`, `Stack` or `StartFailed`. Two of them never exceed [`MAX_PACKET`].
pub const MAX_CHUNK: usize = 64 * 1024;

/// The most bytes of a `Log`'s fields. Two messages of the greatest length still fit a packet.
pub const MAX_FIELDS: usize = 32 * 1024;

/// A message for people, cut where it is longer than [`MAX_CHUNK`]; its end then says how much is missing.
pub fn shortened(message: &[u8]) -> Cow<'_, [u8]> {
    /// Room for the note.
    const NOTE: usize = 64;
    if message.len() <= MAX_CHUNK {
        return Cow::Borrowed(message);
    }
    let mut end = MAX_CHUNK - NOTE;
    // Not within a character, where it is UTF-8.
    while end > MAX_CHUNK - NOTE - 4 && message[end] & 0b1100_0000 == 0b1000_0000 {
        end -= 1;
    }
    let note = format!("… ({} bytes are left out)", message.len() - end);
    Cow::Owned([&message[..end], note.as_bytes()].concat())
}

/// Gateway → zygote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message's text names its fields")]
pub enum ToZygote {
    /// Fork worker `worker`. Carries, in this order: the worker's link, its standard output, its standard error, its lifeline.
    Spawn { worker: u32 },
    /// Exit; workers that still run are left alone.
    Shutdown,
}

/// Zygote → gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message's text names its fields")]
pub enum FromZygote<'a> {
    /// Ready to fork. Without `preloaded` every worker loads the application itself.
    Loaded { preloaded: bool, micros: u64 },
    /// The application does not load; the zygote exits after this. `message` is for people.
    LoadFailed { message: &'a [u8] },
    /// Worker `worker` runs as process `pid`. Carries its pidfd.
    Spawned { worker: u32, pid: u32 },
    /// `fork` failed with `errno`.
    SpawnFailed { worker: u32, errno: u32 },
    /// A worker was reaped.
    Exited { worker: u32, pid: u32, exit: Exit },
    /// While it loads: a line for the log, as a worker's.
    Log { level: LogLevel, message: &'a [u8], fields: &'a [u8] },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Status(u32),
    /// This signal ended it.
    Signal(u32),
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Gateway → worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message's text names its fields")]
pub enum ToWorker<'a> {
    /// One complete request. `variables` is [`crate::cgi::Variables::encoded`]. Carries the descriptors of what is
    /// spooled: the body's, then that of a Filter's data.
    Request { request_id: &'a [u8], variables: &'a [u8], body: RequestBody<'a>, role: Role<'a> },
    /// The client of the running request has gone: stop producing output for it.
    Abort,
    /// Finish the running request, run the stop hooks, exit.
    Drain,
    /// Say what you take, between requests.
    Measure,
}

/// Where a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message's text names its fields")]
pub enum RequestBody<'a> {
    /// In the message: at most [`MAX_INLINE_BODY`] bytes.
    Inline(&'a [u8]),
    /// In a file whose descriptor the packet carries, from offset 0.
    Spooled { length: u64 },
}

/// What the application is to do with the request (FastCGI 1.0 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message's text names its fields")]
pub enum Role<'a> {
    /// Answer it.
    Responder,
    /// Say whether it may go on.
    Authorizer,
    /// Answer it with a changed version of `data`.
    Filter { data: RequestBody<'a> },
}

/// Worker → gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message's text names its fields")]
pub enum FromWorker<'a> {
    /// Idle: the next request may come.
    Ready,
    /// The application or a start hook failed in this worker; it exits after this.
    StartFailed { message: &'a [u8] },
    /// For which request what this packet holds of an answer is: its number in the worker's life, as in
    /// [`Serial`](super::interrupt::Serial). Comes before it in every such packet, so that a late answer is never taken
    /// for the next request's.
    Answering { serial: u32 },
    /// The response head as a CGI header block, empty line included.
    Head { block: &'a [u8] },
    /// Bytes of the response body, at least one.
    Body { bytes: &'a [u8] },
    /// The request is over. Without `complete` the response must not look whole.
    End { complete: bool },
    /// A line (or a traceback) for the log, with fields as JSON (or empty).
    Log { level: LogLevel, message: &'a [u8], fields: &'a [u8] },
    /// What the worker takes, in bytes: its proportional share of memory, and Lua's heap.
    Measured { pss: u64, lua_heap: u64 },
    /// The Lua stack of the running request, which an interrupt asked for; with `timeout` it was told to
    /// fail, and the text begins with the error.
    Stack { timeout: bool, text: &'a [u8] },
}

/// The level of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// For whoever debugs.
    Debug,
    /// Normal.
    Info,
    /// Odd, and survived.
    Warn,
    /// A request or a worker failed.
    Error,
}

/// A packet that does not follow the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed message")
    }
}

impl std::error::Error for Malformed {}

impl ToZygote {
    /// Appends the message to a packet.
    pub fn encode(&self, packet: &mut Vec<u8>) {
        match *self {
            Self::Spawn { worker } => {
                packet.push(1);
                put_u32(packet, worker);
            }
            Self::Shutdown => packet.push(2),
        }
    }

    /// Takes one message off the front of a packet.
    pub fn decode(packet: &mut &[u8]) -> Result<Self, Malformed> {
        match take_u8(packet)? {
            1 => Ok(Self::Spawn { worker: take_u32(packet)? }),
            2 => Ok(Self::Shutdown),
            _ => Err(Malformed),
        }
    }
}

impl<'a> FromZygote<'a> {
    /// Appends the message to a packet.
    pub fn encode(&self, packet: &mut Vec<u8>) {
        match *self {
            Self::Loaded { preloaded, micros } => {
                packet.push(1);
                packet.push(u8::from(preloaded));
                packet.extend_from_slice(&micros.to_le_bytes());
            }
            Self::LoadFailed { message } => {
                packet.push(2);
                put_bytes(packet, message);
            }
            Self::Spawned { worker, pid } => {
                packet.push(3);
                put_u32(packet, worker);
                put_u32(packet, pid);
            }
            Self::SpawnFailed { worker, errno } => {
                packet.push(4);
                put_u32(packet, worker);
                put_u32(packet, errno);
            }
            Self::Exited { worker, pid, exit } => {
                packet.push(5);
                put_u32(packet, worker);
                put_u32(packet, pid);
                let (kind, number) = match exit {
                    Exit::Status(status) => (0, status),
                    Exit::Signal(signal) => (1, signal),
                };
                packet.push(kind);
                put_u32(packet, number);
            }
            Self::Log { level, message, fields } => {
                packet.push(6);
                put_log(packet, level, message, fields);
            }
        }
    }

    /// Takes one message off the front of a packet.
    pub fn decode(packet: &mut &'a [u8]) -> Result<Self, Malformed> {
        match take_u8(packet)? {
            1 => Ok(Self::Loaded { preloaded: take_bool(packet)?, micros: take_u64(packet)? }),
            2 => Ok(Self::LoadFailed { message: take_bytes(packet)? }),
            3 => Ok(Self::Spawned { worker: take_u32(packet)?, pid: take_u32(packet)? }),
            4 => Ok(Self::SpawnFailed { worker: take_u32(packet)?, errno: take_u32(packet)? }),
            5 => {
                let (worker, pid) = (take_u32(packet)?, take_u32(packet)?);
                let signalled = take_bool(packet)?;
                let number = take_u32(packet)?;
                let exit = if signalled { Exit::Signal(number) } else { Exit::Status(number) };
                Ok(Self::Exited { worker, pid, exit })
            }
            6 => take_log(packet).map(|(level, message, fields)| Self::Log { level, message, fields }),
            _ => Err(Malformed),
        }
    }
}

impl<'a> ToWorker<'a> {
    /// Appends the message to a packet.
    pub fn encode(&self, packet: &mut Vec<u8>) {
        match *self {
            Self::Request { request_id, variables, body, role } => {
                packet.push(1);
                put_bytes(packet, request_id);
                put_bytes(packet, variables);
                // One byte says the role and where its bodies are.
                let flags = match role {
                    Role::Responder => 0,
                    Role::Authorizer => AUTHORIZER,
                    Role::Filter { data } => FILTER | if data.is_spooled() { DATA_SPOOLED } else { 0 },
                };
                packet.push(flags | if body.is_spooled() { BODY_SPOOLED } else { 0 });
                body.put(packet);
                if let Role::Filter { data } = role {
                    data.put(packet);
                }
            }
            Self::Abort => packet.push(2),
            Self::Drain => packet.push(3),
            Self::Measure => packet.push(4),
        }
    }

    /// Takes one message off the front of a packet.
    pub fn decode(packet: &mut &'a [u8]) -> Result<Self, Malformed> {
        match take_u8(packet)? {
            1 => {
                let (request_id, variables) = (take_bytes(packet)?, take_bytes(packet)?);
                let flags = take_u8(packet)?;
                let body = RequestBody::take(packet, flags & BODY_SPOOLED != 0)?;
                let role = match flags & !BODY_SPOOLED {
                    0 => Role::Responder,
                    AUTHORIZER => Role::Authorizer,
                    FILTER => Role::Filter { data: RequestBody::take(packet, false)? },
                    FILTER_SPOOLED => Role::Filter { data: RequestBody::take(packet, true)? },
                    _ => return Err(Malformed),
                };
                Ok(Self::Request { request_id, variables, body, role })
            }
            2 => Ok(Self::Abort),
            3 => Ok(Self::Drain),
            4 => Ok(Self::Measure),
            _ => Err(Malformed),
        }
    }
}

// The bits of the byte in `Request`.
const BODY_SPOOLED: u8 = 1;
const AUTHORIZER: u8 = 2;
const FILTER: u8 = 4;
const DATA_SPOOLED: u8 = 8;
const FILTER_SPOOLED: u8 = FILTER | DATA_SPOOLED;

impl<'a> RequestBody<'a> {
    fn is_spooled(self) -> bool {
        matches!(self, Self::Spooled { .. })
    }

    fn put(self, packet: &mut Vec<u8>) {
        match self {
            Self::Inline(bytes) => put_bytes(packet, bytes),
            Self::Spooled { length } => packet.extend_from_slice(&length.to_le_bytes()),
        }
    }

    fn take(packet: &mut &'a [u8], spooled: bool) -> Result<Self, Malformed> {
        if spooled {
            Ok(Self::Spooled { length: take_u64(packet)? })
        } else {
            Ok(Self::Inline(take_bytes(packet)?))
        }
    }
}

impl<'a> FromWorker<'a> {
    /// Appends the message to a packet.
    pub fn encode(&self, packet: &mut Vec<u8>) {
        match *self {
            Self::Ready => packet.push(1),
            Self::StartFailed { message } => {
                packet.push(2);
                put_bytes(packet, message);
            }
            Self::Head { block } => {
                packet.push(3);
                put_bytes(packet, block);
            }
            Self::Body { bytes } => {
                packet.push(4);
                put_bytes(packet, bytes);
            }
            Self::End { complete } => packet.extend_from_slice(&[5, u8::from(complete)]),
            Self::Log { level, message, fields } => {
                packet.push(6);
                put_log(packet, level, message, fields);
            }
            Self::Measured { pss, lua_heap } => {
                packet.push(7);
                packet.extend_from_slice(&pss.to_le_bytes());
                packet.extend_from_slice(&lua_heap.to_le_bytes());
            }
            Self::Stack { timeout, text } => {
                packet.extend_from_slice(&[8, u8::from(timeout)]);
                put_bytes(packet, text);
            }
            Self::Answering { serial } => {
                packet.push(9);
                put_u32(packet, serial);
            }
        }
    }

    /// Takes one message off the front of a packet.
    pub fn decode(packet: &mut &'a [u8]) -> Result<Self, Malformed> {
        match take_u8(packet)? {
            1 => Ok(Self::Ready),
            2 => Ok(Self::StartFailed { message: take_chunk(packet)? }),
            3 => Ok(Self::Head { block: take_bytes(packet)? }),
            4 => match take_chunk(packet)? {
                b"" => Err(Malformed),
                bytes => Ok(Self::Body { bytes }),
            },
            5 => Ok(Self::End { complete: take_bool(packet)? }),
            6 => take_log(packet).map(|(level, message, fields)| Self::Log { level, message, fields }),
            7 => Ok(Self::Measured { pss: take_u64(packet)?, lua_heap: take_u64(packet)? }),
            8 => Ok(Self::Stack { timeout: take_bool(packet)?, text: take_chunk(packet)? }),
            9 => Ok(Self::Answering { serial: take_u32(packet)? }),
            _ => Err(Malformed),
        }
    }
}

fn put_log(packet: &mut Vec<u8>, level: LogLevel, message: &[u8], fields: &[u8]) {
    packet.push(level as u8);
    put_bytes(packet, message);
    put_bytes(packet, fields);
}

fn take_log<'a>(packet: &mut &'a [u8]) -> Result<(LogLevel, &'a [u8], &'a [u8]), Malformed> {
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

fn put_u32(packet: &mut Vec<u8>, value: u32) {
    packet.extend_from_slice(&value.to_le_bytes());
}

fn put_bytes(packet: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).expect("no message exceeds MAX_PACKET");
    put_u32(packet, length);
    packet.extend_from_slice(bytes);
}

fn take<const N: usize>(packet: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (bytes, rest) = packet.split_first_chunk::<N>().ok_or(Malformed)?;
    *packet = rest;
    Ok(*bytes)
}

fn take_u8(packet: &mut &[u8]) -> Result<u8, Malformed> {
    take::<1>(packet).map(|[byte]| byte)
}

fn take_bool(packet: &mut &[u8]) -> Result<bool, Malformed> {
    match take_u8(packet)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Malformed),
    }
}

fn take_u32(packet: &mut &[u8]) -> Result<u32, Malformed> {
    take(packet).map(u32::from_le_bytes)
}

fn take_u64(packet: &mut &[u8]) -> Result<u64, Malformed> {
    take(packet).map(u64::from_le_bytes)
}

fn take_bytes<'a>(packet: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = take_u32(packet)? as usize;
    let (bytes, rest) = packet.split_at_checked(length).ok_or(Malformed)?;
    *packet = rest;
    Ok(bytes)
}

fn take_chunk<'a>(packet: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    take_bytes(packet).and_then(|bytes| if bytes.len() <= MAX_CHUNK { Ok(bytes) } else { Err(Malformed) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM_WORKER: [FromWorker<'_>; 10] = [
        FromWorker::Ready,
        FromWorker::StartFailed { message: b"app.lua:1: no" },
        FromWorker::Head { block: b"Status: 200 OK\r\n\r\n" },
        FromWorker::Body { bytes: b"\0\xff" },
        FromWorker::End { complete: true },
        FromWorker::End { complete: false },
        FromWorker::Log { level: LogLevel::Warn, message: b"", fields: b"{}" },
        FromWorker::Measured { pss: 1 << 40, lua_heap: 7 },
        FromWorker::Stack { timeout: true, text: b"stack traceback:" },
        FromWorker::Answering { serial: u32::MAX },
    ];

    const SPOOLED: RequestBody<'_> = RequestBody::Spooled { length: 1 << 40 };
    const INLINE: RequestBody<'_> = RequestBody::Inline(b"body");

    const fn request<'a>(body: RequestBody<'a>, role: Role<'a>) -> ToWorker<'a> {
        ToWorker::Request { request_id: b"r1", variables: b"vv", body, role }
    }

    const TO_WORKER: [ToWorker<'_>; 10] = [
        request(INLINE, Role::Responder),
        request(SPOOLED, Role::Responder),
        request(RequestBody::Inline(b""), Role::Authorizer),
        request(INLINE, Role::Filter { data: INLINE }),
        request(INLINE, Role::Filter { data: SPOOLED }),
        request(SPOOLED, Role::Filter { data: INLINE }),
        request(SPOOLED, Role::Filter { data: SPOOLED }),
        ToWorker::Abort,
        ToWorker::Drain,
        ToWorker::Measure,
    ];

    const FROM_ZYGOTE: [FromZygote<'_>; 7] = [
        FromZygote::Loaded { preloaded: true, micros: 1500 },
        FromZygote::LoadFailed { message: b"no" },
        FromZygote::Spawned { worker: 3, pid: 77 },
        FromZygote::SpawnFailed { worker: 3, errno: 11 },
        FromZygote::Exited { worker: 3, pid: 77, exit: Exit::Signal(9) },
        FromZygote::Exited { worker: 3, pid: 77, exit: Exit::Status(0) },
        FromZygote::Log { level: LogLevel::Error, message: b"line", fields: b"" },
    ];

    const TO_ZYGOTE: [ToZygote; 2] = [ToZygote::Spawn { worker: 9 }, ToZygote::Shutdown];

    /// Encodes all messages into one packet, decodes them, and tries every truncation of it.
    macro_rules! round_trip {
        ($type:ty, $messages:expr) => {
            let mut packet = Vec::new();
            for message in $messages {
                message.encode(&mut packet);
            }
            let mut rest = &packet[..];
            for message in $messages {
                assert_eq!(<$type>::decode(&mut rest), Ok(message));
            }
            assert!(rest.is_empty());
            for length in 0..packet.len() {
                let mut cut = &packet[..length];
                let mut decoded = 0;
                while <$type>::decode(&mut cut).is_ok() {
                    decoded += 1;
                }
                assert!(decoded < $messages.len(), "a cut packet decoded whole");
            }
        };
    }

    #[test]
    fn every_message_comes_back_as_it_went_and_none_from_a_cut_packet() {
        round_trip!(FromWorker<'_>, FROM_WORKER);
        round_trip!(ToWorker<'_>, TO_WORKER);
        round_trip!(FromZygote<'_>, FROM_ZYGOTE);
        round_trip!(ToZygote, TO_ZYGOTE);
    }

    #[test]
    fn a_message_that_is_too_long_says_how_much_is_missing() {
        assert_eq!(*shortened(&[b'x'; MAX_CHUNK]), [b'x'; MAX_CHUNK]);
        for shift in 0..4 {
            let long = format!("{}{}", "x".repeat(shift), "漢".repeat(MAX_CHUNK));
            let short = shortened(long.as_bytes());
            let text = str::from_utf8(&short).expect("no character is cut");
            let (kept, note) = text.split_once('…').unwrap();
            assert!(short.len() <= MAX_CHUNK && long.starts_with(kept));
            assert_eq!(note, format!(" ({} bytes are left out)", long.len() - kept.len()));
        }
        assert!(shortened(&[0x80; 2 * MAX_CHUNK]).len() <= MAX_CHUNK);
    }

    #[test]
    fn a_request_in_no_known_role_is_malformed() {
        let mut packet = Vec::new();
        request(RequestBody::Inline(b""), Role::Responder).encode(&mut packet);
        let flags = packet.len() - 5;
        for (value, known) in [(0, true), (6, false), (8, false), (10, false), (16, false), (255, false)] {
            packet[flags] = value;
            // Room for whatever the byte may promise.
            let padded = [&packet[..], &[0; 16]].concat();
            assert_eq!(ToWorker::decode(&mut &padded[..]).is_ok(), known, "{value}");
        }
    }
}
