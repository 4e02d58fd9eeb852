//! The budget of spool files: bytes and descriptors. Counts, and creates no file.
//!
//! A file's [`Claim`] counts from before the creation of the file until the last holder of the claim drops it, which may be a
//! thread that still writes.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use thiserror::Error;

use crate::proto::memory::{Memory, Purpose};

/// Most bytes of a body in one write, and most that wait behind a write. One read from a client comes on top.
/// Each is handed to a thread, so that smaller ones cost more: 64 KiB made uploads slower by a fifth, 256 KiB hardly faster.
pub(crate) const WRITE: usize = 128 * 1024;

/// Most spare buffers, kept for the next writes of bodies: 2 MiB.
const SPARE_BUFFERS: usize = 8;

/// The divisor of bytes and descriptors for responses, so that slow readers make no upload fail. A response without room waits
/// with its worker.
const PART_FOR_RESPONSES: u8 = 2;

/// The limits of all files together, and their use. Only the gateway's thread takes. A thread that closes a file may give back.
#[derive(Debug)]
pub(crate) struct Space {
    limit: u64,
    used: AtomicU64,
    /// The memory budget that files count in; `None` unless the directory is in a tmpfs.
    memory: Option<Arc<Memory>>,
    /// Most files, because each takes a descriptor.
    max_files: usize,
    files: AtomicUsize,
}

/// The purpose of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A request body.
    Body,
    /// Responses that wait for one slow client.
    Response,
    /// A file of the application's, which takes a descriptor and no bytes. Asked for with [`Space::has_room_for_files`]; requests that
    /// were told so at the same time may together exceed the responses' part.
    File,
}

/// The reason for which a body cannot be spooled. Only its request fails.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum SpoolError {
    /// All files together would exceed `--max-spool`, in bytes.
    #[error("the spool exceeds {0} bytes (--max-spool)")]
    Limit(u64),
    /// The files are in a tmpfs, and no memory is left (`--buffer-memory`).
    #[error("no memory is left for its body, whose file would be in memory, too")]
    Memory,
    /// No descriptor can be spared for another file.
    #[error("{0} files are spooled, and the limit of open files allows no more")]
    Files(usize),
    /// A write took too long.
    #[error("the body could not be spooled in time (--body-timeout)")]
    Stalled,
    /// The opening of the proxy's file took too long.
    #[error("the body's file could not be opened in time (--body-timeout)")]
    OpenStalled,
    /// The disk is full.
    #[error("cannot spool the body: {0}")]
    Full(String),
    /// The file could not be created or written.
    #[error("cannot spool the body: {0}")]
    Io(String),
}

impl SpoolError {
    /// The status of the response.
    pub(crate) fn status(&self) -> u16 {
        if let Self::Full(_) = self { 507 } else { 503 }
    }
}

impl Space {
    /// A budget of `limit` bytes in `max_files` files. `memory` is charged too, for files in a tmpfs.
    pub(crate) fn new(limit: u64, max_files: usize, memory: Option<Arc<Memory>>) -> Arc<Self> {
        let (used, files) = (AtomicU64::new(0), AtomicUsize::new(0));
        Arc::new(Self { limit, used, memory, max_files, files })
    }

    /// Bytes and files in use.
    pub(crate) fn used(&self) -> (u64, usize) {
        (self.used.load(Ordering::Relaxed), self.files.load(Ordering::Relaxed))
    }

    /// Whether descriptors are left for `more` files of responses.
    pub(crate) fn has_room_for_files(&self, more: usize) -> bool {
        let files = self.files.load(Ordering::Relaxed);
        files + more <= self.max_files / usize::from(PART_FOR_RESPONSES)
    }

    /// Whether bytes in a file take no memory.
    pub(crate) fn relieves_memory(&self) -> bool {
        self.memory.is_none()
    }
}

/// The part of the budget that one file takes. Shared by the holder of the file and by jobs that use it.
#[derive(Debug)]
pub(crate) struct Claim {
    space: Arc<Space>,
    used_for: Use,
    bytes: AtomicU64,
}

impl Claim {
    /// The claim of an empty file.
    pub(crate) fn new(space: &Arc<Space>, used_for: Use) -> Result<Arc<Self>, SpoolError> {
        let limit = match used_for {
            Use::Body | Use::File => space.max_files,
            Use::Response => space.max_files / usize::from(PART_FOR_RESPONSES),
        };
        if space.files.load(Ordering::Relaxed) >= limit {
            return Err(SpoolError::Files(limit));
        }
        space.files.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Self { space: Arc::clone(space), used_for, bytes: AtomicU64::new(0) }))
    }

    /// The claim of a body of `bytes` bytes.
    pub(crate) fn of_body(bytes: u64, space: &Arc<Space>) -> Result<Arc<Self>, SpoolError> {
        let claim = Self::new(space, Use::Body)?;
        claim.grow(bytes)?;
        Ok(claim)
    }

    /// Grows the claim to `bytes` in total, unless it is larger already.
    pub(crate) fn grow_to(&self, bytes: u64) -> Result<(), SpoolError> {
        self.grow(bytes.saturating_sub(self.bytes()))
    }

    /// Grows the claim by `bytes`.
    pub(crate) fn grow(&self, bytes: u64) -> Result<(), SpoolError> {
        let (limit, purpose) = match self.used_for {
            Use::Body | Use::File => (self.space.limit, Purpose::Admitted),
            Use::Response => (self.space.limit / u64::from(PART_FOR_RESPONSES), Purpose::Response),
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

    /// The claimed bytes.
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
        let answer = Claim::new(&space, Use::Response).unwrap();
        answer.grow(500).unwrap();
        assert_eq!(answer.grow(1), Err(SpoolError::Limit(500)));
        let _second = Claim::new(&space, Use::Response).unwrap();
        assert_eq!(Claim::new(&space, Use::Response).unwrap_err(), SpoolError::Files(2));
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
        let answer = Claim::new(&space, Use::Response).unwrap();
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
