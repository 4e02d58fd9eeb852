//! A part of a file as records of a response: which bytes come next. Does no I/O.

use crate::fastcgi::record::{HEADER_LENGTH, Header, RecordType};

/// Content bytes of a full record: fifteen pages, so that the records of an aligned part begin with a page each. A multiple of 8, so
/// that only the last record may lack alignment.
const FULL_CONTENT: u16 = 15 * 4096;

/// A part of a file that goes to a client as STDOUT records, from its front.
#[derive(Debug)]
pub(crate) struct FileRecords {
    /// The FastCGI request id.
    id: u16,
    /// The offset in the file of the next byte.
    offset: u64,
    /// Bytes of the file that are still to be sent.
    left: u64,
    /// The record that is sent in part.
    record: Option<OpenRecord>,
}

/// A record that is sent in part.
#[derive(Debug)]
struct OpenRecord {
    header: [u8; HEADER_LENGTH],
    /// Bytes of the header that are sent.
    header_sent: usize,
    /// Bytes of content that are still to be sent.
    content_left: u16,
}

/// The bytes that come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Bytes of a header, in the last so many bytes of the array.
    Header([u8; HEADER_LENGTH], usize),
    /// Bytes of the file.
    Content { offset: u64, length: usize },
}

impl FileRecords {
    /// `length` bytes of a file from `offset` on, as the response to the request `id`.
    pub(crate) fn new(id: u16, offset: u64, length: u64) -> Self {
        Self { id, offset, left: length, record: None }
    }

    /// Bytes of the file that are still to be sent.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Whether no record is sent in part.
    pub(crate) fn is_between_records(&self) -> bool {
        self.record.as_ref().is_none_or(|record| record.header_sent == 0)
    }

    /// Whether everything is sent.
    pub(crate) fn is_done(&self) -> bool {
        self.left == 0
    }

    /// The bytes that come next; `None` at the end.
    pub(crate) fn next(&mut self) -> Option<Next> {
        if self.record.is_none() {
            self.record = Some(self.open()?);
        }
        let OpenRecord { header, header_sent, content_left } = self.record.as_ref()?;
        Some(match HEADER_LENGTH - header_sent {
            0 => Next::Content { offset: self.offset, length: usize::from(*content_left) },
            unsent => Next::Header(*header, unsent),
        })
    }

    fn open(&self) -> Option<OpenRecord> {
        let content_left = u16::try_from(self.left).map_or(FULL_CONTENT, |left| left.min(FULL_CONTENT));
        // Without padding, which the specification only recommends: it would be one more write.
        let header = Header {
            record_type: RecordType::Stdout,
            request_id: self.id,
            content_length: content_left,
            padding_length: 0,
        };
        (content_left > 0).then(|| OpenRecord { header: header.encode(), header_sent: 0, content_left })
    }

    /// Records that the first `length` bytes of [`Self::next`] are sent.
    pub(crate) fn sent(&mut self, length: usize) {
        let Some(record) = &mut self.record else { return };
        if record.header_sent < HEADER_LENGTH {
            record.header_sent += length;
            return;
        }
        self.offset += length as u64;
        self.left -= length as u64;
        record.content_left -= u16::try_from(length).unwrap_or(record.content_left);
        if record.content_left == 0 {
            self.record = None;
        }
    }

    /// Begins no further record. Returns how many bytes of the file are left out.
    pub(crate) fn cut(&mut self) -> u64 {
        if self.is_between_records() {
            self.record = None;
        }
        let kept = self.record.as_ref().map_or(0, |record| u64::from(record.content_left));
        let cut = self.left - kept;
        self.left = kept;
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastcgi::client::{Decoder, Reply};

    /// Sends the records of a file in pieces of random length, up to the cut.
    fn send(file: &[u8], offset: usize, length: usize, seed: u64, cut_after: Option<usize>) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut records = FileRecords::new(1, offset as u64, length as u64);
        let mut out = Vec::new();
        while let Some(next) = records.next() {
            let bytes = match &next {
                Next::Header(header, unsent) => &header[HEADER_LENGTH - unsent..],
                Next::Content { offset, length } => {
                    let offset = usize::try_from(*offset).unwrap();
                    &file[offset..offset + length]
                }
            };
            let taken = random.usize(1..=bytes.len());
            out.extend_from_slice(&bytes[..taken]);
            records.sent(taken);
            if cut_after.is_some_and(|cut_after| out.len() >= cut_after) {
                records.cut();
            }
            assert_eq!(records.is_done(), records.left() == 0);
        }
        assert!(records.is_between_records() && records.is_done());
        out
    }

    /// The content of STDOUT records, which must be whole.
    fn content(bytes: &[u8]) -> Vec<u8> {
        let (mut decoder, mut input, mut found) = (Decoder::new(), bytes, Vec::new());
        while let Some(Reply::Stdout { id: 1, bytes }) = decoder.receive(&mut input).unwrap() {
            found.extend_from_slice(bytes);
        }
        assert!(input.is_empty() && decoder.is_between_records());
        found
    }

    #[test]
    fn the_part_arrives_whole_in_whole_records_however_little_the_socket_takes() {
        let file: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let full = usize::from(FULL_CONTENT);
        for (seed, length) in
            [1, 7, full - 1, full, full + 1, 65_535, 65_536, 200_000].into_iter().enumerate()
        {
            let out = send(&file, 1234, length, seed as u64, None);
            assert_eq!(out.len(), length + HEADER_LENGTH * length.div_ceil(full));
            assert!(content(&out) == file[1234..1234 + length], "{length}");
        }
        assert_eq!(FileRecords::new(1, 0, 0).next(), None);
    }

    #[test]
    fn a_cut_leaves_no_record_incomplete() {
        let file = vec![7; 300_000];
        for cut_after in [1, 8, 9, 100_000, 122_896, 122_897] {
            let out = send(&file, 0, 300_000, cut_after as u64, Some(cut_after));
            let found = content(&out);
            assert!(
                found.len() < 300_000 && found.len().is_multiple_of(usize::from(FULL_CONTENT)),
                "{cut_after}"
            );
        }
    }
}
