//! The gateway: the one process that listens, on one thread, with tokio.
//!
//! ```text
//! listener → connection → queue → worker_link → (worker) → worker_link → reply → connection
//!                                     ▲
//!                  supervisor → zygote_link, pool
//! ```
//!
//! Owns every FastCGI connection, the queue, the pool's books and the log. Never runs Lua, never waits
//! for one peer while others have something to say, trusts no byte that a client or a worker wrote.

mod access_log;
mod budget;
mod connection;
mod control;
mod histogram;
mod idle;
mod journal;
mod listener;
mod notice;
mod outgoing;
mod output;
mod pool;
mod queue;
mod readable;
mod reply;
mod request;
mod request_line;
mod socket_file;
mod sockets;
mod spool;
mod status;
mod stream;
mod supervisor;
mod systemd;
mod throttle;
mod worker_link;
mod zygote_link;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::LocalSet;
use tracing::{info, warn};

use self::access_log::AccessLog;
use self::budget::Budget;
use self::control::Control;
use self::journal::{Journal, Refused, WorkerEnd};
use self::notice::{Notice, Notices};
use self::pool::{Policy, Pool, Ready, State};
use self::queue::Queue;
use self::reply::{Ticket, Untruthful};
use self::request::Request;
use self::spool::Spool;
use self::status::Start;
use self::supervisor::Supervisor;
use self::throttle::Throttle;
use self::worker_link::{Fate, Memory, NotStarted, WorkerLink, WorkerName};
use crate::config::{self, Config, ConfigError, Workers};
use crate::ipc::message::{MAX_PACKET, ToWorker};
use crate::open_files;
use crate::title::Title;

/// Bytes read from a client at a time. One buffer serves all connections, so an idle one costs none.
const READ_BUFFER: usize = 64 * 1024;

/// When a client that met a full server may try again: `Retry-After`.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the gateway can be told while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Load the application afresh and swap to it once it has proved itself.
    Reload,
    /// Open the access log anew, after its file was renamed.
    ReopenLogs,
    /// Finish what is accepted and stop; the second time, stop at once.
    Stop,
    /// More or fewer workers, until the next reload.
    Scale(Scale),
}

/// How many workers there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// So many.
    To(Workers),
    /// One more.
    Up,
    /// One fewer, but one at least.
    Down,
}

/// Where `dev` differs from `serve`.
#[derive(Debug, Default)]
pub struct Mode {
    /// Failures go to the client as FastCGI STDERR too, and an application that does not load is no
    /// reason to stop: every request is answered with the reason until it does.
    pub development: bool,
    /// Always says how the newest code does.
    pub code: watch::Sender<Code>,
    /// Reads the settings again, for a reload; without it they stay as they are.
    pub read_config: Option<ReadConfig>,
}

/// Reads the settings again from where they came.
pub struct ReadConfig(pub Box<dyn Fn() -> Result<Config, ConfigError>>);

impl fmt::Debug for ReadConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadConfig")
    }
}

/// The newest generation of the code, whether or not it is the one that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Code {
    /// Counts the loads, from 1 on.
    pub generation: u32,
    /// How far it is.
    pub load: Load,
}

/// How far a generation is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// It is being loaded.
    #[default]
    Running,
    /// It answers.
    Done,
    /// It does not load, and why.
    Failed(String),
}

/// Why the gateway did not start.
#[derive(Debug)]
pub enum Error {
    /// An address, as the user wrote it, cannot be listened on.
    Listen(String, io::Error),
    /// The access log cannot be opened.
    AccessLog(config::AccessLog, io::Error),
    /// The application does not load.
    Load(String),
    /// The system refused something that every start needs.
    System(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {}", crate::log::cause(error))
            }
            Self::AccessLog(target, error) => {
                write!(f, "cannot open the access log {target}: {}", crate::log::cause(error))
            }
            Self::Load(message) => f.write_str(message),
            Self::System(error) => write!(f, "cannot start: {}", crate::log::cause(error)),
        }
    }
}

impl std::error::Error for Error {}

/// What the tasks of the gateway share. Every borrow is short: none is held across an `await`.
#[derive(Debug)]
struct Gateway {
    start: Start,
    /// Replaced as a whole by a reload.
    config: RefCell<Rc<Config>>,
    mode: Mode,
    queue: RefCell<Queue<Box<Request>>>,
    /// The queue has a new oldest request.
    queued: Notify,
    pool: RefCell<Pool>,
    workers: RefCell<HashMap<u32, Rc<WorkerLink>>>,
    spool: Rc<Spool>,
    journal: Rc<Journal>,
    notices: Notices,
    /// The supervisor has been told that requests wait, and has not looked yet.
    demand: Cell<bool>,
    /// The supervisor has been told that workers are to be measured.
    measuring: Cell<bool>,
    /// For lines about workers that end or do not start.
    trouble: RefCell<Throttle>,
    stopping: watch::Sender<bool>,
    /// Listeners that accept, or let in whoever waits.
    accepting: Cell<usize>,
    /// When the last connection closed.
    idle_since: Cell<Instant>,
    /// The soft limit of open files that the application is to have.
    open_files: Option<u64>,
    /// For reading from clients.
    scratch: RefCell<Vec<u8>>,
    /// For packets from workers.
    packet: RefCell<Vec<u8>>,
    /// For requests to workers. Not the one above, which is in use while a packet that makes a worker
    /// idle has the next request handed to it.
    request_packet: RefCell<Vec<u8>>,
}

/// Runs `nibiru serve` until a signal stops it. `read_config` reads the settings again, for a reload.
pub fn serve(config: Config, read_config: ReadConfig) -> Result<(), Error> {
    block_on(async {
        let (commands, receiver) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            if let Err(error) = forward_signals(commands).await {
                warn!(cause = %crate::log::cause(&error), "signals are not handled");
            }
        });
        // It handles signals before anybody can connect: whoever can may signal as well.
        tokio::task::yield_now().await;
        let mode = Mode { read_config: Some(read_config), ..Mode::default() };
        run(config, mode, receiver).await
    })
}

/// Runs a future on the one thread, with everything that the gateway's tasks need.
pub fn block_on<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::System)?;
    LocalSet::new().block_on(&runtime, future)
}

/// Turns signals into commands: TERM and INT stop, HUP reloads, TTIN and TTOU scale, USR1 opens logs anew.
pub async fn forward_signals(commands: mpsc::UnboundedSender<Command>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut more = signal(SignalKind::from_raw(Signal::TTIN.as_raw()))?;
    let mut fewer = signal(SignalKind::from_raw(Signal::TTOU.as_raw()))?;
    let mut user1 = signal(SignalKind::user_defined1())?;
    loop {
        let command = tokio::select! {
            _ = terminate.recv() => Command::Stop,
            _ = interrupt.recv() => Command::Stop,
            _ = hangup.recv() => Command::Reload,
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
    crate::sys::keep_descriptors_from_children();
    Title::take().set(&format!("gateway {}", config.app));
    systemd::starting(&config.app);
    let open_files = open_files::raise();
    let listeners =
        listener::open_all(&config).map_err(|(address, error)| Error::Listen(address.to_string(), error))?;
    let budget = share_out(&config)?;
    let access_log = match &config.access_log {
        Some(target) => Some(
            AccessLog::open(target, config.log_format)
                .map_err(|error| Error::AccessLog(target.clone(), error))?,
        ),
        None => None,
    };
    let control = match &config.control {
        Some(path) => Some(
            Control::open(path)
                .map_err(|error| Error::Listen(format!("unix:{} (--control)", path.display()), error))?,
        ),
        None => None,
    };
    let (notices, receiver) = Notices::channel();
    let gateway = Rc::new(Gateway {
        start: Start::now(),
        queue: RefCell::new(Queue::new(config.queue, config.queue_timeout)),
        queued: Notify::new(),
        pool: RefCell::new(Pool::new(policy_of(&config), 0)),
        workers: RefCell::new(HashMap::new()),
        spool: Spool::new(&config.spool_dir, config.max_spool, budget.spooled),
        journal: Rc::new(Journal::new(access_log)),
        notices: notices.clone(),
        demand: Cell::new(false),
        measuring: Cell::new(false),
        trouble: RefCell::new(Throttle::new(Instant::now())),
        stopping: watch::Sender::new(false),
        accepting: Cell::new(0),
        idle_since: Cell::new(begin),
        open_files,
        scratch: RefCell::new(vec![0; READ_BUFFER]),
        packet: RefCell::new(vec![0; MAX_PACKET]),
        request_packet: RefCell::new(Vec::new()),
        config: RefCell::new(Rc::new(config)),
        mode,
    });
    tokio::task::spawn_local(async move {
        while let Some(command) = commands.recv().await {
            notices.send(Notice::Command(command));
        }
    });
    // From the beginning, so that a server whose application hangs while it loads can be stopped.
    if let Some(control) = control {
        tokio::task::spawn_local(control.serve(Rc::clone(&gateway)));
    }
    let (started, outcome) = oneshot::channel();
    let supervisor = tokio::task::spawn_local(Supervisor::new(Rc::clone(&gateway), receiver, started).run());
    // A stop that comes before the first load is complete drops the sender: a start without an outcome.
    if let Ok(outcome) = outcome.await {
        outcome?;
        tokio::task::spawn_local(expire(Rc::clone(&gateway)));
        listener::accept_all(listeners, budget.connections, &gateway);
        gateway.ready(begin);
    }
    supervisor.await.map_err(|error| Error::System(io::Error::other(error)))
}

/// Shares the descriptors that there may be out. Says where they are too few for what is configured.
fn share_out(config: &Config) -> Result<Budget, Error> {
    let (limit, workers) = (open_files::limit(), config.workers.max);
    let open = open_files::count().map_err(Error::System)?;
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

/// What the books have to know of the settings.
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

impl Gateway {
    /// The first generation answers, and connections are accepted.
    fn ready(self: &Rc<Self>, begin: Instant) {
        let config = self.config();
        let workers = config.workers.to_string();
        let took_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(app = config.app, workers, took_ms, "ready");
        systemd::ready(self.pool.borrow().generation(), &workers);
        tokio::task::spawn_local(systemd::watchdog());
        self.idle_since.set(Instant::now());
        if let Some(time) = config.exit_idle_time {
            tokio::task::spawn_local(idle::stop_when_idle(Rc::clone(self), time));
        }
    }

    /// The settings that are in force now.
    fn config(&self) -> Rc<Config> {
        Rc::clone(&self.config.borrow())
    }

    /// The settings as they are now where they came from; those that cannot change in a running server stay, and are
    /// named.
    fn read_config_again(&self) -> Result<Rc<Config>, String> {
        let old = self.config();
        let Some(ReadConfig(read)) = &self.mode.read_config else { return Ok(old) };
        let mut new = read().map_err(|error| error.to_string())?;
        let fixed = new.keep_what_needs_a_restart(&old);
        if !fixed.is_empty() {
            warn!("{} changed; takes effect with a restart", fixed.join(", "));
        }
        Ok(Rc::new(new))
    }

    /// From now on these settings count.
    fn put_in_force(&self, config: Rc<Config>) {
        self.queue.borrow_mut().set_bounds(config.queue, config.queue_timeout);
        self.pool.borrow_mut().set_policy(policy_of(&config));
        self.config.replace(config);
    }

    // Requests.

    /// Takes a complete request: an idle worker gets it, else it waits.
    fn submit(&self, request: Box<Request>) {
        let Some(request) = self.answer_status(request) else { return };
        if self.mode.development
            && let Load::Failed(message) = &self.mode.code.borrow().load
        {
            let mut request = request;
            request.reply.stderr(message.as_bytes());
            return request.reply.fail(500, "the application does not load", None);
        }
        let came = request.came;
        let idle = if self.queue.borrow().is_empty() { self.pool.borrow_mut().assign(came) } else { None };
        if let Some(worker) = idle {
            return self.hand(worker, came, request);
        }
        if let Some(wait) = self.pool.borrow().down_for(came) {
            let mut request = request;
            return request.refuse_for(Refused::Down, 503, "the application does not start", wait);
        }
        let full = self.queue.borrow_mut().push(came, request).err();
        match full {
            None => {
                self.queued.notify_one();
                self.ask_for_more();
            }
            Some(mut request) => request.refuse(Refused::QueueFull, 503, "the queue is full"),
        }
    }

    /// A request waits: the supervisor is to see whether more workers would help, once for all that wait.
    fn ask_for_more(&self) {
        let helps = {
            let pool = self.pool.borrow();
            pool.can_grow() || pool.has_nobody()
        };
        if helps && !self.demand.replace(true) {
            self.notices.send(Notice::Demand);
        }
    }

    /// Answers all that waits, where no worker is there nor about to be.
    fn refuse_all_while_down(&self) {
        while let Some(wait) = self.pool.borrow().down_for(Instant::now())
            && let Some((_, mut request)) = self.next_wanted()
        {
            request.refuse_for(Refused::Down, 503, "the application does not start", wait);
        }
    }

    /// Hands waiting requests to idle workers, as long as there are both.
    fn dispatch(&self) {
        while !self.queue.borrow().is_empty() {
            let now = Instant::now();
            let Some(worker) = self.pool.borrow_mut().assign(now) else { return };
            let Some((came, request)) = self.next_wanted() else {
                return self.pool.borrow_mut().unassign(worker, now);
            };
            self.hand(worker, came, request);
        }
    }

    /// Hands a request to a worker that is assigned to it.
    fn hand(&self, worker: u32, came: Instant, request: Box<Request>) {
        let link = self.workers.borrow().get(&worker).map(Rc::clone);
        let started = match link {
            Some(link) => link.start(request, &mut self.request_packet.borrow_mut()),
            None => Err(NotStarted::Ended(request)),
        };
        match started {
            Ok(()) => {
                if self.pool.borrow_mut().take_changed() {
                    self.notices.send(Notice::PoolChanged);
                }
            }
            // Its link will notice. The books have it busy until then, so another worker is next.
            Err(NotStarted::Ended(request)) => {
                self.put_back(came, request);
                self.dispatch();
            }
            Err(NotStarted::Refused(mut request, cause)) => {
                self.pool.borrow_mut().unassign(worker, Instant::now());
                warn!(worker, request = request.request_id, cause = %crate::log::cause(&cause), "cannot hand over a request");
                request.refuse(Refused::NotHanded, 503, "no worker could take the request");
            }
        }
    }

    /// Lets a request wait again that no worker has read.
    fn put_back(&self, came: Instant, mut request: Box<Request>) {
        request.handed = None;
        self.queue.borrow_mut().put_back(came, request);
        self.queued.notify_one();
    }

    /// The request that has waited longest and whose client still waits.
    fn next_wanted(&self) -> Option<(Instant, Box<Request>)> {
        let mut queue = self.queue.borrow_mut();
        loop {
            let (came, request) = queue.pop()?;
            if !request.reply.ticket().is_abandoned() {
                return Some((came, request));
            }
        }
    }

    /// A client has gone.
    fn abandoned(&self, ticket: &Ticket) {
        match ticket.abandon() {
            Some(worker) => self.tell(worker, ToWorker::Abort),
            None => self.queue.borrow_mut().retain(|request| !request.reply.ticket().is_abandoned()),
        }
    }

    /// In development: the newest code does not load. Whoever waits is told so.
    fn load_failed(&self) {
        while let Some((_, request)) = self.next_wanted() {
            self.submit(request);
        }
    }

    // Workers.

    /// A worker says that it is ready.
    fn worker_ready(&self, link: &WorkerLink) -> Result<(), Untruthful> {
        let WorkerName { worker, generation, .. } = link.name();
        let now = Instant::now();
        let ready = self.pool.borrow_mut().ready(worker, now);
        match ready {
            Ready::Work => {
                let first = link.is_ready(now);
                // Whoever is due may leave when it is its successor; what it takes may have to be asked for.
                if first || (link.is_unmeasured() && !self.measuring.replace(true)) {
                    self.notices.send(Notice::PoolChanged);
                }
                self.dispatch();
            }
            Ready::Proved => self.notices.send(Notice::FirstReady { generation }),
            Ready::Drain => {
                link.tell(ToWorker::Drain);
                // It may have been the one too many.
                self.dispatch();
            }
            Ready::Unexpected => return Err(Untruthful("ready twice")),
        }
        Ok(())
    }

    /// A worker's process is gone: its place is free. What it sent before may still be on its way to its
    /// client. Harmless the second time.
    fn worker_gone(&self, link: &WorkerLink) {
        let WorkerName { worker, generation: r#gen, pid } = link.name();
        let mut workers = self.workers.borrow_mut();
        if workers.get(&worker).is_none_or(|known| known.name().pid != pid) {
            return;
        }
        workers.remove(&worker);
        let was = self.pool.borrow_mut().ended(worker, Instant::now());
        self.journal.worker_ended(was.map_or(WorkerEnd::Died, WorkerEnd::of));
        self.forget_generations();
        if matches!(was, Some(State::Idle | State::Proved)) {
            self.in_trouble(|left_out| warn!(worker, r#gen, pid, left_out, "worker ended by itself"));
        }
        self.notices.send(Notice::PoolChanged);
        drop(workers);
        // Another may take a request now, where as many ran as may.
        self.dispatch();
    }

    /// All that a worker sent is passed on. The request it leaves, if any, is answered or goes back.
    fn settle(&self, link: &WorkerLink, fate: &Fate) {
        let WorkerName { worker, generation: r#gen, pid } = link.name();
        let Some(mut request) = link.take_running() else { return };
        let ticket = request.reply.ticket();
        ticket.set_worker(None);
        if ticket.is_abandoned() {
            return;
        }
        let id = request.request_id.clone();
        if link.never_read(fate) {
            self.in_trouble(|left_out| {
                warn!(
                    worker,
                    r#gen,
                    pid,
                    request = id,
                    left_out,
                    "worker ended before it read its request; trying another"
                );
            });
            self.put_back(request.came, request);
            return self.dispatch();
        }
        self.in_trouble(|left_out| {
            warn!(worker, r#gen, pid, request = id, left_out, "worker ended in the middle of its request");
        });
        request.reply.fail(502, "the worker ended before it had answered", None);
    }

    /// Logs a line about a worker that ended or does not start, unless there were too many lately. `write` is given how
    /// many were left out before this one, where any were.
    fn in_trouble(&self, write: impl FnOnce(Option<u64>)) {
        if let Some(left_out) = self.trouble.borrow_mut().allow(Instant::now()) {
            write((left_out > 0).then_some(left_out));
        }
    }

    /// A worker says what it takes.
    fn measured(&self, link: &WorkerLink, memory: Memory) {
        let WorkerName { worker, generation: r#gen, pid } = link.name();
        if self.pool.borrow_mut().measured(worker, memory.pss) {
            let (pss, lua_heap) = (memory.pss, memory.lua_heap);
            info!(worker, r#gen, pid, pss, lua_heap, "worker is too large and is replaced (--max-memory)");
            self.notices.send(Notice::PoolChanged);
        }
    }

    /// Times are kept by generation as long as it has workers or is to have some.
    fn forget_generations(&self) {
        let pool = self.pool.borrow();
        let current = pool.generation();
        self.journal.forget_generations(|generation| {
            generation >= current || pool.workers().any(|worker| worker.generation == generation)
        });
    }

    fn tell(&self, worker: u32, message: ToWorker<'_>) {
        if let Some(link) = self.workers.borrow().get(&worker) {
            link.tell(message);
        }
    }

    fn kill(&self, workers: &[u32]) {
        let known = self.workers.borrow();
        workers.iter().filter_map(|worker| known.get(worker)).for_each(|link| link.kill());
    }

    fn kill_all(&self) {
        self.workers.borrow().values().for_each(|link| link.kill());
    }

    // Stopping.

    fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// No connection is accepted any more, and each closes when its requests are answered.
    fn begin_to_stop(&self) {
        self.stopping.send_replace(true);
        self.say_when_gone();
    }

    fn accepting_started(&self) {
        self.accepting.set(self.accepting.get() + 1);
    }

    fn accepting_ended(&self) {
        self.accepting.set(self.accepting.get() - 1);
        self.say_when_gone();
    }

    fn connection_opened(&self) {
        self.journal.connection_opened();
    }

    fn connection_closed(&self) {
        if self.journal.connection_closed() == 0 {
            self.idle_since.set(Instant::now());
            self.say_when_gone();
        }
    }

    /// While stopping: whoever waits at a listening socket counts, too, until that socket's task has let them all in.
    fn say_when_gone(&self) {
        if *self.stopping.borrow() && self.journal.open_connections() == 0 && self.accepting.get() == 0 {
            self.notices.send(Notice::ConnectionsGone);
        }
    }

    /// Whether anybody is connected, or a worker still runs the request of a client that has gone.
    fn has_work(&self) -> bool {
        self.journal.open_connections() > 0
            || self.workers.borrow().values().any(|link| link.request_id().is_some())
    }
}

/// Answers requests that have waited too long.
async fn expire(gateway: Rc<Gateway>) {
    loop {
        let next = gateway.queue.borrow().next_expiry();
        tokio::select! {
            () = gateway.queued.notified() => {}
            () = sleep_until(next) => {}
        }
        loop {
            let expired = gateway.queue.borrow_mut().pop_expired(Instant::now());
            let Some(mut request) = expired else { break };
            request.refuse(Refused::QueueTimeout, 503, "no worker was free in time");
        }
    }
}

/// Sleeps until `deadline`; for ever where there is none.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
