//! The client side of FastCGI: requests in, bytes out; bytes in, replies out.
//!
//! Shared by `nibiru dev`, `nibiru request`, tests and benchmarks. Never opens a socket and keeps no list
//! of requests: the ids are the caller's. It trusts the server no more than the server trusts it.

use thiserror::Error;

use super::params::{self, Pairs};
use super::reader::{self, Piece, Reader};
use super::record::{self, BODY_LENGTH, BadVersion, Header, MAX_CONTENT, RecordType};
use super::role::Role;
use super::status::ProtocolStatus;
use super::write;
use crate::cgi::Variables;

/// Appends BEGIN_REQUEST: the request `id`, which must not be 0 nor in use.
pub fn begin(id: u16, role: Role, keep_open: bool, out: &mut Vec<u8>) {
    let [role1, role0] = role.to_number().to_be_bytes();
    let flags = if keep_open { record::KEEP_CONN } else { 0 };
    let body = [role1, role0, flags, 0, 0, 0, 0, 0];
    write::write_record(RecordType::BeginRequest, id, &body, out);
}

/// Appends the whole PARAMS stream with its end, in as many records as it takes.
pub fn params<'v>(id: u16, pairs: impl IntoIterator<Item = (&'v [u8], &'v [u8])>, out: &mut Vec<u8>) {
    let mut content = Vec::new();
    for (name, value) in pairs {
        params::encode(name, value, &mut content);
    }
    write::write_stream(RecordType::Params, id, &content, out);
    write::write_record(RecordType::Params, id, b"", out);
}

/// Appends a piece of the request body. No bytes: nothing.
pub fn stdin(id: u16, bytes: &[u8], out: &mut Vec<u8>) {
    write::write_stream(RecordType::Stdin, id, bytes, out);
}

/// Appends the end of the request body.
pub fn stdin_end(id: u16, out: &mut Vec<u8>) {
    write::write_record(RecordType::Stdin, id, b"", out);
}

/// Appends a piece of the file to filter. No bytes: nothing.
pub fn data(id: u16, bytes: &[u8], out: &mut Vec<u8>) {
    write::write_stream(RecordType::Data, id, bytes, out);
}

/// Appends the end of the file to filter.
pub fn data_end(id: u16, out: &mut Vec<u8>) {
    write::write_record(RecordType::Data, id, b"", out);
}

/// Appends ABORT_REQUEST.
pub fn abort(id: u16, out: &mut Vec<u8>) {
    write::write_record(RecordType::AbortRequest, id, b"", out);
}

/// Appends GET_VALUES for these names.
///
/// # Panics
/// When the names take more than 65535 bytes: a query is one record.
pub fn get_values(names: &[&str], out: &mut Vec<u8>) {
    let mut content = Vec::new();
    for name in names {
        params::encode(name.as_bytes(), b"", &mut content);
    }
    assert!(content.len() <= MAX_CONTENT, "names of GET_VALUES fit a record");
    write::write_record(RecordType::GetValues, 0, &content, out);
}

/// A message of the server. Bytes are borrowed from the input, never copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// A piece of the response, not empty.
    Stdout {
        /// The request.
        id: u16,
        /// The piece.
        bytes: &'a [u8],
    },
    /// A piece of the error messages, not empty.
    Stderr {
        /// The request.
        id: u16,
        /// The piece.
        bytes: &'a [u8],
    },
    /// The request has ended; its id is free.
    End {
        /// The request.
        id: u16,
        /// The application's exit status; not 0 when the response is not whole.
        app_status: u32,
        /// Whether the request ran at all.
        protocol_status: ProtocolStatus,
    },
    /// The answer to GET_VALUES.
    Values(Variables),
    /// The server does not know this type of management record.
    UnknownType(u8),
}

/// A fault of the server: the connection is of no use any more, its responses are not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// A header has a version other than 1, as after [`Server::break_off`](super::Server::break_off).
    #[error("server sent a record of version {0}, not 1")]
    BadVersion(u8),
    /// A record that answers has a body of this many bytes in place of 8.
    #[error("server sent a body of {0} bytes, not 8")]
    BodyLength(u16),
    /// END_REQUEST has a protocol status that FastCGI 1.0 does not define.
    #[error("server ended a request with protocol status {0}")]
    ProtocolStatus(u8),
    /// A length in GET_VALUES_RESULT goes past its end.
    #[error("server sent values with a length past their end")]
    ValuesTruncated,
}

impl From<BadVersion> for Fault {
    fn from(BadVersion(version): BadVersion) -> Self {
        Self::BadVersion(version)
    }
}

/// Reads the server's records on one connection. Holds at most one record, and of streams nothing.
#[derive(Debug, Default)]
pub struct Decoder {
    reader: Reader,
    /// The first part of a body that arrives in pieces.
    gathered: Vec<u8>,
}

impl Decoder {
    /// The state of a new connection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from the front of `input` and gives the next reply; `None` once the input is used up.
    /// Ends of streams are not told: END_REQUEST follows them. Records that servers do not send are ignored.
    ///
    /// # Errors
    /// A [`Fault`] ends the connection: do not call again.
    pub fn receive<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Reply<'a>>, Fault> {
        while let Some(piece) = self.reader.next_piece(input)? {
            let (id, bytes) = (piece.header.request_id, piece.bytes);
            let reply = match piece.header.record_type {
                RecordType::Stdout if !bytes.is_empty() => Some(Reply::Stdout { id, bytes }),
                RecordType::Stderr if !bytes.is_empty() => Some(Reply::Stderr { id, bytes }),
                RecordType::EndRequest => self.end(piece)?,
                RecordType::GetValuesResult => self.values(piece)?,
                RecordType::UnknownType => self.unknown_type(piece)?,
                _ => None,
            };
            if reply.is_some() {
                return Ok(reply);
            }
        }
        Ok(None)
    }

    /// Whether the bytes so far end where a record ends.
    pub fn is_between_records(&self) -> bool {
        self.reader.is_between_records()
    }

    fn end<'a>(&mut self, piece: Piece<'a>) -> Result<Option<Reply<'a>>, Fault> {
        check_length(&piece.header)?;
        let Some(&[a3, a2, a1, a0, status, ..]) = reader::gather(&mut self.gathered, piece) else {
            return Ok(None);
        };
        let protocol_status = ProtocolStatus::from_byte(status).ok_or(Fault::ProtocolStatus(status))?;
        let app_status = u32::from_be_bytes([a3, a2, a1, a0]);
        Ok(Some(Reply::End { id: piece.header.request_id, app_status, protocol_status }))
    }

    fn values<'a>(&mut self, piece: Piece<'a>) -> Result<Option<Reply<'a>>, Fault> {
        let Some(content) = reader::gather(&mut self.gathered, piece) else { return Ok(None) };
        let mut values = Variables::new();
        for pair in Pairs::new(content) {
            let (name, value) = pair.map_err(|params::Truncated| Fault::ValuesTruncated)?;
            values.push(name, value);
        }
        Ok(Some(Reply::Values(values)))
    }

    fn unknown_type<'a>(&mut self, piece: Piece<'a>) -> Result<Option<Reply<'a>>, Fault> {
        check_length(&piece.header)?;
        let content = reader::gather(&mut self.gathered, piece);
        Ok(content.and_then(<[u8]>::first).map(|record_type| Reply::UnknownType(*record_type)))
    }
}

fn check_length(header: &Header) -> Result<(), Fault> {
    if usize::from(header.content_length) == BODY_LENGTH {
        Ok(())
    } else {
        Err(Fault::BodyLength(header.content_length))
    }
}
