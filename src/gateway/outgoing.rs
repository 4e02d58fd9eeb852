//! What waits to be written to one client. No I/O.

/// Bytes that may wait for a client before its worker is no longer read from. Two packets of a worker: one on
/// its way out, one to follow.
const HIGH_WATER: usize = 128 * 1024;

/// A buffer that has grown beyond this is given back once it is empty; most responses fit.
const KEPT_BUFFER: usize = 16 * 1024;

/// Bytes in order, appended at one end and written from the other.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    /// How many of them are written already.
    written: usize,
}

impl Outgoing {
    /// Where records are appended.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// What is still to be written.
    pub(super) fn unwritten(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unwritten().is_empty()
    }

    /// Whether so much waits that nothing more should be made.
    pub(super) fn is_full(&self) -> bool {
        self.unwritten().len() >= HIGH_WATER
    }

    /// The first `length` unwritten bytes are written.
    pub(super) fn wrote(&mut self, length: usize) {
        self.written += length;
        if self.is_empty() {
            self.clear();
        } else if self.written >= HIGH_WATER {
            // A client that never quite catches up must not make the buffer grow with what it has read.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    /// Drops everything: nobody is left to write to.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BUFFER);
        self.written = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_always_behind_makes_it_no_larger() {
        let mut outgoing = Outgoing::default();
        let mut written = 0_u64;
        for round in 0_u64..5000 {
            while !outgoing.is_full() {
                outgoing.tail().extend_from_slice(&[round.to_le_bytes()[0]; 65_536]);
            }
            // Never all of it.
            outgoing.wrote(50_000);
            written += 50_000;
            assert!(outgoing.bytes.capacity() <= 8 * HIGH_WATER, "after {written} bytes");
        }
    }

    #[test]
    fn bytes_leave_in_the_order_they_came_and_a_large_buffer_is_given_back() {
        let mut outgoing = Outgoing::default();
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
}
