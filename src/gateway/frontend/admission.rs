//! Who is let in: as many connections as there is room for, from peers that may connect. What accepting fails for.
//!
//! Called by the listeners. A connection that is let in becomes a task of its own.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

use crate::config::{Config, Peers};
use crate::fastcgi;
use crate::gateway::Gateway;
use crate::gateway::frontend::client_socket::ClientSocket;
use crate::gateway::frontend::connection;
use crate::log::throttle::Throttle;

/// How often it is logged that there are as many connections as there may be: a busy server can be at that
/// limit a thousand times a second.
const FULL_SAY: Duration = Duration::from_secs(60);

/// Where connections come in, the same for all listeners.
#[derive(Debug)]
pub(crate) struct Door {
    slots: Arc<Semaphore>,
    peers: Peers,
    /// For lines about peers that may not connect.
    refused: RefCell<Throttle>,
    connections: usize,
    /// When it was last said that there is no slot.
    said_full: Cell<Option<Instant>>,
}

impl Door {
    pub(crate) fn new(connections: usize, peers: Peers) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(connections)),
            peers,
            refused: RefCell::new(Throttle::new(Instant::now())),
            connections,
            said_full: Cell::new(None),
        }
    }

    /// Waits for room for one more connection.
    pub(crate) async fn slot(&self) -> io::Result<OwnedSemaphorePermit> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        if self.said_full.get().is_none_or(|said| said.elapsed() >= FULL_SAY) {
            self.said_full.set(Some(Instant::now()));
            warn!(
                connections = self.connections,
                "as many connections as there may be; more wait to be accepted (--max-connections)"
            );
        }
        Arc::clone(&self.slots).acquire_owned().await.map_err(io::Error::other)
    }

    /// Gives a connection a task. `slot` is its room.
    pub(crate) fn let_in(&self, gateway: &Rc<Gateway>, stream: ClientSocket, slot: OwnedSemaphorePermit) {
        if !self.is_allowed(&stream, gateway) {
            return;
        }
        let limits = limits(&gateway.config(), self.connections);
        let gateway = Rc::clone(gateway);
        // Counted before the task first runs, so that a stop in between waits for it.
        gateway.connection_opened();
        tokio::task::spawn_local(async move {
            connection::serve(stream, limits, Rc::clone(&gateway)).await;
            drop(slot);
            gateway.connection_closed();
        });
    }

    /// Whether the peer may connect; says so where it may not.
    fn is_allowed(&self, stream: &ClientSocket, gateway: &Gateway) -> bool {
        let ClientSocket::Tcp(stream) = stream else { return true };
        // A peer that has left already has no address any more.
        let Ok(peer) = stream.peer_addr() else { return false };
        let allowed = self.peers.allow(peer.ip());
        if !allowed {
            gateway.journal.connection_refused();
        }
        if !allowed && let Some(left_out) = self.refused.borrow_mut().allow(Instant::now()) {
            warn!(
                peer = %peer.ip().to_canonical(),
                left_out,
                "connection refused: the peer is not among those that may connect (--allow-from, FCGI_WEB_SERVER_ADDRS)"
            );
        }
        allowed
    }
}

/// Says that accepting fails, as often as its throttle lets it, and when it is over. Descriptors may be gone and there again
/// many times a second.
#[derive(Debug)]
pub(crate) struct Shortage {
    throttle: Throttle,
    said: bool,
}

impl Shortage {
    pub(crate) fn new(now: Instant) -> Self {
        Self { throttle: Throttle::new(now), said: false }
    }

    pub(crate) fn lasts(&mut self, error: &io::Error, now: Instant) {
        if let Some(left_out) = self.throttle.allow(now) {
            self.said = true;
            warn!(cause = %crate::log::cause(error), left_out, "cannot accept; new connections wait");
        }
    }

    pub(crate) fn is_over(&mut self) {
        if std::mem::take(&mut self.said) {
            info!("connections are accepted again");
        }
    }
}

fn limits(config: &Config, connections: usize) -> fastcgi::Limits {
    fastcgi::Limits {
        max_params: config.max_params,
        server_connections: connections,
        server_requests: config.queue + config.workers.max as usize,
        ..fastcgi::Limits::default()
    }
}
