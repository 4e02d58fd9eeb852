//! The send buffer of a connection: bytes that wait for the client, in memory and, for a slow client, behind that in a file.
//! Does no I/O: decides the order of writes to the file and reads from it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::fastcgi::whole_records;

/// Bytes waiting for a client from which on its worker is no longer read. Two packets of a worker: one on its way out, one to
/// follow.
const HIGH_WATER: usize = 128 * 1024;

/// Capacity up to which an empty buffer is kept. Most responses fit.
pub(crate) const KEPT_BUFFER: usize = 16 * 1024;

/// Size of a place in the file, and most bytes of one write or read: two packets of a worker with their record headers.
pub(crate) const PLACE: usize = HIGH_WATER + 4096;

/// A queue of bytes, appended at the tail and written from the front.
#[derive(Debug, Default)]
pub(crate) struct SendBuffer {
    bytes: Vec<u8>,
    /// Number of `bytes` that are written already.
    written: usize,
    /// The bytes after `bytes`; `None` for a client that keeps up.
    spooled: Option<Box<Spooled>>,
    /// Bytes written in total.
    sent: u64,
}

/// The bytes for a slow client, in the order of sending: pieces in the file, the write in progress, the tail.
#[derive(Debug, Default)]
struct Spooled {
    /// Pieces in the file. Each is whole records, so that the loss of the file cuts no record.
    pieces: VecDeque<Piece>,
    /// Start of the read of the first piece; `None` while no read is in progress.
    reading: Option<Instant>,
    /// The write to the file in progress, with its place. Kept in memory for a client that catches up before its end.
    writing: Option<(u32, Arc<Vec<u8>>)>,
    tail: Vec<u8>,
    /// Free places in the file.
    free: Vec<u32>,
    /// Number of places in the file, free or not.
    places: u32,
    /// Whether the file takes no more writes.
    refused: bool,
}

/// A piece of the response at one place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) place: u32,
    pub(crate) length: usize,
}

impl SendBuffer {
    /// The buffer to append records to.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        self.spooled.as_mut().map_or(&mut self.bytes, |spooled| &mut spooled.tail)
    }

    /// The bytes to be written now.
    pub(crate) fn unwritten(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Whether no bytes wait, in memory or in a file.
    pub(crate) fn is_empty(&self) -> bool {
        self.unwritten().is_empty() && !self.is_spooling()
    }

    /// Whether so many bytes wait that no more should be produced.
    pub(crate) fn is_full(&self) -> bool {
        let last = self.spooled.as_ref().map_or(self.unwritten(), |spooled| &spooled.tail);
        last.len() >= HIGH_WATER
    }

    /// Whether the client is so far behind that no more should be read from it.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_spooling() || self.is_full()
    }

    /// Bytes of memory that the buffer holds.
    pub(crate) fn held(&self) -> usize {
        let spooled = self.spooled.as_ref().map_or(0, |spooled| {
            spooled.tail.capacity() + spooled.writing.as_ref().map_or(0, |(_, bytes)| bytes.capacity())
        });
        self.bytes.capacity() + spooled
    }

    /// Bytes written in total.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes appended in total: written or waiting.
    pub(crate) fn appended(&self) -> u64 {
        let spooled = self.spooled.as_ref().map_or(0, |spooled| {
            let pieces: usize = spooled.pieces.iter().map(|piece| piece.length).sum();
            pieces + spooled.writing.as_ref().map_or(0, |(_, bytes)| bytes.len()) + spooled.tail.len()
        });
        self.sent + (self.unwritten().len() + spooled) as u64
    }

    /// Notes that the first `length` unwritten bytes are written.
    pub(crate) fn wrote(&mut self, length: usize) {
        self.written += length;
        self.sent += length as u64;
        if self.unwritten().is_empty() {
            self.bytes.clear();
            self.written = 0;
            self.catch_up();
            if self.bytes.is_empty() {
                self.bytes.shrink_to(KEPT_BUFFER);
            }
        } else if self.written >= HIGH_WATER {
            // Otherwise the buffer of a client that never quite catches up would grow with the bytes written.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// Notes that `written` bytes were written: of the unwritten bytes up to `at`, of `pieces` after them, and of the unwritten bytes
    /// after those. What is not written of the pieces is kept.
    pub(crate) fn wrote_with(&mut self, at: usize, pieces: &[&[u8]], written: usize) {
        let between: usize = pieces.iter().map(|piece| piece.len()).sum();
        let of_pieces = written.saturating_sub(at).min(between);
        if of_pieces < between {
            let (mut rest, mut skip) = (Vec::with_capacity(between - of_pieces), of_pieces);
            for piece in pieces {
                let skipped = skip.min(piece.len());
                rest.extend_from_slice(&piece[skipped..]);
                skip -= skipped;
            }
            let position = self.written + at;
            self.bytes.splice(position..position, rest);
        }
        self.sent += of_pieces as u64;
        self.wrote(written - of_pieces);
    }

    /// Drops all bytes, because the client has gone.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BUFFER);
        self.written = 0;
        self.spooled = None;
    }

    // The file.

    /// Directs further bytes to a file, which has one place so far.
    pub(crate) fn start_spooling(&mut self) {
        let spooled = Spooled { free: vec![0], places: 1, ..Spooled::default() };
        self.spooled.get_or_insert_with(|| Box::new(spooled));
    }

    /// Whether bytes go to a file. Once the client has caught up they do not, and the file is not needed any more, even with a
    /// write in progress.
    pub(crate) fn is_spooling(&self) -> bool {
        self.spooled.is_some()
    }

    /// The next write to the file, with its place. `grow` returns whether the file may have one more place.
    pub(crate) fn next_write(&mut self, grow: impl FnOnce() -> bool) -> Option<(u32, Arc<Vec<u8>>)> {
        let spooled = self.spooled.as_mut()?;
        if spooled.writing.is_some() || spooled.refused || spooled.tail.len() < HIGH_WATER {
            return None;
        }
        let place = spooled.free.pop().or_else(|| {
            grow().then(|| {
                spooled.places += 1;
                spooled.places - 1
            })
        })?;
        let rest = spooled.tail.split_off(whole_records(&spooled.tail, PLACE));
        let bytes = Arc::new(std::mem::replace(&mut spooled.tail, rest));
        spooled.writing = Some((place, Arc::clone(&bytes)));
        Some((place, bytes))
    }

    /// Notes the end of a write. After a failure no byte is lost, and no more writes follow.
    pub(crate) fn kept(&mut self, kept: bool) {
        let Some(spooled) = &mut self.spooled else { return };
        let Some((place, bytes)) = spooled.writing.take() else { return };
        if kept {
            spooled.pieces.push_back(Piece { place, length: bytes.len() });
        } else {
            spooled.refused = true;
            let mut bytes = Arc::try_unwrap(bytes).unwrap_or_else(|shared| (*shared).clone());
            bytes.append(&mut spooled.tail);
            spooled.tail = bytes;
        }
    }

    /// The next read from the file, once the client waits for it.
    pub(crate) fn next_read(&mut self, now: impl FnOnce() -> Instant) -> Option<Piece> {
        let spooled = self.spooled.as_mut().filter(|_| self.bytes.len() == self.written)?;
        if spooled.reading.is_some() {
            return None;
        }
        let piece = spooled.pieces.front().copied()?;
        spooled.reading = Some(now());
        Some(piece)
    }

    /// Start of the read in progress.
    pub(crate) fn reading_since(&self) -> Option<Instant> {
        self.spooled.as_ref().and_then(|spooled| spooled.reading)
    }

    /// Takes the bytes of a finished read.
    pub(crate) fn read(&mut self, bytes: Vec<u8>) {
        let Some(spooled) = &mut self.spooled else { return };
        spooled.reading = None;
        spooled.free.extend(spooled.pieces.pop_front().map(|piece| piece.place));
        self.bytes = bytes;
        self.written = 0;
    }

    /// Drops the file and the bytes after it. The bytes before it in memory end with a whole record.
    pub(crate) fn drop_spooled(&mut self) {
        self.spooled = None;
    }

    /// Returns to memory alone, once all bytes before the file's are written and the file has none.
    fn catch_up(&mut self) {
        if self.spooled.as_ref().is_some_and(|spooled| spooled.pieces.is_empty())
            && let Some(spooled) = self.spooled.take()
        {
            self.bytes = spooled.tail;
            if let Some((_, bytes)) = spooled.writing {
                self.bytes.splice(..0, bytes.iter().copied());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::fastcgi::record::HEADER_LENGTH;

    #[test]
    fn the_buffer_of_a_client_always_behind_does_not_grow() {
        let mut outgoing = SendBuffer::default();
        let mut written = 0_u64;
        for round in 0_u64..5000 {
            while !outgoing.is_full() {
                outgoing.tail().extend_from_slice(&[round.to_le_bytes()[0]; 65_536]);
            }
            // Never the whole buffer.
            outgoing.wrote(50_000);
            written += 50_000;
            assert!(outgoing.bytes.capacity() <= 8 * HIGH_WATER, "after {written} bytes");
        }
    }

    #[test]
    fn bytes_keep_their_order_and_a_large_empty_buffer_is_freed() {
        let mut outgoing = SendBuffer::default();
        let sent: Vec<u8> = (0..400_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let mut received = Vec::new();
        let mut rest = &sent[..];
        while !rest.is_empty() || !outgoing.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(33_333));
            outgoing.tail().extend_from_slice(piece);
            rest = after;
            let length = outgoing.unwritten().len().min(20_001);
            received.extend_from_slice(&outgoing.unwritten()[..length]);
            outgoing.wrote(length);
        }
        assert!(received == sent);
        assert!(outgoing.bytes.capacity() <= KEPT_BUFFER);
    }

    /// A client, a worker and a disk that act in random order.
    struct Story {
        random: fastrand::Rng,
        outgoing: SendBuffer,
        sent: Vec<u8>,
        received: Vec<u8>,
        disk: HashMap<u32, Vec<u8>>,
        /// The write in progress.
        writing: Option<(u32, Arc<Vec<u8>>)>,
        reading: Option<Piece>,
        max_places: u32,
        places: u32,
    }

    impl Story {
        fn new(seed: u64, max_places: u32) -> Self {
            Self {
                random: fastrand::Rng::with_seed(seed),
                outgoing: SendBuffer::default(),
                sent: Vec::new(),
                received: Vec::new(),
                disk: HashMap::new(),
                writing: None,
                reading: None,
                max_places,
                places: 1,
            }
        }

        /// Appends a packet of a worker: some records.
        fn append(&mut self) {
            for _ in 0..self.random.usize(1..4) {
                let content = self.random.usize(0..65_528);
                let mut record = vec![1, 6, 0, 1];
                record.extend(u16::try_from(content).unwrap().to_be_bytes());
                record.extend([0, 0]);
                record.resize(HEADER_LENGTH + content, self.random.u8(..));
                self.outgoing.tail().extend_from_slice(&record);
                self.sent.extend_from_slice(&record);
            }
        }

        fn take(&mut self, most: usize) {
            let length = self.outgoing.unwritten().len().min(most);
            self.received.extend_from_slice(&self.outgoing.unwritten()[..length]);
            if length > 0 {
                self.outgoing.wrote(length);
            }
            assert_eq!(self.outgoing.sent(), self.received.len() as u64);
        }

        /// Does a turn of the connection's task.
        fn advance(&mut self) {
            if !self.outgoing.is_spooling() {
                // The client has caught up or gone: jobs in progress have no use any more.
                (self.writing, self.reading) = (None, None);
                self.disk.clear();
                self.places = 1;
                return;
            }
            if let Some(piece) = self.outgoing.next_read(Instant::now) {
                assert!(self.reading.replace(piece).is_none());
            }
            let (places, max) = (&mut self.places, self.max_places);
            let grow = || {
                let room = *places < max;
                *places += u32::from(room);
                room
            };
            if let Some(write) = self.outgoing.next_write(grow) {
                assert!(write.1.len() <= PLACE && !write.1.is_empty());
                assert_eq!(whole_records(&write.1, usize::MAX), write.1.len());
                assert!(self.writing.replace(write).is_none());
            }
        }

        fn end_write(&mut self, well: bool) {
            if let Some((place, bytes)) = self.writing.take() {
                if well {
                    let bytes = (*bytes).clone();
                    assert!(
                        self.disk.insert(place, bytes).is_none(),
                        "a place that is in use was written to"
                    );
                }
                self.outgoing.kept(well);
            }
        }

        fn end_read(&mut self) {
            if let Some(piece) = self.reading.take() {
                let bytes = self.disk.remove(&piece.place).expect("what is read was written");
                assert_eq!(bytes.len(), piece.length);
                self.outgoing.read(bytes);
            }
        }

        fn held(&self) -> usize {
            let spooled = self.outgoing.spooled.as_ref();
            let writing = spooled.and_then(|spooled| spooled.writing.as_ref());
            self.outgoing.unwritten().len()
                + spooled.map_or(0, |spooled| spooled.tail.len())
                + writing.map_or(0, |(_, bytes)| bytes.len())
        }
    }

    /// Most bytes that a packet adds here.
    const PACKET: usize = 3 * (HEADER_LENGTH + 65_528);

    #[test]
    fn pieces_that_are_written_beside_the_buffer_keep_their_place() {
        let (before, pieces, after) = (&b"before"[..], [&b"one"[..], b"", b"two"], &b"after"[..]);
        let whole = [before, b"onetwo", after].concat();
        for written in 0..=whole.len() {
            let mut outgoing = SendBuffer::default();
            outgoing.tail().extend_from_slice(b"x");
            outgoing.tail().extend_from_slice(before);
            outgoing.wrote(1);
            outgoing.tail().extend_from_slice(after);
            outgoing.wrote_with(before.len(), &pieces, written);
            assert_eq!(outgoing.unwritten(), &whole[written..]);
            assert_eq!((outgoing.sent(), outgoing.appended()), (1 + written as u64, 1 + whole.len() as u64));
        }
    }

    #[test]
    fn order_is_kept_whatever_client_worker_and_disk_do() {
        let (mut spooled, mut refused) = (0, 0);
        for seed in 0..60 {
            let mut story = Story::new(seed, 1 + u32::try_from(seed).unwrap() % 6);
            for _ in 0..300 {
                match story.random.u8(..8) {
                    0..3 if !story.outgoing.is_full() => story.append(),
                    3 => {
                        let most = story.random.usize(1..200_000);
                        story.take(most);
                    }
                    4 if story.outgoing.is_full() => story.outgoing.start_spooling(),
                    5 => {
                        let well = story.random.u8(..20) > 0;
                        refused += u32::from(!well);
                        story.end_write(well);
                    }
                    6 => story.end_read(),
                    _ => {}
                }
                story.advance();
                spooled = spooled.max(story.disk.len());
                let most = 2 * HIGH_WATER + 2 * PACKET + PLACE;
                assert!(story.held() <= most, "seed {seed}: {} bytes are held", story.held());
                assert_eq!(story.outgoing.appended(), story.sent.len() as u64, "seed {seed}");
                assert!(story.sent.starts_with(&story.received), "seed {seed}");
            }
            while !story.outgoing.is_empty() {
                story.take(usize::MAX);
                story.advance();
                story.end_write(true);
                story.end_read();
                story.advance();
            }
            assert!(story.received == story.sent, "seed {seed}");
        }
        assert!(
            spooled == 6 && refused > 20,
            "the dice never came to {spooled} places and {refused} refusals"
        );
    }

    #[test]
    fn after_the_loss_of_the_file_the_rest_ends_with_a_whole_record() {
        for seed in 0..50 {
            let mut story = Story::new(seed, 3);
            story.append();
            story.outgoing.start_spooling();
            for _ in 0..story.random.usize(1..40) {
                if !story.outgoing.is_full() {
                    story.append();
                }
                let most = story.random.usize(1..100_000);
                story.take(most);
                story.advance();
                story.end_write(true);
                if story.random.bool() {
                    story.end_read();
                }
            }
            story.outgoing.drop_spooled();
            story.take(usize::MAX);
            assert!(story.outgoing.is_empty());
            assert!(story.sent.starts_with(&story.received), "seed {seed}");
            assert_eq!(whole_records(&story.received, usize::MAX), story.received.len(), "seed {seed}");
        }
    }

    #[test]
    fn a_file_that_takes_no_writes_only_delays_the_client() {
        let mut story = Story::new(7, 9);
        while !story.outgoing.is_full() {
            story.append();
        }
        story.outgoing.start_spooling();
        for _ in 0..10 {
            if !story.outgoing.is_full() {
                story.append();
            }
            story.advance();
            story.end_write(false);
        }
        assert!(story.outgoing.is_full() && story.disk.is_empty());
        while !story.outgoing.is_empty() {
            story.take(10_000);
            story.advance();
        }
        assert!(story.received == story.sent);
        // The same once more from the start.
        assert!(!story.outgoing.is_full() && !story.outgoing.is_behind());
    }
}
