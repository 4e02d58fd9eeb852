//! The turns of files that are sent to clients ([`crate::proto::connection`]'s `files`): sendfile(2), on a thread.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::SendFlags;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::proto::connection::{FileTurn, OpenFile, TurnEnd};
use crate::proto::file_records::Next;

/// Threads that send files to clients, besides those of the spool: a hanging disk of the application's stops no upload.
pub(super) const FILE_THREADS: usize = 4;

/// Bytes of a turn, at most: so long other responses of the connection wait.
const TURN: usize = 1 << 20;

/// Bytes that are copied at once where sendfile fails.
const COPIED: usize = 64 * 1024;

/// A turn in progress. Dropped with the connection; the thread then notices at the next byte that it sends.
pub(crate) struct FileSending(Pin<Box<dyn Future<Output = Sent>>>);

/// A turn with its end; `None` where the thread has gone.
type Sent = Option<(FileTurn, TurnEnd)>;

impl FileSending {
    /// Ready at the end of the turn.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Sent> {
        self.0.as_mut().poll(context)
    }
}

/// The threads that send files.
#[derive(Debug)]
pub(super) struct FileThreads(Arc<Semaphore>);

impl FileThreads {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(FILE_THREADS)))
    }

    /// Begins a turn on a descriptor of the client's socket, which is non-blocking.
    pub(super) fn send(&self, turn: FileTurn, socket: OwnedFd) -> FileSending {
        let threads = Arc::clone(&self.0);
        FileSending(Box::pin(async move {
            // Never closed.
            let permit = threads.acquire_owned().await.ok()?;
            let run = move || {
                let mut turn = turn;
                let end = run(&mut turn, &socket);
                drop(permit);
                (turn, end)
            };
            // Fails only where the thread panicked, and with it the process.
            spawn_blocking(run).await.ok()
        }))
    }

    /// Closes files. A network's file system may take its time.
    pub(super) fn close(files: Vec<OpenFile>) {
        if !files.is_empty() {
            spawn_blocking(move || drop(files));
        }
    }
}

/// Runs a turn.
fn run(turn: &mut FileTurn, socket: &OwnedFd) -> TurnEnd {
    // A worker may have sent any descriptor.
    match rustix::fs::fstat(&turn.file.file) {
        Ok(found) if FileType::from_raw_mode(found.st_mode).is_file() => {}
        Ok(_) => return TurnEnd::Lost("it is no regular file".to_owned()),
        Err(error) => return TurnEnd::Lost(crate::log::cause(&error.into()).to_string()),
    }
    send_turn(turn, socket, Vec::new())
}

/// Sends a regular file until the turn is over. With a `buffer` that has bytes, by way of it.
fn send_turn(turn: &mut FileTurn, socket: &OwnedFd, mut buffer: Vec<u8>) -> TurnEnd {
    while let Some(next) = turn.records.next() {
        if turn.sent >= TURN && turn.records.is_between_records() {
            return TurnEnd::Over;
        }
        let sent = match next {
            Next::Header(header, unsent) => send(socket, &header[header.len() - unsent..]),
            Next::Content { offset, length } if buffer.is_empty() => {
                send_file(socket, &turn.file.file, offset, length)
            }
            Next::Content { offset, length } => copy(socket, &turn.file.file, offset, length, &mut buffer),
        };
        match sent {
            Ok(length) => {
                turn.records.sent(length);
                turn.sent += length;
            }
            Err(Stop::Blocked) => return TurnEnd::Blocked,
            Err(Stop::ClientGone) => return TurnEnd::ClientGone,
            Err(Stop::NoSendfile) => buffer.resize(COPIED, 0),
            Err(Stop::Short) => return TurnEnd::Lost("it is shorter than it was".to_owned()),
            Err(Stop::Unreadable(error)) => return TurnEnd::Lost(crate::log::cause(&error).to_string()),
        }
    }
    TurnEnd::Over
}

/// The reason for which no byte was sent.
enum Stop {
    Blocked,
    ClientGone,
    /// The file is at its end.
    Short,
    /// Sendfile failed.
    NoSendfile,
    Unreadable(io::Error),
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Stop> {
    match rustix::io::retry_on_intr(|| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)) {
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN) => Err(Stop::Blocked),
        Err(_) => Err(Stop::ClientGone),
    }
}

fn send_file(socket: &OwnedFd, file: &File, offset: u64, length: usize) -> Result<usize, Stop> {
    let sent = rustix::io::retry_on_intr(|| {
        let mut offset = offset;
        rustix::fs::sendfile(socket, file, Some(&mut offset), length)
    });
    match sent {
        Ok(0) => Err(Stop::Short),
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN) => Err(Stop::Blocked),
        Err(Errno::PIPE | Errno::CONNRESET) => Err(Stop::ClientGone),
        // The file system knows no sendfile, a filter forbids it, or the file cannot be read, which shows again.
        Err(_) => Err(Stop::NoSendfile),
    }
}

/// Like [`send_file`], by way of `buffer`.
fn copy(socket: &OwnedFd, file: &File, offset: u64, length: usize, buffer: &mut [u8]) -> Result<usize, Stop> {
    let most = buffer.len().min(length);
    match rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut buffer[..most], offset)) {
        Ok(0) => Err(Stop::Short),
        Ok(read) => send(socket, &buffer[..read]),
        Err(error) => Err(Stop::Unreadable(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::fastcgi::client::{Decoder, Reply};
    use crate::proto::file_records::FileRecords;
    use crate::proto::space::{Claim, Space, Use};

    fn turn(file: &File, length: u64) -> FileTurn {
        let claim = Claim::new(&Space::new(0, 1, None), Use::File).unwrap();
        let file = OpenFile::new(file.try_clone().unwrap(), claim);
        FileTurn { file, records: FileRecords::new(1, 3, length), sent: 0 }
    }

    fn file_of(bytes: &[u8]) -> File {
        let file = tempfile::tempfile().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).unwrap();
        file
    }

    #[test]
    fn a_file_arrives_whole_with_and_without_sendfile() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let file = file_of(&bytes);
        for sendfile in [true, false] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let reader = std::thread::spawn(move || {
                let mut received = Vec::new();
                theirs.read_to_end(&mut received).unwrap();
                received
            });
            let (mut turn, socket) = (turn(&file, 2_999_997), OwnedFd::from(ours));
            let (mut turns, mut blocked) = (0, 0);
            loop {
                let buffer = if sendfile { Vec::new() } else { vec![0; COPIED] };
                match send_turn(&mut turn, &socket, buffer) {
                    TurnEnd::Over if turn.records.is_done() => break,
                    TurnEnd::Over => {
                        assert!(turn.sent >= TURN && turn.records.is_between_records());
                        (turns, turn.sent) = (turns + 1, 0);
                    }
                    TurnEnd::Blocked => blocked += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert!(turns + blocked >= 2, "{turns} turns, blocked {blocked} times");
            drop(socket);
            let received = reader.join().unwrap();
            let (mut decoder, mut input, mut found) = (Decoder::new(), &received[..], Vec::new());
            while let Some(Reply::Stdout { id: 1, bytes }) = decoder.receive(&mut input).unwrap() {
                found.extend_from_slice(bytes);
            }
            assert!(found == bytes[3..], "with sendfile: {sendfile}");
        }
    }

    #[test]
    fn short_files_and_what_is_no_file_are_lost_and_a_closed_socket_is_a_client_that_has_gone() {
        let file = file_of(b"12345678");
        for (sendfile, length, gone, expected) in [
            (true, 6, false, "shorter"),
            (false, 6, false, "shorter"),
            (true, 5, true, "gone"),
            (false, 5, true, "gone"),
        ] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let kept = (!gone).then_some(theirs);
            let mut turn = turn(&file, length);
            let buffer = if sendfile { Vec::new() } else { vec![0; COPIED] };
            let end = send_turn(&mut turn, &OwnedFd::from(ours), buffer);
            match end {
                TurnEnd::Lost(cause) => assert!(cause.contains(expected), "{cause}"),
                TurnEnd::ClientGone => assert_eq!(expected, "gone"),
                other => panic!("{other:?}"),
            }
            drop(kept);
        }
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let end = run(&mut turn(&File::open("/dev/zero").unwrap(), 5), &OwnedFd::from(ours));
        assert!(matches!(end, TurnEnd::Lost(cause) if cause == "it is no regular file"));
    }
}
