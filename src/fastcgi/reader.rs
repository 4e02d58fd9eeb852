//! Reads records: cuts the bytes that come in.

use super::record::{BadVersion, HEADER_LENGTH, Header};

/// Cuts a byte stream into pieces of records, however it was read. Holds at most a header.
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

    /// The bytes that were no header, after [`BadVersion`].
    pub(super) fn refused(&self) -> &[u8; HEADER_LENGTH] {
        &self.partial
    }

    /// Whether the bytes so far end where a record ends, its padding aside.
    pub(super) fn is_between_records(&self) -> bool {
        self.current.is_none() && self.partial_length == 0
    }

    /// The number of records that have come whole, their padding aside.
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

/// The whole content of a record, once its last piece is there. `gathered` keeps the pieces before, so
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

/// The length of the whole records among the first `limit` bytes. `bytes` begin with a record.
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

#[cfg(test)]
mod tests {
    use super::super::record::RecordType;
    use super::super::write::write_record;
    use super::*;

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
}
