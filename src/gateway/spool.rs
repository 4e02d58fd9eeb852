//! Request bodies: in memory while they are small, in an unlinked file from then on.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::ipc::message::MAX_INLINE_BODY;

/// Where bodies are spooled, and how much of them there may be.
#[derive(Debug)]
pub(super) struct Spool {
    directory: PathBuf,
    limit: u64,
    used: Cell<u64>,
    /// How many files there may be, and are: each takes a descriptor.
    max_files: usize,
    files: Cell<usize>,
}

impl Spool {
    pub(super) fn new(directory: &Path, limit: u64, max_files: usize) -> Rc<Self> {
        let (used, files) = (Cell::new(0), Cell::new(0));
        Rc::new(Self { directory: directory.to_owned(), limit, used, max_files, files })
    }
}

/// A body that is arriving or has arrived.
#[derive(Debug)]
pub(super) struct Body {
    /// All of it, while there is no file.
    memory: Vec<u8>,
    file: Option<Spooled>,
    length: u64,
}

/// Bytes in a file that no path leads to; the space is given back when this is dropped.
#[derive(Debug)]
struct Spooled {
    file: File,
    spool: Rc<Spool>,
    reserved: u64,
}

impl Drop for Spooled {
    fn drop(&mut self) {
        self.spool.used.set(self.spool.used.get() - self.reserved);
        self.spool.files.set(self.spool.files.get() - 1);
    }
}

/// Where a complete body is.
#[derive(Debug)]
pub(super) enum Place<'a> {
    Memory(&'a [u8]),
    File(&'a File),
}

/// Why a body could not be kept; only its request fails.
#[derive(Debug)]
pub(super) enum SpoolError {
    /// All bodies together would exceed `--max-spool`.
    Limit(u64),
    /// There are as many files as descriptors can be spared for.
    Files(usize),
    /// The file could not be made or written.
    Io(io::Error),
}

impl SpoolError {
    /// The status to answer with.
    pub(super) fn status(&self) -> u16 {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::StorageFull => 507,
            _ => 503,
        }
    }
}

impl std::fmt::Display for SpoolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Limit(limit) => write!(f, "spooled bodies exceed {limit} bytes (--max-spool)"),
            Self::Files(limit) => {
                write!(f, "{limit} bodies are spooled, and the limit of open files allows no more")
            }
            Self::Io(error) => write!(f, "cannot spool the body: {}", crate::log::cause(error)),
        }
    }
}

impl Body {
    pub(super) fn new() -> Self {
        Self { memory: Vec::new(), file: None, length: 0 }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Appends a piece. The first byte over 64 KiB moves the body into a file.
    pub(super) fn append(&mut self, bytes: &[u8], spool: &Rc<Spool>) -> Result<(), SpoolError> {
        if self.file.is_none() && self.memory.len() + bytes.len() <= MAX_INLINE_BODY {
            self.memory.extend_from_slice(bytes);
        } else {
            let spooled = match &mut self.file {
                Some(spooled) => spooled,
                none => {
                    if spool.files.get() >= spool.max_files {
                        return Err(SpoolError::Files(spool.max_files));
                    }
                    let file = tempfile::tempfile_in(&spool.directory).map_err(SpoolError::Io)?;
                    spool.files.set(spool.files.get() + 1);
                    let spooled = none.insert(Spooled { file, spool: Rc::clone(spool), reserved: 0 });
                    spooled.write(&std::mem::take(&mut self.memory))?;
                    spooled
                }
            };
            spooled.write(bytes)?;
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Where the complete body is.
    pub(super) fn place(&self) -> Place<'_> {
        match &self.file {
            Some(spooled) => Place::File(&spooled.file),
            None => Place::Memory(&self.memory),
        }
    }
}

impl Spooled {
    fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let used = self.spool.used.get() + bytes.len() as u64;
        if used > self.spool.limit {
            return Err(SpoolError::Limit(self.spool.limit));
        }
        self.spool.used.set(used);
        self.reserved += bytes.len() as u64;
        // Into the page cache: the kernel writes it to the disk in its own time.
        self.file.write_all(bytes).map_err(SpoolError::Io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn a_large_body_is_in_the_file_whole_and_in_order() {
        let spool = Spool::new(&std::env::temp_dir(), 1 << 20, 1);
        let mut body = Body::new();
        let sent: Vec<u8> = (0..200_000u32).map(|n| n.to_le_bytes()[n as usize % 2]).collect();
        for piece in sent.chunks(30_000) {
            body.append(piece, &spool).unwrap();
        }
        assert_eq!((body.len(), spool.used.get()), (200_000, 200_000));
        let Place::File(mut file) = body.place() else { panic!("kept in memory") };
        let mut kept = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut kept).unwrap();
        assert!(kept == sent);
        drop(body);
        assert_eq!(spool.used.get(), 0);
    }

    #[test]
    fn the_limit_holds_over_all_bodies_and_is_given_back() {
        let spool = Spool::new(&std::env::temp_dir(), 150_000, 9);
        let (mut one, mut two) = (Body::new(), Body::new());
        one.append(&[1; 100_000], &spool).unwrap();
        assert!(matches!(two.append(&[2; 100_000], &spool), Err(SpoolError::Limit(150_000))));
        drop(one);
        let mut three = Body::new();
        three.append(&[3; 100_000], &spool).unwrap();
    }

    #[test]
    fn there_are_never_more_files_than_descriptors_for_them() {
        let spool = Spool::new(&std::env::temp_dir(), 1 << 20, 1);
        let (mut one, mut two) = (Body::new(), Body::new());
        one.append(&[1; 100_000], &spool).unwrap();
        assert_eq!(two.append(&[2; 100_000], &spool).unwrap_err().status(), 503);
        drop(one);
        let mut three = Body::new();
        three.append(&[3; 100_000], &spool).unwrap();
    }

    #[test]
    fn a_small_body_stays_in_memory() {
        let spool = Spool::new(Path::new("/nonexistent"), 0, 1);
        let mut body = Body::new();
        body.append(&[0; MAX_INLINE_BODY], &spool).unwrap();
        assert!(matches!(body.place(), Place::Memory(bytes) if bytes.len() == MAX_INLINE_BODY));
        assert_eq!(body.append(b"x", &spool).unwrap_err().status(), 503);
    }
}
