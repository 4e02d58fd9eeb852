//! The admission of clients: the limit of connections, and the check of peers.
//!
//! Called by the acceptors. An admitted connection gets a task of its own.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use crate::config::{Config, Peers};
use crate::fastcgi;
use crate::gateway::Gateway;
use crate::gateway::frontend::accept_log::ConnectionLimitLog;
use crate::gateway::frontend::client_socket::ClientSocket;
use crate::gateway::frontend::connection;
use crate::log::rate_limit::LogRateLimiter;

/// The admission of all listeners together.
#[derive(Debug)]
pub(crate) struct Admission {
    /// One permit for each connection up to the limit.
    permits: Arc<Semaphore>,
    peers: Peers,
    /// Rate limit of lines about refused peers.
    refused: RefCell<LogRateLimiter>,
    /// The limit of connections.
    connections: usize,
    limit_log: RefCell<ConnectionLimitLog>,
}

impl Admission {
    pub(crate) fn new(connections: usize, peers: Peers, now: Instant) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(connections)),
            peers,
            refused: RefCell::new(LogRateLimiter::new(now)),
            connections,
            limit_log: RefCell::default(),
        }
    }

    /// Waits for a permit for one more connection.
    pub(crate) async fn permit(&self) -> io::Result<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        if self.limit_log.borrow_mut().reached(Instant::now()) {
            warn!(
                connections = self.connections,
                "as many connections as there may be; more wait to be accepted (--max-connections)"
            );
        }
        Arc::clone(&self.permits).acquire_owned().await.map_err(io::Error::other)
    }

    /// Gives a connection a task, if its peer may connect. The task keeps the permit.
    pub(crate) fn admit(&self, gateway: &Rc<Gateway>, stream: ClientSocket, permit: OwnedSemaphorePermit) {
        if !self.is_allowed(&stream, gateway) {
            return;
        }
        let limits = limits(&gateway.config(), self.connections);
        let gateway = Rc::clone(gateway);
        // Counted before the task first runs, so that a stop in between waits for the connection.
        gateway.connection_opened();
        tokio::task::spawn_local(async move {
            connection::serve(stream, limits, Rc::clone(&gateway)).await;
            drop(permit);
            gateway.connection_closed(Instant::now());
        });
    }

    /// Whether the peer may connect. Logs a peer that may not.
    fn is_allowed(&self, stream: &ClientSocket, gateway: &Gateway) -> bool {
        let ClientSocket::Tcp(stream) = stream else { return true };
        // The address of a peer that has left is unknown.
        let Ok(peer) = stream.peer_addr() else { return false };
        let allowed = self.peers.allow(peer.ip());
        if !allowed {
            gateway.metrics.connection_refused();
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

fn limits(config: &Config, connections: usize) -> fastcgi::Limits {
    fastcgi::Limits {
        max_params: config.max_params,
        server_connections: connections,
        server_requests: config.queue + config.workers.max as usize,
        ..fastcgi::Limits::default()
    }
}
