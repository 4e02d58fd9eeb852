//! Opens the listening sockets of the settings.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use crate::config::{Config, Listen};
use crate::gateway::frontend::listener::Listener;
use crate::gateway::frontend::socket_file::{self, Permissions, SocketFile};
use crate::gateway::frontend::sockets;
use crate::gateway::frontend::takeover::RunningGateway;

/// Opens every socket of the settings that was not taken over.
pub(crate) async fn open_all(
    config: &Config,
    mut taken: Option<&mut RunningGateway>,
) -> Result<Vec<Rc<Listener>>, (Listen, io::Error)> {
    let mut listeners = Vec::new();
    for address in &config.listen {
        let claimed = taken.as_mut().map(|taken| taken.claim(address)).unwrap_or_default();
        let opened = open(config, address, claimed).await.and_then(|opened| {
            opened.iter().try_for_each(|listener| listener.may_be_listened_on(config))?;
            Ok(opened)
        });
        let opened = opened.map_err(|error| (address.clone(), in_use_by_us(error, address, &listeners)))?;
        listeners.extend(opened.into_iter().map(Rc::new));
    }
    Ok(listeners)
}

/// Opens the sockets of one address. `claimed` are those that were taken over.
async fn open(config: &Config, address: &Listen, claimed: Vec<OwnedFd>) -> io::Result<Vec<Listener>> {
    let made = |socket, file| Listener::new(address, socket, file);
    let known = |path: &Path| SocketFile::known(path, &Permissions::of(config));
    match address {
        Listen::Unix(path) if !claimed.is_empty() => {
            claimed.into_iter().map(|socket| made(socket, Some(known(path)))).collect()
        }
        _ if !claimed.is_empty() => claimed.into_iter().map(|socket| made(socket, None)).collect(),
        Listen::Unix(path) => {
            let (socket, file) = socket_file::bind(path, &Permissions::of(config)).await?;
            Ok(vec![made(socket, Some(file))?])
        }
        Listen::Tcp(name) => Ok(vec![made(sockets::bind_tcp(name, &config.allow_from)?, None)?]),
        Listen::Fd(number) => Ok(vec![made(sockets::inherited(*number)?, None)?]),
        Listen::Systemd => {
            sockets::passed_by_systemd()?.into_iter().map(|socket| made(socket, None)).collect()
        }
    }
}

/// The error of a TCP port that an earlier address (`before`) uses already. Names and 0.0.0.0 stand for other addresses.
fn in_use_by_us(error: io::Error, address: &Listen, before: &[Rc<Listener>]) -> io::Error {
    let Listen::Tcp(name) = address else { return error };
    let port = name.rsplit_once(':').map(|(_, port)| format!(":{port}"));
    let same_port = |listener: &&Rc<Listener>| {
        listener
            .local_address()
            .zip(port.as_ref())
            .is_some_and(|(local, port)| local.ends_with(port.as_str()))
    };
    match before.iter().find(same_port).filter(|_| error.kind() == io::ErrorKind::AddrInUse) {
        Some(other) => {
            io::Error::new(error.kind(), format!("{} of this same server has it", other.configured()))
        }
        None => error,
    }
}
