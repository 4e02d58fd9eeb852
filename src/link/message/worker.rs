//! The messages between the gateway and a worker.

use super::wire::{
    LogLevel, Malformed, put_bytes, put_log, put_u32, take_bool, take_bytes, take_chunk, take_log, take_u8,
    take_u32, take_u64,
};

/// Gateway → worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message's text names its fields")]
pub enum ToWorker<'a> {
    /// One complete request. `variables` is [`crate::cgi::Variables::encoded`]. Carries the descriptors of spooled
    /// bodies: the request's, then a Filter's data.
    /// `takes_file`: the gateway takes the rest of the response as a [`FromWorker::File`].
    Request {
        request_id: &'a [u8],
        variables: &'a [u8],
        body: RequestBody<'a>,
        role: Role<'a>,
        takes_file: bool,
    },
    /// The client of a request has gone: stop producing output for it. `serial` is the request's, as in [`FromWorker::Answering`]; a
    /// worker that does not run it any more does nothing.
    Abort { serial: u32 },
    /// Finish the running request, run the stop hooks, exit.
    Drain,
    /// Report the worker's memory, between requests.
    Measure,
}

/// The place of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message's text names its fields")]
pub enum RequestBody<'a> {
    /// The message: at most [`MAX_INLINE_BODY`] bytes.
    Inline(&'a [u8]),
    /// A file whose descriptor the packet carries, from offset 0. `length` is in bytes.
    Spooled { length: u64 },
}

/// The application's part in the request (FastCGI 1.0 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each message's text names its fields")]
pub enum Role<'a> {
    /// Answer the request.
    Responder,
    /// Say whether the request may go on.
    Authorizer,
    /// Answer the request with a changed version of `data`.
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
    /// The request that this response data belongs to, numbered from 1 over the worker's lifetime
    /// ([`Serial`](crate::link::interrupt::Serial)). Comes before the data in every such packet, so that a late response is never
    /// taken for the next request's.
    Answering { serial: u32 },
    /// The response head as a CGI header block, empty line included.
    Head { block: &'a [u8] },
    /// Bytes of the response body, at least one.
    Body { bytes: &'a [u8] },
    /// The rest of the response body is these bytes of a regular file, whose descriptor the packet carries. Only where the request says
    /// `takes_file`, and at most once.
    File { offset: u64, length: u64 },
    /// The request is over. Without `complete` the response must not look whole.
    End { complete: bool },
    /// A line (or a traceback) for the log, with fields as JSON (or empty).
    Log { level: LogLevel, message: &'a [u8], fields: &'a [u8] },
    /// The worker's memory, in bytes: its proportional share, and Lua's heap.
    Measured { pss: u64, lua_heap: u64 },
    /// The Lua stack of the running request, which an interrupt asked for. With `timeout` the request was told to fail, and the
    /// text begins with the error.
    Stack { timeout: bool, text: &'a [u8] },
}

impl<'a> ToWorker<'a> {
    /// Appends the message to a packet.
    pub fn encode(&self, packet: &mut Vec<u8>) {
        match *self {
            Self::Request { request_id, variables, body, role, takes_file } => {
                packet.push(1);
                put_bytes(packet, request_id);
                put_bytes(packet, variables);
                // One byte holds the role, the places of the bodies, and the way of the response.
                let flags = match role {
                    Role::Responder => 0,
                    Role::Authorizer => AUTHORIZER,
                    Role::Filter { data } => FILTER | if data.is_spooled() { DATA_SPOOLED } else { 0 },
                };
                let body_spooled = if body.is_spooled() { BODY_SPOOLED } else { 0 };
                packet.push(flags | body_spooled | if takes_file { TAKES_FILE } else { 0 });
                body.put(packet);
                if let Role::Filter { data } = role {
                    data.put(packet);
                }
            }
            Self::Abort { serial } => {
                packet.push(2);
                put_u32(packet, serial);
            }
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
                let role = match flags & !(BODY_SPOOLED | TAKES_FILE) {
                    0 => Role::Responder,
                    AUTHORIZER => Role::Authorizer,
                    FILTER => Role::Filter { data: RequestBody::take(packet, false)? },
                    FILTER_SPOOLED => Role::Filter { data: RequestBody::take(packet, true)? },
                    _ => return Err(Malformed),
                };
                let takes_file = flags & TAKES_FILE != 0;
                Ok(Self::Request { request_id, variables, body, role, takes_file })
            }
            2 => Ok(Self::Abort { serial: take_u32(packet)? }),
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
const TAKES_FILE: u8 = 16;
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
            Self::File { offset, length } => {
                packet.push(10);
                packet.extend_from_slice(&offset.to_le_bytes());
                packet.extend_from_slice(&length.to_le_bytes());
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
            10 => {
                let (offset, length) = (take_u64(packet)?, take_u64(packet)?);
                // A file has no more bytes than a signed offset can name (off_t).
                let end = offset.checked_add(length).filter(|end| *end <= i64::MAX.cast_unsigned());
                if length > 0 && end.is_some() { Ok(Self::File { offset, length }) } else { Err(Malformed) }
            }
            _ => Err(Malformed),
        }
    }
}
