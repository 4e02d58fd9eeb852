//! Records, the unit in which every byte of FastCGI travels (FastCGI 1.0 §3.3).
//!
//! Both ends use this: `Reader` cuts a byte stream into pieces of records, the `write` functions
//! frame what goes out. It never knows which records make sense when: that is the server's and the
//! client's business.

/// The only protocol version there is (§8, `FCGI_VERSION_1`).
pub const VERSION: u8 = 1;

/// Bytes of a record header (§8, `FCGI_HEADER_LEN`).
pub const HEADER_LENGTH: usize = 8;

/// Most content bytes that a record can carry: its length field has 16 bits.
pub const MAX_CONTENT: usize = 65_535;

/// Content bytes of a full record that we write: the largest multiple of 8 that fits, so that a long
/// stream needs padding only on its last record.
pub const FULL_CONTENT: usize = 65_528;

/// The flag bit of BEGIN_REQUEST that asks to keep the connection (§5.1, `FCGI_KEEP_CONN`).
pub const KEEP_CONN: u8 = 1;

/// Bytes of a BEGIN_REQUEST, END_REQUEST or UNKNOWN_TYPE body (§8).
pub(super) const BODY_LENGTH: usize = 8;

/// "Components should be aligned on 8-byte boundaries" (§3.3).
const ALIGNMENT: usize = 8;

/// What a record is for (§8).
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

/// What the client wants of the application (§6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Answers a request, as a CGI program does.
    Responder,
    /// Decides whether a request may go on.
    Authorizer,
    /// Answers with a changed version of a file that comes along as DATA.
    Filter,
}

impl Role {
    /// The role that the number stands for, if FastCGI 1.0 defines it.
    pub fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Responder),
            2 => Some(Self::Authorizer),
            3 => Some(Self::Filter),
            _ => None,
        }
    }

    /// The number that stands for the role.
    pub fn to_number(self) -> u16 {
        match self {
            Self::Responder => 1,
            Self::Authorizer => 2,
            Self::Filter => 3,
        }
    }
}

/// How a request ended for the protocol (§5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolStatus {
    /// It ran.
    RequestComplete,
    /// It was refused: the server takes one request at a time on a connection.
    CantMpxConn,
    /// It was refused: the server is out of some resource.
    Overloaded,
    /// It was refused: the server does not know the role.
    UnknownRole,
}

impl ProtocolStatus {
    /// The status that `byte` stands for, if FastCGI 1.0 defines it.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::RequestComplete),
            1 => Some(Self::CantMpxConn),
            2 => Some(Self::Overloaded),
            3 => Some(Self::UnknownRole),
            _ => None,
        }
    }

    /// The byte that stands for the status.
    pub fn to_byte(self) -> u8 {
        match self {
            Self::RequestComplete => 0,
            Self::CantMpxConn => 1,
            Self::Overloaded => 2,
            Self::UnknownRole => 3,
        }
    }
}

/// A record header; its version is 1, its reserved byte 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is for.
    pub record_type: RecordType,
    /// The request it belongs to, 0 for management records.
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
    /// When the version is not 1: what follows cannot be understood then.
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

/// Appends a header with version 0, which no client takes for the end of a response.
///
/// For a response that fails after its head and has no Content-Length: END_REQUEST or a plain close would
/// make the client believe that the body is complete. Nothing can follow but closing the connection.
pub(super) fn poison(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; HEADER_LENGTH]);
}

/// How many of the first `limit` bytes are whole records. `bytes` begin with one.
pub fn whole_records(bytes: &[u8], limit: usize) -> usize {
    let mut whole = 0;
    while let Some([_, _, _, _, high, low, padding, _]) = bytes[whole..].first_chunk::<HEADER_LENGTH>() {
        let content = usize::from(u16::from_be_bytes([*high, *low]));
        let end = whole + HEADER_LENGTH + content + usize::from(*padding);
        if end > limit.min(bytes.len()) {
            break;
        }
        whole = end;
    }
    whole
}

/// Appends `bytes` as records of a stream. No bytes: no record, since an empty one would end the stream.
pub(super) fn write_stream(record_type: RecordType, request_id: u16, bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() + bytes.len().div_ceil(FULL_CONTENT) * (HEADER_LENGTH + ALIGNMENT));
    for content in bytes.chunks(FULL_CONTENT) {
        write_record(record_type, request_id, content, out);
    }
}

/// Appends one record, padded to a multiple of 8 bytes.
///
/// # Panics
/// When `content` is longer than [`MAX_CONTENT`].
pub(super) fn write_record(record_type: RecordType, request_id: u16, content: &[u8], out: &mut Vec<u8>) {
    const PADDING: [u8; ALIGNMENT] = [0; ALIGNMENT];
    let padding = content.len().next_multiple_of(ALIGNMENT) - content.len();
    let header = Header {
        record_type,
        request_id,
        content_length: u16::try_from(content.len()).expect("callers keep content below 64 KiB"),
        padding_length: u8::try_from(padding).expect("padding is below the alignment"),
    };
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(content);
    out.extend_from_slice(&PADDING[..padding]);
}

/// Appends an END_REQUEST record (§5.5).
pub(super) fn write_end_request(request_id: u16, app_status: u32, status: ProtocolStatus, out: &mut Vec<u8>) {
    let [a3, a2, a1, a0] = app_status.to_be_bytes();
    let body = [a3, a2, a1, a0, status.to_byte(), 0, 0, 0];
    write_record(RecordType::EndRequest, request_id, &body, out);
}

/// Cuts a byte stream into pieces of records, whatever the reads were. Holds at most a header.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The first bytes of a header that has not arrived in full.
    partial: [u8; HEADER_LENGTH],
    partial_length: usize,
    /// The record whose content is arriving.
    current: Option<Header>,
    content_left: u16,
    /// Padding of the record before.
    padding_left: u8,
    /// Records whose content has come whole.
    finished: u64,
}

/// Content of a record, as far as it has arrived. An empty record is one empty piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    pub(super) header: Header,
    pub(super) bytes: &'a [u8],
    /// Nothing of the record came before this piece.
    pub(super) first: bool,
    /// Nothing of the record's content follows.
    pub(super) last: bool,
}

impl Reader {
    /// Takes the next piece from the front of `input`; `None` when that needs more bytes.
    pub(super) fn next_piece<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, BadVersion> {
        let header = match self.current {
            Some(header) => header,
            None => {
                self.skip_padding(input);
                let Some(bytes) = self.take_header(input) else { return Ok(None) };
                let header = Header::decode(&bytes).inspect_err(|_| self.partial = bytes)?;
                self.content_left = header.content_length;
                self.current = Some(header);
                header
            }
        };
        if input.is_empty() && self.content_left > 0 {
            return Ok(None);
        }
        let first = self.content_left == header.content_length;
        let (bytes, rest) = input.split_at(input.len().min(usize::from(self.content_left)));
        *input = rest;
        self.content_left -= u16::try_from(bytes.len()).expect("a piece is no longer than what is left");
        let last = self.content_left == 0;
        if last {
            self.current = None;
            self.padding_left = header.padding_length;
            self.finished += 1;
        }
        Ok(Some(Piece { header, bytes, first, last }))
    }

    /// After [`BadVersion`], the bytes that were no header.
    pub(super) fn refused(&self) -> &[u8; HEADER_LENGTH] {
        &self.partial
    }

    /// Whether the bytes so far end where a record ends, its padding aside.
    pub(super) fn is_between_records(&self) -> bool {
        self.current.is_none() && self.partial_length == 0
    }

    /// How many records have come whole, their padding aside.
    pub(super) fn finished(&self) -> u64 {
        self.finished
    }

    fn skip_padding(&mut self, input: &mut &[u8]) {
        let skipped = input.len().min(usize::from(self.padding_left));
        *input = &input[skipped..];
        self.padding_left -= u8::try_from(skipped).expect("no more is skipped than what is left");
    }

    fn take_header(&mut self, input: &mut &[u8]) -> Option<[u8; HEADER_LENGTH]> {
        if self.partial_length == 0
            && let Some((bytes, rest)) = input.split_first_chunk()
        {
            *input = rest;
            return Some(*bytes);
        }
        let missing = &mut self.partial[self.partial_length..];
        let (bytes, rest) = input.split_at(input.len().min(missing.len()));
        missing[..bytes.len()].copy_from_slice(bytes);
        self.partial_length += bytes.len();
        *input = rest;
        if self.partial_length < HEADER_LENGTH {
            return None;
        }
        self.partial_length = 0;
        Some(self.partial)
    }
}

/// The whole content of a record, once its last piece is there. `gathered` keeps the pieces before it, so
/// the caller bounds the record's length; a record in one piece is not copied.
pub(super) fn gather<'b>(gathered: &'b mut Vec<u8>, piece: Piece<'b>) -> Option<&'b [u8]> {
    if piece.first {
        gathered.clear();
        if piece.last {
            return Some(piece.bytes);
        }
    }
    gathered.extend_from_slice(piece.bytes);
    piece.last.then_some(gathered)
}

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

    #[test]
    fn records_that_are_whole_are_told_from_one_that_is_not() {
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for content in [&b""[..], b"1", b"12345678", &[7; 300]] {
            write_record(RecordType::Stdout, 1, content, &mut bytes);
            ends.push(bytes.len());
        }
        for limit in 0..=bytes.len() + 1 {
            let end = ends.iter().copied().filter(|end| *end <= limit).max();
            assert_eq!(Some(whole_records(&bytes, limit)), end);
            assert_eq!(Some(whole_records(&bytes[..limit.min(bytes.len())], usize::MAX)), end);
        }
    }

    #[test]
    fn roles_and_statuses_survive_a_round_trip() {
        for number in 0..=255 {
            assert!(Role::from_number(number).is_none_or(|role| role.to_number() == number));
        }
        for byte in 0..=255 {
            assert!(ProtocolStatus::from_byte(byte).is_none_or(|status| status.to_byte() == byte));
        }
    }

    #[test]
    fn c30_records_out_are_padded_to_8_bytes() {
        for length in 0..40 {
            let mut out = Vec::new();
            write_record(RecordType::Stdout, 1, &vec![b'x'; length], &mut out);
            assert_eq!(out.len() % 8, 0, "content of {length}");
            assert_eq!(usize::from(out[6]), out.len() - HEADER_LENGTH - length);
            assert!(out[6] < 8, "no more padding than alignment needs");
        }
    }

    #[test]
    fn long_streams_are_split_without_padding_but_on_the_last() {
        let bytes: Vec<u8> = (0..200_001_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut out = Vec::new();
        write_stream(RecordType::Stdout, 9, &bytes, &mut out);
        let (mut reader, mut input, mut joined, mut paddings) =
            (Reader::default(), &out[..], Vec::new(), Vec::new());
        while let Some(piece) = reader.next_piece(&mut input).unwrap() {
            joined.extend_from_slice(piece.bytes);
            paddings.push(piece.header.padding_length);
        }
        assert!(reader.is_between_records());
        assert_eq!(joined, bytes);
        assert_eq!(paddings, [0, 0, 0, 7]);
    }

    #[test]
    fn no_bytes_of_a_stream_are_no_record() {
        let mut out = Vec::new();
        write_stream(RecordType::Stdout, 9, b"", &mut out);
        assert_eq!(out, b"");
    }

    #[test]
    fn poison_is_a_bad_version() {
        let mut out = Vec::new();
        poison(&mut out);
        assert_eq!(Reader::default().next_piece(&mut &out[..]).unwrap_err(), BadVersion(0));
    }
}
