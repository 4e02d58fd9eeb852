//! Splits the output of a process into lines, in turns. Does no I/O.

use crate::link::message::{LogLevel, MAX_CHUNK};
use crate::log::escape;
use crate::proto::turn::Turn;

/// Most bytes of a line that is logged whole, equal to the longest message of `nibiru.log`. Longer lines are logged in pieces,
/// so that a process that writes no line end cannot fill the memory.
const MAX_LINE: usize = MAX_CHUNK;

/// Bytes of room for each read. A line may take several reads.
pub(super) const READ: usize = 8 * 1024;

/// A line, or a piece of one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) level: LogLevel,
    /// The text without its line end.
    pub(crate) text: &'a [u8],
    /// The number of the piece, from 1; `None` for a whole line.
    pub(crate) part: Option<u32>,
}

/// The buffer of bytes that are not split into lines yet.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) buffer: Vec<u8>,
    /// Number of bytes at the front that were searched and hold no line end.
    searched: usize,
    /// Number of pieces logged of the line at the front.
    parts: u32,
}

impl Lines {
    /// Makes room for a read. Shrinks an empty buffer after a long line.
    pub(super) fn make_room(&mut self) {
        if self.buffer.is_empty() {
            self.buffer.shrink_to(READ);
        }
        self.buffer.reserve(READ);
    }

    /// Passes complete lines, and pieces of a line that is too long, to `log` until the turn is over. Returns whether it passed
    /// all; then at most [`MAX_LINE`] bytes stay in the buffer.
    pub(super) fn take(&mut self, turn: &mut Turn, log: &mut impl FnMut(&[u8], Option<u32>)) -> bool {
        let (mut start, mut all) = (0, true);
        while let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + at;
            let line = &self.buffer[start..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let from = pieces(line, &mut self.parts, log);
            last(&line[from..], &mut self.parts, log);
            start = end + 1;
            self.searched = start;
            if !turn.goes_on_after(line.len().max(1)) {
                all = false;
                break;
            }
        }
        if all {
            start += pieces(&self.buffer[start..], &mut self.parts, log);
        }
        self.buffer.drain(..start);
        self.searched = if all { self.buffer.len() } else { 0 };
        all
    }

    /// Passes the last line to `log`, which has no line end.
    pub(super) fn end(&mut self, log: &mut impl FnMut(&[u8], Option<u32>)) {
        if !self.buffer.is_empty() {
            last(&self.buffer, &mut self.parts, log);
        }
        self.buffer.clear();
        (self.searched, self.parts) = (0, 0);
    }
}

/// Passes pieces of a line to `log` until the rest is short enough. Returns the bytes passed. No piece ends within a
/// character.
fn pieces(line: &[u8], parts: &mut u32, log: &mut impl FnMut(&[u8], Option<u32>)) -> usize {
    let mut from = 0;
    while line.len() - from > MAX_LINE {
        let piece = &line[from..from + MAX_LINE];
        let piece = &piece[..MAX_LINE - escape::unfinished(piece)];
        *parts = parts.saturating_add(1);
        log(piece, Some(*parts));
        from += piece.len();
    }
    from
}

/// Passes the last piece of a line to `log`: for most lines, the whole line.
fn last(line: &[u8], parts: &mut u32, log: &mut impl FnMut(&[u8], Option<u32>)) {
    let part = (*parts > 0).then(|| parts.saturating_add(1));
    *parts = 0;
    log(line, part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::time::{Duration, Instant};

    /// The lines of `text` when it comes in pieces of `size` bytes.
    fn lines_of(text: &[u8], size: usize) -> Vec<(String, Option<u32>)> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let mut log = |text: &[u8], part| found.push((String::from_utf8(text.to_vec()).unwrap(), part));
        for piece in text.chunks(size) {
            lines.make_room();
            lines.buffer.extend_from_slice(piece);
            while !lines.take(&mut Turn::begin(Instant::now), &mut log) {}
            assert!(lines.buffer.len() <= MAX_LINE, "{} bytes are kept", lines.buffer.len());
        }
        lines.end(&mut log);
        found
    }

    #[test]
    fn lines_come_whole_the_last_one_too_and_those_that_are_too_long_in_pieces() {
        let long = "é".repeat(MAX_LINE);
        let text = format!("one\n\ntwo\r\n{}\n{long}\nlast", "x".repeat(MAX_LINE));
        for size in [1, 7, 4096, 1 << 20] {
            let found = lines_of(text.as_bytes(), size);
            let whole = |text: &str| (text.to_owned(), None);
            assert_eq!(found[..4], [whole("one"), whole(""), whole("two"), whole(&"x".repeat(MAX_LINE))]);
            let parts: Vec<_> = found[4..found.len() - 1].iter().map(|(_, part)| part.unwrap()).collect();
            assert_eq!(parts, [1, 2], "{size}");
            assert_eq!(found[4].0.clone() + &found[5].0, long);
            assert_eq!(*found.last().unwrap(), whole("last"));
        }
        // One byte more than a line may have, and characters that do not fit it evenly.
        let odd = format!("x{long}");
        let found = lines_of(odd.as_bytes(), 4096);
        assert_eq!(found.iter().map(|(text, _)| text.len()).collect::<Vec<_>>(), [MAX_LINE - 1, MAX_LINE, 2]);
        assert_eq!(found.iter().map(|(text, _)| &**text).collect::<String>(), odd);
    }

    #[test]
    fn a_long_line_that_comes_byte_by_byte_is_searched_once() {
        let began = Instant::now();
        assert_eq!(lines_of(&vec![b'x'; 40 * MAX_LINE], 1).len(), 40);
        // A search from the front for each byte would take minutes.
        assert!(began.elapsed().as_secs() < 30);
    }

    thread_local! {
        static NOW: Cell<Instant> = Cell::new(Instant::now());
    }

    /// A clock by which every few lines take a whole turn.
    fn slow_clock() -> Instant {
        NOW.set(NOW.get() + Duration::from_secs(1));
        NOW.get()
    }

    #[test]
    fn a_read_full_of_short_lines_takes_many_turns_and_loses_none() {
        let (mut lines, mut given) = (Lines::default(), Vec::new());
        let text: String = (0..2000).map(|line| format!("{line}\n")).collect();
        lines.buffer.extend_from_slice(text.as_bytes());
        lines.buffer.extend_from_slice(b"last");
        let (mut turns, mut most) = (0, 0);
        loop {
            let before = given.len();
            let all = lines.take(&mut Turn::begin(slow_clock), &mut |line, _| {
                given.push(String::from_utf8(line.to_vec()).unwrap());
            });
            (turns, most) = (turns + 1, most.max(given.len() - before));
            if all {
                break;
            }
        }
        assert!(most <= 16 && turns >= 2000 / 16, "{turns} turns, {most} lines in one");
        lines.end(&mut |line, _| given.push(String::from_utf8(line.to_vec()).unwrap()));
        let expected: Vec<_> = (0..2000).map(|line| line.to_string()).chain(["last".to_owned()]).collect();
        assert_eq!(given, expected);
    }
}
