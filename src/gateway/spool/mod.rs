//! The spool: unnamed files for bytes beyond the memory, from request bodies ([`crate::proto::body`]) and from responses to
//! slow clients (`response_file`).
//!
//! Files in a tmpfs are memory, and count as such.
//!
//! Also files of the application's on their way to clients (`file_turns`), which have threads of their own.
//!
//! The event loop never waits for a disk. A few threads of their own create, write and read the files, and the bytes queued for
//! them are bounded.

mod body_file;
mod file_turns;
mod pending_writes;
mod response_file;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::warn;

pub(crate) use crate::gateway::spool::body_file::{BodyFiles, BodyOpening};
pub(crate) use crate::gateway::spool::file_turns::FileSending;
use crate::gateway::spool::file_turns::FileThreads;
use crate::gateway::spool::pending_writes::{PendingWrites, WriteGuard};
pub(crate) use crate::gateway::spool::response_file::{Completion, ResponseFile};
use crate::os::memory;
use crate::proto::body::Write;
use crate::proto::connection::{FileTurn, OpenFile, Source, StreamKey};
use crate::proto::memory::Memory;
use crate::proto::space::{Buffers, Claim, Space, SpoolError, Use};

/// Threads that write and read. A hanging disk blocks them all, and with them only uploads and responses to slow clients; more
/// threads would make no disk faster.
const SPOOL_THREADS: usize = 4;

/// All threads that may wait for a disk.
pub(crate) const THREADS: usize = SPOOL_THREADS + file_turns::FILE_THREADS;

/// Most writes and reads that run or wait for a thread. Each holds its bytes until its end, even if the client has gone: 12 MiB
/// together, of a write and a read each.
const JOBS: u32 = 64;

/// The directory of the files, with the limits on their bytes and number.
#[derive(Debug)]
pub(crate) struct Spool {
    directory: Arc<Path>,
    space: Arc<Space>,
    jobs: Arc<Semaphore>,
    buffers: Buffers,
    file_threads: FileThreads,
    /// Count of bodies with a write in progress.
    pending_writes: Rc<PendingWrites>,
}

/// A write or a read in progress. A dropped job still runs to its end, and releases its resources only then.
type Job<T> = Pin<Box<dyn Future<Output = io::Result<T>>>>;

/// A write of a body in progress.
pub(crate) struct BodyWrite {
    /// Stream and source of the body.
    pub(crate) of: (StreamKey, Source),
    job: Job<Arc<File>>,
    /// Counts the write until its end.
    _guard: WriteGuard,
}

impl BodyWrite {
    /// Ready at the end of the write, with the file on success.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Arc<File>, SpoolError>> {
        self.job.as_mut().poll(context).map_err(|error| {
            let cause = crate::log::cause(&error).to_string();
            if error.kind() == io::ErrorKind::StorageFull {
                SpoolError::Full(cause)
            } else {
                SpoolError::Io(cause)
            }
        })
    }
}

/// Whether files can be created in `directory`. Leaves none behind. Warns if the directory is in memory.
pub(crate) fn try_out(directory: &Path) -> io::Result<()> {
    tempfile::tempfile_in(directory)?;
    if memory::holds_files(directory) {
        let path = directory.display();
        warn!(%path, "--spool-dir is in memory (tmpfs): what is kept there counts in --buffer-memory; name a directory on a disk");
    }
    Ok(())
}

impl Spool {
    /// An empty spool. `memory` is charged for files in a tmpfs.
    pub(crate) fn new(directory: &Path, limit: u64, max_files: usize, memory: &Arc<Memory>) -> Rc<Self> {
        let counted = memory::holds_files(directory).then(|| Arc::clone(memory));
        Self::counted_in(counted, directory, limit, max_files)
    }

    fn counted_in(memory: Option<Arc<Memory>>, directory: &Path, limit: u64, max_files: usize) -> Rc<Self> {
        let space = Space::new(limit, max_files, memory);
        let jobs = Arc::new(Semaphore::new(JOBS as usize));
        let (buffers, pending_writes) = (Buffers::default(), Rc::default());
        let file_threads = FileThreads::new();
        Rc::new(Self { directory: directory.into(), space, jobs, buffers, file_threads, pending_writes })
    }

    /// The limits for files, with their use.
    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Spare buffers for bodies on their way to files.
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Bytes in use, and files.
    pub(crate) fn used(&self) -> (u64, usize) {
        self.space.used()
    }

    /// Whether the write of a body is in progress, which will free memory.
    pub(crate) fn is_writing(&self) -> bool {
        self.pending_writes.any()
    }

    /// Waits for the end of a body's write; forever if none is in progress.
    pub(crate) fn written(&self) -> impl Future<Output = ()> {
        self.pending_writes.ended()
    }

    /// Starts the write of a body.
    pub(crate) fn write_body(&self, of: (StreamKey, Source), write: Write) -> BodyWrite {
        let Write { file, at, bytes, claim } = write;
        BodyWrite { of, job: self.write(file, at, bytes, claim), _guard: self.pending_writes.start() }
    }

    // Files of the application's.

    /// Whether a descriptor can be spared for a file of each of `workers` more.
    pub(crate) fn takes_files(&self, workers: usize) -> bool {
        self.space.has_room_for_files(workers)
    }

    /// The claim on the descriptor of a file that has come from a worker.
    pub(crate) fn claim_file(&self) -> Result<Arc<Claim>, SpoolError> {
        Claim::new(&self.space, Use::File)
    }

    /// Begins a turn of a file on a descriptor of its client's socket.
    pub(crate) fn send_file(&self, turn: FileTurn, socket: OwnedFd) -> FileSending {
        self.file_threads.send(turn, socket)
    }

    /// Closes files, which may take time.
    pub(crate) fn close(files: Vec<OpenFile>) {
        FileThreads::close(files);
    }

    /// Writes `bytes` at offset `at` to `file`, or to a new one. Returns the file.
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

    /// Reads `length` bytes of `file` at offset `at`.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::space::{Claim, Use};

    #[test]
    fn files_count_as_memory_on_a_tmpfs_only() {
        let memory = Memory::new(1000);
        for (directory, counts) in [("/dev/shm", true), ("/proc", false)] {
            let spool = Spool::new(Path::new(directory), 1000, 1, &memory);
            let body = Claim::new(spool.space(), Use::Body).unwrap();
            body.grow(10).unwrap();
            assert_eq!(memory.used() == 10, counts, "{directory}");
        }
    }
}
