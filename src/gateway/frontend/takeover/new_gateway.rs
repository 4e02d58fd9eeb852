//! The new gateway's side of a take-over: asks for the sockets, and takes the old gateway's place when it can serve.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::RecvFlags;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::config::Listen;
use crate::gateway::frontend::takeover::addresses::name_of;
use crate::gateway::frontend::takeover::line::{self, MAX_LINE};
use crate::gateway::frontend::takeover::protocol::{
    AnswerError, NewState, NewStep, PATIENCE, TAKEN, answer, ready, strings,
};
use crate::os::descriptors;

/// The running gateway: the connection to it, and its sockets.
#[derive(Debug)]
pub(crate) struct RunningGateway {
    stream: UnixStream,
    /// Unclaimed sockets, with the names of their addresses.
    sockets: Vec<(String, OwnedFd)>,
    /// Names of the claimed addresses.
    claimed: Vec<String>,
}

impl RunningGateway {
    /// Asks the gateway whose control socket is at `path`. `None` where no gateway listens there.
    pub(crate) async fn from(path: &Path) -> io::Result<Option<Self>> {
        let Some(mut stream) = connect(path).await? else { return Ok(None) };
        let Some((line, descriptors)) = ask(&mut stream, "take-over").await? else { return Ok(None) };
        let sockets = match NewState::Asked.next(line::peer_event(&Ok(()), &line)) {
            NewStep::Start { sockets } => sockets,
            other => return Err(cause_of(other, Ok(()))),
        };
        let sockets = sockets.into_iter().zip(descriptors).collect();
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

    /// Takes the old gateway's place. The old gateway stops once this has succeeded, and goes on where it fails.
    pub(crate) async fn commit(mut self) -> io::Result<()> {
        self.take_place().await.map_err(|error| {
            let cause = crate::log::cause(&error);
            io::Error::new(error.kind(), format!("the server that runs has not let go: {cause}"))
        })
    }

    async fn take_place(&mut self) -> io::Result<()> {
        self.stream.write_all(format!("{}\n", ready(&self.claimed)).as_bytes()).await?;
        let mut line = Vec::new();
        let read = line::read(&mut self.stream, &mut line, Some(PATIENCE)).await;
        match NewState::Ready.next(line::peer_event(&read, &line)) {
            NewStep::Take => self.stream.write_all(format!("{TAKEN}\n").as_bytes()).await,
            other => Err(cause_of(other, read)),
        }
    }
}

/// The cause of a take-over that ends with `step`, where the last read had this result.
fn cause_of(step: NewStep, read: io::Result<()>) -> io::Error {
    match step {
        NewStep::Refused(error) | NewStep::Malformed(error) => io::Error::other(error),
        NewStep::Gone | NewStep::Start { .. } | NewStep::Take => {
            read.err().unwrap_or_else(|| io::ErrorKind::InvalidData.into())
        }
    }
}

/// The names of the addresses that the gateway whose control socket is at `path` listens on. `None` where no gateway listens
/// there.
pub(crate) async fn addresses_of(path: &Path) -> io::Result<Option<Vec<String>>> {
    let Some(mut stream) = connect(path).await? else { return Ok(None) };
    let Some((line, _)) = ask(&mut stream, "addresses").await? else { return Ok(None) };
    match answer(&line) {
        Ok(answer) => Ok(Some(strings(&answer["addresses"]))),
        Err(AnswerError::Refusal(error) | AnswerError::Malformed(error)) => Err(io::Error::other(error)),
    }
}

/// Connects to the control socket at `path`. `None` if no process listens there.
async fn connect(path: &Path) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Sends a command; gives the line of the answer, and the descriptors that come with it. `None` where the connection ends before the
/// answer begins: a gateway that is just being killed can still be connected to for a moment. A gateway that lives and does not
/// answer still has its sockets, and the start fails there.
async fn ask(stream: &mut UnixStream, command: &str) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let answered = async {
        let (mut line, descriptors) = match first_of_answer(stream, command).await {
            Ok((line, descriptors)) if !line.is_empty() => (line, descriptors),
            Ok(_) => return Ok(None),
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        line::read(stream, &mut line, None).await?;
        Ok(Some((line, descriptors)))
    };
    tokio::time::timeout(PATIENCE, answered).await?
}

/// Sends a command; gives the first bytes of the answer, and the descriptors that come with them.
async fn first_of_answer(stream: &mut UnixStream, command: &str) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    stream.write_all(format!("{command}\n").as_bytes()).await?;
    loop {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || receive(&*stream)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
}

/// Whether an error says that the peer has closed the connection.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// The first bytes of an answer, and the descriptors that come with them.
fn receive(stream: impl AsFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut buffer, mut sockets) = (vec![0; MAX_LINE], Vec::new());
    let received =
        descriptors::receive(stream, &mut buffer, &mut sockets, descriptors::MOST, RecvFlags::empty())?;
    buffer.truncate(received.length);
    Ok((buffer, sockets))
}
