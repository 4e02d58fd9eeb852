//! Hands the listening sockets to a new gateway, so that the program can be replaced and nobody is refused.
//!
//! ```text
//! new → old   take-over                   on the control socket; refused while another one is at it
//! old → new   {"ok":true,"sockets":[…]}   with the sockets themselves
//! new → old   ready […]                   its first worker is, and its control socket is prepared; which sockets it takes
//! old → new   {"ok":true}                 the old one still serves, and waits
//! new → old   taken                       the new one accepts once this is written; the old one stops as on TERM
//! ```
//!
//! Until it has read `taken` the old gateway goes on as ever, whatever becomes of the new one. One that waits for it too long
//! shuts its side first and then reads what has come: the new one's write has either been read, or it fails. A new one whose
//! `ready` is not answered, or whose `taken` cannot be written, ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, absolute};
use std::rc::Rc;
use std::time::Duration;

use rustix::net::RecvFlags;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tracing::{info, warn};

use crate::config::Listen;
use crate::gateway::Command;
use crate::gateway::Gateway;
use crate::gateway::events::Notice;
use crate::os::descriptors;

/// The most sockets that are handed over: far more than anybody listens on, and few enough for one message.
const MAX_SOCKETS: usize = descriptors::MOST;

/// How long either gateway may take to answer the other: it has only to look at what it has.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a new gateway may load its application, whatever its `--start-timeout`. One that is stopped meanwhile is in the way
/// of others for no longer.
const LOADING: Duration = Duration::from_secs(60 * 60);

/// The longest line that one says to the other.
const MAX_LINE: usize = 16 * 1024;

/// What the sockets of an address are called between the two gateways, whose working directories may differ.
fn name_of(address: &Listen) -> String {
    match address {
        Listen::Unix(path) => format!("unix:{}", absolute(path).as_deref().unwrap_or(path).display()),
        other => other.to_string(),
    }
}

/// The names of the addresses that are listened on: for `nibiru check`.
pub(crate) fn addresses(gateway: &Gateway) -> Vec<String> {
    gateway.listeners.borrow().iter().map(|listener| name_of(listener.configured())).collect()
}

/// The mark of the gateway that is taking over, gone with its connection.
struct Taker<'a>(&'a Gateway);

impl Drop for Taker<'_> {
    fn drop(&mut self) {
        self.0.taker.set(None);
    }
}

/// Lets a new gateway take over, if nobody else is at it. Returns when it has, or has not.
pub(crate) async fn serve(stream: &mut UnixStream, gateway: &Rc<Gateway>) -> io::Result<()> {
    let listeners = gateway.listeners.borrow().clone();
    let names = addresses(gateway);
    let refusal = if let Some(pid) = gateway.taker.get() {
        Some(format!("process {pid} is taking over already"))
    } else if *gateway.stopping.borrow() {
        Some("the server is stopping".to_owned())
    } else if !gateway.has_served() {
        Some("the server has not started yet".to_owned())
    } else if names.len() > MAX_SOCKETS {
        Some("too many sockets".to_owned())
    } else {
        None
    };
    if let Some(error) = refusal {
        return stream.write_all(format!("{}\n", json!({ "ok": false, "error": error })).as_bytes()).await;
    }
    gateway.taker.set(Some(stream.peer_cred()?.pid().unwrap_or_default()));
    let _taker = Taker(gateway);
    let sockets = listeners.iter().map(|listener| listener.descriptor()).collect::<io::Result<Vec<_>>>()?;
    let answer = json!({ "ok": true, "sockets": names });
    stream.writable().await?;
    stream.try_io(Interest::WRITABLE, || send(&*stream, &format!("{answer}\n"), &sockets))?;

    let mut line = Vec::new();
    tokio::time::timeout(LOADING, read_line(stream, &mut line)).await??;
    let claimed = line.strip_prefix(b"ready ").ok_or(io::ErrorKind::InvalidData)?;
    let claimed = strings(&serde_json::from_slice(claimed).map_err(io::Error::other)?);
    if *gateway.stopping.borrow() {
        let answer = json!({ "ok": false, "error": "the server is stopping" });
        return stream.write_all(format!("{answer}\n").as_bytes()).await;
    }
    stream.write_all(b"{\"ok\":true}\n").await?;
    line.clear();
    let taken = match tokio::time::timeout(PATIENCE, read_line(stream, &mut line)).await {
        Ok(read) => read,
        Err(_) => {
            // From here on a write of the new one's fails; what it wrote before is here.
            rustix::net::shutdown(&*stream, rustix::net::Shutdown::Read)?;
            read_line(stream, &mut line).await
        }
    };
    if taken.is_err() || line != b"taken" {
        warn!("another server was about to take over, and has not; this one goes on");
        return Ok(());
    }
    accepted(gateway, &claimed);
    Ok(())
}

/// The gateway that asked accepts: leaves the files of what it has claimed to it, and stops.
fn accepted(gateway: &Gateway, claimed: &[String]) {
    info!("another server has taken over");
    for listener in
        gateway.listeners.borrow().iter().filter(|listener| is_among(listener.configured(), claimed))
    {
        listener.release_file();
    }
    gateway.note(|course| course.taken_over = true);
    // The new one serves whoever comes, so that nobody has to be sent elsewhere.
    gateway.notices.send(Notice::Command(Command::StopSoon));
}

/// Reads a line, without its end, behind what `line` holds. What one says comes after the other's answer, so nothing
/// follows it.
async fn read_line(stream: &mut UnixStream, line: &mut Vec<u8>) -> io::Result<()> {
    while line.last() != Some(&b'\n') {
        if line.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if stream.read_buf(line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    line.pop();
    Ok(())
}

fn send(stream: impl AsFd, line: &str, sockets: &[OwnedFd]) -> io::Result<()> {
    let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    let sent = descriptors::send(stream, line.as_bytes(), &sockets)?;
    // The send buffer is empty and far larger than a line.
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The sockets of a gateway that still runs.
#[derive(Debug)]
pub(crate) struct Taken {
    stream: UnixStream,
    sockets: Vec<(String, OwnedFd)>,
    claimed: Vec<String>,
}

impl Taken {
    /// Asks the gateway whose control socket is at `path`. `None` where there is none.
    pub(crate) async fn from(path: &Path) -> io::Result<Option<Self>> {
        let Some((stream, answer, descriptors)) = ask(path, "take-over").await? else { return Ok(None) };
        let names = strings(&answer["sockets"]);
        let sockets = names.into_iter().zip(descriptors).collect();
        Ok(Some(Self { stream, sockets, claimed: Vec::new() }))
    }

    /// Takes the sockets of an address out.
    pub(crate) fn claim(&mut self, address: &Listen) -> Vec<OwnedFd> {
        let name = name_of(address);
        let (claimed, others) =
            std::mem::take(&mut self.sockets).into_iter().partition(|(of, _)| *of == name);
        self.sockets = others;
        let claimed: Vec<(String, OwnedFd)> = claimed;
        self.claimed.extend((!claimed.is_empty()).then_some(name));
        claimed.into_iter().map(|(_, socket)| socket).collect()
    }

    /// Takes the old gateway's place: it stops once this has succeeded, and goes on where it fails.
    pub(crate) async fn commit(mut self) -> io::Result<()> {
        let not_let_go = |error: io::Error| {
            let cause = crate::log::cause(&error);
            io::Error::new(error.kind(), format!("the server that runs has not let go: {cause}"))
        };
        let agreed = async {
            self.stream.write_all(format!("ready {}\n", json!(self.claimed)).as_bytes()).await?;
            let mut line = Vec::new();
            tokio::time::timeout(PATIENCE, read_line(&mut self.stream, &mut line)).await??;
            refusal(&serde_json::from_slice(&line).map_err(io::Error::other)?)?;
            self.stream.write_all(b"taken\n").await
        };
        agreed.await.map_err(not_let_go)
    }
}

/// What the gateway listens on whose control socket is at `path`, as [`is_among`] wants it. `None` where there is none.
pub(crate) async fn addresses_of(path: &Path) -> io::Result<Option<Vec<String>>> {
    Ok(ask(path, "addresses").await?.map(|(_, answer, _)| strings(&answer["addresses"])))
}

/// Whether an address is one of [`addresses_of`].
pub(crate) fn is_among(address: &Listen, addresses: &[String]) -> bool {
    addresses.contains(&name_of(address))
}

fn strings(array: &Value) -> Vec<String> {
    array.as_array().into_iter().flatten().map(|name| name.as_str().unwrap_or_default().to_owned()).collect()
}

fn refusal(answer: &Value) -> io::Result<()> {
    match answer["error"].as_str() {
        Some(error) => Err(io::Error::other(error.to_owned())),
        None => Ok(()),
    }
}

/// Sends a command, and waits for the answer and the descriptors that come with it. `None` where nobody listens at `path`.
async fn ask(path: &Path, command: &str) -> io::Result<Option<(UnixStream, Value, Vec<OwnedFd>)>> {
    let mut stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    let answered = async {
        let (mut line, descriptors) = loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || receive(&stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => break received?,
            }
        };
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read_line(&mut stream, &mut line).await?;
        Ok::<_, io::Error>((line, descriptors))
    };
    let (line, descriptors) = tokio::time::timeout(PATIENCE, answered).await??;
    let answer: Value = serde_json::from_slice(&line).map_err(io::Error::other)?;
    refusal(&answer)?;
    Ok(Some((stream, answer, descriptors)))
}

/// The first bytes of an answer, and the descriptors that come with them.
fn receive(stream: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut buffer, mut sockets) = (vec![0; MAX_LINE], Vec::new());
    let received = descriptors::receive(stream, &mut buffer, &mut sockets, MAX_SOCKETS, RecvFlags::empty())?;
    buffer.truncate(received.length);
    Ok((buffer, sockets))
}
