//! The gateway: the one process that listens, on one thread, with tokio.
//!
//! ```text
//! listener → connection → queue → dispatch → (worker) → relay → response → connection
//!                                                ▲
//!                       supervisor → (zygote) ───┘
//! ```
//!
//! Owns every FastCGI connection, the queue, the pool's bookkeeping and the log. Never runs Lua, never blocks on one peer, and
//! trusts no byte of a client or a worker.

mod async_fd;
mod clock;
mod command;
mod control;
mod events;
mod frontend;
mod own_paths;
mod pool;
mod request;
mod response;
mod runtime;
mod snapshot;
mod spool;
mod start;
mod telemetry;
mod trial;
mod trim;
mod yield_queue;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, watch};
use tracing::{error, warn};

use crate::cgi::ProxyHeaders;
use crate::config::{Config, QueueOrder};
use crate::gateway::clock::Clock;
use crate::gateway::events::{SupervisorEvent, SupervisorEvents};
use crate::gateway::frontend::listener::Listener;
use crate::gateway::frontend::proxy_faults::LoggedProxyFaults;
use crate::gateway::pool::lanes::Lanes;
use crate::gateway::pool::log_limits::{LogKind, WorkerLogLimits};
use crate::gateway::pool::log_pipe::LogPipeContext;
use crate::gateway::pool::worker_table::WorkerTable;
use crate::gateway::request::Request;
use crate::gateway::spool::{BodyFiles, Spool};
use crate::gateway::telemetry::metrics::Metrics;
use crate::gateway::telemetry::status::Start;
use crate::gateway::telemetry::verdict::ServerState;
use crate::gateway::yield_queue::YieldQueue;
use crate::proto::memory::Memory;
use crate::proto::pool::{Policy, Pool};
use crate::proto::queue::{Bounds, Place, Queue};

pub use crate::gateway::command::{Command, Error, Load, Mode, NewestGeneration, ReadConfig, Scale};
pub use crate::gateway::start::{block_on, forward_signals, run, serve};
pub use crate::gateway::trial::{AddressTrial, Trial, try_out};

/// State shared by the tasks of the gateway. Every borrow is short: none is held across an `await`.
#[derive(Debug)]
struct Gateway {
    start: Start,
    /// The settings in force. A reload replaces them as a whole.
    config: RefCell<Rc<Config>>,
    mode: Mode,
    /// The clock for deadlines.
    clock: Clock,
    queue: RefCell<Queue<Box<Request>>>,
    /// Signal that the queue has a new oldest request, or has become overloaded.
    queued: Notify,
    pool: RefCell<Pool>,
    workers: WorkerTable,
    lanes: Lanes,
    /// Processors that this process may use.
    processors: usize,
    /// Signal that a request waits in a worker's lane.
    looked_ahead: Notify,
    /// Buffer memory of the clients' connections.
    memory: Arc<Memory>,
    spool: Rc<Spool>,
    /// The proxy's files that have bodies; `None` where bodies come in STDIN alone. A reload replaces them.
    body_files: RefCell<Option<Arc<BodyFiles>>>,
    /// Headers by which a response may control the proxy. Fixed while the server runs, as their settings are.
    proxy_headers: ProxyHeaders,
    metrics: Rc<Metrics>,
    supervisor_events: SupervisorEvents,
    /// Whether the supervisor has a pending notice about waiting requests.
    demand: Cell<bool>,
    /// Whether a generation is loading that will replace the serving one.
    reloading: Cell<bool>,
    /// Whether the supervisor has a pending notice to measure workers.
    measuring: Cell<bool>,
    /// Rate limits of the log lines about workers and their requests.
    log_limits: WorkerLogLimits,
    /// Faults of the proxy's configuration that have been logged.
    logged_proxy_faults: RefCell<LoggedProxyFaults>,
    stopping: watch::Sender<bool>,
    /// Facts for the verdict that neither the pool nor the queue has.
    server_state: Cell<ServerState>,
    /// The reason that no request will get a worker any more; `None` while one may.
    given_up: Cell<Option<&'static str>>,
    /// The listeners that accept connections.
    listeners: RefCell<Vec<Rc<Listener>>>,
    /// Process id of the gateway that is taking over.
    taker: Cell<Option<i32>>,
    /// Number of listeners that accept, or drain their backlog while stopping.
    accepting: Cell<usize>,
    /// Time at which the last connection closed.
    idle_since: Cell<Instant>,
    /// Permits for the second descriptors of half-closed connections.
    half_closed: Semaphore,
    /// Soft limit of open files for the application.
    open_files: Option<u64>,
    /// State shared by the readers of the processes' output.
    log_pipes: Rc<LogPipeContext>,
    /// Sources with more to read, which wait for their next turn.
    yield_queue: Rc<YieldQueue>,
    /// Buffer for bytes from clients.
    scratch: RefCell<Vec<u8>>,
    /// Buffer for packets from workers.
    packet: RefCell<Vec<u8>>,
    /// Buffer for requests to workers. Not `packet`, which is in use while a packet that makes a worker idle has the next
    /// request dispatched to it.
    request_packet: RefCell<Vec<u8>>,
}

/// The bounds beyond which the queue counts as overloaded; `None` for a FIFO queue, and in development, where no request is
/// refused because others wait.
fn overload_bounds(config: &Config, development: bool) -> Option<Bounds> {
    let learns = match config.queue_order {
        QueueOrder::Adaptive => true,
        QueueOrder::Codel => false,
        QueueOrder::Fifo => return None,
    };
    let bounds = Bounds { target: config.queue_target, interval: config.queue_interval, learns };
    (!development).then_some(bounds)
}

/// The settings of the pool's policy.
fn policy_of(config: &Config) -> Policy {
    Policy {
        min: config.workers.min,
        max: config.workers.max,
        idle_timeout: config.idle_timeout,
        max_requests: config.max_requests,
        max_requests_jitter: config.max_requests_jitter,
        max_age: config.max_age,
        max_memory: config.max_memory,
    }
}

/// The proxy's files that have bodies, by the settings, with their directory opened.
fn body_files_of(config: &Config) -> Result<Option<Arc<BodyFiles>>, Error> {
    let files = config.body_files.as_ref().map(|files| {
        let opened = BodyFiles::open(files).map(Arc::new);
        opened.map_err(|error| Error::BodyFiles(files.resolved().to_owned(), error))
    });
    files.transpose()
}

impl Gateway {
    /// The settings in force.
    fn config(&self) -> Rc<Config> {
        Rc::clone(&self.config.borrow())
    }

    /// Reads the settings again from their source. Settings that need a restart keep their value; the second part of the result
    /// has their names.
    fn read_config_again(&self) -> Result<(Rc<Config>, Vec<&'static str>), String> {
        let old = self.config();
        let Some(ReadConfig(read)) = &self.mode.read_config else { return Ok((old, Vec::new())) };
        let mut new = read().map_err(|error| error.to_string())?;
        let fixed = new.keep_what_needs_a_restart(&old);
        if !fixed.is_empty() {
            warn!("{} changed; takes effect with a restart", fixed.join(", "));
        }
        body_files_of(&new).map_err(|error| error.to_string())?;
        Ok((Rc::new(new), fixed))
    }

    /// Applies new settings.
    fn apply_config(&self, config: Rc<Config>) {
        self.queue.borrow_mut().set_bounds(
            config.queue,
            config.queue_timeout,
            overload_bounds(&config, self.mode.development),
        );
        self.pool.borrow_mut().set_policy(policy_of(&config));
        self.memory.set_bound(config.buffer_memory);
        // It could be opened when the settings were read.
        let body_files = body_files_of(&config).unwrap_or_else(|error| {
            error!("bodies in files of the proxy's are refused from now on: {error}");
            let closed = |files| Arc::new(BodyFiles::closed(files, "its directory is gone".to_owned()));
            config.body_files.as_ref().map(closed)
        });
        self.body_files.replace(body_files);
        self.config.replace(config);
    }

    /// Puts a request that no worker has read back into the queue, at its old place.
    fn requeue(&self, place: Place, mut request: Box<Request>) {
        request.take_back();
        self.queue.borrow_mut().requeue(place, request);
        self.queued.notify_one();
    }

    // Stopping.

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Logs an event of a worker or zygote process, rate-limited: see [`WorkerLogLimits::log`].
    fn log_process_event(&self, write: impl FnOnce(Option<u64>)) {
        self.log_limits.log(LogKind::Processes, Instant::now(), write);
    }

    /// Updates the part of the verdict's facts that neither the pool nor the queue has.
    fn update_server_state(&self, change: impl FnOnce(&mut ServerState)) {
        let mut state = self.server_state.get();
        change(&mut state);
        self.server_state.set(state);
    }

    /// Whether a generation has served since the start.
    fn has_served(&self) -> bool {
        self.pool.borrow().generation() > 0
    }

    /// Begins to stop: no connection is accepted any more, and each closes when its requests are answered.
    fn begin_to_stop(&self) {
        self.stopping.send_replace(true);
        self.notify_when_drained();
    }

    fn accepting_started(&self) {
        self.accepting.set(self.accepting.get() + 1);
    }

    fn accepting_ended(&self) {
        self.accepting.set(self.accepting.get() - 1);
        self.notify_when_drained();
    }

    fn connection_opened(&self) {
        self.metrics.connection_opened();
    }

    fn connection_closed(&self, now: Instant) {
        if self.metrics.connection_closed() == 0 {
            self.idle_since.set(now);
            self.notify_when_drained();
        }
    }

    /// Notifies the supervisor once the last connection is gone while stopping. Clients in the backlog of a listening socket
    /// count until its task has accepted them all.
    fn notify_when_drained(&self) {
        if *self.stopping.borrow() && self.metrics.open_connections() == 0 && self.accepting.get() == 0 {
            self.supervisor_events.send(SupervisorEvent::ConnectionsGone);
        }
    }

    /// Whether a client is connected, or a worker still runs the request of a client that has gone.
    fn has_work(&self) -> bool {
        self.metrics.open_connections() > 0
            || self.workers.borrow().values().any(|link| link.running().is_some())
    }
}

/// Sleeps until `deadline`; forever without one.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
