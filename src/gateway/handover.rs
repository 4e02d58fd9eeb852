//! Hands the listening sockets to a new gateway, so that the program can be replaced and nobody is refused.
//!
//! ```text
//! new → old   take-over                   on the control socket
//! old → new   {"ok":true,"sockets":[…]}   with the sockets themselves
//! new → old   ready                       once its first worker is and it accepts; the old one then stops as on TERM
//! ```
//!
//! Until `ready` the old gateway goes on as ever, so a new one that does not start changes nothing. Both have the
//! same sockets for a moment, and accept side by side.

use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net as std_unix;
use std::path::{Path, absolute};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tracing::info;

use super::notice::Notice;
use super::{Command, Gateway};
use crate::config::Listen;

/// The most sockets that are handed over: far more than anybody listens on, and few enough for one message.
const MAX_SOCKETS: usize = 64;

/// How long the old gateway may take to answer: it has only to look at what it has.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the sockets of an address are called between the two gateways, whose working directories may differ.
fn name_of(address: &Listen) -> String {
    match address {
        Listen::Unix(path) => format!("unix:{}", absolute(path).as_deref().unwrap_or(path).display()),
        other => other.to_string(),
    }
}

/// Sends the sockets to a gateway that asks for them. They stay in use here.
pub(super) async fn offer(stream: &UnixStream, gateway: &Gateway) -> io::Result<()> {
    let listeners = gateway.listeners.borrow().clone();
    let names: Vec<String> = listeners.iter().map(|listener| name_of(listener.configured())).collect();
    let answer = match names.len() {
        _ if *gateway.stopping.borrow() => json!({ "ok": false, "error": "the server is stopping" }),
        _ if !gateway.has_served() => json!({ "ok": false, "error": "the server has not started yet" }),
        count if count > MAX_SOCKETS => json!({ "ok": false, "error": "too many sockets" }),
        _ => json!({ "ok": true, "sockets": names }),
    };
    let given = if answer["ok"] == true { &listeners[..] } else { &[] };
    let sockets = given.iter().map(|listener| listener.descriptor()).collect::<io::Result<Vec<_>>>()?;
    stream.writable().await?;
    stream.try_io(Interest::WRITABLE, || send(stream, &format!("{answer}\n"), &sockets))
}

/// The gateway that asked is ready: leaves the files to it, and stops.
pub(super) fn accepted(gateway: &Gateway) {
    info!("another server has taken over");
    gateway.listeners.borrow().iter().for_each(|listener| listener.release_file());
    gateway.note(|course| course.taken_over = true);
    // The new one serves whoever comes, so that nobody has to be sent elsewhere.
    gateway.notices.send(Notice::Command(Command::StopSoon));
}

fn send(stream: impl AsFd, line: &str, sockets: &[OwnedFd]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    if !sockets.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&sockets));
    }
    let sent =
        rustix::net::sendmsg(stream, &[IoSlice::new(line.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    // The send buffer is empty and far larger than a line.
    if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// The sockets of a gateway that still runs.
#[derive(Debug)]
pub(super) struct Taken {
    stream: std_unix::UnixStream,
    sockets: Vec<(String, OwnedFd)>,
}

impl Taken {
    /// Asks the gateway whose control socket is at `path`. `None` where there is none.
    pub(super) fn from(path: &Path) -> io::Result<Option<Self>> {
        let mut stream = match std_unix::UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"take-over\n")?;
        let (line, descriptors) = receive(&stream)?;
        let answer: Value = serde_json::from_str(&line).map_err(io::Error::other)?;
        if let Some(error) = answer["error"].as_str() {
            return Err(io::Error::other(error.to_owned()));
        }
        let names = answer["sockets"].as_array().into_iter().flatten();
        let names = names.map(|name| name.as_str().unwrap_or_default().to_owned());
        Ok(Some(Self { stream, sockets: names.zip(descriptors).collect() }))
    }

    /// Takes the sockets of an address out.
    pub(super) fn claim(&mut self, address: &Listen) -> Vec<OwnedFd> {
        let name = name_of(address);
        let (claimed, others) =
            std::mem::take(&mut self.sockets).into_iter().partition(|(of, _)| *of == name);
        self.sockets = others;
        let claimed: Vec<(String, OwnedFd)> = claimed;
        claimed.into_iter().map(|(_, socket)| socket).collect()
    }

    /// Tells the old gateway that it may go.
    pub(super) fn ready(mut self) -> io::Result<()> {
        self.stream.write_all(b"ready\n")
    }
}

/// A line, and the descriptors that come with its first bytes.
fn receive(stream: &std_unix::UnixStream) -> io::Result<(String, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = vec![0; 16 * 1024];
    let received = rustix::net::recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut buffer)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    buffer.truncate(received.bytes);
    let mut line = String::from_utf8(buffer).map_err(io::Error::other)?;
    if !line.ends_with('\n') {
        BufReader::new(stream).read_line(&mut line)?;
    }
    Ok((line, descriptors))
}
