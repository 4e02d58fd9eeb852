//! Files without a name for what there is no room in memory for: request bodies (`body`) and answers that wait for slow
//! clients (`overflow`).
//!
//! Where the directory is a tmpfs its files are memory, and count as such.
//!
//! Nothing here waits for a disk. Files are made, written and read by a few threads of their own, and what those have
//! not taken yet is bounded.

mod body;
mod overflow;
mod writing;

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::warn;

pub(crate) use crate::gateway::spool::body::{Body, Place, SpoolError};
pub(crate) use crate::gateway::spool::overflow::{Done, Overflow};
use crate::gateway::spool::writing::Writing;
use crate::link::message::MAX_INLINE_BODY;
use crate::os::memory;
use crate::proto::memory::{For, Memory};

/// Threads that write and read. A disk that hangs holds them all, and with them uploads and the answers of slow clients
/// alone; more would make no disk faster.
pub(crate) const THREADS: usize = 4;

/// Bytes of a body that are written at once, and that may wait while others are being written. What is read from a client in
/// one piece comes on top.
const WRITE: usize = MAX_INLINE_BODY;

/// Writes and reads that run or wait for a thread. Each holds its bytes until it ends, also when its client has gone:
/// some 8 MiB together.
const JOBS: u32 = 64;

/// Buffers that are kept for the next writes of bodies: 2 MiB.
const SPARE_BUFFERS: usize = 16;

/// Answers take space and descriptors only up to the whole divided by this, so that slow readers make no upload fail: an
/// answer for which there is no room merely waits with its worker.
const PART_FOR_ANSWERS: u8 = 2;

/// Where files are made, and how much of them there may be.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: Arc<Path>,
    space: Arc<Space>,
    jobs: Arc<Semaphore>,
    spare: RefCell<Vec<Vec<u8>>>,
    /// Bodies of which something is on its way to a file.
    writing: Rc<Writing>,
}

/// What all files may take together, and what they take. Only the gateway's thread takes; a file that ends in another
/// gives back.
#[derive(Debug)]
struct Space {
    limit: u64,
    used: AtomicU64,
    /// Of which they take their part, where they are memory.
    memory: Option<Arc<Memory>>,
    /// Each takes a descriptor.
    max_files: usize,
    files: AtomicUsize,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Body,
    Answer,
}

/// A write or a read that is on its way. Where nobody waits for it any more it goes on to its end, and gives back only
/// then what it takes.
type Job<T> = Pin<Box<dyn Future<Output = io::Result<T>>>>;

/// Whether files can be made in `directory`. Leaves none behind. Warns where they are memory.
pub(crate) fn try_out(directory: &Path) -> io::Result<()> {
    tempfile::tempfile_in(directory)?;
    if memory::holds_files(directory) {
        let path = directory.display();
        warn!(%path, "--spool-dir is in memory (tmpfs): what is kept there counts in --buffer-memory; name a directory on a disk");
    }
    Ok(())
}

impl Spool {
    /// `memory`: what files take that are memory.
    pub(crate) fn new(directory: &Path, limit: u64, max_files: usize, memory: &Arc<Memory>) -> Rc<Self> {
        let counted = memory::holds_files(directory).then(|| Arc::clone(memory));
        Self::counted_in(counted, directory, limit, max_files)
    }

    fn counted_in(memory: Option<Arc<Memory>>, directory: &Path, limit: u64, max_files: usize) -> Rc<Self> {
        let (used, files) = (AtomicU64::new(0), AtomicUsize::new(0));
        let space = Arc::new(Space { limit, used, memory, max_files, files });
        let jobs = Arc::new(Semaphore::new(JOBS as usize));
        let (spare, writing) = (RefCell::default(), Rc::default());
        Rc::new(Self { directory: directory.into(), space, jobs, spare, writing })
    }

    /// Bytes that are in use, and files.
    pub(crate) fn used(&self) -> (u64, usize) {
        (self.space.used.load(Ordering::Relaxed), self.space.files.load(Ordering::Relaxed))
    }

    /// Whether what is in a file takes less memory than what is not.
    pub(crate) fn relieves_memory(&self) -> bool {
        self.space.memory.is_none()
    }

    /// Whether something of a body is on its way to a file, so that memory is about to be free.
    pub(crate) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Waits until something of a body was written; forever where nothing is on its way.
    pub(crate) fn written(&self) -> impl Future<Output = ()> {
        self.writing.ended()
    }

    /// An empty buffer with room for a write.
    fn buffer(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(2 * WRITE))
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_BUFFERS && buffer.capacity() >= WRITE {
            buffer.clear();
            spare.push(buffer);
        }
    }

    /// Writes `bytes` to `file`, or to a new one, from `at` on. Gives the file.
    fn write(
        &self,
        file: Option<Arc<File>>,
        at: u64,
        bytes: Arc<Vec<u8>>,
        claim: Arc<Claim>,
    ) -> Job<Arc<File>> {
        let directory = Arc::clone(&self.directory);
        self.run(move || {
            let _claim = claim;
            let file = file.map_or_else(|| tempfile::tempfile_in(directory).map(Arc::new), Ok)?;
            file.write_all_at(&bytes, at)?;
            Ok(file)
        })
    }

    /// Reads so many bytes of `file`, from `at` on.
    fn read(&self, file: Arc<File>, at: u64, length: usize, claim: Arc<Claim>) -> Job<Vec<u8>> {
        self.run(move || {
            let _claim = claim;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at)?;
            Ok(bytes)
        })
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Job<T> {
        let jobs = Arc::clone(&self.jobs);
        Box::pin(async move {
            let permit = jobs.acquire_owned().await.map_err(io::Error::other)?;
            let work = move || {
                let done = work();
                drop(permit);
                done
            };
            spawn_blocking(work).await.map_err(io::Error::other)?
        })
    }
}

/// One file's part of the space, for as long as whoever has it, or a job for it, lives.
#[derive(Debug)]
struct Claim {
    space: Arc<Space>,
    used_for: Use,
    bytes: AtomicU64,
}

impl Claim {
    fn new(space: &Arc<Space>, used_for: Use) -> Result<Arc<Self>, SpoolError> {
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

    /// One for a body that has so many bytes by now.
    fn of_body(bytes: u64, spool: &Spool) -> Result<Arc<Self>, SpoolError> {
        let claim = Self::new(&spool.space, Use::Body)?;
        claim.grow(bytes)?;
        Ok(claim)
    }

    /// Grows to so many bytes in all, where it is smaller.
    fn grow_to(&self, bytes: u64) -> Result<(), SpoolError> {
        self.grow(bytes.saturating_sub(self.bytes()))
    }

    fn grow(&self, bytes: u64) -> Result<(), SpoolError> {
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

    fn bytes(&self) -> u64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_leave_half_of_everything_to_bodies() {
        let spool = Spool::counted_in(None, &std::env::temp_dir(), 1000, 4);
        let answer = Claim::new(&spool.space, Use::Answer).unwrap();
        answer.grow(500).unwrap();
        assert!(matches!(answer.grow(1), Err(SpoolError::Limit(500))));
        let _second = Claim::new(&spool.space, Use::Answer).unwrap();
        assert!(matches!(Claim::new(&spool.space, Use::Answer), Err(SpoolError::Files(2))));
        let body = Claim::new(&spool.space, Use::Body).unwrap();
        body.grow(500).unwrap();
        assert!(body.grow(1).is_err());
        drop((answer, body));
        assert_eq!(spool.used(), (0, 1));
    }

    #[test]
    fn files_that_are_memory_take_of_it_and_give_it_back() {
        let memory = Memory::new(1000);
        let spool = Spool::counted_in(Some(Arc::clone(&memory)), &std::env::temp_dir(), 1 << 30, 4);
        let answer = Claim::new(&spool.space, Use::Answer).unwrap();
        answer.grow(500).unwrap();
        // The other half is for requests.
        assert!(matches!(answer.grow(1), Err(SpoolError::Memory)));
        let body = Claim::new(&spool.space, Use::Body).unwrap();
        body.grow(500).unwrap();
        assert!(matches!(body.grow(1), Err(SpoolError::Memory)));
        assert_eq!((memory.used(), spool.used()), (1000, (1000, 2)));
        drop((answer, body));
        assert_eq!((memory.used(), spool.used()), (0, (0, 0)));
    }

    #[test]
    fn the_file_system_of_the_directory_says_whether_its_files_are_memory() {
        let memory = Memory::new(1000);
        for (directory, counts) in [("/dev/shm", true), ("/proc", false)] {
            let spool = Spool::new(Path::new(directory), 1000, 1, &memory);
            let body = Claim::new(&spool.space, Use::Body).unwrap();
            body.grow(10).unwrap();
            assert_eq!(memory.used() == 10, counts, "{directory}");
        }
    }
}
