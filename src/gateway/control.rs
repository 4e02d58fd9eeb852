//! The control socket: one command a connection, one JSON object as the answer.
//!
//! ```text
//! → status                     ← {"version":"0.1.0",…}
//! → reload                     ← {"ok":true,"generation":2,"needs_restart":[]}   once the new code answers, or
//!                              ← {"ok":false,"error":"…","serving":1}           once it has failed to
//! → scale 4                    ← {"ok":true,"workers":"4"}
//! → stop                       ← {"ok":true}                      then the connection stays open until the end
//! → addresses                  ← {"ok":true,"addresses":["unix:/run/app.sock"]}
//! → take-over                  see `takeover::protocol`
//! ```
//!
//! Mode 0600: a user that may connect may stop the server. Clients are not checked further. All changes of the server go
//! through its supervisor, as signals do.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tracing::{debug, warn};

use crate::config::{StartDirectory, Workers};
use crate::gateway::Command;
use crate::gateway::Gateway;
use crate::gateway::Load;
use crate::gateway::Scale;
use crate::gateway::events::SupervisorEvent;
use crate::gateway::frontend::socket_file::{self, Permissions, SocketFile, UnpublishedSocket};
use crate::gateway::frontend::takeover;
use crate::gateway::snapshot;
use crate::gateway::telemetry::status;
use crate::link::discovery;
use crate::os::random;

/// Longest command, in bytes.
const MAX_COMMAND: usize = 256;

/// Time limit for a client to send its command. Clients are local programs with nothing else to do.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept, mostly for want of a descriptor.
const PAUSE: Duration = Duration::from_secs(1);

/// Pause between two answers about the place of the control socket.
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(10);

/// The control socket. Its file is removed on drop.
#[derive(Debug)]
pub(crate) struct Control {
    socket: UnixListener,
    _file: SocketFile,
}

impl Control {
    /// Opens the socket at `path`, for this user alone.
    pub(crate) async fn open(path: &Path) -> io::Result<Self> {
        let (socket, file) = socket_file::bind(path, &Permissions::private()).await?;
        Ok(Self { socket: UnixListener::from_std(socket.into())?, _file: file })
    }

    /// Prepares a socket for the place of a running gateway's own. Unreachable until [`Self::publish`].
    pub(crate) async fn prepare_over(path: &Path) -> io::Result<UnpublishedSocket> {
        socket_file::prepare_over(path, &Permissions::private()).await
    }

    /// Moves a socket from [`Self::prepare_over`] to its place.
    pub(crate) fn publish(prepared: UnpublishedSocket) -> io::Result<Self> {
        let (socket, file) = prepared.publish()?;
        Ok(Self { socket: UnixListener::from_std(socket.into())?, _file: file })
    }

    /// Answers clients until the gateway ends.
    pub(crate) async fn serve(self, gateway: Rc<Gateway>) {
        let yield_queue = Rc::clone(&gateway.yield_queue);
        loop {
            match self.socket.accept().await {
                Ok((stream, _)) => {
                    let gateway = Rc::clone(&gateway);
                    tokio::task::spawn_local(async move {
                        if let Err(error) = answer(stream, &gateway).await {
                            debug!(cause = %crate::log::cause(&error), "control connection lost");
                        }
                    });
                    yield_queue.wait_turn().await;
                }
                Err(error) => {
                    warn!(cause = %crate::log::cause(&error), "cannot accept on the control socket; pausing");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Announces the place of the control socket to commands of this user, which look for it by the configuration file.
pub(crate) fn announce(gateway: &Rc<Gateway>) {
    let config = gateway.config();
    let Some(file) = &config.file else { return };
    let directory = StartDirectory::of_this_process();
    // Early at boot, without randomness, two servers of one file share a name, and only one is found.
    let chance = u64::from_ne_bytes(random::bytes_or_zeros());
    let listeners = discovery::announce(directory.path(), file, chance);
    let listeners = listeners.and_then(|listeners| {
        listeners.into_iter().map(UnixListener::from_std).collect::<io::Result<Vec<_>>>()
    });
    match listeners {
        Ok(listeners) => {
            let answer: Rc<[u8]> = discovery::answer(config.control.as_deref()).into();
            for listener in listeners {
                tokio::task::spawn_local(answer_discovery(listener, Rc::clone(&answer)));
            }
        }
        // Commands then look at the place that the file names.
        Err(cause) => debug!(cause = %crate::log::cause(&cause), "cannot be found by the configuration file"),
    }
}

async fn answer_discovery(listener: UnixListener, answer: Rc<[u8]>) {
    let own = rustix::process::geteuid().as_raw();
    loop {
        if let Ok((mut stream, _)) = listener.accept().await
            && stream.peer_cred().is_ok_and(|peer| [0, own].contains(&peer.uid()))
        {
            // The buffer of a new connection has room for the answer.
            let _ = stream.write_all(&answer).await;
        }
        // Any local user can connect, and must not keep the gateway busy.
        tokio::time::sleep(ANNOUNCE_PAUSE).await;
    }
}

async fn answer(mut stream: UnixStream, gateway: &Rc<Gateway>) -> io::Result<()> {
    let command = match tokio::time::timeout(COMMAND_TIMEOUT, read_command(&mut stream)).await? {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            // A proxy, or `nibiru request`, was given the wrong socket.
            let answer =
                json!({ "ok": false, "error": "this is the control socket, and that was no command" });
            return stream.write_all(format!("{answer}\n").as_bytes()).await;
        }
        command => command?,
    };
    // Simultaneous commands run one at a time, between the requests.
    gateway.yield_queue.wait_turn().await;
    if command == "take-over" {
        return takeover::serve(&mut stream, gateway).await;
    }
    let answer = match obey(&command, gateway).await {
        Ok(answer) => answer,
        Err(error) => json!({ "ok": false, "error": error }),
    };
    stream.write_all(format!("{answer}\n").as_bytes()).await?;
    if command == "stop" {
        // The connection stays open, so that its close tells the client that the gateway has ended.
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Reads one line, without its line end.
async fn read_command(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        if stream.read_buf(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // A command is a word; FastCGI begins with the byte 1.
        if line.len() > MAX_COMMAND || !line[0].is_ascii_alphabetic() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            return String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into());
        }
    }
}

async fn obey(command: &str, gateway: &Gateway) -> Result<Value, String> {
    let (name, argument) = command.split_once(' ').unwrap_or((command, ""));
    match name {
        "status" => status::value(&snapshot::status(gateway, Instant::now())),
        "addresses" => {
            let listeners = gateway.listeners.borrow();
            let names = takeover::names(listeners.iter().map(|listener| listener.configured()));
            Ok(json!({ "ok": true, "addresses": names }))
        }
        "reload" => reload(gateway).await,
        "stop" => {
            gateway.supervisor_events.send(SupervisorEvent::Command(Command::Stop));
            Ok(json!({ "ok": true }))
        }
        "scale" => {
            let workers: Workers = argument.parse()?;
            if workers.min == 0 && gateway.config().queue == 0 {
                return Err("no request could wait for the first worker (--queue 0)".to_owned());
            }
            gateway.supervisor_events.send(SupervisorEvent::Command(Command::Scale(Scale::To(workers))));
            Ok(json!({ "ok": true, "workers": workers.to_string() }))
        }
        _ => Err(format!("{name}: no such command")),
    }
}

/// Reloads, and waits for the outcome; if another reload overtakes it, for that one's.
async fn reload(gateway: &Gateway) -> Result<Value, String> {
    if *gateway.stopping.borrow() || gateway.server_state.get().stop_announced {
        return Err("the server is stopping".to_owned());
    }
    let mut code = gateway.mode.code.subscribe();
    let before = code.borrow().generation;
    gateway.supervisor_events.send(SupervisorEvent::Command(Command::Reload));
    let mut stopping = gateway.stopping();
    let outcome = tokio::select! {
        outcome = code.wait_for(|code| code.generation > before && code.load != Load::Running) => outcome,
        _ = stopping.wait_for(|stopping| *stopping) => return Err("the server is stopping".to_owned()),
    };
    match outcome.map(|code| code.clone()) {
        Ok(crate::gateway::NewestGeneration { generation, load: Load::Done, needs_restart }) => {
            Ok(json!({ "ok": true, "generation": generation, "needs_restart": needs_restart }))
        }
        Ok(crate::gateway::NewestGeneration { load: Load::Failed(message), .. }) => {
            let serving = gateway.pool.borrow().generation();
            // No generation serves before the first load is complete.
            Ok(match serving {
                0 => json!({ "ok": false, "error": message }),
                _ => json!({ "ok": false, "error": message, "serving": serving }),
            })
        }
        Ok(_) | Err(_) => Err("the server is stopping".to_owned()),
    }
}
