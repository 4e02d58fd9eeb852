//! The old gateway's side of a take-over: sends its sockets, and stops when the new gateway has taken its place.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use serde_json::json;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tracing::{info, warn};

use crate::gateway::Command;
use crate::gateway::Gateway;
use crate::gateway::events::SupervisorEvent;
use crate::gateway::frontend::takeover::addresses::{is_among, names};
use crate::gateway::frontend::takeover::line;
use crate::gateway::frontend::takeover::protocol::{AGREED, OldState, OldStep, refusal};
use crate::os::descriptors;

/// Most sockets of a take-over: far more than servers listen on, and few enough for one message.
const MAX_SOCKETS: usize = descriptors::MOST;

/// The guard of the gateway that is taking over. Its drop lets another take over.
struct TakerGuard<'a>(&'a Gateway);

impl Drop for TakerGuard<'_> {
    fn drop(&mut self) {
        self.0.taker.set(None);
    }
}

/// Lets a new gateway take over, if no other is taking over. Returns when the outcome is known.
pub(crate) async fn serve(stream: &mut UnixStream, gateway: &Gateway) -> io::Result<()> {
    let listeners = gateway.listeners.borrow().clone();
    let names = names(listeners.iter().map(|listener| listener.configured()));
    let (stopping, has_served) = (*gateway.stopping.borrow(), gateway.has_served());
    if let Some(error) = refusal(gateway.taker.get(), stopping, has_served, names.len(), MAX_SOCKETS) {
        return refuse(stream, &error).await;
    }
    gateway.taker.set(Some(stream.peer_cred()?.pid().unwrap_or_default()));
    let _guard = TakerGuard(gateway);
    let sockets = listeners.iter().map(|listener| listener.descriptor()).collect::<io::Result<Vec<_>>>()?;
    let answer = json!({ "ok": true, "sockets": names });
    stream.writable().await?;
    stream.try_io(Interest::WRITABLE, || send(&*stream, &format!("{answer}\n"), &sockets))?;

    let (mut state, mut line) = (OldState::Offered, Vec::new());
    loop {
        let read = line::read(stream, &mut line, state.patience()).await;
        let stopping = *gateway.stopping.borrow();
        state = match state.next(line::peer_event(&read, &line), stopping) {
            OldStep::Agree(next) => {
                stream.write_all(format!("{AGREED}\n").as_bytes()).await?;
                line.clear();
                next
            }
            OldStep::ShutReading(next) => {
                // From here on a write of the new gateway fails. Its earlier bytes are still read.
                rustix::net::shutdown(&*stream, rustix::net::Shutdown::Read)?;
                next
            }
            OldStep::Refuse(error) => return refuse(stream, error).await,
            OldStep::StepDown { claimed } => {
                step_down(gateway, &claimed);
                return Ok(());
            }
            OldStep::ServeOn => {
                warn!("another server was about to take over, and has not; this one goes on");
                return Ok(());
            }
            OldStep::Gone => return read,
            OldStep::Malformed => return Err(io::ErrorKind::InvalidData.into()),
        };
    }
}

async fn refuse(stream: &mut UnixStream, error: &str) -> io::Result<()> {
    stream.write_all(format!("{}\n", json!({ "ok": false, "error": error })).as_bytes()).await
}

/// Leaves the files of the claimed addresses to the new gateway, which accepts now, and stops.
fn step_down(gateway: &Gateway, claimed: &[String]) {
    info!("another server has taken over");
    for listener in
        gateway.listeners.borrow().iter().filter(|listener| is_among(listener.configured(), claimed))
    {
        listener.release_file();
    }
    gateway.update_server_state(|state| state.taken_over = true);
    // The new gateway serves new clients, so the drain delay has no purpose.
    gateway.supervisor_events.send(SupervisorEvent::Command(Command::StopSoon));
}

fn send(stream: impl AsFd, line: &str, sockets: &[OwnedFd]) -> io::Result<()> {
    let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let sent = descriptors::send(stream, line.as_bytes(), &sockets)?;
    // The send buffer is empty and far larger than a line.
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
