//! A worker: one complete request at a time, from its link through Lua and back.
//!
//! One thread, one blocking loop. Never sees FastCGI, a client or a sibling.

#[cfg(test)]
mod cost;
mod gateway_link;
mod memory;
mod packet;
mod process_state;
mod response_sender;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::cgi::Variables;
use crate::link::Link;
use crate::link::lane;
use crate::link::message::{FromWorker, LogLevel, RequestBody, Role, ToWorker, shortened};
use crate::lua;
use crate::os::dumpable;
use crate::os::fork;
use crate::os::lifeline;
use crate::os::random;
use crate::os::shared_memory::SharedMemory;
use crate::os::title::WorkerTitle;

use self::gateway_link::{Buffers, GatewayLink};
use self::process_state::ProcessState;
use self::response_sender::ResponseSender;

/// The exit status of a worker whose application or start hook failed.
const START_FAILED: i32 = 3;

/// Lua's message for a heap at its limit.
const OUT_OF_MEMORY: &str = "not enough memory";

/// The means of a worker, from the gateway's message `Spawn` and from the zygote.
#[derive(Debug)]
pub struct Spawn {
    worker: u32,
    link: Link,
    /// The memory of the lane.
    lane: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
    lifeline: OwnedFd,
    /// The application is in the state already.
    preloaded: bool,
    /// The limit of the worker's memory, in bytes.
    memory_limit: Option<u64>,
}

impl Spawn {
    /// Takes over the descriptors of `Spawn`.
    pub fn new(
        worker: u32,
        descriptors: Vec<OwnedFd>,
        preloaded: bool,
        memory_limit: Option<u64>,
    ) -> io::Result<Self> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || {
            let missing =
                || io::Error::new(io::ErrorKind::InvalidData, "Spawn carries four descriptors or five");
            descriptors.next().ok_or_else(missing)
        };
        let (link, stdout, stderr, lifeline) = (Link::from(next()?), next()?, next()?, next()?);
        let lane = next().ok();
        Ok(Self { worker, link, lane, stdout, stderr, lifeline, preloaded, memory_limit })
    }
}

/// Runs a worker to its end, in the process that was just forked.
pub fn run(spawn: Spawn, mut state: lua::State, title: WorkerTitle) -> ! {
    let status = match live(spawn, &mut state, title) {
        Ok(status) => status,
        Err(error) => {
            // Standard error is a pipe into the gateway's log. The error is ignored: without a gateway it has no reader.
            let _ = writeln!(io::stderr(), "worker failed: {}", crate::log::cause(&error));
            1
        }
    };
    // The state is not torn down: the process ends, and finalisers of a forked heap have nothing to add.
    std::mem::forget(state);
    std::process::exit(status)
}

fn live(spawn: Spawn, state: &mut lua::State, title: WorkerTitle) -> io::Result<i32> {
    let opened = dumpable::open_worker();
    // The zygote's own fork, and not the application's: it may use its descriptors.
    fork::claim_process();
    lifeline::arm(&spawn.lifeline)?;
    rustix::stdio::dup2_stdout(&spawn.stdout)?;
    rustix::stdio::dup2_stderr(&spawn.stderr)?;
    drop((spawn.stdout, spawn.stderr));
    // Before the gateway sends an interrupt, at the earliest for a start that takes too long: without a handler the signal would
    // kill the worker.
    state.accept_interrupts();
    lua::handle_interrupts()?;
    let shared = spawn.lane.map(|memory| SharedMemory::map(memory, lane::WORDS)).transpose()?;
    shared.as_ref().map_or(Ok(()), SharedMemory::keep_from_children)?;
    let link = Rc::new(GatewayLink::new(spawn.link, shared));
    if let Err(error) = opened {
        let line = format!("{}: {}", dumpable::NOT_OPENED, crate::log::cause(&error));
        link.log(LogLevel::Warn, line.as_bytes(), "");
    }
    let excess = spawn.memory_limit.and_then(|limit| {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        memory::excess(&status, limit)
    });
    let started = match excess {
        // Told before the limit is set: behind it the worker could not even send the message.
        Some(excess) => Err(excess),
        None => {
            spawn.memory_limit.map_or(Ok(()), |limit| set_memory_limit(limit, state))?;
            let hint = if spawn.memory_limit.is_some() { " (--memory-limit)" } else { "" };
            start(state, spawn.worker, spawn.preloaded, &link).map_err(|error| {
                error.to_string().replacen(OUT_OF_MEMORY, &format!("{OUT_OF_MEMORY}{hint}"), 1)
            })
        }
    };
    if let Err(message) = started {
        link.send(&FromWorker::StartFailed { message: &shortened(message.as_bytes()) })?;
        return Ok(START_FAILED);
    }
    link.send(&FromWorker::Ready)?;
    let served = serve(state, &link, title, &mut Buffers::new());
    state.stop_worker();
    served.map(|()| 0)
}

fn set_memory_limit(limit: u64, state: &mut lua::State) -> io::Result<()> {
    memory::set_wall(limit)?;
    state.limit_heap(memory::lua_part(limit));
    Ok(())
}

fn start(
    state: &mut lua::State,
    worker: u32,
    preloaded: bool,
    link: &Rc<GatewayLink>,
) -> Result<(), lua::LoadError> {
    if !preloaded {
        let log = Rc::clone(link);
        state.log_while_loading(Some(Box::new(move |level, message, fields| {
            log.log(level.into(), message, fields);
        })));
        let loaded = state.load();
        end_fork_of_load(&loaded);
        loaded?;
    }
    state.start_worker(worker, seed(), Box::new(ResponseSender::new(Rc::clone(link))))
}

/// Ends a process that the application forked while it was loaded, once that process comes back from loading.
pub fn end_fork_of_load<E: std::fmt::Display>(loaded: &Result<(), E>) {
    if let (true, Err(error)) = (fork::is_forked(), loaded) {
        let _ = writeln!(io::stderr(), "{error}");
    }
    fork::end_if_forked();
}

/// Takes requests until the gateway has no more.
fn serve(
    state: &mut lua::State,
    link: &GatewayLink,
    mut title: WorkerTitle,
    buffers: &mut Buffers,
) -> io::Result<()> {
    let mut descriptors = Vec::new();
    let mut process_state = ProcessState::capture();
    while !link.is_draining() {
        if link.take_measuring() {
            measure(state, link)?;
        }
        descriptors.clear();
        let Some(packet) = link.receive(buffers, &mut descriptors, || title.set("idle"))? else {
            return Ok(());
        };
        match ToWorker::decode(&mut &*packet).map_err(io::Error::other)? {
            ToWorker::Drain => return Ok(()),
            // The order came after the end of its request.
            ToWorker::Abort { .. } => {}
            ToWorker::Measure => measure(state, link)?,
            ToWorker::Request { request_id, variables, body, role, takes_file } => {
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
                let serial = link.begin(takes_file).number();
                title.set("busy");
                let outcome =
                    state.serve(lua::Request { serial, id: request_id, variables: &variables, body, role });
                link.end(outcome == lua::Outcome::Complete);
                // Sends the end first where a function is registered, so that the client has its response.
                state.after_response();
                if state.has_native_code() {
                    let mut told = Ok(());
                    process_state.restore(|message| {
                        let message = message.as_bytes();
                        told = link.send(&FromWorker::Log { level: LogLevel::Warn, message, fields: b"" });
                    });
                    told?;
                }
                if state.is_nearly_full() {
                    // The client need not wait for the collection.
                    link.flush()?;
                    state.collect();
                }
                link.send(&FromWorker::Ready)?;
            }
        }
    }
    Ok(())
}

/// Sends the worker's memory.
fn measure(state: &lua::State, link: &GatewayLink) -> io::Result<()> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let pss = memory::proportional_share(&rollup);
    link.send(&FromWorker::Measured { pss, lua_heap: state.heap() })
}

/// A body. A spooled body's file is the next of the packet's descriptors.
fn take_body(body: RequestBody<'_>, files: &mut impl Iterator<Item = OwnedFd>) -> io::Result<lua::Body> {
    Ok(match body {
        RequestBody::Inline(bytes) => lua::Body::Memory(bytes.to_vec()),
        RequestBody::Spooled { length } => {
            let file = files.next().ok_or(io::ErrorKind::InvalidData)?;
            lua::Body::File { file: File::from(file), length }
        }
    })
}

/// A seed of 64 bits from the kernel, so that no two workers of one zygote share a random sequence.
fn seed() -> u64 {
    // Fails only where the kernel forbids it; the pid still tells workers apart.
    random::bytes().map_or_else(|_| std::process::id().into(), u64::from_ne_bytes)
}
