//! Deadlines of a running request: when its stack is logged, when its client is answered in the worker's place, when its
//! worker is killed. Std only, no I/O; time is an argument. [`crate::gateway`]'s watchdog is the driver.
//!
//! A run lasts from the dispatch of a request until its worker is ready again, so `after_response` counts.
//!
//! ```text
//! stage      due                                           action               next
//! in time    dispatch + slow log                           RequestStack         in time, stack pending
//! in time    stack pending + STACK_WAIT                    ReportWithoutStack   in time, stack settled
//! in time    progress + request timeout                    TimeOut(Request)     timed out
//! in time    first progress + stream timeout               TimeOut(Stream)      timed out
//! timed out  time-out + kill after                         Kill                 killed
//! killed     nothing
//! ```

use std::time::{Duration, Instant};

/// The longest that a worker may take to send its stack before its absence is logged. A Lua instruction takes nanoseconds, so
/// only code that is no Lua takes longer, or a machine that is too busy to tell.
const STACK_WAIT: Duration = Duration::from_secs(1);

/// The settings that a run's deadlines come from; none where a limit is off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunLimits {
    /// `--slow-log`, from the dispatch.
    pub(crate) slow_log: Option<Duration>,
    /// `--request-timeout`, from the dispatch or the last part of a response that streams.
    pub(crate) request: Option<Duration>,
    /// `--stream-timeout`, from the first part of a response that streams.
    pub(crate) stream: Option<Duration>,
    /// `--kill-after`, from the time-out.
    pub(crate) kill_after: Duration,
}

impl RunLimits {
    /// The shortest time from now after which a request or a stream that starts now can be due.
    pub(crate) fn shortest(&self) -> Option<Duration> {
        self.slow_log.into_iter().chain(self.request).chain(self.stream).min()
    }
}

/// The action that a deadline asks of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunAction {
    /// The worker is interrupted to send its stack.
    RequestStack,
    /// The log gets its line without the stack, which has not come.
    ReportWithoutStack,
    /// The client is answered in the worker's place, and the worker interrupted to fail.
    TimeOut(RunLimit),
    /// The worker is killed.
    Kill,
}

/// The limit that a request has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunLimit {
    /// [`RunLimits::request`].
    Request,
    /// [`RunLimits::stream`].
    Stream,
}

/// The state of one request's deadlines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    dispatched_at: Instant,
    /// The time of the last part of a response that streams; that of the dispatch before the first.
    last_progress: Instant,
    /// The time of the response's first part, where that was not its end as well.
    streaming_since: Option<Instant>,
    stack: SlowStack,
    stage: Stage,
    /// Whether the log has the line about the time-out, and so is to have the stack.
    timeout_logged: bool,
}

/// How far the stack for `--slow-log` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlowStack {
    NotRequested,
    /// Requested at this time.
    Pending(Instant),
    /// Logged, or done without.
    Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    InTime,
    TimedOut(Instant),
    Killed,
}

impl Run {
    /// The run of a request that is dispatched now.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            dispatched_at: now,
            last_progress: now,
            streaming_since: None,
            stack: SlowStack::NotRequested,
            stage: Stage::InTime,
            timeout_logged: false,
        }
    }

    /// The time of the dispatch.
    pub(crate) fn dispatched_at(&self) -> Instant {
        self.dispatched_at
    }

    /// The time of the last part of a response that streams; that of the dispatch before the first.
    pub(crate) fn last_progress(&self) -> Instant {
        self.last_progress
    }

    /// The time of the first part of a response that streams.
    pub(crate) fn streaming_since(&self) -> Option<Instant> {
        self.streaming_since
    }

    /// Whether the run has reached [`RunLimits::request`] or [`RunLimits::stream`].
    pub(crate) fn has_timed_out(&self) -> bool {
        self.stage != Stage::InTime
    }

    /// Whether the log has the line about the time-out.
    pub(crate) fn is_timeout_logged(&self) -> bool {
        self.timeout_logged
    }

    /// Records a part of a response that streams, or its end: [`RunLimits::request`] counts anew.
    pub(crate) fn record_progress(&mut self, now: Instant) {
        self.last_progress = now;
        self.streaming_since.get_or_insert(now);
    }

    /// Records whether the log has the line about the time-out.
    pub(crate) fn record_timeout_line(&mut self, written: bool) {
        self.timeout_logged = written;
    }

    /// Records that the stack for `--slow-log` has come.
    pub(crate) fn record_slow_stack(&mut self) {
        self.stack = SlowStack::Settled;
    }

    /// The time of the next action, if there is one.
    pub(crate) fn next_deadline(&self, limits: &RunLimits) -> Option<Instant> {
        self.next(limits).map(|(deadline, _)| deadline)
    }

    /// The next action that was due by `settled`, taken at `now`. To be called until there is none.
    pub(crate) fn handle_timeout(
        &mut self,
        settled: Instant,
        now: Instant,
        limits: &RunLimits,
    ) -> Option<RunAction> {
        let (_, action) = self.next(limits).filter(|(deadline, _)| *deadline <= settled)?;
        match action {
            RunAction::RequestStack => self.stack = SlowStack::Pending(now),
            RunAction::ReportWithoutStack => self.stack = SlowStack::Settled,
            RunAction::TimeOut(_) => self.stage = Stage::TimedOut(now),
            RunAction::Kill => self.stage = Stage::Killed,
        }
        Some(action)
    }

    /// The next action and its time.
    fn next(&self, limits: &RunLimits) -> Option<(Instant, RunAction)> {
        match self.stage {
            Stage::InTime => {}
            Stage::TimedOut(at) => return Some((at + limits.kill_after, RunAction::Kill)),
            Stage::Killed => return None,
        }
        let stack = match self.stack {
            SlowStack::NotRequested => {
                limits.slow_log.map(|slow| (self.dispatched_at + slow, RunAction::RequestStack))
            }
            SlowStack::Pending(at) => Some((at + STACK_WAIT, RunAction::ReportWithoutStack)),
            SlowStack::Settled => None,
        };
        let request = limits.request.map(|limit| (self.last_progress + limit, RunLimit::Request));
        let stream = self.streaming_since.zip(limits.stream);
        let stream = stream.map(|(since, limit)| (since + limit, RunLimit::Stream));
        let timeouts = request.into_iter().chain(stream);
        let timeouts = timeouts.map(|(deadline, limit)| (deadline, RunAction::TimeOut(limit)));
        stack.into_iter().chain(timeouts).min_by_key(|(deadline, _)| *deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: RunAction = RunAction::TimeOut(RunLimit::Request);
    const STREAM: RunAction = RunAction::TimeOut(RunLimit::Stream);

    /// Limits in seconds, where 0 is off; `--kill-after` is 5 s.
    fn limits(slow_log: u64, request: u64, stream: u64) -> RunLimits {
        let limit = |seconds| (seconds > 0).then(|| Duration::from_secs(seconds));
        RunLimits {
            slow_log: limit(slow_log),
            request: limit(request),
            stream: limit(stream),
            kill_after: Duration::from_secs(5),
        }
    }

    /// An event of a run.
    #[derive(Clone, Copy)]
    enum Event {
        Progress(u64),
        SlowStack,
        /// The deadline that is next passes, which asks for this action.
        Deadline(RunAction),
    }

    /// The next deadline, in seconds since the dispatch, after these events, with the action that it asks for.
    fn next_after(limits: &RunLimits, events: &[Event]) -> Option<(u64, RunAction)> {
        let start = Instant::now();
        let mut run = Run::new(start);
        for event in events {
            match *event {
                Event::Progress(seconds) => run.record_progress(start + Duration::from_secs(seconds)),
                Event::SlowStack => run.record_slow_stack(),
                Event::Deadline(action) => {
                    let deadline = run.next_deadline(limits).expect("a deadline");
                    let early = deadline - Duration::from_nanos(1);
                    assert_eq!(run.handle_timeout(early, deadline, limits), None, "not before its time");
                    assert_eq!(run.handle_timeout(deadline, deadline, limits), Some(action));
                }
            }
        }
        let deadline = run.next_deadline(limits)?;
        let action = run.handle_timeout(deadline, deadline, limits).expect("it is due");
        Some(((deadline - start).as_secs(), action))
    }

    /// Every stage, every action, and each limit where it is off.
    #[test]
    fn transitions() {
        use Event::{Deadline, Progress, SlowStack};
        use RunAction::{Kill, ReportWithoutStack, RequestStack};
        let (all, slow_only, stream_only) = (limits(2, 30, 60), limits(2, 0, 0), limits(0, 0, 60));
        type Row<'a> = (&'a RunLimits, &'a [Event], Option<(u64, RunAction)>);
        #[rustfmt::skip]
        let table: &[Row<'_>] = &[
            // No limit: nothing is ever due.
            (&limits(0, 0, 0), &[], None),
            (&limits(0, 0, 0), &[Progress(1)], None),
            // The stack for the log: requested once, and settled by its arrival or without it.
            (&all, &[], Some((2, RequestStack))),
            (&all, &[Progress(1)], Some((2, RequestStack))),
            (&all, &[Deadline(RequestStack)], Some((3, ReportWithoutStack))),
            (&all, &[Deadline(RequestStack), SlowStack], Some((30, REQUEST))),
            (&all, &[Deadline(RequestStack), Deadline(ReportWithoutStack)], Some((30, REQUEST))),
            (&slow_only, &[Deadline(RequestStack), SlowStack], None),
            (&slow_only, &[Deadline(RequestStack), Deadline(ReportWithoutStack)], None),
            // The request limit counts from the last progress.
            (&limits(0, 30, 0), &[], Some((30, REQUEST))),
            (&limits(0, 30, 0), &[Progress(29)], Some((59, REQUEST))),
            (&limits(0, 30, 0), &[Progress(1), Progress(20), Progress(40), Progress(200)], Some((230, REQUEST))),
            // The stream limit counts from the first progress, and not for a response that has not begun.
            (&stream_only, &[], None),
            (&stream_only, &[Progress(10), Progress(20)], Some((70, STREAM))),
            (&limits(0, 30, 60), &[Progress(10)], Some((40, REQUEST))),
            (&limits(0, 30, 60), &[Progress(10), Progress(39), Progress(65)], Some((70, STREAM))),
            // After a time-out: only the kill, whatever else would be due.
            (&limits(29, 30, 0), &[Deadline(RequestStack), Deadline(ReportWithoutStack), Deadline(REQUEST)], Some((35, Kill))),
            (&limits(30, 29, 0), &[Deadline(REQUEST)], Some((34, Kill))),
            (&limits(0, 30, 0), &[Deadline(REQUEST), Progress(33)], Some((35, Kill))),
            (&stream_only, &[Progress(10), Deadline(STREAM)], Some((75, Kill))),
            // After the kill: nothing.
            (&all, &[Deadline(RequestStack), SlowStack, Deadline(REQUEST), Deadline(Kill)], None),
            (&all, &[Deadline(RequestStack), SlowStack, Deadline(REQUEST), Deadline(Kill), Progress(99)], None),
        ];
        for (row, (limits, events, expected)) in table.iter().enumerate() {
            assert_eq!(next_after(limits, events), *expected, "row {row}");
        }
    }

    #[test]
    fn a_run_that_has_timed_out_says_so_until_its_end() {
        let (start, limits) = (Instant::now(), limits(0, 30, 0));
        let mut run = Run::new(start);
        assert!(!run.has_timed_out());
        let end = start + Duration::from_secs(100);
        assert_eq!(run.handle_timeout(end, end, &limits), Some(REQUEST));
        assert!(run.has_timed_out());
        assert_eq!(run.handle_timeout(end, end, &limits), None, "the worker has its time from then on");
        let later = end + limits.kill_after;
        assert_eq!(run.handle_timeout(later, later, &limits), Some(RunAction::Kill));
        assert!(run.has_timed_out());
    }

    /// The log's lines are made of these.
    #[test]
    fn a_run_tells_since_when_it_streams_when_it_last_moved_and_whether_its_time_out_is_logged() {
        let start = Instant::now();
        let [first, second] = [1, 2].map(|seconds| start + Duration::from_secs(seconds));
        let mut run = Run::new(start);
        assert_eq!((run.dispatched_at(), run.last_progress(), run.streaming_since()), (start, start, None));
        run.record_progress(first);
        run.record_progress(second);
        assert_eq!((run.dispatched_at(), run.last_progress()), (start, second));
        assert_eq!(run.streaming_since(), Some(first));
        for written in [false, true, false] {
            run.record_timeout_line(written);
            assert_eq!(run.is_timeout_logged(), written);
        }
    }

    #[test]
    fn a_request_or_stream_that_starts_later_is_not_due_before_the_shortest_limit_has_passed() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(limits(2, 30, 5).shortest(), seconds(2));
        assert_eq!(limits(0, 30, 5).shortest(), seconds(5));
        assert_eq!(limits(0, 0, 0).shortest(), None);
        // A request that has run for long may begin to stream at any moment: it is due so much later at the soonest.
        assert_eq!(next_after(&limits(0, 30, 5), &[Event::Progress(29)]), Some((34, STREAM)));
    }
}
