//! Writes records: frames, pads and splits the bytes that go out.

use super::record::{HEADER_LENGTH, Header, RecordType};
use super::status::ProtocolStatus;

/// Content bytes of a full record of a stream: the largest multiple of 8 that fits, so that a long
/// stream needs padding only on its last record.
const FULL_CONTENT: usize = 65_528;

/// Records are padded to a multiple of it: "Components should be aligned on 8-byte boundaries" (§3.3).
const ALIGNMENT: usize = 8;

const PADDING: [u8; ALIGNMENT] = [0; ALIGNMENT];

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

/// A few bytes of a stream as records, without a copy: at most [`MOST_RECORDS`] of them.
#[derive(Debug)]
pub struct Records<'b> {
    headers: [[u8; HEADER_LENGTH]; MOST_RECORDS],
    contents: [&'b [u8]; MOST_RECORDS],
    padding: usize,
}

/// Records of [`Records`]: those of a piece of 64 KiB.
const MOST_RECORDS: usize = 2;

/// Pieces of [`Records::pieces`].
pub const RECORD_PIECES: usize = 2 * MOST_RECORDS + 1;

impl<'b> Records<'b> {
    /// `bytes` as records of a stream; `None` where they are too many.
    pub(super) fn new(record_type: RecordType, request_id: u16, bytes: &'b [u8]) -> Option<Self> {
        let mut contents = [&b""[..]; MOST_RECORDS];
        let mut chunks = bytes.chunks(FULL_CONTENT);
        for (content, chunk) in contents.iter_mut().zip(&mut chunks) {
            *content = chunk;
        }
        if chunks.next().is_some() {
            return None;
        }
        // Only the last record is padded.
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        let header = |content: &[u8]| Header {
            record_type,
            request_id,
            content_length: u16::try_from(content.len()).expect("a chunk fits a record"),
            padding_length: if content.len() == FULL_CONTENT {
                0
            } else {
                u8::try_from(padding).unwrap_or_default()
            },
        };
        Some(Self { headers: contents.map(|content| header(content).encode()), contents, padding })
    }

    /// The bytes of the records, in order. Some of the pieces are empty.
    pub fn pieces(&self) -> [&[u8]; RECORD_PIECES] {
        let [first, second] = [0, 1].map(|index| {
            let header = if self.contents[index].is_empty() { &[][..] } else { &self.headers[index][..] };
            (header, self.contents[index])
        });
        [first.0, first.1, second.0, second.1, &PADDING[..self.padding]]
    }
}

/// Appends an END_REQUEST record (§5.5).
pub(super) fn write_end_request(request_id: u16, app_status: u32, status: ProtocolStatus, out: &mut Vec<u8>) {
    let [a3, a2, a1, a0] = app_status.to_be_bytes();
    let body = [a3, a2, a1, a0, status.to_byte(), 0, 0, 0];
    write_record(RecordType::EndRequest, request_id, &body, out);
}

/// Appends a header with version 0, which no client takes for the end of a response.
///
/// For a response that fails after its head and has no Content-Length: END_REQUEST or a plain close would
/// make the client believe that the body is complete. The connection has to be closed after it.
pub(super) fn write_invalid_record(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; HEADER_LENGTH]);
}

#[cfg(test)]
mod tests {
    use super::super::reader::Reader;
    use super::super::record::BadVersion;
    use super::*;

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
    fn records_without_a_copy_are_the_same_bytes() {
        let bytes: Vec<u8> = (0..140_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for length in [0, 1, 7, 8, FULL_CONTENT - 1, FULL_CONTENT, FULL_CONTENT + 1, 65_536, 2 * FULL_CONTENT]
        {
            let (bytes, mut out) = (&bytes[..length], Vec::new());
            write_stream(RecordType::Stdout, 7, bytes, &mut out);
            let records = Records::new(RecordType::Stdout, 7, bytes).unwrap();
            assert!(records.pieces().concat() == out, "{length}");
        }
        assert!(Records::new(RecordType::Stdout, 7, &bytes[..2 * FULL_CONTENT + 1]).is_none());
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
    fn an_invalid_record_has_a_bad_version() {
        let mut out = Vec::new();
        write_invalid_record(&mut out);
        assert_eq!(Reader::default().next_piece(&mut &out[..]).unwrap_err(), BadVersion(0));
    }
}
