//! A worker: one complete request at a time, from its link through Lua and back.
//!
//! One thread, one blocking loop. Never sees FastCGI, a client or a sibling.

mod gateway_link;
mod surroundings;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::process::{Resource, Rlimit};

use crate::cgi::Variables;
use crate::link::Link;
use crate::link::interrupt::Serial;
use crate::link::message::{FromWorker, LogLevel, MAX_PACKET, RequestBody, Role, ToWorker, shortened};
use crate::lua;
use crate::os::dumpable;
use crate::os::fork;
use crate::os::lifeline;
use crate::os::title::WorkerTitle;

use self::gateway_link::{Channel, Outbox};
use self::surroundings::Surroundings;

/// The exit status of a worker whose application or start hook failed.
const START_FAILED: i32 = 3;

/// Lua's message for a heap at its limit.
const OUT_OF_MEMORY: &str = "not enough memory";

/// The part of `--memory-limit` that is kept for what is not Lua's: an eighth.
const HEADROOM: u64 = 8;

/// What the gateway gives a worker for its life.
#[derive(Debug)]
pub struct Birth {
    worker: u32,
    link: Link,
    stdout: OwnedFd,
    stderr: OwnedFd,
    lifeline: OwnedFd,
    /// Whether the application is in the state already.
    preloaded: bool,
    /// Bytes of memory that the worker can have at all.
    memory_limit: Option<u64>,
}

impl Birth {
    /// Takes over the four descriptors of `Spawn`.
    pub fn new(
        worker: u32,
        descriptors: Vec<OwnedFd>,
        preloaded: bool,
        memory_limit: Option<u64>,
    ) -> io::Result<Self> {
        let [link, stdout, stderr, lifeline] = <[OwnedFd; 4]>::try_from(descriptors)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "Spawn carries four descriptors"))?;
        Ok(Self { worker, link: Link::from(link), stdout, stderr, lifeline, preloaded, memory_limit })
    }
}

/// Lives a worker's life, in the process that was just forked.
pub fn run(birth: Birth, mut state: lua::State, title: WorkerTitle) -> ! {
    let status = match live(birth, &mut state, title) {
        Ok(status) => status,
        Err(error) => {
            // Standard error is a pipe into the gateway's log; without a gateway nobody reads it.
            let _ = writeln!(io::stderr(), "worker failed: {}", crate::log::cause(&error));
            1
        }
    };
    // The state is not torn down: the process ends, and finalisers of a forked heap have nothing to add.
    std::mem::forget(state);
    std::process::exit(status)
}

fn live(birth: Birth, state: &mut lua::State, title: WorkerTitle) -> io::Result<i32> {
    let opened = dumpable::open_worker();
    // The zygote has forked it to live its own life.
    fork::claim_process();
    lifeline::arm(&birth.lifeline)?;
    rustix::stdio::dup2_stdout(&birth.stdout)?;
    rustix::stdio::dup2_stderr(&birth.stderr)?;
    drop((birth.stdout, birth.stderr));
    // Before the gateway sends one, for a start that takes too long at the earliest: unprepared, it would die of it.
    state.accept_interrupts();
    lua::handle_interrupts()?;
    let channel = Rc::new(Channel::new(birth.link));
    if let Err(error) = opened {
        let line = format!("{}: {}", dumpable::NOT_OPENED, crate::log::cause(&error));
        channel.log(LogLevel::Warn, line.as_bytes(), "");
    }
    let started = match birth.memory_limit.and_then(exceeded) {
        // It could not even say so from behind the wall.
        Some(taken) => Err(taken),
        None => {
            birth.memory_limit.map_or(Ok(()), |limit| set_memory_limit(limit, state))?;
            let hint = if birth.memory_limit.is_some() { " (--memory-limit)" } else { "" };
            start(state, birth.worker, birth.preloaded, &channel).map_err(|error| {
                error.to_string().replacen(OUT_OF_MEMORY, &format!("{OUT_OF_MEMORY}{hint}"), 1)
            })
        }
    };
    if let Err(message) = started {
        channel.send(&FromWorker::StartFailed { message: &shortened(message.as_bytes()) })?;
        return Ok(START_FAILED);
    }
    channel.send(&FromWorker::Ready)?;
    let served = serve(state, &channel, title);
    state.stop_worker();
    served.map(|()| 0)
}

/// The error of a worker whose loaded application takes so much of the memory limit that a request would have too little;
/// `None` where it leaves enough.
fn exceeded(limit: u64) -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let taken = kilobytes(&text, "VmData:")?;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    (taken > limit - limit / HEADROOM).then(|| {
        format!(
            "the application takes {} MiB once it is loaded, which leaves too little of the {} MiB that a worker may \
             have (--memory-limit)",
            mib(taken),
            mib(limit)
        )
    })
}

fn set_memory_limit(limit: u64, state: &mut lua::State) -> io::Result<()> {
    // A wall for all that is written to: Lua's heap, that of C modules, nibiru's own. Whoever runs into it mostly ends.
    let wall = Rlimit { current: Some(limit), maximum: Some(limit) };
    rustix::process::setrlimit(Resource::Data, wall)?;
    // Lua meets its limit first, as an error of that request, and leaves room to say so.
    state.limit_heap(limit - limit / HEADROOM);
    Ok(())
}

fn start(
    state: &mut lua::State,
    worker: u32,
    preloaded: bool,
    channel: &Rc<Channel>,
) -> Result<(), lua::LoadError> {
    if !preloaded {
        let log = Rc::clone(channel);
        state.log_while_loading(Some(Box::new(move |level, message, fields| {
            log.log(level.into(), message, fields);
        })));
        let loaded = state.load();
        end_fork_of_load(&loaded);
        loaded?;
    }
    state.start_worker(worker, seed(), Box::new(Outbox::new(Rc::clone(channel))))
}

/// Ends a process that the application forked while it was loaded, once it comes back from there.
pub fn end_fork_of_load<E: std::fmt::Display>(loaded: &Result<(), E>) {
    if let (true, Err(error)) = (fork::is_forked(), loaded) {
        let _ = writeln!(io::stderr(), "{error}");
    }
    fork::end_if_forked();
}

/// Takes requests until the gateway has no more.
fn serve(state: &mut lua::State, channel: &Channel, mut title: WorkerTitle) -> io::Result<()> {
    let (mut descriptors, mut serial) = (Vec::new(), Serial::default());
    let mut buffer = vec![0; MAX_PACKET];
    let mut surroundings = Surroundings::now();
    while !channel.is_draining() {
        title.set("idle");
        descriptors.clear();
        let Some(packet) = channel.receive(&mut buffer, &mut descriptors)? else { return Ok(()) };
        match ToWorker::decode(&mut &*packet).map_err(io::Error::other)? {
            ToWorker::Drain => return Ok(()),
            // Its request was over by the time this came.
            ToWorker::Abort => {}
            ToWorker::Measure => {
                channel.send(&FromWorker::Measured { pss: pss(), lua_heap: state.heap() })?;
            }
            ToWorker::Request { request_id, variables, body, role } => {
                let variables = Variables::from_encoded(variables.to_vec())
                    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed variables"))?;
                let mut files = descriptors.drain(..);
                let body = take_body(body, &mut files)?;
                let role = match role {
                    Role::Responder => lua::Role::Responder,
                    Role::Authorizer => lua::Role::Authorizer,
                    Role::Filter { data } => lua::Role::Filter { data: take_body(data, &mut files)? },
                };
                drop(files);
                serial = serial.next();
                channel.begin(serial);
                title.set("busy");
                let serial = serial.number();
                let outcome =
                    state.serve(lua::Request { serial, id: request_id, variables: &variables, body, role });
                channel.end(outcome == lua::Outcome::Complete);
                // Where there is any, it sends the end first, so that the client has its answer.
                state.after_response();
                if state.has_native_code() {
                    let mut told = Ok(());
                    surroundings.put_back(|message| {
                        let message = message.as_bytes();
                        told = channel.send(&FromWorker::Log { level: LogLevel::Warn, message, fields: b"" });
                    });
                    told?;
                }
                if state.is_nearly_full() {
                    // The client need not wait for it.
                    channel.flush()?;
                    state.collect();
                }
                channel.send(&FromWorker::Ready)?;
            }
        }
    }
    Ok(())
}

/// A body, with the next of the packet's descriptors where it is spooled.
fn take_body(body: RequestBody<'_>, files: &mut impl Iterator<Item = OwnedFd>) -> io::Result<lua::Body> {
    Ok(match body {
        RequestBody::Inline(bytes) => lua::Body::Memory(bytes.to_vec()),
        RequestBody::Spooled { length } => {
            let file = files.next().ok_or(io::ErrorKind::InvalidData)?;
            lua::Body::File { file: File::from(file), length }
        }
    })
}

/// What this process takes, in bytes: pages of its own in full, shared ones in part (`Pss` of proc(5)). 0 where the
/// kernel does not say.
fn pss() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    kilobytes(&text, "Pss:").unwrap_or(0)
}

/// A figure of `/proc`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// Sixty-four bits from the kernel, so that no two workers of one fork share a random sequence.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    // Fails only before the kernel's pool is ready, early at boot; the pid still tells workers apart.
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => u64::from(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs()),
    }
}

impl From<lua::Level> for LogLevel {
    fn from(level: lua::Level) -> Self {
        match level {
            lua::Level::Debug => Self::Debug,
            lua::Level::Info => Self::Info,
            lua::Level::Warn => Self::Warn,
            lua::Level::Error => Self::Error,
        }
    }
}
