//! The words of a lane: atomic integers of 64 bits.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// An atomic word. A trait, so that the tests can put a checker of memory orders in the place of the hardware's.
pub trait Word {
    /// [`AtomicU64::load`].
    fn load(&self, order: Ordering) -> u64;
    /// [`AtomicU64::store`].
    fn store(&self, value: u64, order: Ordering);
    /// [`AtomicU64::swap`].
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// [`AtomicU64::compare_exchange`], with `Acquire` on failure. Whether it was exchanged.
    fn exchange(&self, current: u64, new: u64, order: Ordering) -> bool;
    /// [`fence`] with `SeqCst`: orders the stores before it and the loads after it among all threads' fences.
    fn fence();
}

/// Implements [`Word`] by the methods of an atomic integer and a function like [`fence`].
macro_rules! word {
    ($atomic:ty, $fence:path) => {
        impl Word for $atomic {
            fn load(&self, order: Ordering) -> u64 {
                self.load(order)
            }

            fn store(&self, value: u64, order: Ordering) {
                self.store(value, order);
            }

            fn swap(&self, value: u64, order: Ordering) -> u64 {
                self.swap(value, order)
            }

            fn exchange(&self, current: u64, new: u64, order: Ordering) -> bool {
                self.compare_exchange(current, new, order, Ordering::Acquire).is_ok()
            }

            fn fence() {
                $fence(Ordering::SeqCst);
            }
        }
    };
}
#[cfg(all(test, not(miri)))]
pub(super) use word;

word!(AtomicU64, fence);

/// Writes bytes into a ring of words, from word `start` on, counted over all rounds. The last word is filled up with zeros.
pub(super) fn write<W: Word>(ring: &[W], start: u64, bytes: &[u8]) {
    let mut words = words_from(ring, start);
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (chunk, word) in chunks.iter().zip(&mut words) {
        word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
    if let (false, Some(word)) = (rest.is_empty(), words.next()) {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        word.store(u64::from_le_bytes(last), Ordering::Relaxed);
    }
}

/// Reads bytes from a ring of words, from word `start` on, counted over all rounds.
pub(super) fn read<W: Word>(ring: &[W], start: u64, bytes: &mut [u8]) {
    let mut words = words_from(ring, start);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for (chunk, word) in chunks.iter_mut().zip(&mut words) {
        *chunk = word.load(Ordering::Relaxed).to_le_bytes();
    }
    if let (false, Some(word)) = (rest.is_empty(), words.next()) {
        let last = word.load(Ordering::Relaxed).to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// The words of the ring from word `start` on, once around.
fn words_from<W>(ring: &[W], start: u64) -> impl Iterator<Item = &W> {
    let (before, after) = ring.split_at(position(ring, start));
    after.iter().chain(before)
}

/// The place of a word that is counted over all rounds.
pub(super) fn position<W>(ring: &[W], word: u64) -> usize {
    usize::try_from(word % ring.len() as u64).expect("less than a slice's length")
}

/// The number of words for so many bytes.
pub(super) fn words_for(bytes: usize) -> u64 {
    bytes.div_ceil(8) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_everywhere_in_the_ring() {
        let ring: Vec<AtomicU64> = (0..5).map(|_| AtomicU64::new(u64::MAX)).collect();
        for start in 0..10 {
            for length in 0..=40 {
                let bytes: Vec<u8> = (1..=length).collect();
                write(&ring, start, &bytes);
                let mut back = vec![0; bytes.len()];
                read(&ring, start, &mut back);
                assert_eq!(back, bytes, "{length} bytes from word {start}");
            }
        }
    }
}
