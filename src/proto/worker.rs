//! What a worker may say when. Std only, no I/O; called by the worker's link, packet by packet.
//!
//! Decides whether a message is the worker's to send now; what an answer may hold is [`crate::proto::response`]'s. An honest
//! worker breaks no rule. One that does is a worker that something else writes for: a C module, or a child of its
//! own that goes on as if it were the worker. It is killed.

use crate::link::interrupt::{Kind, Serial};
use crate::link::message::FromWorker;
use crate::proto::response::ProtocolViolation;

/// The most log lines in one packet. A worker sends each as it comes, so it has one in a packet; each costs the
/// gateway microseconds, and a packet could hold tens of thousands.
pub const MAX_LINES: u32 = 8;

/// The state of the talk with one worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerProtocol {
    turn: Turn,
    /// Of the request that was handed over last.
    serial: Serial,
    /// The request that this packet's answer is for, as far as the packet has said so.
    named: Option<u32>,
    /// Log lines of this packet.
    lines: u32,
    /// What the worker was asked for and has not given.
    asked: Asked,
    /// Its process is gone, and its number may be another's.
    exited: bool,
}

/// What the worker is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// It starts.
    #[default]
    Starting,
    /// It waits for a request.
    Idle,
    /// It has one.
    Running,
    /// It has ended its answer and is not ready for the next request.
    Answered,
}

#[derive(Clone, Debug, Default)]
struct Asked {
    figures: bool,
    trace: bool,
    timeout: bool,
}

impl WorkerProtocol {
    /// The worker has been handed a request.
    pub fn dispatched(&mut self) {
        self.serial = self.serial.next();
        self.turn = Turn::Running;
        (self.asked.trace, self.asked.timeout) = (false, false);
    }

    /// Of the request that was handed over last.
    pub fn serial(&self) -> Serial {
        self.serial
    }

    /// The worker has been asked what it takes.
    pub fn measurement_requested(&mut self) {
        self.asked.figures = true;
    }

    /// The worker has been interrupted, so a stack may come.
    pub fn stack_requested(&mut self, kind: Kind) {
        match kind {
            Kind::Trace => self.asked.trace = true,
            Kind::Timeout => self.asked.timeout = true,
        }
    }

    /// The worker's process is gone. What it sent of its answer counts; what it says of itself does not.
    pub fn exited(&mut self) {
        self.exited = true;
    }

    /// Whether the worker's process is gone.
    pub fn has_exited(&self) -> bool {
        self.exited
    }

    /// A new packet has come.
    pub fn begin_packet(&mut self) {
        (self.named, self.lines) = (None, 0);
    }

    /// The next message of a packet that is to be acted upon; `None` at its end.
    ///
    /// # Errors
    /// When it is no message, or one that the worker must not send now. Nothing more is to be taken from it.
    pub fn next<'p>(&mut self, packet: &mut &'p [u8]) -> Result<Option<FromWorker<'p>>, ProtocolViolation> {
        while !packet.is_empty() {
            let message = FromWorker::decode(packet).map_err(|_| ProtocolViolation("a malformed message"))?;
            if self.heed(&message)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Whether the message is to be acted upon.
    fn heed(&mut self, message: &FromWorker<'_>) -> Result<bool, ProtocolViolation> {
        match *message {
            FromWorker::Answering { serial } => {
                self.named = Some(serial);
                return Ok(false);
            }
            FromWorker::Head { .. } | FromWorker::Body { .. } => self.answers()?,
            FromWorker::End { .. } => {
                self.answers()?;
                self.turn = Turn::Answered;
            }
            FromWorker::Ready => {
                self.turn = match self.turn {
                    Turn::Starting | Turn::Answered => Turn::Idle,
                    Turn::Idle => return Err(ProtocolViolation("ready twice")),
                    Turn::Running => return Err(ProtocolViolation("ready in the middle of a request")),
                };
                (self.asked.trace, self.asked.timeout) = (false, false);
                return Ok(!self.exited);
            }
            FromWorker::StartFailed { .. } if self.turn == Turn::Starting => {}
            FromWorker::StartFailed { .. } => {
                return Err(ProtocolViolation("a failed start after its start"));
            }
            FromWorker::Measured { .. } => {
                if !std::mem::take(&mut self.asked.figures) {
                    return Err(ProtocolViolation("figures that nobody asked for"));
                }
                return Ok(!self.exited);
            }
            FromWorker::Log { .. } => {
                self.lines += 1;
                if self.lines > MAX_LINES {
                    return Err(ProtocolViolation("too many log lines at once"));
                }
            }
            FromWorker::Stack { timeout, .. } => {
                let asked = if timeout { &mut self.asked.timeout } else { &mut self.asked.trace };
                if !std::mem::take(asked) {
                    return Err(ProtocolViolation("a stack that nobody asked for"));
                }
            }
        }
        Ok(true)
    }

    /// Part of an answer: to the request that the worker has, and no other.
    fn answers(&self) -> Result<(), ProtocolViolation> {
        if self.turn == Turn::Running && self.named == Some(self.serial.number()) {
            Ok(())
        } else {
            Err(ProtocolViolation("an answer to a request that it does not have"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::message::LogLevel;

    const READY: FromWorker<'_> = FromWorker::Ready;
    const HEAD: FromWorker<'_> = FromWorker::Head { block: b"\n" };
    const END: FromWorker<'_> = FromWorker::End { complete: true };
    const STACK: FromWorker<'_> = FromWorker::Stack { timeout: false, text: b"" };
    const FIGURES: FromWorker<'_> = FromWorker::Measured { pss: 1, lua_heap: 1 };
    const FIRST: FromWorker<'_> = FromWorker::Answering { serial: 1 };

    /// How many of a packet's messages are acted upon, or what is wrong with one.
    fn say(protocol: &mut WorkerProtocol, messages: &[FromWorker<'_>]) -> Result<usize, &'static str> {
        let mut packet = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut packet));
        protocol.begin_packet();
        let (mut rest, mut heeded) = (&packet[..], 0);
        while protocol.next(&mut rest).map_err(|ProtocolViolation(what)| what)?.is_some() {
            heeded += 1;
        }
        Ok(heeded)
    }

    fn ready() -> WorkerProtocol {
        let mut protocol = WorkerProtocol::default();
        assert_eq!(say(&mut protocol, &[READY]), Ok(1));
        protocol
    }

    fn running() -> WorkerProtocol {
        let mut protocol = ready();
        protocol.dispatched();
        protocol
    }

    #[test]
    fn an_answer_is_for_the_request_that_runs_and_says_so_in_each_packet() {
        let unasked = Err("an answer to a request that it does not have");
        assert_eq!(say(&mut running(), &[FIRST, HEAD, END, READY]), Ok(3));
        assert_eq!(say(&mut running(), &[HEAD]), unasked);
        assert_eq!(say(&mut running(), &[FromWorker::Answering { serial: 2 }, HEAD]), unasked);
        assert_eq!(say(&mut ready(), &[FIRST, HEAD]), unasked);
        assert_eq!(say(&mut running(), &[FIRST, HEAD, END, END]), unasked);
        let mut protocol = running();
        assert_eq!(say(&mut protocol, &[FIRST, HEAD]), Ok(1));
        assert_eq!(say(&mut protocol, &[END]), unasked);
    }

    #[test]
    fn an_answer_sent_ahead_is_not_taken_for_that_to_the_next_request() {
        let mut protocol = running();
        assert_eq!(say(&mut protocol, &[FIRST, HEAD, END, READY]), Ok(3));
        protocol.dispatched();
        let unasked = Err("an answer to a request that it does not have");
        assert_eq!(say(&mut protocol, &[FIRST, HEAD, END, READY]), unasked);
    }

    #[test]
    fn a_worker_is_ready_once() {
        assert_eq!(say(&mut ready(), &[READY]), Err("ready twice"));
        assert_eq!(say(&mut running(), &[READY]), Err("ready in the middle of a request"));
        let failed = FromWorker::StartFailed { message: b"no" };
        assert_eq!(say(&mut WorkerProtocol::default(), &[failed]), Ok(1));
        assert_eq!(say(&mut ready(), &[failed]), Err("a failed start after its start"));
    }

    #[test]
    fn it_tells_of_itself_what_it_was_asked_and_once() {
        let unasked = Err("a stack that nobody asked for");
        let mut protocol = running();
        assert_eq!(say(&mut protocol.clone(), &[STACK]), unasked);
        protocol.stack_requested(Kind::Timeout);
        assert_eq!(say(&mut protocol.clone(), &[STACK]), unasked);
        protocol.stack_requested(Kind::Trace);
        assert_eq!(say(&mut protocol.clone(), &[STACK, STACK]), unasked);
        // Between the end of its answer and the next request it still runs Lua.
        assert_eq!(say(&mut protocol.clone(), &[FIRST, HEAD, END, STACK]), Ok(3));
        assert_eq!(say(&mut protocol, &[FIRST, HEAD, END, READY, STACK]), unasked);

        let mut protocol = ready();
        protocol.measurement_requested();
        assert_eq!(say(&mut protocol, &[FIGURES]), Ok(1));
        assert_eq!(say(&mut protocol, &[FIGURES]), Err("figures that nobody asked for"));
    }

    #[test]
    fn log_lines_of_a_packet_are_bounded() {
        let line = FromWorker::Log { level: LogLevel::Info, message: b"", fields: b"" };
        let (mut protocol, most) = (ready(), MAX_LINES as usize);
        assert_eq!(say(&mut protocol, &vec![line; most]), Ok(most));
        assert_eq!(say(&mut protocol, &vec![line; most + 1]), Err("too many log lines at once"));
    }

    /// Its number may be its successor's by then.
    #[test]
    fn what_a_worker_that_has_gone_says_of_itself_is_dropped() {
        let mut protocol = running();
        protocol.measurement_requested();
        protocol.exited();
        assert_eq!(say(&mut protocol, &[FIRST, HEAD, FIGURES, END, READY]), Ok(2));
    }
}
