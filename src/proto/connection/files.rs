//! Responses from files: the rest of a response that the gateway reads from a file of the application's, with no worker.
//!
//! A file goes to its client in turns, each by a thread of the driver's, since a disk may be slow. A turn ends between two records, so
//! that other responses of the connection go on meanwhile, or where the socket takes no more. While a record is sent in part, no other
//! byte may follow it: the send buffer waits.

use std::time::Instant;

use super::event::Event;
use super::state::{Connection, Ending, Undelivered};
use super::stream::{StreamKey, StreamState};
use super::transfers::{FileEnd, FileTurn, OpenFile, Transfer, TurnEnd};
use crate::fastcgi::ProtocolStatus;
use crate::proto::rate::MinRate;
use crate::proto::request_end::EndedRequest;
use crate::proto::response_writer::{EndPosition, ResponseEnd};

impl Connection {
    /// Files that nobody needs any more, for a thread to close.
    pub(crate) fn take_files_to_close(&mut self) -> Vec<OpenFile> {
        std::mem::take(&mut self.transfers.to_close)
    }

    /// The next turn of a file, for the driver to start, once the bytes before it are written.
    pub(crate) fn next_file_turn(&mut self, now: impl FnOnce() -> Instant) -> Option<FileTurn> {
        let transfers = &mut self.transfers;
        if transfers.turn_since.is_some() || transfers.blocked {
            return None;
        }
        if !transfers.is_within_record() && !self.out.is_empty() {
            return None;
        }
        let (file, records) = transfers.queue.front_mut()?.waiting.take()?;
        transfers.turn_since = Some(now());
        Some(FileTurn { file, records, sent: 0 })
    }

    /// Whether the next turn of a file waits until the socket takes more.
    pub(crate) fn is_file_blocked(&self) -> bool {
        self.transfers.is_blocked()
    }

    /// Records that the socket takes more.
    pub(crate) fn unblock_file(&mut self) {
        self.transfers.blocked = false;
    }

    /// Handles the end of a turn.
    pub(crate) fn file_turn_ended(&mut self, turn: FileTurn, end: TurnEnd, now: Instant) {
        let FileTurn { file, mut records, sent } = turn;
        if self.transfers.turn_since.take().is_none() {
            // The connection has ended meanwhile.
            self.transfers.to_close.push(file);
            return;
        }
        match end {
            // The client keeps up.
            TurnEnd::Over => self.send_rate = None,
            TurnEnd::Blocked => self.send_rate.get_or_insert(MinRate::new(now)).moved(sent, now),
            TurnEnd::ClientGone => {
                self.transfers.to_close.push(file);
                return self.transmit_failed();
            }
            TurnEnd::Lost(cause) => {
                self.transfers.to_close.push(file);
                return self.file_lost(!records.is_between_records(), records.left(), cause);
            }
        }
        self.transfers.blocked = matches!(end, TurnEnd::Blocked);
        let Some(mut transfer) = self.transfers.queue.pop_front() else { return };
        if transfer.orphaned {
            records.cut();
        }
        if !records.is_done() {
            let is_between_records = records.is_between_records();
            transfer.left = records.left();
            transfer.waiting = Some((file, records));
            if is_between_records {
                self.transfers.queue.push_back(transfer);
            } else {
                self.transfers.queue.push_front(transfer);
            }
            return;
        }
        self.transfers.to_close.push(file);
        self.transfers.blocked = false;
        self.send_rate = None;
        if transfer.ended && !transfer.orphaned {
            self.end_after_file(transfer.key, now);
        }
    }

    /// Ends the response of a stream whose file is sent.
    fn end_after_file(&mut self, key: StreamKey, now: Instant) {
        self.end_stream(key, 0, ProtocolStatus::RequestComplete, now);
        let position = self.out.appended();
        let waits =
            self.undelivered.iter_mut().find(|waiting| waiting.end == EndPosition::AfterFile(key.serial));
        match waits {
            Some(waiting) => waiting.end = EndPosition::At(position),
            None => self.transfers.ended.push((key.serial, FileEnd::Sent(position))),
        }
    }

    /// Gives up the file of a stream that is removed. `broken`: by no fault of the client's.
    pub(super) fn give_up_file(&mut self, key: StreamKey, state: &StreamState, broken: bool) {
        let Some(missing) = self.transfers.give_up(key) else { return };
        if matches!(state, StreamState::Sending) {
            self.file_not_sent(key, missing, broken);
        }
    }

    /// Tells the request of a stream that its file was not sent whole.
    fn file_not_sent(&mut self, key: StreamKey, missing: u64, broken: bool) {
        let position =
            self.undelivered.iter().position(|waiting| waiting.end == EndPosition::AfterFile(key.serial));
        let lost = FileEnd::Lost { missing, broken };
        match position {
            Some(position) => {
                let ended = Box::new(lost.apply(self.undelivered.swap_remove(position).ended));
                self.events.push_back(Event::Ended(ended));
            }
            None => self.transfers.ended.push((key.serial, lost)),
        }
    }

    /// Handles a file that cannot be sent whole. The transfer breaks off. A record that is sent in part cannot be completed, so that no
    /// other byte can follow.
    fn file_lost(&mut self, within_record: bool, missing: u64, cause: String) {
        let Some(Transfer { key, ended, orphaned, .. }) = self.transfers.queue.pop_front() else { return };
        if orphaned {
            // Only the rest of its record was still to come.
            self.cut = true;
            return self.transmit_failed();
        }
        self.events.push_back(Event::FileLost(cause));
        if ended {
            self.take_stream(key);
            self.file_not_sent(key, missing, true);
        }
        self.lose_output();
        if within_record {
            self.transmit_failed();
        }
    }

    /// Gives up the turn in progress: the disk takes too long.
    pub(super) fn file_stalled(&mut self) {
        self.transfers.turn_since = None;
        let missing = self.transfers.queue.front().map_or(0, |transfer| transfer.left);
        self.file_lost(true, missing, "the disk did not give it in time (--send-timeout)".to_owned());
    }

    /// Keeps an ended request until its response is written. Returns it if it is already, or never will be.
    pub(crate) fn keep_until_written(
        &mut self,
        ResponseEnd(mut end): ResponseEnd,
        mut ended: EndedRequest,
    ) -> Option<EndedRequest> {
        if let EndPosition::AfterFile(serial) = end {
            let position = self.transfers.ended.iter().position(|(of, _)| *of == serial);
            match position.map(|position| self.transfers.ended.swap_remove(position).1) {
                Some(FileEnd::Sent(position)) => end = EndPosition::At(position),
                Some(lost) => return Some(lost.apply(ended)),
                None if !self.transfers.has(serial) => {
                    ended.abort();
                    return Some(ended);
                }
                None => {}
            }
        }
        if let EndPosition::At(end) = end
            && self.out.sent() >= end
        {
            return Some(ended);
        }
        if self.ending == Ending::Now {
            ended.abort();
            return Some(ended);
        }
        self.undelivered.push(Undelivered { end, ended });
        None
    }
}
