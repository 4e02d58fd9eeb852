//! The files that a connection sends, in turns. Decides their order; [`super::files`] has the rest of the connection follow.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use super::stream::StreamKey;
use crate::proto::file_records::FileRecords;
use crate::proto::request_end::EndedRequest;
use crate::proto::response_writer::FilePart;
use crate::proto::space::Claim;

/// An open file with its claim.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: File,
    _claim: Arc<Claim>,
}

impl OpenFile {
    pub(crate) fn new(file: File, claim: Arc<Claim>) -> Self {
        Self { file, _claim: claim }
    }
}

/// One turn of a file, for a thread. Given back to [`Connection::file_turn_ended`](super::Connection::file_turn_ended).
#[derive(Debug)]
pub(crate) struct FileTurn {
    pub(crate) file: OpenFile,
    pub(crate) records: FileRecords,
    /// Bytes that the socket took in this turn.
    pub(crate) sent: usize,
}

/// The end of a turn.
#[derive(Debug)]
pub(crate) enum TurnEnd {
    /// Everything is sent, or the turn was long enough.
    Over,
    /// The socket takes no more now.
    Blocked,
    /// The client has closed its socket.
    ClientGone,
    /// The file has fewer bytes than were promised, or cannot be read.
    Lost(String),
}

/// What became of a file before its request had ended.
#[derive(Debug)]
pub(super) enum FileEnd {
    /// Sent. The end of the response is at this position.
    Sent(u64),
    /// Not sent: so many bytes are missing. `broken`: by no fault of the client's.
    Lost { missing: u64, broken: bool },
}

/// A file on its way.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) key: StreamKey,
    /// Bytes of the file that were not sent before the last turn.
    pub(super) left: u64,
    /// `None` while a thread has them.
    pub(super) waiting: Option<(OpenFile, FileRecords)>,
    /// Whether the response ends with the file: the worker has said so.
    pub(super) ended: bool,
    /// Whether nobody waits for the file any more. The record that is sent in part is completed.
    pub(super) orphaned: bool,
}

/// The files that a connection sends, in turns.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    /// The first is the one whose record may be sent in part.
    pub(super) queue: VecDeque<Transfer>,
    /// Start of the turn in progress.
    pub(super) turn_since: Option<Instant>,
    /// Whether the socket takes no more, so that the next turn waits.
    pub(super) blocked: bool,
    /// Files that have ended before their requests, by the numbers of their streams.
    pub(super) ended: Vec<(u64, FileEnd)>,
    /// Files to be closed by a thread.
    pub(super) to_close: Vec<OpenFile>,
}

impl Transfers {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Start of the turn in progress.
    pub(super) fn turn_since(&self) -> Option<Instant> {
        self.turn_since
    }

    /// Whether the send buffer waits for a record of a file.
    pub(super) fn holds_output(&self) -> bool {
        self.turn_since.is_some() || self.is_within_record()
    }

    pub(super) fn is_within_record(&self) -> bool {
        let first = self.queue.front().and_then(|transfer| transfer.waiting.as_ref());
        first.is_some_and(|(_, records)| !records.is_between_records())
    }

    pub(super) fn add(&mut self, key: StreamKey, part: FilePart) {
        let FilePart { file, claim, offset, length } = part;
        let waiting = Some((OpenFile::new(file, claim), FileRecords::new(key.id, offset, length)));
        self.queue.push_back(Transfer { key, left: length, waiting, ended: false, orphaned: false });
    }

    /// Records that the response of a stream ends with its file. Returns whether the file is still to be sent.
    pub(super) fn end(&mut self, key: StreamKey) -> bool {
        let transfer = self.queue.iter_mut().find(|transfer| transfer.key == key && !transfer.orphaned);
        transfer.map(|transfer| transfer.ended = true).is_some()
    }

    pub(super) fn has(&self, serial: u64) -> bool {
        self.queue.iter().any(|transfer| transfer.key.serial == serial && !transfer.orphaned)
    }

    /// Gives up the file of a stream. Returns the number of bytes that are not sent and will not be; `None` without a file.
    pub(super) fn give_up(&mut self, key: StreamKey) -> Option<u64> {
        let position = self.queue.iter().position(|transfer| transfer.key == key && !transfer.orphaned)?;
        let transfer = &mut self.queue[position];
        transfer.orphaned = true;
        let Some((_, records)) = &mut transfer.waiting else {
            // The thread sends on to the end of its turn.
            return Some(transfer.left);
        };
        let missing = records.cut();
        if records.is_done()
            && let Some(Transfer { waiting: Some((file, _)), .. }) = self.queue.remove(position)
        {
            self.to_close.push(file);
        }
        Some(missing)
    }

    /// Forgets everything, because the connection ends.
    pub(super) fn clear(&mut self) {
        let files = self.queue.drain(..).filter_map(|transfer| transfer.waiting);
        self.to_close.extend(files.map(|(file, _)| file));
        (self.turn_since, self.blocked) = (None, false);
    }
}

impl FileEnd {
    /// The request whose file has ended so.
    pub(super) fn apply(self, mut ended: EndedRequest) -> EndedRequest {
        if let Self::Lost { missing, broken } = self {
            ended.bytes = ended.bytes.saturating_sub(missing);
            if broken { ended.break_off() } else { ended.abort() }
        }
        ended
    }
}
