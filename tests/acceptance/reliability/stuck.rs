//! Processes that hang where they should end or fork.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::nonces::kinds;
use super::{Row, Scale};
use crate::support::{App, Server, children, is_stopped, signal, wait_for, wait_within};

/// The most workers of a pool of four: the serving ones, their successors, and as many draining ones.
const MOST: usize = 12;

/// A zygote's time to fork, and the most time until another zygote has forked on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(1);
const FORKED: Duration = Duration::from_secs(2);

/// The most time until draining workers are gone: two seconds, and time for a busy machine.
const SETTLED: Duration = Duration::from_secs(20);

/// Stop hooks that never return, with a new worker for every request.
pub(super) fn stop_hooks(scale: Scale) -> Row {
    let app = App::new(
        "require('nibiru').on_worker_stop(function() os.execute('sleep 600') end)\n\
         return function() return 200, {}, 'served' end",
    );
    let server = Server::builder().application(app.root(), "app").workers("4");
    let server = server.arguments(["--max-requests", "1"]).inspectable().start();
    server.wait_for_idle(4);
    server.wait_for_no_client();
    let held = || (server.workers(4).len(), kinds(server.pid()));
    let fresh = held();
    let count = scale.of(10, 300);
    let (mut served, mut most) = (0, 0);
    for _ in 0..count {
        let response = server.get("/");
        served += u32::from(response.status() == 200 && response.body() == b"served");
        most = most.max(children(server.zygote()).len());
    }
    let mut row = Row::of(count.into());
    row.promise(served == count, format!("every request is served, not {served}"));
    row.promise(most <= MOST, format!("{MOST} workers at most, not {most}"));
    let mut last = None;
    let settled = wait_within(SETTLED, || {
        last = Some(held());
        (last.as_ref() == Some(&fresh)).then_some(())
    });
    row.promise(
        settled.is_some(),
        format!("processes and descriptors are those of the beginning: {fresh:?}, not {last:?}"),
    );
    row.measured(format!("{most} workers at most"));
    row
}

/// A zygote that is stopped before a worker has to be replaced.
pub(super) fn zygotes(scale: Scale) -> Row {
    let timeout = format!("{}s", START_TIMEOUT.as_secs());
    let server = Server::builder().workers("4").arguments(["--start-timeout", &timeout]).start();
    let served = || u64::from(server.get("/hello").status() == 200);
    let (count, mut asked, mut answered) = (scale.of(1, 30), 1, served());
    let mut times = Vec::new();
    for _ in 0..count {
        let (zygote, before) = (server.zygote(), server.workers(4));
        signal(zygote, Signal::STOP);
        wait_for("the zygote is stopped", || is_stopped(zygote).then_some(()));
        let victim = *before.first().expect("four workers");
        signal(victim, Signal::KILL);
        let begin = Instant::now();
        // A dying worker could still read a request.
        wait_for("the worker has ended", || (!children(zygote).contains(&victim)).then_some(()));
        // The other workers serve meanwhile. They are not children of the next zygote.
        wait_for("another zygote has forked a worker", || {
            (asked, answered) = (asked + 1, answered + served());
            let zygotes = children(server.pid());
            zygotes.iter().any(|it| *it != zygote && !children(*it).is_empty()).then_some(())
        });
        times.push(begin.elapsed().saturating_sub(START_TIMEOUT));
        before.iter().for_each(|worker| signal(*worker, Signal::KILL));
        server.workers(4);
    }
    let mut row = Row::of(asked);
    row.promise(answered == asked, format!("no request fails, not {}", asked - answered));
    row.measured(format!("{count} zygotes stopped"));
    let p99 = row.times("after --start-timeout, to the next worker", &mut times);
    row.promise(p99 <= scale.bound(FORKED), "a worker of another zygote starts within 2 s");
    row
}
