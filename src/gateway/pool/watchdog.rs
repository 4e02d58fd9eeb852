//! The driver of the deadlines of running requests ([`Run`]): logs the stack of a slow request, answers a request that has run for
//! too long, kills a worker that does not stop.
//!
//! One task serves all workers. A request costs a time stamp in its [`Run`], a stream one more for each packet, and neither costs a
//! timer. A request or stream that starts later cannot be due before the shortest limit has passed, and progress of a response only
//! postpones deadlines. So the task sleeps for the shortest limit, or until the first deadline of a running request. It never waits
//! for a worker.

use std::rc::Rc;
use std::time::Instant;

use crate::config::Config;
use crate::gateway::Gateway;
use crate::gateway::pool::log_limits::LogKind;
use crate::gateway::pool::worker::{TOO_LONG, WorkerHandle};
use crate::link::interrupt::Kind;
use crate::link::message::LogLevel;
use crate::log::{Span, escape};
use crate::proto::run::{Run, RunAction, RunLimit, RunLimits};

/// The reason for which a worker sends no stack and does not stop.
const DEAF: &str = "it is in C code, or in Lua code that LuaJIT has compiled";

fn limits_of(config: &Config) -> RunLimits {
    RunLimits {
        slow_log: config.slow_log,
        request: config.request_timeout,
        stream: config.stream_timeout,
        kill_after: config.kill_after,
    }
}

/// Handles the deadlines of all workers while the gateway runs.
pub(crate) async fn keep(gateway: Rc<Gateway>) {
    // A reload may have changed the limits.
    let mut reloads = gateway.mode.code.subscribe();
    loop {
        let (now, settled) = (Instant::now(), gateway.clock.settled());
        let limits = limits_of(&gateway.config());
        let first = {
            // Dropped before the wait, so that no handle outlives its worker here.
            let links: Vec<_> = gateway.workers.borrow().values().map(Rc::clone).collect();
            links.iter().filter_map(|link| act_on_deadlines(&gateway, link, &limits, settled, now)).min()
        };
        let fresh = limits.shortest().map(|shortest| now + shortest);
        tokio::select! {
            () = gateway.clock.passed(first.into_iter().chain(fresh).min()) => {}
            _ = reloads.changed() => {}
        }
    }
}

/// Handles all deadlines of a worker that passed by `settled`. Returns its next deadline.
fn act_on_deadlines(
    gateway: &Gateway,
    link: &WorkerHandle,
    limits: &RunLimits,
    settled: Instant,
    now: Instant,
) -> Option<Instant> {
    loop {
        let mut run = link.run()?;
        let Some(action) = run.handle_timeout(settled, now, limits) else { return run.next_deadline(limits) };
        link.set_run(run);
        match action {
            RunAction::RequestStack => link.interrupt(Kind::Trace),
            RunAction::ReportWithoutStack => {
                let age = Span::from(now - run.dispatched_at());
                let message = format!("{} has run for {age} (--slow-log); {DEAF}", link.request_line());
                gateway.log_limits.log(LogKind::SlowRequests, now, |left_out| {
                    link.log(LogLevel::Warn, left_out, message.as_bytes());
                });
            }
            RunAction::TimeOut(limit) => time_out(gateway, link, run, limit, now),
            RunAction::Kill => kill(gateway, link, limits, now),
        }
    }
}

/// Handles the time-out of a request. Answers the client at once; in development only with the stack from the worker.
fn time_out(gateway: &Gateway, link: &WorkerHandle, mut run: Run, limit: RunLimit, now: Instant) {
    let (line, still) = (link.request_line(), Span::from(now - run.last_progress()));
    let what = match (limit, run.streaming_since()) {
        (RunLimit::Stream, Some(since)) => {
            format!("has streamed for {} (--stream-timeout)", Span::from(now - since))
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
    let written = gateway.log_limits.log(LogKind::Deadlines, now, |left_out| {
        link.log(LogLevel::Error, left_out, format!("{line} {what}").as_bytes());
    });
    run.record_timeout_line(written);
    link.set_run(run);
    // The worker has started well, even if it is killed now.
    gateway.pool.borrow_mut().record_answer(link.name().worker);
    if !gateway.mode.development {
        link.give_up();
    }
    link.interrupt(Kind::Timeout);
}

/// Kills a worker whose request did not stop after its time-out.
fn kill(gateway: &Gateway, link: &WorkerHandle, limits: &RunLimits, now: Instant) {
    let (line, late) = (link.request_line(), Span::from(limits.kill_after));
    gateway.log_limits.log(LogKind::Deadlines, now, |left_out| {
        let message = format!("{line} has not stopped {late} later (--kill-after): killed");
        link.log(LogLevel::Error, left_out, message.as_bytes());
    });
    if gateway.mode.development && !link.has_given_up() {
        link.stderr(&format!("{line}: {TOO_LONG} (--request-timeout), and did not stop: {DEAF}"));
    }
    link.give_up();
    link.kill_group();
}

/// Logs the stack of a running request, as requested from its worker.
pub(super) fn log_stack(gateway: &Gateway, link: &WorkerHandle, timeout: bool, text: &[u8]) {
    let Some(mut run) = link.run() else { return };
    let line = link.request_line();
    if !timeout {
        run.record_slow_stack();
        link.set_run(run);
        let now = Instant::now();
        gateway.log_limits.log(LogKind::SlowRequests, now, |left_out| {
            let head = format!("{line} has run for {} (--slow-log)\n", Span::from(now - run.dispatched_at()));
            link.log(LogLevel::Warn, left_out, &[head.as_bytes(), text].concat());
        });
        return;
    }
    if run.is_timeout_logged() {
        link.log(LogLevel::Error, None, &[line.as_bytes(), b": ", text].concat());
    }
    if gateway.mode.development {
        link.stderr(&format!("{line}: {}", escape::text(text)));
        link.give_up();
    }
}
