//! A log file: appends lines, and reopens the file after a rename.
//!
//! The main log and the access log write through it, each on a thread of its own. A full or missing disk costs lines, which are
//! counted, and never ends the server.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tracing::{info, warn};

use super::rate_limit::LogRateLimiter;
use crate::os::safe_path::SafePath;

/// Most bytes per write.
pub const WRITE_SIZE: usize = 64 * 1024;

/// Pause between attempts to open the file.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Mode of a new file. Log collectors read as members of the group; clients' addresses are private to all others.
const MODE: u32 = 0o640;

/// Reports lost lines: the message, and the number of reports left out since the last one.
pub type ReportLoss = fn(&str, Option<u64>);

/// The handle of a log file for other threads.
#[derive(Debug, Default)]
pub struct Shared {
    reopen: AtomicBool,
    lost: AtomicU64,
}

impl Shared {
    /// Reopens the file at the next write, which may be empty.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }

    /// Counts lost lines.
    pub fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    /// The number of lost lines.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// A writer of log lines to a file. It returns no write errors, because a writing thread could only end.
#[derive(Debug)]
pub struct LogFile {
    /// Name of the log in messages, such as `access log`.
    name: &'static str,
    file: File,
    /// Path of the file; `None` for an inherited stream, which is never reopened.
    path: Option<PathBuf>,
    /// The reporter of lost lines. Not always a log line, because the log may be the file that fails.
    report_loss: ReportLoss,
    /// Rate limit of `report_loss`: a nearly full disk may take some lines and not others.
    limiter: LogRateLimiter,
    /// Lines that are not written yet.
    waiting: Vec<u8>,
    /// Whether the file ends in the middle of a line.
    torn: bool,
    /// Whether the last write failed.
    failing: bool,
    /// Whether [`Self::report_loss`] was called for the failure.
    loss_reported: bool,
    /// Time of the next attempt to open the file.
    retry: Option<Instant>,
    shared: Arc<Shared>,
}

impl LogFile {
    /// Opens the file at `path`, creating a missing one.
    pub fn open(name: &'static str, path: &Path, report_loss: ReportLoss) -> io::Result<Self> {
        // Made absolute, so that reopening does not depend on the working directory.
        Ok(Self::new(name, append(path)?, Some(std::path::absolute(path)?), report_loss))
    }

    /// A writer to an inherited stream, which is never reopened.
    pub fn stream(name: &'static str, stream: BorrowedFd<'_>, report_loss: ReportLoss) -> io::Result<Self> {
        Ok(Self::new(name, File::from(stream.try_clone_to_owned()?), None, report_loss))
    }

    fn new(name: &'static str, file: File, path: Option<PathBuf>, report_loss: ReportLoss) -> Self {
        Self {
            name,
            file,
            path,
            report_loss,
            limiter: LogRateLimiter::new(Instant::now()),
            waiting: Vec::new(),
            torn: false,
            failing: false,
            loss_reported: false,
            retry: None,
            shared: Arc::default(),
        }
    }

    /// The handle for other threads.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    fn reopen(&mut self) {
        let (name, Some(path)) = (self.name, &self.path) else { return };
        match append(path) {
            Ok(file) => {
                self.file = file;
                self.torn = false;
                self.retry = None;
                info!(path = %path.display(), "{name} reopened");
            }
            Err(error) => {
                if self.retry.is_none() {
                    let cause = super::cause::cause(&error);
                    warn!(path = %path.display(), cause, "cannot reopen the {name}; the file that is open is used");
                }
                self.retry = Some(Instant::now() + REOPEN_PAUSE);
            }
        }
    }

    fn write_out(&mut self) {
        if self.shared.reopen.swap(false, Ordering::AcqRel)
            || self.retry.is_some_and(|time| time <= Instant::now())
        {
            self.reopen();
        }
        if self.waiting.is_empty() {
            return;
        }
        // Ends a line that a full disk cut short, so that the next line stands alone.
        let begun = if self.torn { self.file.write_all(b"\n") } else { Ok(()) };
        let mut rest = &self.waiting[..];
        let written = begun.and_then(|()| {
            self.torn = false;
            while !rest.is_empty() {
                match self.file.write(rest) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(length) => rest = &rest[length..],
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        let name = self.name;
        match written {
            Ok(()) if self.failing => {
                self.failing = false;
                if std::mem::take(&mut self.loss_reported) {
                    info!("{name} is written again");
                }
            }
            Ok(()) => {}
            Err(error) => {
                self.torn |= rest.len() < self.waiting.len()
                    && self.waiting[self.waiting.len() - rest.len() - 1] != b'\n';
                self.shared.lose(count_lines(rest));
                if !std::mem::replace(&mut self.failing, true)
                    && let Some(left_out) = self.limiter.allow(Instant::now())
                {
                    self.loss_reported = true;
                    let cause = super::cause::cause(&error);
                    (self.report_loss)(
                        &format!("cannot write the {name}: {cause}; lines are dropped"),
                        left_out,
                    );
                }
            }
        }
        self.waiting.clear();
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, lines: &[u8]) -> io::Result<()> {
        self.waiting.extend_from_slice(lines);
        if self.waiting.len() >= WRITE_SIZE {
            self.write_out();
        }
        Ok(())
    }

    /// Called when no more lines wait.
    fn flush(&mut self) -> io::Result<()> {
        self.write_out();
        Ok(())
    }
}

/// The number of lines in a text.
pub fn count_lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

fn append(path: &Path) -> io::Result<File> {
    // Non-blocking, because opening a pipe would wait for its reader and hold up all requests.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NONBLOCK;
    let file: File = match SafePath::following(path)?.open(flags, Mode::from_raw_mode(MODE)) {
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
            return Err(io::Error::other("nobody reads this pipe"));
        }
        opened => opened?.into(),
    };
    // Blocking from here on: the writing thread waits for a slow reader as for a slow disk.
    let flags = rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&file, flags)?;
    Ok(file)
}

/// Whether [`LogFile::open`] would succeed at `path`. Creates no file.
pub fn try_out(path: &Path) -> io::Result<()> {
    let place = SafePath::following(path)?;
    // Non-blocking, because opening a pipe would wait for its reader.
    match place.open(OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK, Mode::empty()) {
        Ok(_) => Ok(()),
        // An unnamed file tests the directory of the missing one.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = format!("/proc/self/fd/{}", place.directory().as_raw_fd());
            tempfile::tempfile_in(directory).map(drop)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_of_a_log_has_the_result_of_opening_it_and_makes_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("there"), "").unwrap();
        std::os::unix::fs::symlink("later", path("link")).unwrap();
        std::os::unix::fs::symlink("missing/later", path("dangling")).unwrap();
        for (name, fine) in [
            ("there", true),
            ("new", true),
            ("link", true),
            ("missing/new", false),
            ("dangling", false),
            (".", false),
        ] {
            assert_eq!(try_out(&path(name)).is_ok(), fine, "{name}");
        }
        assert!(!path("new").exists() && !path("later").exists());
        for name in ["there", "new", "missing/new", "."] {
            assert_eq!(
                LogFile::open("log", &path(name), |_, _| {}).is_ok(),
                try_out(&path(name)).is_ok(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_pipe_without_a_reader_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let (sender, opened) = std::sync::mpsc::channel();
        let pipe = path.clone();
        std::thread::spawn(move || sender.send(append(&pipe).map(drop).map_err(|error| error.to_string())));
        let opened = opened.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(opened, Ok(Err("nobody reads this pipe".to_owned())));

        let mut reader =
            File::from(rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap());
        let mut log = LogFile::open("log", &path, |_, _| {}).unwrap();
        log.write_all(b"line\n").unwrap();
        log.flush().unwrap();
        let mut line = [0; 5];
        std::io::Read::read_exact(&mut reader, &mut line).unwrap();
        assert_eq!(&line, b"line\n");
        // Lines are lost without a reader; the next reader gets the following lines.
        drop(reader);
        log.write_all(b"lost\n").unwrap();
        log.flush().unwrap();
        assert_eq!(log.shared().lost(), 1);
    }

    #[test]
    fn a_renamed_file_is_left_at_a_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("log"), directory.path().join("log.1"));
        let mut file = LogFile::open("log", &path, |_, _| {}).unwrap();
        file.write_all(b"one\n").unwrap();
        file.flush().unwrap();
        std::fs::rename(&path, &old).unwrap();
        file.write_all(b"two\n").unwrap();
        file.flush().unwrap();
        assert!(!path.exists());
        file.shared().reopen();
        file.flush().unwrap();
        file.write_all(b"three\n").unwrap();
        file.flush().unwrap();
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!((read(&old), read(&path)), ("one\ntwo\n".to_owned(), "three\n".to_owned()));
    }

    #[test]
    fn reports_of_a_file_that_fails_now_and_then_are_limited() {
        static REPORTS: AtomicU64 = AtomicU64::new(0);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let reader = || rustix::fs::open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        let opened = reader();
        let mut log = LogFile::open("log", &path, |_, _| {
            REPORTS.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
        let begin = Instant::now();
        let mut read = Some(opened);
        for _ in 0..1000 {
            drop(read.take());
            log.write_all(b"lost\n").unwrap();
            log.flush().unwrap();
            read = Some(reader());
            log.write_all(b"line\n").unwrap();
            log.flush().unwrap();
        }
        drop(read);
        assert_eq!(log.shared().lost(), 1000);
        let reports = REPORTS.load(Ordering::Relaxed);
        assert!((1..10 + begin.elapsed().as_secs()).contains(&reports), "{reports}");
    }
}
