//! The spool file of one connection, for responses to a slow client. `send_buffer` decides the order of writes and reads.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::gateway::spool::{Job, Spool};
use crate::proto::send_buffer::{PLACE, Piece};
use crate::proto::space::{Claim, SpoolError, Use};

/// The spool file of a connection, with at most one write and one read in progress. Dropped when the client has caught up or
/// gone; jobs in progress release their claim at their end.
pub(crate) struct ResponseFile {
    claim: Arc<Claim>,
    /// The file; `None` before the first write.
    file: Option<Arc<File>>,
    writing: Option<Job<Arc<File>>>,
    reading: Option<Job<Vec<u8>>>,
}

/// The result of a job that has ended.
#[derive(Debug)]
pub(crate) enum Completion {
    Written(io::Result<()>),
    Read(io::Result<Vec<u8>>),
}

impl fmt::Debug for ResponseFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFile")
            .field("claim", &self.claim)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl ResponseFile {
    /// A file with one place, if that is within `limit` bytes.
    pub(crate) fn new(limit: u64, spool: &Spool) -> Result<Self, SpoolError> {
        let claim = Claim::new(&spool.space, Use::Response)?;
        let file = Self { claim, file: None, writing: None, reading: None };
        file.grow(limit)?;
        Ok(file)
    }

    /// Adds a place, if that is within `limit` bytes.
    pub(crate) fn grow(&self, limit: u64) -> Result<(), SpoolError> {
        if self.claim.bytes() + PLACE as u64 > limit {
            return Err(SpoolError::Limit(limit));
        }
        self.claim.grow(PLACE as u64)
    }

    pub(crate) fn write(&mut self, place: u32, bytes: Arc<Vec<u8>>, spool: &Spool) {
        let (file, claim) = (self.file.clone(), Arc::clone(&self.claim));
        self.writing = Some(spool.write(file, offset(place), bytes, claim));
    }

    pub(crate) fn read(&mut self, piece: Piece, spool: &Spool) {
        let Some(file) = &self.file else { return };
        let claim = Arc::clone(&self.claim);
        let job = spool.read(Arc::clone(file), offset(piece.place), piece.length, claim);
        self.reading = Some(job);
    }

    /// Ready at the end of a write or a read. Never ready while none is in progress.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Completion> {
        if let Some(job) = &mut self.writing
            && let Poll::Ready(written) = job.as_mut().poll(context)
        {
            self.writing = None;
            return Poll::Ready(Completion::Written(written.map(|file| self.file = Some(file))));
        }
        if let Some(job) = &mut self.reading
            && let Poll::Ready(read) = job.as_mut().poll(context)
        {
            self.reading = None;
            return Poll::Ready(Completion::Read(read));
        }
        Poll::Pending
    }
}

fn offset(place: u32) -> u64 {
    u64::from(place) * PLACE as u64
}
