//! Name-value pairs (FastCGI 1.0 §3.4): the content of PARAMS, GET_VALUES and GET_VALUES_RESULT.
//!
//! [`Decoder`] takes a PARAMS stream in whatever pieces it arrives. A length is only ever compared with
//! the bytes that are there; it never sizes a buffer, and the only sum counts bytes that have arrived.

use super::refusal::Refusal;
use crate::cgi::Variables;

/// Appends a pair.
///
/// # Panics
/// When a name or value has 2 GiB or more: the format cannot say so.
pub fn encode(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    encode_length(name.len(), out);
    encode_length(value.len(), out);
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}

fn encode_length(length: usize, out: &mut Vec<u8>) {
    match u8::try_from(length) {
        Ok(short @ 0..LONG_FORM) => out.push(short),
        _ => {
            let long = u32::try_from(length).ok().filter(|length| *length < LONG_FORM_BIT);
            let long = long.expect("names and values are below 2 GiB");
            out.extend_from_slice(&(long | LONG_FORM_BIT).to_be_bytes());
        }
    }
}

/// A first length byte with this bit says that the length has four bytes.
const LONG_FORM: u8 = 0x80;
const LONG_FORM_BIT: u32 = 0x8000_0000;

/// Collects the pairs of one PARAMS stream, bounded in bytes and in pairs.
#[derive(Debug)]
pub struct Decoder {
    max_bytes: usize,
    max_pairs: usize,
    bytes: usize,
    pairs: usize,
    variables: Variables,
    /// The first bytes of a pair that has not arrived in full.
    partial: Vec<u8>,
}

impl Decoder {
    /// A decoder of a stream of at most `max_bytes` bytes and `max_pairs` pairs.
    pub fn new(max_bytes: usize, max_pairs: usize) -> Self {
        // `Variables` holds lengths of 32 bits.
        let max_bytes = max_bytes.min(u32::MAX as usize);
        Self { max_bytes, max_pairs, bytes: 0, pairs: 0, variables: Variables::new(), partial: Vec::new() }
    }

    /// Memory of the decoder, in bytes.
    pub fn held(&self) -> usize {
        self.variables.held() + self.partial.capacity()
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// When the stream is over a limit or holds a NUL; it is of no use from then on.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        // Bytes within the limit come first, so that the refusal does not depend on how the stream was cut.
        let within = bytes.len().min(self.max_bytes - self.bytes);
        let (bytes, beyond) = bytes.split_at(within);
        self.bytes += within;
        // A short pair grows by six bytes, and most are short.
        self.variables.reserve(bytes.len() + bytes.len() / 2);
        if self.partial.is_empty() {
            let rest = self.take_pairs(bytes)?;
            self.partial.extend_from_slice(rest);
        } else {
            let mut joined = std::mem::take(&mut self.partial);
            joined.extend_from_slice(bytes);
            let left = self.take_pairs(&joined)?.len();
            joined.drain(..joined.len() - left);
            self.partial = joined;
        }
        if beyond.is_empty() { Ok(()) } else { Err(Refusal::TooManyBytes { limit: self.max_bytes }) }
    }

    /// All pairs, at the end of the stream.
    ///
    /// # Errors
    /// When the last pair is not complete.
    pub fn finish(self) -> Result<Variables, Refusal> {
        if self.partial.is_empty() { Ok(self.variables) } else { Err(Refusal::Truncated) }
    }

    /// Keeps the complete pairs at the front of `bytes`, gives back the rest.
    fn take_pairs<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let (mut rest, mut zeros_of_lengths, mut too_many) = (bytes, 0, false);
        while let Some((Pair { joined, name_length, zeros }, after)) = split_pair(rest) {
            zeros_of_lengths += zeros;
            rest = after;
            too_many = self.pairs == self.max_pairs;
            if too_many {
                break;
            }
            self.pairs += 1;
            self.variables.push_joined(joined, name_length);
        }
        // A NUL would end the string early for every C library below Lua. A zero that is not of a length is one. All pairs are
        // searched at once, because a search in each of many short pairs takes longer than the rest.
        let taken = &bytes[..bytes.len() - rest.len()];
        if memchr::memchr_iter(0, taken).count() > zeros_of_lengths {
            return Err(Refusal::Nul);
        }
        if too_many { Err(Refusal::TooManyPairs { limit: self.max_pairs }) } else { Ok(rest) }
    }
}

/// The pairs of a whole record. Ends with an error where a pair goes past the end.
#[derive(Clone, Debug)]
pub struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
    /// The pairs in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

/// A pair goes past the end of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated;

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Truncated>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match split_pair(self.rest) {
            Some((pair, rest)) => {
                self.rest = rest;
                Some(Ok(pair.joined.split_at(pair.name_length)))
            }
            None => {
                self.rest = &[];
                Some(Err(Truncated))
            }
        }
    }
}

/// A pair as it was sent: the name, of this length, and behind it the value.
struct Pair<'a> {
    joined: &'a [u8],
    name_length: usize,
    /// Zeros among the bytes of the two lengths.
    zeros: usize,
}

/// The pair at the front of `bytes` and the bytes after it; `None` when more bytes are needed.
fn split_pair(bytes: &[u8]) -> Option<(Pair<'_>, &[u8])> {
    let (name_length, zeros, rest) = split_length(bytes)?;
    let (value_length, more_zeros, rest) = split_length(rest)?;
    // The sum of two lengths overflows 32 bits (CVE-2025-23016).
    let name_length = usize::try_from(name_length).ok()?;
    let length = name_length.checked_add(usize::try_from(value_length).ok()?)?;
    let (joined, rest) = rest.split_at_checked(length)?;
    Some((Pair { joined, name_length, zeros: zeros + more_zeros }, rest))
}

/// A length, the zeros among its bytes, and the bytes after it. "Lengths of 127 bytes and less can be encoded in one byte, while
/// longer lengths are always encoded in four" (§3.4); short ones in four bytes are accepted, since some clients send them.
fn split_length(bytes: &[u8]) -> Option<(u32, usize, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    if first < LONG_FORM {
        return Some((u32::from(first), usize::from(first == 0), rest));
    }
    let (long, rest) = bytes.split_first_chunk::<4>()?;
    let zeros = long.iter().filter(|byte| **byte == 0).count();
    Some((u32::from_be_bytes(*long) & !LONG_FORM_BIT, zeros, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Owned = Vec<(Vec<u8>, Vec<u8>)>;

    fn decode(bytes: &[u8], piece: usize) -> Result<Owned, Refusal> {
        let mut decoder = Decoder::new(1 << 20, 100);
        for bytes in bytes.chunks(piece) {
            decoder.feed(bytes)?;
        }
        let variables = decoder.finish()?;
        Ok(variables.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect())
    }

    #[test]
    fn pairs_of_all_lengths_survive_a_round_trip_in_pieces_of_any_size() {
        let lengths = [0, 1, 126, 127, 128, 129, 255, 256, 65_535, 65_536];
        let pairs: Owned =
            lengths.iter().flat_map(|&n| lengths.map(|v| (vec![b'n'; n], vec![b'v'; v]))).collect();
        for (name, value) in &pairs {
            let mut bytes = Vec::new();
            encode(name, value, &mut bytes);
            let expected = Ok(vec![(name.clone(), value.clone())]);
            assert_eq!(decode(&bytes, bytes.len()), expected);
            assert_eq!(decode(&bytes, 1), expected);
            assert_eq!(decode(&bytes, 4095), expected);
        }
    }

    #[test]
    fn pairs_that_straddle_pieces_are_joined() {
        let mut bytes = Vec::new();
        for n in 0..50_usize {
            encode(format!("NAME_{n}").as_bytes(), &vec![b'v'; n * 7], &mut bytes);
        }
        let whole = decode(&bytes, bytes.len()).unwrap();
        assert_eq!(whole.len(), 50);
        for piece in [1, 2, 3, 5, 8, 13, 100, 1000] {
            assert_eq!(decode(&bytes, piece).unwrap(), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn a_length_past_the_end_allocates_nothing() {
        let mut decoder = Decoder::new(usize::MAX, usize::MAX);
        decoder.feed(&[0xff; 8]).unwrap();
        decoder.feed(b"NAME").unwrap();
        assert!(decoder.partial.capacity() < 100, "{}", decoder.partial.capacity());
        assert_eq!(decoder.finish(), Err(Refusal::Truncated));
    }

    #[test]
    fn limits_hold_at_the_very_byte_and_pair() {
        let mut decoder = Decoder::new(4, 2);
        assert_eq!(decoder.feed(&[0, 0, 0, 0]), Ok(()));
        assert_eq!(decoder.feed(&[0]), Err(Refusal::TooManyBytes { limit: 4 }));
        let mut decoder = Decoder::new(100, 2);
        assert_eq!(decoder.feed(&[0, 0, 0, 0]), Ok(()));
        assert_eq!(decoder.feed(&[0, 0]), Err(Refusal::TooManyPairs { limit: 2 }));
    }

    #[test]
    fn which_refusal_it_is_does_not_depend_on_the_pieces() {
        let mut bytes = Vec::new();
        encode(b"A", b"\0", &mut bytes);
        bytes.extend_from_slice(&[0; 20]);
        for piece in 1..=bytes.len() {
            let mut decoder = Decoder::new(10, 100);
            let refusal = bytes.chunks(piece).find_map(|bytes| decoder.feed(bytes).err());
            assert_eq!(refusal, Some(Refusal::Nul), "pieces of {piece}");
        }
    }

    #[test]
    fn a_nul_is_told_from_the_zeros_of_lengths() {
        let long = vec![b'v'; 256];
        for (name, value) in [("", ""), ("A", ""), ("", "b"), ("A", str::from_utf8(&long).unwrap())] {
            let mut bytes = Vec::new();
            encode(name.as_bytes(), value.as_bytes(), &mut bytes);
            // The long form of a short length.
            bytes.extend_from_slice(&[0x80, 0, 0, 1, 0, b'A']);
            assert!(decode(&bytes, bytes.len()).is_ok(), "{name} {value}");
            for (name, value) in [(&b"\0"[..], &b""[..]), (b"", b"\0"), (b"A", b"b\0"), (b"A", &[0; 300])] {
                let mut bytes = bytes.clone();
                encode(name, value, &mut bytes);
                encode(b"", b"", &mut bytes);
                for piece in [1, 7, bytes.len()] {
                    assert_eq!(
                        decode(&bytes, piece),
                        Err(Refusal::Nul),
                        "{name:?} {value:?} in pieces of {piece}"
                    );
                }
            }
        }
        // The pair with the NUL comes first, or is the one too many.
        for before in [0, 1] {
            let mut bytes = Vec::new();
            (0..before).for_each(|_| encode(b"A", b"1", &mut bytes));
            encode(b"A", b"\0", &mut bytes);
            encode(b"A", b"1", &mut bytes);
            assert_eq!(Decoder::new(100, 1).feed(&bytes), Err(Refusal::Nul));
        }
    }

    #[test]
    fn pairs_end_with_an_error_where_they_are_cut() {
        let mut bytes = Vec::new();
        encode(b"A", b"1", &mut bytes);
        encode(b"B", b"2", &mut bytes);
        let mut pairs = Pairs::new(&bytes[..bytes.len() - 1]);
        assert_eq!(pairs.next(), Some(Ok((&b"A"[..], &b"1"[..]))));
        assert_eq!(pairs.next(), Some(Err(Truncated)));
        assert_eq!(pairs.next(), None);
    }
}
