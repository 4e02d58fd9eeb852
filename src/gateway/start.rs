//! The start of a gateway, from the settings to the first answer: opens sockets and logs, starts the tasks, waits for the first
//! load.
//!
//! Called by `main` and by `dev`. Decides the order of a start only; the tasks do the rest.

use std::cell::{Cell, RefCell};
use std::io;
use std::num::NonZero;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::config::{self, Config};
use crate::gateway::Command;
use crate::gateway::Error;
use crate::gateway::Gateway;
use crate::gateway::Mode;
use crate::gateway::ReadConfig;
use crate::gateway::Scale;
use crate::gateway::clock::Clock;
use crate::gateway::control::{self, Control};
use crate::gateway::events::{SupervisorEvent, SupervisorEvents};
use crate::gateway::frontend::acceptor;
use crate::gateway::frontend::budget::Budget;
use crate::gateway::frontend::idle_exit;
use crate::gateway::frontend::listener::Listener;
use crate::gateway::frontend::opening;
use crate::gateway::frontend::systemd;
use crate::gateway::frontend::takeover::RunningGateway;
use crate::gateway::pool::dispatch;
use crate::gateway::pool::lanes::Lanes;
use crate::gateway::pool::log_limits::WorkerLogLimits;
use crate::gateway::pool::log_pipe::{LogPipeContext, Readers, WeakDrainGuard};
use crate::gateway::pool::loop_hooks::Hooks;
use crate::gateway::pool::orphans;
use crate::gateway::pool::stuck;
use crate::gateway::pool::supervisor::Supervisor;
use crate::gateway::pool::watchdog;
use crate::gateway::pool::worker_table::WorkerTable;
use crate::gateway::runtime;
use crate::gateway::spool::{self, Spool};
use crate::gateway::telemetry::access_log::AccessLog;
use crate::gateway::telemetry::metrics::Metrics;
use crate::gateway::telemetry::status::Start;
use crate::gateway::telemetry::verdict::ServerState;
use crate::gateway::trim;
use crate::gateway::yield_queue::YieldQueue;
use crate::gateway::{body_files_of, overload_bounds, policy_of};
use crate::link::message::MAX_PACKET;
use crate::os::descriptors;
use crate::os::dumpable;
use crate::os::rlimit;
use crate::os::title::Title;
use crate::proto::connection::READ_SIZE;
use crate::proto::memory::Memory;
use crate::proto::pool::Pool;
use crate::proto::queue::Queue;
/// Longest delay of a failed start, in which clients accepted early read that the application does not load.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Runs `nibiru serve` until a signal stops it. `read_config` reads the settings again for a reload. With `take_over` the
/// gateway replaces a running one, if there is one.
pub fn serve(config: Config, read_config: ReadConfig, take_over: bool) -> Result<(), Error> {
    block_on(async {
        let (commands, receiver) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            if let Err(error) = forward_signals(commands).await {
                warn!(cause = %crate::log::cause(&error), "signals are not handled");
            }
        });
        // Signals are handled before the first connection: a user that can connect may signal as well.
        tokio::task::yield_now().await;
        let mode = Mode { read_config: Some(read_config), take_over, ..Mode::default() };
        run(config, mode, receiver).await
    })
}

/// Runs a future on the gateway's only thread, in the runtime that its tasks need.
pub fn block_on<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    crate::os::signals::restore_defaults();
    crate::os::signals::ignore_file_size_limit();
    let runtime = runtime::new().map_err(Error::System)?;
    let output = runtime.block_on(future);
    // A write to a hanging disk is not awaited.
    runtime.shutdown_background();
    output
}

/// Turns signals into commands: TERM, INT and QUIT stop, HUP and USR2 reload, TTIN and TTOU scale, USR1 reopens logs. QUIT and
/// USR2 are php-fpm's. WINCH is ignored by default.
pub async fn forward_signals(commands: mpsc::UnboundedSender<Command>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut user2 = signal(SignalKind::user_defined2())?;
    let mut more = signal(SignalKind::from_raw(Signal::TTIN.as_raw()))?;
    let mut fewer = signal(SignalKind::from_raw(Signal::TTOU.as_raw()))?;
    let mut user1 = signal(SignalKind::user_defined1())?;
    loop {
        let command = tokio::select! {
            _ = terminate.recv() => Command::Stop,
            _ = interrupt.recv() => Command::Stop,
            _ = quit.recv() => Command::Stop,
            _ = hangup.recv() => Command::Reload,
            _ = user2.recv() => Command::Reload,
            _ = more.recv() => Command::Scale(Scale::Up),
            _ = fewer.recv() => Command::Scale(Scale::Down),
            _ = user1.recv() => Command::ReopenLogs,
        };
        if commands.send(command).is_err() {
            return Ok(());
        }
    }
}

/// Runs a gateway on the current thread until `commands` stops it.
pub async fn run(
    config: Config,
    mode: Mode,
    mut commands: mpsc::UnboundedReceiver<Command>,
) -> Result<(), Error> {
    let begin = Instant::now();
    if !config.dumpable.is_on()
        && let Err(error) = dumpable::close()
    {
        warn!(cause = %crate::log::cause(&error), "{}", dumpable::NOT_CLOSED);
    }
    Title::take().set(&format!("gateway {}", config.app));
    systemd::starting(&config.app);
    if rustix::process::geteuid().is_root() {
        warn!("workers run as root, and the application with them: start nibiru as a user of its own");
    }
    let open_files = rlimit::raise();
    find_null_device()?;
    // Opened before the first connection: a client may look for its line.
    let access_log = match &config.access_log {
        Some(target) => Some(
            AccessLog::open(target, config.log_format, config.access_log_query)
                .map_err(|error| Error::AccessLog(target.clone(), error))?,
        ),
        None => None,
    };
    let mut taken = if mode.take_over { take_over(&config).await? } else { None };
    let listeners = opening::open_all(&config, taken.as_mut())
        .await
        .map_err(|(address, error)| Error::Listen(address.to_string(), error))?;
    // Before the zygote is executed, and after the sockets inherited by this process were adopted.
    descriptors::keep_from_children();
    let budget = share_out(&config)?;
    let control = match &config.control {
        // Opened when the old gateway is told to stop.
        Some(_) if taken.is_some() => None,
        Some(path) => Some(Control::open(path).await.map_err(|error| cannot_control(path, error))?),
        None => None,
    };
    // After the sockets inherited by this process were adopted, whose numbers the directory must not get.
    let body_files = body_files_of(&config)?;
    if let Err(error) = spool::try_out(&config.spool_dir) {
        let (path, cause) = (config.spool_dir.display(), crate::log::cause(&error));
        warn!(%path, cause, "nothing can be kept in --spool-dir; requests with bodies over 64K will fail");
    }
    let (supervisor_events, receiver) = SupervisorEvents::channel();
    let readers = Readers::new();
    let gateway = assemble(
        config,
        mode,
        &budget,
        access_log,
        open_files,
        supervisor_events.clone(),
        readers.drain_guard(),
    );
    gateway.body_files.replace(body_files);
    let gateway = Rc::new(gateway);
    let _hooks = runtime::set_hooks(Rc::new(Hooks(Rc::clone(&gateway))));
    tokio::task::spawn_local(async move {
        while let Some(command) = commands.recv().await {
            supervisor_events.send(SupervisorEvent::Command(command));
        }
    });
    tokio::task::spawn_local(orphans::reap());
    control::announce(&gateway);
    // Served from the beginning, so that a server whose application hangs while it loads can be stopped.
    if let Some(control) = control {
        tokio::task::spawn_local(control.serve(Rc::clone(&gateway)));
    }
    // The health path answers while the application loads. During a take-over the old gateway answers it until then.
    let early = gateway.config().health_path.is_some() && taken.is_none();
    let shared = if taken.is_some() { listeners.clone() } else { Vec::new() };
    let mut listeners = Some(listeners);
    let mut accept = || {
        if let Some(listeners) = listeners.take() {
            acceptor::accept_all(listeners, budget.connections, &gateway);
        }
    };
    if early {
        accept();
    }
    let (started, outcome) = oneshot::channel();
    let supervisor = tokio::task::spawn_local(Supervisor::new(Rc::clone(&gateway), receiver, started).run());
    // A stop before the end of the first load drops the sender: a start without an outcome.
    if let Ok(outcome) = outcome.await {
        if let Err(error) = outcome {
            if early {
                dispatch::refuse_for_good(&gateway, "the application does not load");
                gateway.supervisor_events.send(SupervisorEvent::Command(Command::StopSoon));
                // Clients that have not read their answer by then are closed.
                let _ = tokio::time::timeout(LAST_ANSWERS, supervisor).await;
            }
            readers.finish().await;
            return Err(error);
        }
        gateway.queue.borrow_mut().open(Instant::now());
        tokio::task::spawn_local(dispatch::expire(Rc::clone(&gateway)));
        tokio::task::spawn_local(watchdog::keep(Rc::clone(&gateway)));
        tokio::task::spawn_local(stuck::keep(Rc::clone(&gateway)));
        tokio::task::spawn_local(trim::keep(Rc::clone(&gateway)));
        tokio::task::spawn_local(gather_lines(Rc::clone(&gateway.metrics)));
        if let Some(taken) = taken
            && let Err(error) = replace(&gateway, taken, shared).await
        {
            gateway.supervisor_events.send(SupervisorEvent::Command(Command::StopSoon));
            let _ = supervisor.await;
            readers.finish().await;
            return Err(error);
        }
        accept();
        ready(&gateway, begin);
    }
    let ended = supervisor.await.map_err(|error| Error::System(io::Error::other(error)));
    readers.finish().await;
    ended
}

/// Checks `/dev/null`. Every process replaces inherited descriptors with it, and would fail without it with a message of its
/// own.
fn find_null_device() -> Result<(), Error> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    opened.map(drop).map_err(|error| {
        let cause = format!("/dev/null cannot be read and written: {}", crate::log::cause(&error));
        Error::System(io::Error::other(cause))
    })
}

/// The sockets of the running gateway with these settings; `None` if none runs.
async fn take_over(config: &Config) -> Result<Option<RunningGateway>, Error> {
    let Some(path) = &config.control else {
        let cause = "there is no control socket to ask for its sockets (--control)";
        return Err(Error::System(io::Error::other(cause)));
    };
    let taken = RunningGateway::from(path).await.map_err(|error| cannot_control(path, error))?;
    if taken.is_none() {
        info!("no server runs yet; nothing to take over");
    }
    Ok(taken)
}

pub(crate) fn cannot_control(path: &Path, error: io::Error) -> Error {
    Error::Listen(format!("unix:{} (--control)", path.display()), error)
}

/// Divides the limit of open files between connections, workers and files. Warns if the limit is too low for the settings.
pub(crate) fn share_out(config: &Config) -> Result<Budget, Error> {
    let (limit, workers) = (rlimit::limit(), config.workers.max);
    let open = descriptors::open_count().map_err(Error::System)?;
    let budget = Budget::new(limit, open, workers, config.max_connections).ok_or_else(|| {
        let cause =
            format!("{limit} open files are too few for {workers} workers and a connection (ulimit -n)");
        Error::System(io::Error::other(cause))
    })?;
    if budget.connections < config.max_connections {
        warn!(
            limit,
            connections = budget.connections,
            "the limit of open files (ulimit -n) is too low for --max-connections {}",
            config.max_connections
        );
    }
    Ok(budget)
}

/// Writes the lines of the access log while the gateway runs.
async fn gather_lines(metrics: Rc<Metrics>) {
    if let Some(log) = metrics.access_log() {
        log.gather().await;
    }
}

/// Builds a gateway without listeners and workers.
pub(crate) fn assemble(
    config: Config,
    mode: Mode,
    budget: &Budget,
    access_log: Option<AccessLog>,
    open_files: Option<u64>,
    supervisor_events: SupervisorEvents,
    drain_guard: WeakDrainGuard,
) -> Gateway {
    let (now, yield_queue) = (Instant::now(), Rc::new(YieldQueue::new()));
    let memory = Memory::new(config.buffer_memory);
    let spool = Spool::new(&config.spool_dir, config.max_spool, budget.spooled, &memory);
    Gateway {
        start: Start { time: SystemTime::now(), instant: now },
        clock: Clock::new(now),
        queue: RefCell::new(Queue::new(
            config.queue,
            config.queue_timeout,
            overload_bounds(&config, mode.development),
        )),
        queued: Notify::new(),
        pool: RefCell::new(Pool::new(policy_of(&config), 0)),
        workers: WorkerTable::default(),
        lanes: Lanes::new(),
        // The number counts the limits of control groups in.
        processors: std::thread::available_parallelism().map_or(1, NonZero::get),
        looked_ahead: Notify::new(),
        memory,
        spool,
        body_files: RefCell::default(),
        proxy_headers: config::proxy_headers(config.sendfile, &config.sendfile_map, &config.proxy_headers),
        metrics: Rc::new(Metrics::new(access_log)),
        supervisor_events,
        demand: Cell::new(false),
        reloading: Cell::new(false),
        measuring: Cell::new(false),
        log_limits: WorkerLogLimits::new(now),
        logged_proxy_faults: RefCell::default(),
        stopping: watch::Sender::new(false),
        server_state: Cell::new(ServerState::default()),
        given_up: Cell::new(None),
        listeners: RefCell::default(),
        taker: Cell::new(None),
        accepting: Cell::new(0),
        idle_since: Cell::new(now),
        half_closed: Semaphore::new(budget.half_closed),
        open_files,
        log_pipes: LogPipeContext::new(drain_guard, Rc::clone(&yield_queue)),
        yield_queue,
        scratch: RefCell::new(vec![0; READ_SIZE]),
        packet: RefCell::new(vec![0; MAX_PACKET]),
        request_packet: RefCell::new(Vec::new()),
        config: RefCell::new(Rc::new(config)),
        mode,
    }
}

/// Replaces the gateway whose sockets were taken over. Afterwards the sockets and the path of its control socket belong to this
/// gateway.
async fn replace(
    gateway: &Rc<Gateway>,
    taken: RunningGateway,
    listeners: Vec<Rc<Listener>>,
) -> Result<(), Error> {
    let config = gateway.config();
    let prepared = match &config.control {
        Some(path) => {
            Some((path, Control::prepare_over(path).await.map_err(|error| cannot_control(path, error))?))
        }
        None => None,
    };
    taken.commit().await.map_err(Error::System)?;
    listeners.iter().for_each(|listener| listener.keep_file());
    if let Some((path, prepared)) = prepared {
        match Control::publish(prepared) {
            Ok(control) => drop(tokio::task::spawn_local(control.serve(Rc::clone(gateway)))),
            // Not fatal, because the old gateway is gone and clients have no other server.
            Err(error) => {
                let (path, cause) = (path.display(), crate::log::cause(&error));
                error!(%path, cause, "the control socket cannot be put in its place; commands do not reach this server");
            }
        }
    }
    Ok(())
}

/// Announces in the log and to systemd that the first generation serves, and starts the tasks that begin with it.
fn ready(gateway: &Rc<Gateway>, begin: Instant) {
    let config = gateway.config();
    let workers = config.workers.to_string();
    let took_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    info!(app = config.app, workers, took_ms, "ready");
    if config.file.is_some() && config.control.is_none() && !config.wants_no_control {
        info!(
            "no control socket, since nibiru makes no Unix socket here: `nibiru status`, `reload` and `stop` cannot reach \
             this server; --control unix:PATH gives it one"
        );
    }
    systemd::ready(gateway.pool.borrow().generation(), &workers);
    tokio::task::spawn_local(systemd::watchdog());
    gateway.idle_since.set(Instant::now());
    if let Some(time) = config.exit_idle_time {
        tokio::task::spawn_local(idle_exit::stop_when_idle(Rc::clone(gateway), time));
    }
}
