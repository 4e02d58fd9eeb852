//! The room that spooled files may take: bytes, and descriptors. Told the sizes; makes no file.
//!
//! A file's [`Claim`] counts from before the file is made until the last holder of the claim has gone, which may be a
//! thread that still writes.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use thiserror::Error;

use crate::link::message::MAX_INLINE_BODY;
use crate::proto::memory::{For, Memory};

/// Bytes of a body that are written at once, and that may wait while others are being written. One read from a client comes
/// on top.
pub(crate) const WRITE: usize = MAX_INLINE_BODY;

/// Spare buffers that are kept for the next writes of bodies: 2 MiB.
const SPARE_BUFFERS: usize = 16;

/// Answers take space and descriptors only up to the whole divided by this, so that slow readers make no upload fail: an
/// answer for which there is no room merely waits with its worker.
const PART_FOR_ANSWERS: u8 = 2;

/// The bytes and descriptors of all files together, and how many are in use. Only the gateway's thread takes; a file that
/// ends in another thread gives back.
#[derive(Debug)]
pub(crate) struct Space {
    limit: u64,
    used: AtomicU64,
    /// The memory in which files are counted, where the directory is a tmpfs.
    memory: Option<Arc<Memory>>,
    /// Each file takes a descriptor.
    max_files: usize,
    files: AtomicUsize,
}

/// The purpose of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A request body.
    Body,
    /// Answers that wait for one slow client.
    Answer,
}

/// The reason why a body cannot be kept; only its request fails.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum SpoolError {
    /// All files together would exceed `--max-spool`, in bytes.
    #[error("the spool exceeds {0} bytes (--max-spool)")]
    Limit(u64),
    /// Files are memory here, and no memory is left (`--buffer-memory`).
    #[error("no memory is left for its body, whose file would be in memory, too")]
    Memory,
    /// There are as many files as descriptors can be spared for.
    #[error("{0} files are spooled, and the limit of open files allows no more")]
    Files(usize),
    /// The disk has taken nothing for too long.
    #[error("the body could not be spooled in time (--body-timeout)")]
    Stalled,
    /// The disk is full.
    #[error("cannot spool the body: {0}")]
    Full(String),
    /// The file could not be made or written.
    #[error("cannot spool the body: {0}")]
    Io(String),
}

impl SpoolError {
    /// The status to answer with.
    pub(crate) fn status(&self) -> u16 {
        if let Self::Full(_) = self { 507 } else { 503 }
    }
}

impl Space {
    /// Room for `limit` bytes in `max_files` files. `memory`: where the files are memory.
    pub(crate) fn new(limit: u64, max_files: usize, memory: Option<Arc<Memory>>) -> Arc<Self> {
        let (used, files) = (AtomicU64::new(0), AtomicUsize::new(0));
        Arc::new(Self { limit, used, memory, max_files, files })
    }

    /// Bytes and files in use.
    pub(crate) fn used(&self) -> (u64, usize) {
        (self.used.load(Ordering::Relaxed), self.files.load(Ordering::Relaxed))
    }

    /// Whether bytes in a file take less memory than bytes that are not.
    pub(crate) fn relieves_memory(&self) -> bool {
        self.memory.is_none()
    }
}

/// One file's part of the space, for as long as its holder, or a job for it, lives.
#[derive(Debug)]
pub(crate) struct Claim {
    space: Arc<Space>,
    used_for: Use,
    bytes: AtomicU64,
}

impl Claim {
    /// The claim of a file that holds no byte yet.
    pub(crate) fn new(space: &Arc<Space>, used_for: Use) -> Result<Arc<Self>, SpoolError> {
        let limit = match used_for {
            Use::Body => space.max_files,
            Use::Answer => space.max_files / usize::from(PART_FOR_ANSWERS),
        };
        if space.files.load(Ordering::Relaxed) >= limit {
            return Err(SpoolError::Files(limit));
        }
        space.files.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Self { space: Arc::clone(space), used_for, bytes: AtomicU64::new(0) }))
    }

    /// The claim of a body of so many bytes.
    pub(crate) fn of_body(bytes: u64, space: &Arc<Space>) -> Result<Arc<Self>, SpoolError> {
        let claim = Self::new(space, Use::Body)?;
        claim.grow(bytes)?;
        Ok(claim)
    }

    /// Grows to so many bytes in all, where the claim is smaller.
    pub(crate) fn grow_to(&self, bytes: u64) -> Result<(), SpoolError> {
        self.grow(bytes.saturating_sub(self.bytes()))
    }

    /// Grows by so many bytes.
    pub(crate) fn grow(&self, bytes: u64) -> Result<(), SpoolError> {
        let (limit, purpose) = match self.used_for {
            Use::Body => (self.space.limit, For::LetIn),
            Use::Answer => (self.space.limit / u64::from(PART_FOR_ANSWERS), For::Answers),
        };
        if self.space.used.load(Ordering::Relaxed) + bytes > limit {
            return Err(SpoolError::Limit(limit));
        }
        if let Some(memory) = &self.space.memory {
            if !memory.has_room(bytes, purpose) {
                return Err(SpoolError::Memory);
            }
            memory.take(bytes);
        }
        self.space.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes that are claimed.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.space.used.fetch_sub(self.bytes(), Ordering::Relaxed);
        if let Some(memory) = &self.space.memory {
            memory.give_back(self.bytes());
        }
        self.space.files.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Empty buffers for bodies that are on their way to files, kept for the next write.
#[derive(Debug, Default)]
pub(crate) struct Buffers(RefCell<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer with room for a write.
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(2 * WRITE))
    }

    /// Keeps a buffer for the next write, where few are kept.
    pub(crate) fn give_back(&self, mut buffer: Vec<u8>) {
        let mut spare = self.0.borrow_mut();
        if spare.len() < SPARE_BUFFERS && buffer.capacity() >= WRITE {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_leave_half_of_everything_to_bodies() {
        let space = Space::new(1000, 4, None);
        let answer = Claim::new(&space, Use::Answer).unwrap();
        answer.grow(500).unwrap();
        assert_eq!(answer.grow(1), Err(SpoolError::Limit(500)));
        let _second = Claim::new(&space, Use::Answer).unwrap();
        assert_eq!(Claim::new(&space, Use::Answer).unwrap_err(), SpoolError::Files(2));
        let body = Claim::new(&space, Use::Body).unwrap();
        body.grow(500).unwrap();
        assert!(body.grow(1).is_err());
        drop((answer, body));
        assert_eq!(space.used(), (0, 1));
    }

    #[test]
    fn files_that_are_memory_take_of_it_and_give_it_back() {
        let memory = Memory::new(1000);
        let space = Space::new(1 << 30, 4, Some(Arc::clone(&memory)));
        let answer = Claim::new(&space, Use::Answer).unwrap();
        answer.grow(500).unwrap();
        // The other half is for requests.
        assert_eq!(answer.grow(1), Err(SpoolError::Memory));
        let body = Claim::new(&space, Use::Body).unwrap();
        body.grow(500).unwrap();
        assert_eq!(body.grow(1), Err(SpoolError::Memory));
        assert_eq!((memory.used(), space.used()), (1000, (1000, 2)));
        drop((answer, body));
        assert_eq!((memory.used(), space.used()), (0, (0, 0)));
    }
}
