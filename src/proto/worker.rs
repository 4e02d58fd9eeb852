//! The protocol of the gateway with one worker: packets in, events out, and the next wait of its relay. Does no I/O. The driver is
//! [`crate::gateway`]'s relay.
//!
//! Decides which messages the worker may send now. [`crate::proto::response`] decides about the content of a response. An intact
//! worker breaks no rule. A worker that breaks one is killed: a C module writes to its link, or a forked child that goes on as if
//! it were the worker.
//!
//! ```text
//! turn       Ready       Head, Body     End            StartFailed   dispatched
//! Starting   Idle        violation      violation      ends          -
//! Idle       violation   violation      violation      violation     Running
//! Running    violation   if named       Answered       violation     -
//! Answered   Idle        violation      violation      violation     -
//! ```

use crate::link::interrupt::{Kind, Serial};
use crate::link::message::{FromWorker, LogLevel};
use crate::proto::response::ProtocolViolation;

/// Most log lines in one packet. An intact worker sends each line at once, so a packet has one. A line costs the gateway
/// microseconds, and a packet could hold tens of thousands.
pub const MAX_LINES: u32 = 8;

/// Most packets that can wait in a link. The kernel counts each packet as 512 bytes or more, and lets at most two of
/// [`MAX_PACKET`](crate::link::message::MAX_PACKET) wait. Further packets come from a process that has outlived the owner of the
/// link.
pub const MAX_PACKETS_IN_LINK: u32 = 1024;

/// The state of the protocol with one worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerProtocol {
    turn: Turn,
    /// The number of the request that was dispatched last.
    serial: Serial,
    /// The way of that request.
    way: Way,
    /// Whether the worker had claimed that request before this packet.
    claimed: bool,
    /// The number of the request that the response data of this packet belongs to; `None` before the packet names it.
    named: Option<u32>,
    /// The log lines in this packet so far.
    lines: u32,
    requested: PendingReports,
    /// Whether a packet was received after the last dispatch.
    received_since_dispatch: bool,
    /// Whether anything was sent to the worker after the request that was dispatched last.
    sent_since_dispatch: bool,
    /// Whether the worker ended with something unread in its link.
    link_unread: bool,
    /// Whether the worker may send a file as the rest of its response.
    takes_file: bool,
    /// Whether the process has exited, so that its number may be in use again.
    exited: bool,
    /// The packets that were received since the process was gone.
    received_after_exit: u32,
    /// Whether the relay's wait for room has ended. One packet may follow, even if another response takes the room meanwhile.
    room_granted: bool,
}

/// The state of the worker in the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// The worker runs its start hooks.
    #[default]
    Starting,
    /// The worker waits for a request.
    Idle,
    /// The worker has a request and has not ended its response.
    Running,
    /// The worker has ended its response and is not ready for the next request.
    Answered,
}

/// The way of a request to its worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// The socket. What the worker has not read of it when it exits never reached Lua.
    #[default]
    Socket,
    /// The lane. The worker claims a request before it runs it.
    Lane,
    /// The lane, where the request waited behind the one before.
    Ahead,
}

/// The requested reports that have not arrived.
#[derive(Clone, Debug, Default)]
struct PendingReports {
    measurement: bool,
    trace_stack: bool,
    timeout_stack: bool,
}

/// An event for the driver, in a packet that the protocol allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerEvent<'p> {
    /// The worker is done with its request, and ready for the next one unless it has exited.
    Ready,
    /// The application or a start hook failed; nothing more is taken from this worker.
    StartFailed { message: &'p [u8] },
    /// The head of the running request's response: a CGI header block, with its empty line.
    ResponseHead { block: &'p [u8] },
    /// Bytes of the running request's response body, at least one.
    ResponseBody { bytes: &'p [u8] },
    /// The rest of the running request's response body: these bytes of the file whose descriptor came with the packet.
    ResponseFile { offset: u64, length: u64 },
    /// The end of the running request's response. Without `complete` the application failed.
    ResponseEnd { complete: bool },
    /// A line for the log, with the application's fields as JSON or empty.
    Log { level: LogLevel, message: &'p [u8], fields: &'p [u8] },
    /// The worker's memory in bytes: its proportional share of pages, and Lua's heap.
    Measured { pss: u64, lua_heap: u64 },
    /// The Lua stack of the running request; with `timeout` the request was told to fail.
    Stack { timeout: bool, text: &'p [u8] },
}

/// The next wait of a worker's relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayStep<R> {
    /// Wait until the client has this room, or its request is given up, or the process exits, where it has not.
    AwaitRoom(R),
    /// Wait for a packet, or until the process exits.
    AwaitPacket,
    /// Receive without waiting: the process is gone, and all it has sent is in the link. A child of its own may hold the link
    /// open, so the link's end is not to be waited for.
    ReceiveRest,
    /// Stop.
    End(ExitCause),
}

/// The reason why a link gave no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// The other end is closed, and everything it sent has been received.
    Closed,
    /// The other end was closed with unread data. Its earlier packets can still be received.
    Reset,
    /// The packet carried a descriptor.
    Descriptor,
    /// Nothing is in the link, or the packet was too long for the protocol.
    Other,
}

/// The reason why a worker's relay has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// The process is gone, or has closed its link. `link_unread`: with something in the link that it never read.
    Exited { link_unread: bool },
    /// The application or a start hook failed, with this message.
    StartFailed(String),
    /// The worker broke the protocol, and is killed for that.
    Violation(&'static str),
}

impl WorkerProtocol {
    // To the worker.

    /// Records that the worker's next request was sent to it on this way. It is the next one that the worker runs. `takes_file`: as the
    /// request says.
    pub fn dispatched(&mut self, way: Way, takes_file: bool) {
        self.takes_file = takes_file;
        self.serial = self.serial.next();
        (self.way, self.claimed) = (way, false);
        self.turn = Turn::Running;
        (self.requested.trace_stack, self.requested.timeout_stack) = (false, false);
        (self.sent_since_dispatch, self.received_since_dispatch) = (false, false);
    }

    /// Records that something beside a request was sent to the worker.
    pub fn message_sent(&mut self) {
        self.sent_since_dispatch = true;
    }

    /// Records that the worker was sent the request to measure its memory.
    pub fn measurement_requested(&mut self) {
        self.requested.measurement = true;
    }

    /// Records that the worker was interrupted, so its stack may come.
    pub fn stack_requested(&mut self, kind: Kind) {
        match kind {
            Kind::Trace => self.requested.trace_stack = true,
            Kind::Timeout => self.requested.timeout_stack = true,
        }
    }

    /// The number of the request that was dispatched last, counted over the worker's lifetime.
    pub fn serial(&self) -> Serial {
        self.serial
    }

    /// The way of the request that was dispatched last.
    pub fn way(&self) -> Way {
        self.way
    }

    // The relay's waits.

    /// The next wait. `backpressure`: the room to wait for, where the client of the running request has none for more of its
    /// response, and the request is not given up.
    pub fn next_step<R>(&mut self, backpressure: Option<R>) -> RelayStep<R> {
        let granted = std::mem::take(&mut self.room_granted);
        if let Some(room) = backpressure.filter(|_| !granted) {
            return RelayStep::AwaitRoom(room);
        }
        if !self.exited {
            return RelayStep::AwaitPacket;
        }
        if self.received_after_exit == MAX_PACKETS_IN_LINK {
            return RelayStep::End(self.exit());
        }
        self.received_after_exit += 1;
        RelayStep::ReceiveRest
    }

    /// Whether the worker was idle when it got its request, and no packet has come since: an honest worker has sent nothing that is not
    /// received yet, so the next packet announces itself.
    pub fn awaits_first_packet(&self) -> bool {
        self.turn == Turn::Running && self.way != Way::Ahead && !self.received_since_dispatch
    }

    /// Records that a wake-up was received, which a packet may follow.
    pub fn woken(&mut self) {
        self.received_since_dispatch = true;
    }

    /// Records that the client has room.
    pub fn room_granted(&mut self) {
        self.room_granted = true;
    }

    /// Records that the worker's process is gone. Its responses count still; its measurements do not.
    pub fn process_exited(&mut self) {
        self.exited = true;
    }

    /// Whether the worker's process is gone.
    pub fn has_exited(&self) -> bool {
        self.exited
    }

    /// Records that the link gave no packet. The cause of the relay's end, if this ends it.
    pub fn handle_link_error(&mut self, error: LinkError) -> Option<ExitCause> {
        match error {
            LinkError::Reset => {
                self.link_unread = true;
                None
            }
            LinkError::Closed => Some(self.exit()),
            _ if self.exited => Some(self.exit()),
            LinkError::Descriptor => Some(ExitCause::Violation("a descriptor")),
            LinkError::Other => Some(ExitCause::Violation("an oversized packet")),
        }
    }

    fn exit(&self) -> ExitCause {
        ExitCause::Exited { link_unread: self.link_unread }
    }

    /// Whether the request that was dispatched last provably never reached Lua. On the socket: the worker exited with something unread in
    /// its link, and nothing was sent after the request. In the lane: the worker exited and had not `claimed` it. A worker that breaks
    /// the protocol proves nothing.
    pub fn never_reached_lua(&self, cause: &ExitCause, claimed: bool) -> bool {
        match (cause, self.way) {
            (ExitCause::Exited { link_unread }, Way::Socket) => *link_unread && !self.sent_since_dispatch,
            (ExitCause::Exited { .. }, Way::Lane | Way::Ahead) => !claimed,
            (ExitCause::StartFailed(_) | ExitCause::Violation(_), _) => false,
        }
    }

    // From the worker.

    /// Begins a packet. To be called before the first [`Self::next_event`] of each. `claimed`: whether the worker has claimed the request
    /// that was dispatched last, if it was sent through the lane.
    pub fn begin_packet(&mut self, claimed: bool) {
        (self.named, self.lines, self.claimed) = (None, 0, claimed);
        self.received_since_dispatch = true;
    }

    /// The next event of a packet; none at its end.
    ///
    /// # Errors
    /// If the packet is malformed, or has a message that the worker must not send now. The rest of the packet is not read.
    pub fn next_event<'p>(
        &mut self,
        packet: &mut &'p [u8],
    ) -> Result<Option<WorkerEvent<'p>>, ProtocolViolation> {
        while !packet.is_empty() {
            let message = FromWorker::decode(packet).map_err(|_| ProtocolViolation("a malformed message"))?;
            if let Some(event) = self.handle_message(message)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// The event of a message; none where the message only concerns the protocol, or comes of a worker that is gone.
    fn handle_message<'p>(
        &mut self,
        message: FromWorker<'p>,
    ) -> Result<Option<WorkerEvent<'p>>, ProtocolViolation> {
        let event = match message {
            FromWorker::Answering { serial } => {
                self.named = Some(serial);
                return Ok(None);
            }
            FromWorker::Head { block } => {
                self.check_response()?;
                WorkerEvent::ResponseHead { block }
            }
            FromWorker::Body { bytes } => {
                self.check_response()?;
                WorkerEvent::ResponseBody { bytes }
            }
            FromWorker::File { offset, length } => {
                self.check_response()?;
                if !std::mem::take(&mut self.takes_file) {
                    return Err(ProtocolViolation("a file that it was not asked for"));
                }
                WorkerEvent::ResponseFile { offset, length }
            }
            FromWorker::End { complete } => {
                self.check_response()?;
                self.turn = Turn::Answered;
                WorkerEvent::ResponseEnd { complete }
            }
            FromWorker::Ready => {
                self.turn = match self.turn {
                    Turn::Starting | Turn::Answered => Turn::Idle,
                    Turn::Idle => return Err(ProtocolViolation("ready twice")),
                    Turn::Running => return Err(ProtocolViolation("ready in the middle of a request")),
                };
                (self.requested.trace_stack, self.requested.timeout_stack) = (false, false);
                WorkerEvent::Ready
            }
            FromWorker::StartFailed { message } if self.turn == Turn::Starting => {
                WorkerEvent::StartFailed { message }
            }
            FromWorker::StartFailed { .. } => {
                return Err(ProtocolViolation("a failed start after its start"));
            }
            FromWorker::Measured { pss, lua_heap } => {
                if !std::mem::take(&mut self.requested.measurement) {
                    return Err(ProtocolViolation("figures that nobody asked for"));
                }
                return Ok((!self.exited).then_some(WorkerEvent::Measured { pss, lua_heap }));
            }
            FromWorker::Log { level, message, fields } => {
                self.lines += 1;
                if self.lines > MAX_LINES {
                    return Err(ProtocolViolation("too many log lines at once"));
                }
                WorkerEvent::Log { level, message, fields }
            }
            FromWorker::Stack { timeout, text } => {
                let PendingReports { timeout_stack, trace_stack, .. } = &mut self.requested;
                if !std::mem::take(if timeout { timeout_stack } else { trace_stack }) {
                    return Err(ProtocolViolation("a stack that nobody asked for"));
                }
                WorkerEvent::Stack { timeout, text }
            }
        };
        Ok(Some(event))
    }

    /// Checks that response data belongs to the request that runs, and says so in its packet.
    fn check_response(&self) -> Result<(), ProtocolViolation> {
        let has_it = self.way == Way::Socket || self.claimed;
        if self.turn == Turn::Running && has_it && self.named == Some(self.serial.number()) {
            Ok(())
        } else {
            Err(ProtocolViolation("an answer to a request that it does not have"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: FromWorker<'_> = FromWorker::Ready;
    const HEAD: FromWorker<'_> = FromWorker::Head { block: b"\n" };
    const BODY: FromWorker<'_> = FromWorker::Body { bytes: b"b" };
    const END: FromWorker<'_> = FromWorker::End { complete: true };
    const FAILED: FromWorker<'_> = FromWorker::StartFailed { message: b"no" };
    const STACK: FromWorker<'_> = FromWorker::Stack { timeout: false, text: b"" };
    const FIGURES: FromWorker<'_> = FromWorker::Measured { pss: 1, lua_heap: 1 };
    const FIRST: FromWorker<'_> = FromWorker::Answering { serial: 1 };

    const UNASKED: Result<usize, &str> = Err("an answer to a request that it does not have");

    /// The number of events in a packet of these messages, or the violation.
    fn receive(protocol: &mut WorkerProtocol, messages: &[FromWorker<'_>]) -> Result<usize, &'static str> {
        let mut packet = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut packet));
        protocol.begin_packet(true);
        let (mut rest, mut events) = (&packet[..], 0);
        while protocol.next_event(&mut rest).map_err(|ProtocolViolation(what)| what)?.is_some() {
            events += 1;
        }
        Ok(events)
    }

    fn starting() -> WorkerProtocol {
        WorkerProtocol::default()
    }

    fn ready() -> WorkerProtocol {
        let mut protocol = starting();
        assert_eq!(receive(&mut protocol, &[READY]), Ok(1));
        protocol
    }

    fn running() -> WorkerProtocol {
        let mut protocol = ready();
        protocol.dispatched(Way::Socket, false);
        protocol
    }

    fn answered() -> WorkerProtocol {
        let mut protocol = running();
        assert_eq!(receive(&mut protocol, &[FIRST, HEAD, END]), Ok(2));
        protocol
    }

    #[test]
    fn only_a_worker_that_was_just_dispatched_to_has_an_empty_link() {
        assert!(!starting().awaits_first_packet() && !ready().awaits_first_packet());
        assert!(!answered().awaits_first_packet(), "Ready follows");
        let mut protocol = running();
        assert!(protocol.awaits_first_packet());
        assert_eq!(receive(&mut protocol, &[FIRST, HEAD]), Ok(1));
        assert!(!protocol.awaits_first_packet(), "the body may be in the link");
    }

    /// Every message in every turn.
    #[test]
    fn transitions() {
        let (twice, early) = (Err("ready twice"), Err("ready in the middle of a request"));
        let started = Err("a failed start after its start");
        type Case = (FromWorker<'static>, Result<usize, &'static str>, Turn);
        type Row = (fn() -> WorkerProtocol, [Case; 5]);
        #[rustfmt::skip]
        let table: [Row; 4] = [
            (starting, [(READY, Ok(1), Turn::Idle), (HEAD, UNASKED, Turn::Starting), (BODY, UNASKED, Turn::Starting), (END, UNASKED, Turn::Starting), (FAILED, Ok(1), Turn::Starting)]),
            (ready, [(READY, twice, Turn::Idle), (HEAD, UNASKED, Turn::Idle), (BODY, UNASKED, Turn::Idle), (END, UNASKED, Turn::Idle), (FAILED, started, Turn::Idle)]),
            (running, [(READY, early, Turn::Running), (HEAD, Ok(1), Turn::Running), (BODY, Ok(1), Turn::Running), (END, Ok(1), Turn::Answered), (FAILED, started, Turn::Running)]),
            (answered, [(READY, Ok(1), Turn::Idle), (HEAD, UNASKED, Turn::Answered), (BODY, UNASKED, Turn::Answered), (END, UNASKED, Turn::Answered), (FAILED, started, Turn::Answered)]),
        ];
        for (make, cases) in table {
            for (message, expected, turn) in cases {
                let mut protocol = make();
                let before = protocol.turn;
                assert_eq!(
                    receive(&mut protocol, &[FIRST, message]),
                    expected,
                    "{message:?} while {before:?}"
                );
                assert_eq!(protocol.turn, turn, "after {message:?} while {before:?}");
            }
        }
    }

    #[test]
    fn a_file_comes_where_it_was_asked_for_and_once() {
        const FILE: FromWorker<'_> = FromWorker::File { offset: 0, length: 1 };
        const UNWANTED: Result<usize, &str> = Err("a file that it was not asked for");
        assert_eq!(receive(&mut ready(), &[FIRST, FILE]), UNASKED);
        assert_eq!(receive(&mut running(), &[FIRST, HEAD, FILE]), UNWANTED);
        let mut protocol = ready();
        protocol.dispatched(Way::Socket, true);
        assert_eq!(receive(&mut protocol, &[FILE]), UNASKED);
        assert_eq!(receive(&mut protocol, &[FIRST, HEAD, FILE]), Ok(2));
        assert_eq!(receive(&mut protocol, &[FIRST, FILE]), UNWANTED);
    }

    #[test]
    fn a_response_names_its_request_in_each_packet() {
        assert_eq!(receive(&mut running(), &[FIRST, HEAD, END, READY]), Ok(3));
        assert_eq!(receive(&mut running(), &[HEAD]), UNASKED);
        assert_eq!(receive(&mut running(), &[FromWorker::Answering { serial: 2 }, HEAD]), UNASKED);
        let mut protocol = running();
        assert_eq!(receive(&mut protocol, &[FIRST, HEAD]), Ok(1));
        assert_eq!(receive(&mut protocol, &[END]), UNASKED);
    }

    #[test]
    fn a_response_sent_ahead_is_not_taken_for_that_to_the_next_request() {
        let mut protocol = running();
        assert_eq!(receive(&mut protocol, &[FIRST, HEAD, END, READY]), Ok(3));
        assert_eq!(protocol.serial().number(), 1);
        protocol.dispatched(Way::Socket, false);
        assert_eq!(protocol.serial().number(), 2);
        assert_eq!(receive(&mut protocol, &[FIRST, HEAD, END, READY]), UNASKED);
    }

    #[test]
    fn reports_come_when_they_were_requested_and_once() {
        let unasked = Err("a stack that nobody asked for");
        let mut protocol = running();
        assert_eq!(receive(&mut protocol.clone(), &[STACK]), unasked);
        protocol.stack_requested(Kind::Timeout);
        assert_eq!(receive(&mut protocol.clone(), &[STACK]), unasked);
        protocol.stack_requested(Kind::Trace);
        assert_eq!(receive(&mut protocol.clone(), &[STACK, STACK]), unasked);
        // Between the end of its response and the next request the worker still runs Lua.
        assert_eq!(receive(&mut protocol.clone(), &[FIRST, HEAD, END, STACK]), Ok(3));
        assert_eq!(receive(&mut protocol, &[FIRST, HEAD, END, READY, STACK]), unasked);

        let mut protocol = ready();
        protocol.measurement_requested();
        assert_eq!(receive(&mut protocol, &[FIGURES]), Ok(1));
        assert_eq!(receive(&mut protocol, &[FIGURES]), Err("figures that nobody asked for"));
    }

    #[test]
    fn log_lines_of_a_packet_are_bounded() {
        let line = FromWorker::Log { level: LogLevel::Info, message: b"", fields: b"" };
        let (mut protocol, most) = (ready(), MAX_LINES as usize);
        assert_eq!(receive(&mut protocol, &vec![line; most]), Ok(most));
        assert_eq!(receive(&mut protocol, &vec![line; most + 1]), Err("too many log lines at once"));
    }

    /// Its number may be its successor's by then.
    #[test]
    fn measurements_of_a_worker_that_is_gone_are_dropped_and_its_response_is_not() {
        let mut protocol = running();
        protocol.measurement_requested();
        assert!(!protocol.has_exited());
        protocol.process_exited();
        assert!(protocol.has_exited());
        assert_eq!(receive(&mut protocol, &[FIRST, HEAD, FIGURES, END, READY]), Ok(3));
    }

    #[test]
    fn one_packet_follows_room_whoever_takes_it_meanwhile() {
        let mut protocol = running();
        assert_eq!(protocol.next_step(None::<()>), RelayStep::AwaitPacket);
        assert_eq!(protocol.next_step(Some(())), RelayStep::AwaitRoom(()));
        assert_eq!(protocol.next_step(Some(())), RelayStep::AwaitRoom(()), "no room yet");
        protocol.room_granted();
        assert_eq!(protocol.next_step(Some(())), RelayStep::AwaitPacket);
        assert_eq!(protocol.next_step(Some(())), RelayStep::AwaitRoom(()), "one");
        protocol.room_granted();
        assert_eq!(protocol.next_step(None::<()>), RelayStep::AwaitPacket);
        assert_eq!(
            protocol.next_step(Some(())),
            RelayStep::AwaitRoom(()),
            "a grant that was not needed is not kept"
        );
    }

    #[test]
    fn a_link_is_read_to_its_end_once_the_process_is_gone_and_no_further_than_it_can_hold() {
        let mut protocol = running();
        protocol.process_exited();
        for packet in 0..MAX_PACKETS_IN_LINK {
            assert_eq!(protocol.next_step(Some(())), RelayStep::AwaitRoom(()), "packet {packet}");
            protocol.room_granted();
            assert_eq!(protocol.next_step(Some(())), RelayStep::ReceiveRest, "packet {packet}");
        }
        let end = ExitCause::Exited { link_unread: false };
        assert_eq!(protocol.next_step(None::<()>), RelayStep::End(end));
    }

    /// Every error of the link, while the process lives and once it is gone, before and after a reset.
    #[test]
    fn link_errors() {
        let exit = |link_unread| Some(ExitCause::Exited { link_unread });
        let violation = |what| Some(ExitCause::Violation(what));
        for (gone, reset) in [(false, false), (false, true), (true, false), (true, true)] {
            let mut protocol = running();
            if gone {
                protocol.process_exited();
            }
            if reset {
                assert_eq!(protocol.handle_link_error(LinkError::Reset), None);
            }
            assert_eq!(protocol.handle_link_error(LinkError::Closed), exit(reset));
            let descriptor = if gone { exit(reset) } else { violation("a descriptor") };
            assert_eq!(protocol.handle_link_error(LinkError::Descriptor), descriptor);
            let other = if gone { exit(reset) } else { violation("an oversized packet") };
            assert_eq!(protocol.handle_link_error(LinkError::Other), other);
        }
    }

    #[test]
    fn a_request_never_reached_lua_only_where_nothing_else_can_be_the_unread_message() {
        let unread = ExitCause::Exited { link_unread: true };
        let mut protocol = running();
        assert!(protocol.never_reached_lua(&unread, true));
        for cause in [
            ExitCause::Exited { link_unread: false },
            ExitCause::Violation("a descriptor"),
            ExitCause::StartFailed(String::new()),
        ] {
            assert!(!protocol.never_reached_lua(&cause, true), "{cause:?}");
        }
        protocol.message_sent();
        assert!(!protocol.never_reached_lua(&unread, true));
        assert_eq!(receive(&mut protocol, &[FIRST, HEAD, END, READY]), Ok(3));
        protocol.dispatched(Way::Socket, false);
        assert!(protocol.never_reached_lua(&unread, true), "the message before this request was read");
    }

    #[test]
    fn a_request_in_the_lane_never_reached_lua_where_it_is_not_claimed() {
        let mut protocol = ready();
        protocol.dispatched(Way::Lane, false);
        protocol.message_sent();
        for link_unread in [false, true] {
            let exited = ExitCause::Exited { link_unread };
            assert!(protocol.never_reached_lua(&exited, false) && !protocol.never_reached_lua(&exited, true));
        }
        assert!(!protocol.never_reached_lua(&ExitCause::Violation("any"), false), "it proves nothing");
    }

    #[test]
    fn only_a_claimed_request_of_the_lane_is_answered() {
        let answer = [FIRST, HEAD, END, READY];
        let mut packet = Vec::new();
        answer.iter().for_each(|message| message.encode(&mut packet));
        for claimed in [false, true] {
            let mut protocol = ready();
            protocol.dispatched(Way::Lane, false);
            protocol.begin_packet(claimed);
            assert_eq!(protocol.next_event(&mut &packet[..]).is_ok(), claimed);
        }
        // A claim is one of a single request.
        let mut protocol = ready();
        protocol.dispatched(Way::Lane, false);
        protocol.begin_packet(true);
        let mut rest = &packet[..];
        while protocol.next_event(&mut rest).is_ok_and(|event| event.is_some()) {}
        protocol.dispatched(Way::Lane, false);
        let mut next = Vec::new();
        [FromWorker::Answering { serial: 2 }, HEAD].iter().for_each(|message| message.encode(&mut next));
        assert!(protocol.next_event(&mut &next[..]).is_err());
    }
}
