//! The meta-variables of one request, in one flat form that every process uses.
//!
//! Does not interpret variables: the rest of [`crate::cgi`] does.

/// Names and values as raw bytes, in order, in one allocation.
///
/// The encoding also travels from the gateway to a worker: per pair a `u32` name length, a
/// `u32` value length (both little-endian), the name, the value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    encoded: Vec<u8>,
}

impl Variables {
    /// No variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over an encoded list; `None` where a length points past the end.
    pub fn from_encoded(encoded: Vec<u8>) -> Option<Self> {
        let mut rest = &encoded[..];
        while !rest.is_empty() {
            (_, rest) = split_pair(rest)?;
        }
        Some(Self { encoded })
    }

    /// The encoded list.
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Memory of the variables, in bytes.
    pub fn held(&self) -> usize {
        self.encoded.capacity()
    }

    /// Makes room for `bytes` more bytes of encoded list, so that pushing them does not allocate.
    pub fn reserve(&mut self, bytes: usize) {
        self.encoded.reserve(bytes);
    }

    /// Appends a pair; an earlier pair of that name stays.
    ///
    /// # Panics
    /// When a name or value has 4 GiB or more, which no limit of the server lets in.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        for part in [name, value] {
            let length = u32::try_from(part.len()).expect("variables are bounded far below 4 GiB");
            self.encoded.extend_from_slice(&length.to_le_bytes());
        }
        self.encoded.extend_from_slice(name);
        self.encoded.extend_from_slice(value);
    }

    /// Appends a pair whose name, of this length, and value stand one after the other.
    ///
    /// # Panics
    /// As [`Self::push`], and where `pair` is shorter than the name.
    #[inline]
    pub fn push_joined(&mut self, pair: &[u8], name_length: usize) {
        let length = |length| u32::try_from(length).expect("variables are bounded far below 4 GiB");
        let (name, value) = (length(name_length), length(pair.len() - name_length));
        // Both lengths in one number, because one copy of eight bytes takes less than two of four.
        self.encoded.extend_from_slice(&(u64::from(name) | u64::from(value) << u32::BITS).to_le_bytes());
        self.encoded.extend_from_slice(pair);
    }

    /// Whether there is a variable called `name`.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.iter().any(|(other, _)| other == name)
    }

    /// The value of the last variable called `name`.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().filter(|(n, _)| *n == name).last().map(|(_, value)| value)
    }

    /// All pairs `(name, value)`, in order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.encoded }
    }
}

impl<'a> IntoIterator for &'a Variables {
    type Item = (&'a [u8], &'a [u8]);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Iterates over [`Variables`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (pair, rest) = split_pair(self.rest)?;
        self.rest = rest;
        Some(pair)
    }
}

type Pair<'a> = (&'a [u8], &'a [u8]);

fn split_pair(bytes: &[u8]) -> Option<(Pair<'_>, &[u8])> {
    let (lengths, rest) = bytes.split_first_chunk::<LENGTHS>()?;
    let lengths = u64::from_le_bytes(*lengths);
    let (name, rest) = rest.split_at_checked(usize::try_from(lengths & u64::from(u32::MAX)).ok()?)?;
    let (value, rest) = rest.split_at_checked(usize::try_from(lengths >> u32::BITS).ok()?)?;
    Some(((name, value), rest))
}

/// Bytes of the two lengths before each pair.
const LENGTHS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_back_what_was_pushed_and_the_last_of_a_name() {
        let mut variables = Variables::new();
        variables.push(b"A", b"1");
        variables.push(b"", b"\0\xff");
        variables.push_joined(b"A2", 1);
        let again = Variables::from_encoded(variables.encoded().to_vec()).unwrap();
        assert_eq!(again.iter().count(), 3);
        assert_eq!(again.get(b"A"), Some(&b"2"[..]));
        assert_eq!(again.get(b""), Some(&b"\0\xff"[..]));
        assert_eq!(again.get(b"B"), None);
        assert!(again.contains(b"A") && again.contains(b"") && !again.contains(b"B"));
    }

    #[test]
    fn refuses_every_truncation() {
        let mut variables = Variables::new();
        variables.push(b"NAME", b"value");
        for length in 1..variables.encoded().len() {
            assert_eq!(Variables::from_encoded(variables.encoded()[..length].to_vec()), None);
        }
    }
}
