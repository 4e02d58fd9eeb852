//! What the zygote and the workers write to standard output and standard error: lines for the log.
//!
//! Two pipes from each process, so that the two have levels of their own: what a C library says before it aborts must be
//! in the log at any level. Each keeps its order; between the two it is as they are read.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};

use crate::ipc::message::{LogLevel, MAX_CHUNK};
use crate::log::escape;

/// The longest line that is logged whole, as long as the longest message of `nibiru.log`. A longer one is logged in pieces,
/// so that a process which writes no line end cannot fill the memory.
const MAX_LINE: usize = MAX_CHUNK;

/// The room for each read. A line takes as many reads as it needs.
const READ: usize = 8 * 1024;

/// The most that a pipe holds (`/proc/sys/fs/pipe-max-size`, as a process without privileges may set it).
const MAX_PIPE: usize = 1 << 20;

/// The two pipes.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// The ends that the process has.
#[derive(Debug)]
pub(super) struct Writers {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// A line, or a piece of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) level: LogLevel,
    /// Without its end.
    pub(super) text: &'a [u8],
    /// Of a line that is too long to be logged whole: which piece, from 1.
    pub(super) part: Option<u32>,
}

/// Held by the task that waits for the process's end, and dropped then.
#[derive(Debug)]
pub(super) struct Alive(#[expect(dead_code, reason = "only its end matters")] watch::Sender<()>);

/// Held by each reader until it has read all that its process has written.
pub(super) type Unread = mpsc::Sender<Infallible>;
pub(super) type WeakUnread = mpsc::WeakSender<Infallible>;

/// How long the gateway's end waits for the last output of its processes.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The readers of every process's output, counted.
#[derive(Debug)]
pub(super) struct Readers {
    unread: Unread,
    all_read: mpsc::Receiver<Infallible>,
}

impl Readers {
    pub(super) fn new() -> Self {
        let (unread, all_read) = mpsc::channel(1);
        Self { unread, all_read }
    }

    /// Gives each reader that the end has to wait for its share of the count.
    pub(super) fn counted(&self) -> WeakUnread {
        self.unread.downgrade()
    }

    /// Waits until the output of the processes that have ended is in the log. It is in their pipes already, but the tasks that
    /// read those may not have had a turn.
    pub(super) async fn finish(mut self) {
        drop(self.unread);
        let _ = tokio::time::timeout(LAST_WORDS, self.all_read.recv()).await;
    }
}

impl Pipes {
    pub(super) fn open() -> io::Result<(Self, Writers)> {
        let ((stdout, their_stdout), (stderr, their_stderr)) = (io::pipe()?, io::pipe()?);
        let ours = Self { stdout: stdout.into(), stderr: stderr.into() };
        Ok((ours, Writers { stdout: their_stdout.into(), stderr: their_stderr.into() }))
    }

    /// Gives every line that arrives to `log`, until the last writer is gone. What the process has written without a line
    /// end is a line as soon as the process ends; its children may keep the pipes open for long.
    pub(super) fn log(self, unread: Option<&Unread>, log: impl Fn(Line<'_>) + Clone + 'static) -> Alive {
        let (alive, ended) = watch::channel(());
        for (pipe, level) in [(self.stdout, LogLevel::Info), (self.stderr, LogLevel::Error)] {
            let (ended, unread, log) = (ended.clone(), unread.cloned(), log.clone());
            tokio::task::spawn_local(async move {
                // An error ends the reading. The log has the end of the process, which is the likely cause.
                let _ = each_line(pipe, ended, unread, |text, part| log(Line { level, text, part })).await;
            });
        }
        Alive(alive)
    }
}

async fn each_line(
    pipe: OwnedFd,
    mut ended: watch::Receiver<()>,
    mut unread: Option<Unread>,
    mut log: impl FnMut(&[u8], Option<u32>),
) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let (mut lines, mut lives) = (Lines::default(), true);
    loop {
        lines.make_room();
        let read = tokio::select! {
            read = pipe.read_buf(&mut lines.buffer) => read?,
            // Nothing is ever sent: its sender is gone.
            _ = ended.changed(), if lives => {
                // All that the process wrote is in the pipe, whether or not tokio has noticed. What exceeds the size of a pipe is
                // another process's, which still writes.
                let (mut left, mut piece) = (MAX_PIPE, [0; READ]);
                while left > 0
                    && let Ok(read @ 1..) = rustix::io::read(&pipe, &mut piece)
                {
                    lines.buffer.extend_from_slice(&piece[..read]);
                    lines.take(&mut log);
                    left = left.saturating_sub(read);
                }
                lines.end(&mut log);
                lives = false;
                drop(unread.take());
                continue;
            }
        };
        if read == 0 {
            lines.end(&mut log);
            return Ok(());
        }
        lines.take(&mut log);
    }
}

/// Bytes on their way to become lines.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    /// Bytes at the front of the buffer that hold no line end.
    searched: usize,
    /// Pieces that were given of the line at the front.
    parts: u32,
}

impl Lines {
    /// Makes room for a read, and gives back what a long line took.
    fn make_room(&mut self) {
        if self.buffer.is_empty() {
            self.buffer.shrink_to(READ);
        }
        self.buffer.reserve(READ);
    }

    /// Gives the lines that have ended, and pieces of one that is too long. Keeps at most [`MAX_LINE`].
    fn take(&mut self, log: &mut impl FnMut(&[u8], Option<u32>)) {
        let mut start = 0;
        while let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            let end = self.searched + at;
            let line = &self.buffer[start..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let from = pieces(line, &mut self.parts, log);
            last(&line[from..], &mut self.parts, log);
            start = end + 1;
            self.searched = start;
        }
        start += pieces(&self.buffer[start..], &mut self.parts, log);
        self.buffer.drain(..start);
        self.searched = self.buffer.len();
    }

    /// Gives the last line, which has no line end.
    fn end(&mut self, log: &mut impl FnMut(&[u8], Option<u32>)) {
        if !self.buffer.is_empty() {
            last(&self.buffer, &mut self.parts, log);
        }
        self.buffer.clear();
        (self.searched, self.parts) = (0, 0);
    }
}

/// Gives pieces of a line until what is left is not too long; says how many bytes they were. No piece ends within a
/// character.
fn pieces(line: &[u8], parts: &mut u32, log: &mut impl FnMut(&[u8], Option<u32>)) -> usize {
    let mut from = 0;
    while line.len() - from > MAX_LINE {
        let piece = &line[from..from + MAX_LINE];
        let piece = &piece[..MAX_LINE - escape::unfinished(piece)];
        *parts = parts.saturating_add(1);
        log(piece, Some(*parts));
        from += piece.len();
    }
    from
}

/// Gives the last piece of a line, which mostly is all of it.
fn last(line: &[u8], parts: &mut u32, log: &mut impl FnMut(&[u8], Option<u32>)) {
    let part = (*parts > 0).then(|| parts.saturating_add(1));
    *parts = 0;
    log(line, part);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// The lines of `text` when it comes in pieces of `size` bytes.
    fn lines_of(text: &[u8], size: usize) -> Vec<(String, Option<u32>)> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        let mut log = |text: &[u8], part| found.push((String::from_utf8(text.to_vec()).unwrap(), part));
        for piece in text.chunks(size) {
            lines.make_room();
            lines.buffer.extend_from_slice(piece);
            lines.take(&mut log);
            assert!(lines.buffer.len() <= MAX_LINE, "{} bytes are kept", lines.buffer.len());
        }
        lines.end(&mut log);
        found
    }

    #[test]
    fn lines_come_whole_the_last_one_too_and_those_that_are_too_long_in_pieces() {
        let long = "é".repeat(MAX_LINE);
        let text = format!("one\n\ntwo\r\n{}\n{long}\nlast", "x".repeat(MAX_LINE));
        for size in [1, 7, 4096, 1 << 20] {
            let found = lines_of(text.as_bytes(), size);
            let whole = |text: &str| (text.to_owned(), None);
            assert_eq!(found[..4], [whole("one"), whole(""), whole("two"), whole(&"x".repeat(MAX_LINE))]);
            let parts: Vec<_> = found[4..found.len() - 1].iter().map(|(_, part)| part.unwrap()).collect();
            assert_eq!(parts, [1, 2], "{size}");
            assert_eq!(found[4].0.clone() + &found[5].0, long);
            assert_eq!(*found.last().unwrap(), whole("last"));
        }
        // One byte more than a line may have, and characters that do not fit it evenly.
        let odd = format!("x{long}");
        let found = lines_of(odd.as_bytes(), 4096);
        assert_eq!(found.iter().map(|(text, _)| text.len()).collect::<Vec<_>>(), [MAX_LINE - 1, MAX_LINE, 2]);
        assert_eq!(found.iter().map(|(text, _)| &**text).collect::<String>(), odd);
    }

    #[test]
    fn a_long_line_that_comes_byte_by_byte_is_searched_once() {
        let began = std::time::Instant::now();
        assert_eq!(lines_of(&vec![b'x'; 40 * MAX_LINE], 1).len(), 40);
        // A search from the front for each byte would take minutes.
        assert!(began.elapsed().as_secs() < 30);
    }

    #[test]
    fn last_words_are_logged_when_the_process_ends_though_its_child_keeps_the_pipe_open() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = tokio::task::LocalSet::new().block_on(&runtime, async {
            let (pipes, writers) = Pipes::open().unwrap();
            let (unread, mut all_read) = mpsc::channel(1);
            let (sender, mut found) = mpsc::unbounded_channel();
            let alive = pipes.log(Some(&unread), move |line| {
                let _ = sender.send((line.level, String::from_utf8_lossy(line.text).into_owned()));
            });
            drop(unread);
            std::fs::File::from(writers.stdout.try_clone().unwrap()).write_all(b"out\nno end").unwrap();
            std::fs::File::from(writers.stderr.try_clone().unwrap()).write_all(b"last words").unwrap();
            drop(alive);
            assert!(all_read.recv().await.is_none());
            let mut lines = Vec::new();
            while let Ok(line) = found.try_recv() {
                lines.push(line);
            }
            lines.sort_by_key(|(level, _)| *level as u8);
            drop(writers);
            lines
        });
        let line = |level, text: &str| (level, text.to_owned());
        let expected = [
            line(LogLevel::Info, "out"),
            line(LogLevel::Info, "no end"),
            line(LogLevel::Error, "last words"),
        ];
        assert_eq!(found, expected);
    }
}
