//! Writes records: frames, pads and splits the bytes that go out.

use super::record::{HEADER_LENGTH, Header, RecordType};
use super::status::ProtocolStatus;

/// Content bytes of a full record of a stream: the largest multiple of 8 that fits, so that a long
/// stream needs padding only on its last record.
const FULL_CONTENT: usize = 65_528;

/// Records are padded to a multiple of it: "Components should be aligned on 8-byte boundaries" (§3.3).
const ALIGNMENT: usize = 8;

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
