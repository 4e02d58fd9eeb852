//! Records, the unit in which every byte of FastCGI travels (FastCGI 1.0 §3.3).
//!
//! Both ends use this; [`super::reader`] and [`super::write`] do the work. Never knows which records make sense when: the
//! server and the client do.

/// The only protocol version there is (§8, `FCGI_VERSION_1`).
pub const VERSION: u8 = 1;

/// Bytes of a record header (§8, `FCGI_HEADER_LEN`).
pub const HEADER_LENGTH: usize = 8;

/// Content bytes of a record, at most: its length field has 16 bits.
pub const MAX_CONTENT: usize = 65_535;

/// The flag bit of BEGIN_REQUEST that asks to keep the connection (§5.1, `FCGI_KEEP_CONN`).
pub const KEEP_CONN: u8 = 1;

/// Bytes of a BEGIN_REQUEST, END_REQUEST or UNKNOWN_TYPE body (§8).
pub(super) const BODY_LENGTH: usize = 8;

/// The type of a record (§8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    /// Starts a request; from the client.
    BeginRequest,
    /// Ends a request early; from the client.
    AbortRequest,
    /// Ends a request; from the server.
    EndRequest,
    /// Stream of meta-variables; from the client.
    Params,
    /// Stream of the request body; from the client.
    Stdin,
    /// Stream of the response; from the server.
    Stdout,
    /// Stream of error messages; from the server.
    Stderr,
    /// Stream of the file to filter; from the client.
    Data,
    /// Asks for the server's limits; from the client, with id 0.
    GetValues,
    /// Answers `GetValues`; from the server, with id 0.
    GetValuesResult,
    /// Answers a management record of unknown type; from the server, with id 0.
    UnknownType,
    /// A type that FastCGI 1.0 does not define.
    Other(u8),
}

impl RecordType {
    /// The type that `byte` stands for.
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::BeginRequest,
            2 => Self::AbortRequest,
            3 => Self::EndRequest,
            4 => Self::Params,
            5 => Self::Stdin,
            6 => Self::Stdout,
            7 => Self::Stderr,
            8 => Self::Data,
            9 => Self::GetValues,
            10 => Self::GetValuesResult,
            11 => Self::UnknownType,
            other => Self::Other(other),
        }
    }

    /// The byte that stands for the type.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::BeginRequest => 1,
            Self::AbortRequest => 2,
            Self::EndRequest => 3,
            Self::Params => 4,
            Self::Stdin => 5,
            Self::Stdout => 6,
            Self::Stderr => 7,
            Self::Data => 8,
            Self::GetValues => 9,
            Self::GetValuesResult => 10,
            Self::UnknownType => 11,
            Self::Other(byte) => byte,
        }
    }
}

/// A record header; its version is 1, its reserved byte 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The record's type.
    pub record_type: RecordType,
    /// The record's request, 0 for management records.
    pub request_id: u16,
    /// Bytes of content that follow the header.
    pub content_length: u16,
    /// Bytes of padding that follow the content.
    pub padding_length: u8,
}

impl Header {
    /// Reads a header; the reserved byte may hold anything.
    ///
    /// # Errors
    /// If the version is not 1, because the format of other versions is unknown.
    pub fn decode(bytes: &[u8; HEADER_LENGTH]) -> Result<Self, BadVersion> {
        let [version, record_type, id1, id0, length1, length0, padding_length, _reserved] = *bytes;
        if version != VERSION {
            return Err(BadVersion(version));
        }
        Ok(Self {
            record_type: RecordType::from_byte(record_type),
            request_id: u16::from_be_bytes([id1, id0]),
            content_length: u16::from_be_bytes([length1, length0]),
            padding_length,
        })
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let [id1, id0] = self.request_id.to_be_bytes();
        let [length1, length0] = self.content_length.to_be_bytes();
        [VERSION, self.record_type.to_byte(), id1, id0, length1, length0, self.padding_length, 0]
    }
}

/// A header began with this byte in place of the version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadVersion(pub u8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_a_round_trip() {
        for byte in 0..=255 {
            let header = Header {
                record_type: RecordType::from_byte(byte),
                request_id: 0x1234,
                content_length: 0xfedc,
                padding_length: 7,
            };
            assert_eq!(header.record_type.to_byte(), byte);
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }
}
