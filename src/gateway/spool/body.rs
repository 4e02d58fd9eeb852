//! Request bodies: in memory while they are small and there is room, in a file without a name from then on.
//!
//! From whoever sends faster than the disk takes it nothing is read meanwhile: [`Body::is_full`].

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use crate::gateway::spool::writing::OnItsWay;
use crate::gateway::spool::{Claim, Job, Spool, WRITE};
use crate::link::message::MAX_INLINE_BODY;

/// A shorter one stays in memory also where that is short: it takes less than its request, and a file takes a descriptor.
const LEAST_EARLY: u64 = 4096;

/// A body that is arriving or has arrived.
#[derive(Debug)]
pub(crate) struct Body {
    /// What is neither in the file nor on its way there.
    memory: Vec<u8>,
    /// Bytes in the file.
    written: u64,
    length: u64,
    /// The most bytes that stay in memory.
    in_memory: usize,
    /// No more comes.
    finished: bool,
    file: Spooled,
    /// Of a body that is too large for the memory, or came when that was short.
    claim: Option<Arc<Claim>>,
    /// Memory was short when something of it came last, so that it is written at once.
    hasty: bool,
}

/// The file of a body.
enum Spooled {
    /// None so far, or none any more.
    No,
    File(Arc<File>),
    /// A thread has it, and these bytes, since then.
    Writing(
        Job<Arc<File>>,
        Arc<Vec<u8>>,
        Instant,
        #[expect(dead_code, reason = "counts until it is dropped")] OnItsWay,
    ),
}

impl fmt::Debug for Spooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "No",
            Self::File(_) => "File",
            Self::Writing(..) => "Writing",
        })
    }
}

/// Where a complete body is.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    Memory(&'a [u8]),
    File(&'a File),
}

/// Why a body could not be kept; only its request fails.
#[derive(Debug)]
pub(crate) enum SpoolError {
    /// All bodies together would exceed `--max-spool`.
    Limit(u64),
    /// Files are memory here, and of that none is left (`--buffer-memory`).
    Memory,
    /// There are as many files as descriptors can be spared for.
    Files(usize),
    /// The disk has taken nothing for too long.
    Stalled,
    /// The file could not be made or written.
    Io(io::Error),
}

impl SpoolError {
    /// The status to answer with.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::StorageFull => 507,
            _ => 503,
        }
    }
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(limit) => write!(f, "the spool exceeds {limit} bytes (--max-spool)"),
            Self::Memory => write!(f, "no memory is left for its body, whose file would be in memory, too"),
            Self::Files(limit) => {
                write!(f, "{limit} files are spooled, and the limit of open files allows no more")
            }
            Self::Stalled => write!(f, "the body could not be spooled in time (--body-timeout)"),
            Self::Io(error) => write!(f, "cannot spool the body: {}", crate::log::cause(error)),
        }
    }
}

impl Body {
    pub(crate) fn new() -> Self {
        Self::within(MAX_INLINE_BODY)
    }

    /// One that moves into a file beyond so many bytes, at most [`MAX_INLINE_BODY`].
    pub(crate) fn within(in_memory: usize) -> Self {
        Self {
            memory: Vec::new(),
            written: 0,
            length: 0,
            in_memory,
            finished: false,
            file: Spooled::No,
            claim: None,
            hasty: false,
        }
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Whether it is in a file, or on its way there.
    pub(crate) fn is_spooled(&self) -> bool {
        self.claim.is_some()
    }

    /// Bytes of memory that it takes.
    pub(crate) fn held(&self) -> usize {
        let writing = if let Spooled::Writing(_, bytes, ..) = &self.file { bytes.capacity() } else { 0 };
        self.memory.capacity() + writing
    }

    /// Appends a piece. The first byte over 64 KiB, or what [`Self::within`] said, moves the body into a file; where memory
    /// is `short`, the first of [`LEAST_EARLY`], as long as there may be one more file.
    pub(crate) fn append(&mut self, bytes: &[u8], short: bool, spool: &Spool) -> Result<(), SpoolError> {
        let more = bytes.len() as u64;
        match &self.claim {
            Some(claim) => claim.grow_to(self.length + more)?,
            None if self.memory.len() + bytes.len() > self.in_memory => {
                self.claim = Some(Claim::of_body(self.length + more, spool)?);
            }
            None if short && self.length + more >= LEAST_EARLY => {
                // There may be room in memory for it all the same.
                // The file has room for all that could have stayed in memory: there is no way back.
                self.claim = Claim::of_body(self.in_memory as u64, spool).ok();
            }
            None => {}
        }
        self.hasty = short && self.claim.is_some();
        self.memory.extend_from_slice(bytes);
        self.length += more;
        self.write(spool);
        Ok(())
    }

    /// No more comes.
    pub(crate) fn finish(&mut self, spool: &Spool) {
        self.finished = true;
        self.write(spool);
    }

    /// Whether no more is wanted until a thread has written what it has.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self.file, Spooled::Writing(..)) && (self.hasty || self.memory.len() >= WRITE)
    }

    /// Since when a thread has had something of it to write.
    pub(crate) fn writing_since(&self) -> Option<Instant> {
        if let Spooled::Writing(_, _, since, _) = self.file { Some(since) } else { None }
    }

    /// Ready when something of it was written. Never ready where nothing is being written.
    pub(crate) fn poll_written(
        &mut self,
        context: &mut Context<'_>,
        spool: &Spool,
    ) -> Poll<Result<(), SpoolError>> {
        let Spooled::Writing(write, bytes, ..) = &mut self.file else { return Poll::Pending };
        let written = ready!(write.as_mut().poll(context));
        let bytes = std::mem::take(bytes);
        self.file = Spooled::No;
        Poll::Ready(match written {
            Ok(file) => {
                self.written += bytes.len() as u64;
                // The job that shared them is over.
                spool.give_back(Arc::try_unwrap(bytes).unwrap_or_default());
                self.file = Spooled::File(file);
                self.write(spool);
                Ok(())
            }
            Err(error) => Err(SpoolError::Io(error)),
        })
    }

    /// Where the complete body is.
    pub(crate) fn place(&self) -> Place<'_> {
        match &self.file {
            Spooled::File(file) => Place::File(file),
            Spooled::No | Spooled::Writing(..) => Place::Memory(&self.memory),
        }
    }

    /// Whether no more comes and all of it is where it stays.
    pub(crate) fn is_kept(&self) -> bool {
        self.finished && (self.claim.is_none() || self.memory.is_empty() && self.writing_since().is_none())
    }

    /// Has a thread write the bytes that wait, where there are enough of them, where memory is short, or where they are the last.
    fn write(&mut self, spool: &Spool) {
        let Some(claim) = &self.claim else { return };
        let at_once = self.finished || self.hasty;
        let due = self.memory.len() >= WRITE || (at_once && !self.memory.is_empty());
        if !due || matches!(self.file, Spooled::Writing(..)) {
            return;
        }
        let next = if at_once { Vec::new() } else { spool.buffer() };
        let bytes = Arc::new(std::mem::replace(&mut self.memory, next));
        let file = match std::mem::replace(&mut self.file, Spooled::No) {
            Spooled::File(file) => Some(file),
            Spooled::No | Spooled::Writing(..) => None,
        };
        let job = spool.write(file, self.written, Arc::clone(&bytes), Arc::clone(claim));
        self.file = Spooled::Writing(job, bytes, Instant::now(), spool.writing.begin());
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Seek};
    use std::path::Path;
    use std::rc::Rc;

    use super::*;
    use crate::gateway::spool::JOBS;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn spool(limit: u64, max_files: usize) -> Rc<Spool> {
        Spool::counted_in(None, &std::env::temp_dir(), limit, max_files)
    }

    async fn written(body: &mut Body, spool: &Spool) -> Result<bool, SpoolError> {
        poll_fn(|context| body.poll_written(context, spool)).await?;
        Ok(body.is_kept())
    }

    /// A body of these pieces, sent as fast as it may.
    async fn body(pieces: impl Iterator<Item = &[u8]>, spool: &Spool) -> Body {
        let mut body = Body::new();
        for piece in pieces {
            while body.is_full() {
                assert!(!written(&mut body, spool).await.unwrap());
            }
            body.append(piece, false, spool).unwrap();
        }
        body.finish(spool);
        while !body.is_kept() {
            written(&mut body, spool).await.unwrap();
        }
        body
    }

    #[test]
    fn a_large_body_is_in_the_file_whole_and_in_order() {
        let sent: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        for piece in [30_000, WRITE, 1_000_000] {
            run(async {
                let spool = spool(1 << 30, 1);
                let body = body(sent.chunks(piece), &spool).await;
                assert_eq!((body.len(), spool.used()), (2_000_000, (2_000_000, 1)));
                let Place::File(mut file) = body.place() else { panic!("kept in memory") };
                let mut kept = Vec::new();
                file.rewind().unwrap();
                file.read_to_end(&mut kept).unwrap();
                assert!(kept == sent);
                drop(body);
                assert_eq!(spool.used(), (0, 0));
            });
        }
    }

    #[test]
    fn the_limit_holds_over_all_bodies_and_is_given_back() {
        let spool = spool(150_000, 9);
        let (mut one, mut two) = (Body::new(), Body::new());
        one.append(&[1; 100_000], false, &spool).unwrap();
        assert!(matches!(two.append(&[2; 100_000], false, &spool), Err(SpoolError::Limit(150_000))));
        drop(one);
        let mut three = Body::new();
        three.append(&[3; 100_000], false, &spool).unwrap();
    }

    #[test]
    fn there_are_never_more_files_than_descriptors_for_them() {
        let spool = spool(1 << 20, 1);
        let (mut one, mut two) = (Body::new(), Body::new());
        one.append(&[1; 100_000], false, &spool).unwrap();
        assert_eq!(two.append(&[2; 100_000], false, &spool).unwrap_err().status(), 503);
        drop(one);
        let mut three = Body::new();
        three.append(&[3; 100_000], false, &spool).unwrap();
    }

    #[test]
    fn a_small_body_stays_in_memory() {
        let spool = Spool::counted_in(None, Path::new("/nonexistent"), 0, 1);
        let mut body = Body::new();
        body.append(&[0; MAX_INLINE_BODY], false, &spool).unwrap();
        assert!(matches!(body.place(), Place::Memory(bytes) if bytes.len() == MAX_INLINE_BODY));
        assert_eq!(body.append(b"x", false, &spool).unwrap_err().status(), 503);
        body.finish(&spool);
        assert!(body.is_kept());
        assert_eq!(Body::within(1).append(b"xx", false, &spool).unwrap_err().status(), 503);
    }

    #[test]
    fn a_body_that_the_disk_does_not_take_is_full_and_holds_little() {
        run(async {
            let spool = spool(1 << 30, 1);
            // Nobody writes.
            let all = Arc::clone(&spool.jobs).acquire_many_owned(JOBS).await.unwrap();
            let (mut body, mut held) = (Body::new(), 0);
            while !body.is_full() {
                body.append(&[7; 65_536], false, &spool).unwrap();
                held += 65_536;
            }
            assert!(held <= 2 * WRITE + 65_536, "{held} bytes");
            assert!(body.writing_since().is_some());
            drop(all);
            while body.writing_since().is_some() {
                assert!(!written(&mut body, &spool).await.unwrap());
            }
            assert!(!body.is_full());
        });
    }

    #[test]
    fn a_write_that_nobody_waits_for_gives_everything_back_when_it_ends() {
        run(async {
            let spool = spool(1 << 30, 1);
            let mut body = Body::new();
            body.append(&[7; 2 * WRITE], false, &spool).unwrap();
            // Once a thread has it.
            let _ = poll_fn(|context| Poll::Ready(body.poll_written(context, &spool))).await;
            drop(body);
            let _all = spool.jobs.acquire_many(JOBS).await.unwrap();
            while spool.used() != (0, 0) {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn a_directory_that_takes_no_file_fails_that_body() {
        run(async {
            let spool = Spool::counted_in(None, Path::new("/nonexistent"), 1 << 30, 1);
            let mut body = Body::new();
            body.append(&[0; WRITE + 1], false, &spool).unwrap();
            let error = written(&mut body, &spool).await.unwrap_err();
            assert_eq!(error.status(), 503);
            assert!(error.to_string().starts_with("cannot spool the body: "));
        });
    }

    #[test]
    fn where_memory_is_short_a_body_goes_to_a_file_at_once_and_is_full_until_it_is_there() {
        run(async {
            let spool = spool(1 << 30, 1);
            let mut body = Body::new();
            body.append(&[1; 4095], true, &spool).unwrap();
            assert!(!spool.is_writing() && !body.is_full());
            body.append(b"2", true, &spool).unwrap();
            assert!(spool.is_writing() && body.is_full());
            let woken = spool.written();
            assert!(!written(&mut body, &spool).await.unwrap());
            woken.await;
            assert!(!spool.is_writing() && !body.is_full());
            assert_eq!((body.held(), spool.used()), (0, (MAX_INLINE_BODY as u64, 1)));
            // There is room again.
            body.append(b"3", false, &spool).unwrap();
            assert!(!spool.is_writing());
            body.finish(&spool);
            while !body.is_kept() {
                written(&mut body, &spool).await.unwrap();
            }
            let Place::File(mut file) = body.place() else { panic!("kept in memory") };
            let mut kept = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut kept).unwrap();
            assert!(kept == [&[1; 4095][..], b"23"].concat());
        });
    }

    #[test]
    fn where_files_have_no_room_either_a_body_stays_in_memory_as_long_as_it_may() {
        let spool = spool(1 << 30, 0);
        let mut body = Body::new();
        body.append(&[1; MAX_INLINE_BODY], true, &spool).unwrap();
        assert!(!body.is_full() && body.held() >= MAX_INLINE_BODY);
        assert_eq!(body.append(b"2", true, &spool).unwrap_err().status(), 503);
    }
}
