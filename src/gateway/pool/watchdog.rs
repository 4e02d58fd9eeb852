//! Deadlines of running requests: asks for the stack of a slow one, answers one that has run too long, kills
//! the worker that does not stop.
//!
//! One task for all of them, on the monotonic clock. A request costs a time stamp in its [`Run`], one that streams another for
//! each packet, and none a timer: what starts later, a request or a stream, cannot be due before the shortest limit has
//! passed from now, and a piece of an answer only puts off what is due. So the task sleeps until then, or until the
//! first that runs now is due. Never waits for a worker.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::gateway::Gateway;
use crate::gateway::pool::throttles::About;
use crate::gateway::pool::worker::WorkerLink;
use crate::link::interrupt::Kind;
use crate::link::message::LogLevel;
use crate::log::escape;

/// How long a worker may take to tell its stack before it counts as deaf. A Lua instruction takes nanoseconds, so only
/// code that is no Lua takes longer, or a machine that is too busy to tell.
const STACK_WAIT: Duration = Duration::from_secs(1);

/// What the client reads.
pub(crate) const TOO_LONG: &str = "the request ran for too long";

/// Why there is no stack, and no stopping.
const DEAF: &str = "it is in C code, or in Lua code that LuaJIT has compiled";

/// How far a worker's request is past its limits. From the moment it is handed over until the worker is ready again, so
/// `after_response` counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    started: Instant,
    /// When it was handed over, or the worker last gave a piece of an answer that streams.
    moved: Instant,
    /// When the head was there, where that was not the end of the answer as well.
    streams: Option<Instant>,
    look: Look,
    /// When it was told to stop.
    overdue: Option<Instant>,
    /// The log has a line about that, and is to have the stack as well.
    told: bool,
    killed: bool,
}

/// Whether its stack was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Not,
    Asked(Instant),
    Done,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    AskForStack,
    DoWithoutStack,
    TimeOut(Limit),
    Kill,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Request,
    Stream,
}

/// The settings that matter here.
#[derive(Clone, Copy, Debug)]
struct Limits {
    slow: Option<Duration>,
    timeout: Option<Duration>,
    stream: Option<Duration>,
    kill_after: Duration,
}

impl Limits {
    fn of(config: &Config) -> Self {
        Self {
            slow: config.slow_log,
            timeout: config.request_timeout,
            stream: config.stream_timeout,
            kill_after: config.kill_after,
        }
    }

    /// How soon a request or a stream that starts now can be due.
    fn shortest(&self) -> Option<Duration> {
        self.slow.into_iter().chain(self.timeout).chain(self.stream).min()
    }
}

impl Run {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            moved: started,
            streams: None,
            look: Look::Not,
            overdue: None,
            told: false,
            killed: false,
        }
    }

    /// When it was handed over.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// When it was handed over, or the worker last gave a piece of an answer that streams.
    pub(crate) fn moved_at(&self) -> Instant {
        self.moved
    }

    /// Whether its answer has come in part.
    pub(crate) fn streams(&self) -> bool {
        self.streams.is_some()
    }

    /// The run after a piece of its answer, or the end of one that streams: from now on `--request-timeout` counts anew.
    pub(crate) fn moved(self, now: Instant) -> Self {
        Self { moved: now, streams: self.streams.or(Some(now)), ..self }
    }

    /// Whether it has reached its deadline.
    pub(crate) fn is_overdue(&self) -> bool {
        self.overdue.is_some()
    }

    /// What is due next, and when.
    fn next(&self, limits: &Limits) -> Option<(Instant, Act)> {
        if let Some(since) = self.overdue {
            return (!self.killed).then(|| (since + limits.kill_after, Act::Kill));
        }
        let look = match self.look {
            Look::Not => limits.slow.map(|slow| (self.started + slow, Act::AskForStack)),
            Look::Asked(at) => Some((at + STACK_WAIT, Act::DoWithoutStack)),
            Look::Done => None,
        };
        let timeout = limits.timeout.map(|timeout| (self.moved + timeout, Act::TimeOut(Limit::Request)));
        let stream = self.streams.zip(limits.stream);
        let stream = stream.map(|(since, limit)| (since + limit, Act::TimeOut(Limit::Stream)));
        look.into_iter().chain(timeout).chain(stream).min_by_key(|(due, _)| *due)
    }

    /// The run after `act`.
    fn after(mut self, act: Act, now: Instant) -> Self {
        match act {
            Act::AskForStack => self.look = Look::Asked(now),
            Act::DoWithoutStack => self.look = Look::Done,
            Act::TimeOut(_) => self.overdue = Some(now),
            Act::Kill => self.killed = true,
        }
        self
    }
}

/// Keeps the deadlines for ever.
pub(crate) async fn keep(gateway: Rc<Gateway>) {
    // A load of the application may have come with other settings.
    let mut reloads = gateway.mode.code.subscribe();
    loop {
        let (now, settled) = (Instant::now(), gateway.clock.settled());
        let limits = Limits::of(&gateway.config());
        let first = {
            // Let go before the wait: a worker's link must not outlive it here.
            let links: Vec<_> = gateway.workers.borrow().values().map(Rc::clone).collect();
            links.iter().filter_map(|link| attend(&gateway, link, &limits, settled, now)).min()
        };
        let fresh = limits.shortest().map(|shortest| now + shortest);
        tokio::select! {
            () = gateway.clock.passed(first.into_iter().chain(fresh).min()) => {}
            _ = reloads.changed() => {}
        }
    }
}

/// Does what is due for a worker by `settled`; gives when something is again.
fn attend(
    gateway: &Gateway,
    link: &WorkerLink,
    limits: &Limits,
    settled: Instant,
    now: Instant,
) -> Option<Instant> {
    loop {
        let run = link.run()?;
        let (due, act) = run.next(limits)?;
        if due > settled {
            return Some(due);
        }
        link.set_run(run.after(act, now));
        match act {
            Act::AskForStack => link.interrupt(Kind::Trace),
            Act::DoWithoutStack => {
                let age = seconds(now - run.started);
                let message = format!("{} has run for {age} (--slow-log); {DEAF}", link.request_line());
                gateway.throttles.say(About::SlowRequests, now, |left_out| {
                    link.log(LogLevel::Warn, left_out, message.as_bytes());
                });
            }
            Act::TimeOut(limit) => time_out(gateway, link, &run, limit, now),
            Act::Kill => kill(gateway, link, limits, now),
        }
    }
}

/// A request has reached its deadline. Its client is answered whatever the worker does, but in development, where
/// the stack goes to the client as well.
fn time_out(gateway: &Gateway, link: &WorkerLink, run: &Run, limit: Limit, now: Instant) {
    let (line, still) = (link.request_line(), seconds(now - run.moved));
    let what = match (limit, run.streams) {
        (Limit::Stream, Some(since)) => {
            format!("has streamed for {} (--stream-timeout)", seconds(now - since))
        }
        (_, None) => format!("has run for {still} (--request-timeout)"),
        (_, Some(_)) => {
            let what = match link.running() {
                Some(request) if request.response.room().is_some() => "has waited for its client to read for",
                Some(_) => "has sent nothing for",
                None => "has gone on after its answer for",
            };
            format!("{what} {still} (--request-timeout)")
        }
    };
    let told = gateway.throttles.say(About::Deadlines, now, |left_out| {
        link.log(LogLevel::Error, left_out, format!("{line} {what}").as_bytes());
    });
    if let Some(run) = link.run() {
        link.set_run(Run { told, ..run });
    }
    // It has started well, whatever becomes of it now.
    gateway.pool.borrow_mut().answered(link.name().worker);
    if !gateway.mode.development {
        link.give_up();
    }
    link.interrupt(Kind::Timeout);
}

/// A worker goes on with a request that was told to stop.
fn kill(gateway: &Gateway, link: &WorkerLink, limits: &Limits, now: Instant) {
    let (line, late) = (link.request_line(), seconds(limits.kill_after));
    gateway.throttles.say(About::Deadlines, now, |left_out| {
        let message = format!("{line} has not stopped {late} later (--kill-after): killed");
        link.log(LogLevel::Error, left_out, message.as_bytes());
    });
    if gateway.mode.development && !link.has_given_up() {
        link.stderr(&format!("{line}: {TOO_LONG} (--request-timeout), and did not stop: {DEAF}"));
    }
    link.give_up();
    link.kill_group();
}

/// A worker tells the stack of its request, as it was asked to.
pub(crate) fn stack(gateway: &Gateway, link: &WorkerLink, timeout: bool, text: &[u8]) {
    let Some(run) = link.run() else { return };
    let line = link.request_line();
    if !timeout {
        link.set_run(Run { look: Look::Done, ..run });
        let now = Instant::now();
        gateway.throttles.say(About::SlowRequests, now, |left_out| {
            let head = format!("{line} has run for {} (--slow-log)\n", seconds(now - run.started));
            link.log(LogLevel::Warn, left_out, &[head.as_bytes(), text].concat());
        });
        return;
    }
    if run.told {
        link.log(LogLevel::Error, None, &[line.as_bytes(), b": ", text].concat());
    }
    if gateway.mode.development {
        link.stderr(&format!("{line}: {}", escape::text(text)));
        link.give_up();
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        slow: Some(Duration::from_secs(2)),
        timeout: Some(Duration::from_secs(30)),
        stream: None,
        kill_after: Duration::from_secs(5),
    };

    /// What happens to a request that never ends, with the seconds since its start.
    fn story(limits: &Limits, answers: bool) -> Vec<(u64, Act)> {
        let started = Instant::now();
        let (mut run, mut story) = (Run::new(started), Vec::new());
        while let Some((due, act)) = run.next(limits) {
            story.push(((due - started).as_secs(), act));
            run = run.after(act, due);
            if answers && act == Act::AskForStack {
                run.look = Look::Done;
            }
        }
        story
    }

    #[test]
    fn a_request_that_never_ends_is_looked_at_then_told_to_stop_then_killed() {
        let end = [(30, Act::TimeOut(Limit::Request)), (35, Act::Kill)];
        assert_eq!(story(&LIMITS, true), [&[(2, Act::AskForStack)][..], &end].concat());
        let deaf = [(2, Act::AskForStack), (3, Act::DoWithoutStack)];
        assert_eq!(story(&LIMITS, false), [&deaf[..], &end].concat());
    }

    #[test]
    fn limits_that_are_off_are_never_due() {
        let off = Limits { slow: None, timeout: None, ..LIMITS };
        assert_eq!((story(&off, true), off.shortest()), (vec![], None));
        let slow = Limits { timeout: None, ..LIMITS };
        assert_eq!(story(&slow, true), [(2, Act::AskForStack)]);
        assert_eq!(LIMITS.shortest(), Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_request_past_its_deadline_is_looked_at_no_more() {
        let limits = Limits { slow: Some(Duration::from_secs(29)), ..LIMITS };
        let mut run = Run::new(Instant::now()).after(Act::AskForStack, Instant::now());
        run = run.after(Act::TimeOut(Limit::Request), Instant::now());
        assert_eq!(run.next(&limits).map(|(_, act)| act), Some(Act::Kill));
    }

    /// When a request that started at 0 s is due, and why, where its answer has moved on at these seconds.
    fn due(limits: &Limits, moves: &[u64]) -> Option<(u64, Act)> {
        let started = Instant::now();
        let at = |seconds: &u64| started + Duration::from_secs(*seconds);
        let run = moves.iter().fold(Run::new(started), |run, seconds| run.moved(at(seconds)));
        run.next(limits).map(|(due, act)| ((due - started).as_secs(), act))
    }

    #[test]
    fn a_stream_is_due_when_it_has_not_moved_for_too_long_or_has_lasted_too_long() {
        let limits = Limits { slow: None, ..LIMITS };
        let silent = |at| Some((at, Act::TimeOut(Limit::Request)));
        assert_eq!(due(&limits, &[]), silent(30));
        assert_eq!(due(&limits, &[29]), silent(59));
        assert_eq!(due(&limits, &[1, 20, 40, 200]), silent(230));

        let limits = Limits { stream: Some(Duration::from_secs(60)), ..limits };
        assert_eq!(due(&limits, &[]), silent(30), "one that has not begun to answer does not stream");
        assert_eq!(due(&limits, &[10]), silent(40));
        let lasted = Some((70, Act::TimeOut(Limit::Stream)));
        assert_eq!(due(&limits, &[10, 39, 65]), lasted);
        assert_eq!(due(&Limits { timeout: None, ..limits }, &[10, 20]), lasted);
        assert_eq!(due(&Limits { timeout: None, ..limits }, &[]), None);
    }

    #[test]
    fn nothing_that_starts_later_is_due_before_the_shortest_limit_has_passed() {
        let second = |seconds| Some(Duration::from_secs(seconds));
        let limits = Limits { stream: second(5), ..LIMITS };
        assert_eq!(limits.shortest(), second(2));
        assert_eq!(Limits { slow: None, ..limits }.shortest(), second(5));
        // A request that has run for long may begin to stream at any moment: it is due so much later at the soonest.
        assert_eq!(due(&Limits { slow: None, ..limits }, &[29]), Some((34, Act::TimeOut(Limit::Stream))));
    }
}
