//! The bytes behind `wsgi.input` and `nibiru.filter_data`: read by position, from memory or from a spool file alike.
//!
//! Called by the Lua side (`lua/nibiru/core/input.lua`), which keeps the position. Never gives a byte past
//! the body's length.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes of a spool file that are read at once in search of a line's end.
const WINDOW: usize = 64 * 1024;

/// A body of a request, complete.
#[derive(Debug)]
pub enum Body {
    /// A short body, which travelled with the request.
    Memory(Vec<u8>),
    /// A body that was spooled to a file, which has no name any more.
    File {
        /// The file. Read by position, so its cursor does not matter.
        file: File,
        /// Bytes of the body; bytes of the file beyond are not the body's.
        length: u64,
    },
}

impl Body {
    /// Bytes of the body.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }
}

/// A body of the request that is running. A read may come in the middle of another: a finaliser's.
#[derive(Debug)]
pub(super) struct Reader {
    body: Body,
    /// Never borrowed where Lua could run.
    window: RefCell<Window>,
}

/// The part of a body's file that was last searched for a line's end.
#[derive(Debug, Default)]
struct Window {
    bytes: Vec<u8>,
    start: u64,
}

impl Reader {
    pub(super) fn new(body: Body) -> Self {
        Self { body, window: RefCell::default() }
    }

    /// `count` bytes from `position` on, fewer at the body's end.
    pub(super) fn read(&self, position: u64, count: u64) -> io::Result<Cow<'_, [u8]>> {
        let count = count.min(self.body.length().saturating_sub(position));
        match &self.body {
            Body::Memory(bytes) => {
                let (start, count) = (in_memory(position)?, in_memory(count)?);
                Ok(Cow::Borrowed(bytes.get(start..start + count).unwrap_or_default()))
            }
            Body::File { file, .. } => {
                let mut bytes = vec![0; in_memory(count)?];
                file.read_exact_at(&mut bytes, position)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// The position past the line that starts at `position`: past its LF, or the body's end.
    pub(super) fn line_end(&self, position: u64) -> io::Result<u64> {
        let length = self.body.length();
        match &self.body {
            Body::Memory(bytes) => {
                let rest = bytes.get(in_memory(position)?..).unwrap_or_default();
                Ok(rest.iter().position(|byte| *byte == b'\n').map_or(length, |at| position + at as u64 + 1))
            }
            Body::File { .. } => {
                let mut from = position;
                let mut window = self.window.borrow_mut();
                while from < length {
                    let window = window.at(from, self)?;
                    if let Some(at) = window.iter().position(|byte| *byte == b'\n') {
                        return Ok(from + at as u64 + 1);
                    }
                    from += window.len() as u64;
                }
                Ok(length)
            }
        }
    }
}

impl Window {
    /// The window's bytes from `position` on, never empty. Read anew where the window does not hold `position`.
    fn at(&mut self, position: u64, reader: &Reader) -> io::Result<&[u8]> {
        let end = self.start + self.bytes.len() as u64;
        if position < self.start || position >= end {
            self.bytes = reader.read(position, WINDOW as u64)?.into_owned();
            self.start = position;
        }
        Ok(&self.bytes[in_memory(position - self.start)?..])
    }
}

fn in_memory(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// The same body in memory and in a file. The file holds more than the body; that must never show.
    fn both(bytes: &[u8]) -> [Reader; 2] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.write_all(b"beyond\n").unwrap();
        let length = bytes.len() as u64;
        [Reader::new(Body::Memory(bytes.to_vec())), Reader::new(Body::File { file, length })]
    }

    #[test]
    fn reads_the_same_from_memory_and_from_a_file() {
        for reader in both(b"0123456789") {
            for (position, count, expected) in [
                (0, 4, "0123"),
                (8, 100, "89"),
                (10, 1, ""),
                (50, 1, ""),
                (3, 0, ""),
                (0, u64::MAX, "0123456789"),
            ] {
                assert_eq!(
                    &*reader.read(position, count).unwrap(),
                    expected.as_bytes(),
                    "{position} {count}"
                );
            }
        }
    }

    #[test]
    fn finds_line_ends_across_windows() {
        let mut bytes = vec![b'x'; WINDOW - 1];
        bytes.extend_from_slice(b"\n\nab");
        let length = bytes.len() as u64;
        for reader in both(&bytes) {
            let window = WINDOW as u64;
            for (position, expected) in [
                (0, window),
                (5, window),
                (window, window + 1),
                (window + 1, length),
                (3, window),
                (length, length),
            ] {
                assert_eq!(reader.line_end(position).unwrap(), expected, "{position}");
            }
        }
    }

    #[test]
    fn a_file_that_shrank_is_an_error_and_not_a_short_body() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        let reader = Reader::new(Body::File { file, length: 10 });
        assert!(reader.read(0, 10).is_err());
        assert!(reader.line_end(0).is_err());
    }
}
