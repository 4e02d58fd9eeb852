//! Request bodies: in memory while they are small and memory is left, in an unnamed file otherwise; or in a file of the proxy's, which
//! is opened and not copied ([`Body::in_file`]).
//!
//! The body decides the order of writes, and the driver creates and writes the file ([`Body::next_write`], [`Body::wrote`]). Reading
//! from a client pauses while it sends faster than the disk writes: [`Body::is_full`].

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use crate::link::message::MAX_INLINE_BODY;
use crate::proto::space::{Buffers, Claim, Space, SpoolError, WRITE};

/// Least length, in bytes, of a body that goes to a file early because memory is short. A shorter body takes less memory than its
/// request, and a file takes a descriptor.
const LEAST_EARLY: u64 = 4096;

/// A body that is arriving or has arrived.
#[derive(Debug)]
pub(crate) struct Body {
    /// The bytes that are neither in the file nor being written to it.
    memory: Vec<u8>,
    /// Bytes in the file.
    written: u64,
    length: u64,
    /// The most bytes that stay in memory.
    in_memory: usize,
    /// Whether the last byte has arrived.
    finished: bool,
    /// The file; `None` before the first write, and during a write.
    file: Option<Arc<File>>,
    /// The write in progress.
    writing: Option<Writing>,
    /// The claim on the spool; `None` for a body in memory.
    claim: Option<Arc<Claim>>,
    /// Whether memory was short when the last bytes arrived, so that they are written at once.
    hasty: bool,
    /// The proxy's file that has the body; `None` for other bodies.
    proxy_file: Option<Box<ProxyFile>>,
}

/// A file of the proxy's.
#[derive(Debug)]
struct ProxyFile {
    path: Vec<u8>,
    /// Time at which its opening was requested.
    since: Instant,
    opening: Opening,
}

/// The progress of the opening of the proxy's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opening {
    Requested,
    Begun,
    Done,
}

/// A write to the file in progress.
#[derive(Debug)]
struct Writing {
    bytes: Arc<Vec<u8>>,
    since: Instant,
    /// Whether the driver has started the write.
    begun: bool,
}

/// A write for the driver.
#[derive(Debug)]
pub(crate) struct Write {
    /// The file; `None` for a file to be created.
    pub(crate) file: Option<Arc<File>>,
    /// The offset in the file.
    pub(crate) at: u64,
    pub(crate) bytes: Arc<Vec<u8>>,
    /// The claim, held until the write has ended.
    pub(crate) claim: Arc<Claim>,
}

/// A file for the driver to open.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) path: Vec<u8>,
    /// The claim, held until the driver has opened the file.
    pub(crate) claim: Arc<Claim>,
}

/// The place of a complete body.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    Memory(&'a [u8]),
    File(&'a File),
}

impl Body {
    /// An empty body, in memory up to [`MAX_INLINE_BODY`].
    pub(crate) fn new() -> Self {
        Self::within(MAX_INLINE_BODY)
    }

    /// An empty body that moves to a file beyond `in_memory` bytes, at most [`MAX_INLINE_BODY`].
    pub(crate) fn within(in_memory: usize) -> Self {
        Self {
            memory: Vec::new(),
            written: 0,
            length: 0,
            in_memory,
            finished: false,
            file: None,
            writing: None,
            claim: None,
            hasty: false,
            proxy_file: None,
        }
    }

    /// A body in the proxy's file at `path`, of which nothing has to arrive. It takes a descriptor of the spool, and none of its bytes.
    pub(crate) fn in_file(path: &[u8], now: Instant, space: &Arc<Space>) -> Result<Self, SpoolError> {
        let claim = Claim::of_body(0, space)?;
        let proxy_file = ProxyFile { path: path.to_vec(), since: now, opening: Opening::Requested };
        Ok(Self { claim: Some(claim), proxy_file: Some(Box::new(proxy_file)), ..Self::within(0) })
    }

    /// The proxy's file, for the driver to open. Each is returned once.
    pub(crate) fn next_open(&mut self) -> Option<Open> {
        let file = self.proxy_file.as_mut().filter(|file| file.opening == Opening::Requested)?;
        let claim = Arc::clone(self.claim.as_ref()?);
        file.opening = Opening::Begun;
        Some(Open { path: file.path.clone(), claim })
    }

    /// The path of the proxy's file that has the body; `None` for other bodies.
    pub(crate) fn proxy_file(&self) -> Option<&[u8]> {
        self.proxy_file.as_ref().map(|file| &file.path[..])
    }

    /// Start of the opening of the proxy's file, unless the file is open.
    pub(crate) fn opening_since(&self) -> Option<Instant> {
        self.proxy_file.as_ref().filter(|file| file.opening != Opening::Done).map(|file| file.since)
    }

    /// Takes over the proxy's opened file, with its length.
    pub(crate) fn opened(&mut self, file: Arc<File>, length: u64) {
        (self.file, self.length) = (Some(file), length);
        if let Some(file) = &mut self.proxy_file {
            file.opening = Opening::Done;
        }
    }

    /// The bytes received so far.
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Whether the body is in a file, or being written to one.
    pub(crate) fn is_spooled(&self) -> bool {
        self.claim.is_some()
    }

    /// Bytes that the body takes in memory.
    pub(crate) fn held(&self) -> usize {
        let writing = self.writing.as_ref().map_or(0, |writing| writing.bytes.capacity());
        self.memory.capacity() + writing + self.proxy_file().map_or(0, <[u8]>::len)
    }

    /// Appends a piece. The first byte over 64 KiB, or over the limit of [`Self::within`], moves the body to a file. If memory is
    /// `short`, byte [`LEAST_EARLY`] does, as long as the spool has room for one more file.
    pub(crate) fn append(
        &mut self,
        bytes: &[u8],
        short: bool,
        now: Instant,
        space: &Arc<Space>,
        buffers: &Buffers,
    ) -> Result<(), SpoolError> {
        let more = bytes.len() as u64;
        match &self.claim {
            Some(claim) => claim.grow_to(self.length + more)?,
            None if self.memory.len() + bytes.len() > self.in_memory => {
                self.claim = Some(Claim::of_body(self.length + more, space)?);
            }
            None if short && self.length + more >= LEAST_EARLY => {
                // Without a claim the body stays in memory.
                // The file has room for all that could have stayed in memory: there is no way back.
                self.claim = Claim::of_body(self.in_memory as u64, space).ok();
            }
            None => {}
        }
        self.hasty = short && self.claim.is_some();
        self.memory.extend_from_slice(bytes);
        self.length += more;
        self.begin_write(now, buffers);
        Ok(())
    }

    /// Records that the last byte has arrived.
    pub(crate) fn finish(&mut self, now: Instant, buffers: &Buffers) {
        self.finished = true;
        self.begin_write(now, buffers);
    }

    /// Whether reading from the client pauses until bytes are written.
    pub(crate) fn is_full(&self) -> bool {
        self.writing.is_some() && (self.hasty || self.memory.len() >= WRITE)
    }

    /// Start of the write in progress, or of the opening of the proxy's file.
    pub(crate) fn writing_since(&self) -> Option<Instant> {
        self.writing.as_ref().map(|writing| writing.since).or(self.opening_since())
    }

    /// The next write for the driver to start. Each is returned once.
    pub(crate) fn next_write(&mut self) -> Option<Write> {
        let writing = self.writing.as_mut().filter(|writing| !writing.begun)?;
        let claim = Arc::clone(self.claim.as_ref()?);
        writing.begun = true;
        let (file, bytes) = (self.file.take(), Arc::clone(&writing.bytes));
        Some(Write { file, at: self.written, bytes, claim })
    }

    /// Records the end of the write. `file` is the written file, or the error.
    pub(crate) fn wrote(
        &mut self,
        file: Result<Arc<File>, SpoolError>,
        now: Instant,
        buffers: &Buffers,
    ) -> Result<(), SpoolError> {
        let Some(Writing { bytes, .. }) = self.writing.take() else { return Ok(()) };
        self.file = Some(file?);
        self.written += bytes.len() as u64;
        // The job that shared the bytes has ended.
        buffers.give_back(Arc::try_unwrap(bytes).unwrap_or_default());
        self.begin_write(now, buffers);
        Ok(())
    }

    /// The place of the complete body.
    pub(crate) fn place(&self) -> Place<'_> {
        self.file.as_deref().map_or(Place::Memory(&self.memory), Place::File)
    }

    /// Whether all bytes are in their final place, in memory or in the file.
    pub(crate) fn is_kept(&self) -> bool {
        self.finished
            && (self.claim.is_none()
                || self.memory.is_empty() && self.writing.is_none() && self.opening_since().is_none())
    }

    /// Starts a write of the waiting bytes, if there are enough, if memory is short, or if they are the last.
    fn begin_write(&mut self, now: Instant, buffers: &Buffers) {
        let at_once = self.finished || self.hasty;
        let due = self.memory.len() >= WRITE || (at_once && !self.memory.is_empty());
        if self.claim.is_none() || !due || self.writing.is_some() {
            return;
        }
        let next = if at_once { Vec::new() } else { buffers.take() };
        let bytes = Arc::new(std::mem::replace(&mut self.memory, next));
        self.writing = Some(Writing { bytes, since: now, begun: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that writes to memory, at once. The file handle is real and unused.
    struct Disk {
        space: Arc<Space>,
        buffers: Buffers,
        bytes: Vec<u8>,
        now: Instant,
    }

    impl Disk {
        fn new(limit: u64, max_files: usize) -> Self {
            let space = Space::new(limit, max_files, None);
            Self { space, buffers: Buffers::default(), bytes: Vec::new(), now: Instant::now() }
        }

        fn append(&self, body: &mut Body, bytes: &[u8], short: bool) -> Result<(), SpoolError> {
            body.append(bytes, short, self.now, &self.space, &self.buffers)
        }

        /// Ends the write that is on its way. Says whether there was one.
        fn write(&mut self, body: &mut Body) -> bool {
            let Some(write) = body.next_write() else { return false };
            assert!(body.next_write().is_none(), "each write is given once");
            assert_eq!(write.at, self.bytes.len() as u64);
            self.bytes.extend_from_slice(&write.bytes);
            let file = write.file.clone().unwrap_or_else(|| Arc::new(File::open("/dev/null").unwrap()));
            drop(write);
            body.wrote(Ok(file), self.now, &self.buffers).unwrap();
            true
        }
    }

    #[test]
    fn a_large_body_is_written_whole_and_in_order() {
        let sent: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        for piece in [30_000, WRITE, 1_000_000] {
            let mut disk = Disk::new(1 << 30, 1);
            let mut body = Body::new();
            for piece in sent.chunks(piece) {
                while body.is_full() {
                    assert!(disk.write(&mut body) && !body.is_kept());
                }
                disk.append(&mut body, piece, false).unwrap();
            }
            body.finish(disk.now, &disk.buffers);
            while !body.is_kept() {
                assert!(disk.write(&mut body));
            }
            assert!(disk.bytes == sent && matches!(body.place(), Place::File(_)));
            assert_eq!((body.len(), disk.space.used()), (2_000_000, (2_000_000, 1)));
            drop(body);
            assert_eq!(disk.space.used(), (0, 0));
        }
    }

    #[test]
    fn the_limit_holds_over_all_bodies_and_is_given_back() {
        let disk = Disk::new(150_000, 9);
        let (mut one, mut two, mut three) = (Body::new(), Body::new(), Body::new());
        disk.append(&mut one, &[1; 100_000], false).unwrap();
        assert_eq!(disk.append(&mut two, &[2; 100_000], false), Err(SpoolError::Limit(150_000)));
        drop(one);
        disk.append(&mut three, &[3; 100_000], false).unwrap();
    }

    #[test]
    fn there_are_never_more_files_than_descriptors_for_them() {
        let disk = Disk::new(1 << 20, 1);
        let (mut one, mut two, mut three) = (Body::new(), Body::new(), Body::new());
        disk.append(&mut one, &[1; 100_000], false).unwrap();
        assert_eq!(disk.append(&mut two, &[2; 100_000], false).unwrap_err().status(), 503);
        drop(one);
        disk.append(&mut three, &[3; 100_000], false).unwrap();
    }

    #[test]
    fn a_small_body_stays_in_memory() {
        let disk = Disk::new(0, 1);
        let mut body = Body::new();
        disk.append(&mut body, &[0; MAX_INLINE_BODY], false).unwrap();
        assert!(matches!(body.place(), Place::Memory(bytes) if bytes.len() == MAX_INLINE_BODY));
        assert_eq!(disk.append(&mut body, b"x", false).unwrap_err().status(), 503);
        body.finish(disk.now, &disk.buffers);
        assert!(body.is_kept());
        assert_eq!(disk.append(&mut Body::within(1), b"xx", false).unwrap_err().status(), 503);
    }

    #[test]
    fn a_body_that_the_disk_does_not_take_is_full_and_holds_little() {
        // A write, and what waits behind it, end with any piece of a read.
        const READ: usize = 65_536;
        for piece in [1, 1000, 43_691, 65_535, READ] {
            let mut disk = Disk::new(1 << 30, 1);
            let (mut body, mut came) = (Body::new(), 0);
            while !body.is_full() {
                disk.append(&mut body, &vec![7; piece], false).unwrap();
                came += piece;
            }
            assert!(came < 2 * (WRITE + READ), "{came} bytes in pieces of {piece}");
            assert!(body.held() <= 4 * WRITE, "{} bytes of buffers", body.held());
            assert_eq!(body.writing_since(), Some(disk.now));
            while body.writing_since().is_some() {
                assert!(disk.write(&mut body));
            }
            assert!(!body.is_full());
        }
    }

    #[test]
    fn a_disk_that_takes_no_file_fails_that_body() {
        let disk = Disk::new(1 << 30, 1);
        for (error, status) in [(SpoolError::Io("no".into()), 503), (SpoolError::Full("full".into()), 507)] {
            let mut body = Body::new();
            disk.append(&mut body, &[0; WRITE + 1], false).unwrap();
            drop(body.next_write());
            let error = body.wrote(Err(error), disk.now, &disk.buffers).unwrap_err();
            assert_eq!(error.status(), status);
            assert!(error.to_string().starts_with("cannot spool the body: "));
        }
    }

    #[test]
    fn where_memory_is_short_a_body_goes_to_a_file_at_once_and_is_full_until_it_is_there() {
        let mut disk = Disk::new(1 << 30, 1);
        let mut body = Body::new();
        disk.append(&mut body, &[1; 4095], true).unwrap();
        assert!(body.writing_since().is_none() && !body.is_full());
        disk.append(&mut body, b"2", true).unwrap();
        assert!(body.writing_since().is_some() && body.is_full());
        assert!(disk.write(&mut body));
        assert!(body.writing_since().is_none() && !body.is_full());
        assert_eq!((body.held(), disk.space.used()), (0, (MAX_INLINE_BODY as u64, 1)));
        // There is room again.
        disk.append(&mut body, b"3", false).unwrap();
        assert!(body.writing_since().is_none());
        body.finish(disk.now, &disk.buffers);
        assert!(disk.write(&mut body) && body.is_kept());
        assert!(disk.bytes == [&[1; 4095][..], b"23"].concat());
    }

    #[test]
    fn a_body_in_the_proxys_file_takes_a_descriptor_and_no_byte_and_is_kept_when_it_is_open() {
        let disk = Disk::new(0, 1);
        let mut body = Body::in_file(b"/body/1", disk.now, &disk.space).unwrap();
        assert_eq!(Body::in_file(b"/body/2", disk.now, &disk.space).unwrap_err(), SpoolError::Files(1));
        assert_eq!(body.next_open().unwrap().path, b"/body/1");
        assert!(body.next_open().is_none(), "each file is given once");
        assert_eq!((body.held(), body.writing_since()), (7, Some(disk.now)));
        body.finish(disk.now, &disk.buffers);
        assert!(!body.is_kept());
        body.opened(Arc::new(File::open("/dev/null").unwrap()), 1 << 40);
        assert!(body.is_kept() && !body.is_full() && body.next_write().is_none());
        assert_eq!((body.len(), body.writing_since(), disk.space.used()), (1 << 40, None, (0, 1)));
        assert!(matches!(body.place(), Place::File(_)));
        drop(body);
        assert_eq!(disk.space.used(), (0, 0));
    }

    #[test]
    fn where_files_have_no_room_either_a_body_stays_in_memory_as_long_as_it_may() {
        let disk = Disk::new(1 << 30, 0);
        let mut body = Body::new();
        disk.append(&mut body, &[1; MAX_INLINE_BODY], true).unwrap();
        assert!(!body.is_full() && body.held() >= MAX_INLINE_BODY);
        assert_eq!(disk.append(&mut body, b"2", true).unwrap_err().status(), 503);
    }
}
