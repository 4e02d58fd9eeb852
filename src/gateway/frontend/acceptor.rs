//! Accepts connections on the listening sockets, up to the limit, until the gateway stops.
//!
//! One task for each listener, which also checks its socket file.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use crate::gateway::Gateway;
use crate::gateway::frontend::accept_log::AcceptErrorLog;
use crate::gateway::frontend::admission::Admission;
use crate::gateway::frontend::client_socket::ClientSocket;
use crate::gateway::frontend::listener::Listener;
use crate::gateway::frontend::sockets;

/// Pause after a failed accept, mostly for want of a descriptor.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Interval of the checks of a socket file, one `lstat` each.
const FILE_LOOK: Duration = Duration::from_secs(2);

/// Accepts on every listener until the gateway stops.
pub(crate) fn accept_all(listeners: Vec<Rc<Listener>>, connections: usize, gateway: &Rc<Gateway>) {
    let admission = Rc::new(Admission::new(connections, gateway.config().allow_from.clone(), Instant::now()));
    for listener in listeners {
        info!("listening on {}{}", listener.address(), listener.permissions());
        // Counted before the task first runs, so that a stop in between waits for the listener.
        gateway.accepting_started();
        gateway.listeners.borrow_mut().push(Rc::clone(&listener));
        let acceptor = Acceptor { listener, gateway: Rc::clone(gateway), admission: Rc::clone(&admission) };
        tokio::task::spawn_local(acceptor.run());
    }
}

/// The task of one listener.
struct Acceptor {
    listener: Rc<Listener>,
    gateway: Rc<Gateway>,
    admission: Rc<Admission>,
}

impl Acceptor {
    /// Accepts until the gateway stops; each connection becomes a task of its own.
    async fn run(self) {
        let Self { listener, gateway, admission } = &self;
        let mut stopping = gateway.stopping();
        let mut look = tokio::time::interval(FILE_LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let has_file = listener.has_file();
        let mut accept_errors = AcceptErrorLog::new(Instant::now());
        loop {
            let socket = listener.socket();
            let accepted = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => break,
                _ = look.tick(), if has_file => {
                    if let Some(old) = listener.check_file() {
                        self.empty(old).await;
                    }
                    continue;
                }
                accepted = self.accept_one(&socket) => accepted,
            };
            match accepted {
                Ok((stream, permit)) => {
                    if accept_errors.succeeded() {
                        info!("connections are accepted again");
                    }
                    admission.admit(gateway, stream, permit);
                }
                // The client left before it was accepted.
                Err(error) if is_of_client(&error) => {
                    debug!(cause = %crate::log::cause(&error), "cannot accept");
                }
                // No descriptor is left, or the socket itself has failed: both last.
                Err(error) => {
                    if let Some(left_out) = accept_errors.failed(Instant::now()) {
                        warn!(cause = %crate::log::cause(&error), left_out, "cannot accept; new connections wait");
                    }
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
            // Lets other tasks run, even if many clients connect.
            tokio::task::consume_budget().await;
        }
        // Refuses new clients, and serves those in the backlog.
        listener.remove_file();
        if !listener.is_kept() {
            self.empty(listener.socket()).await;
        }
        // Closes the socket: a connect is refused from now on, unless another process shares the socket.
        gateway.listeners.borrow_mut().retain(|other| !Rc::ptr_eq(other, listener));
        gateway.accepting_ended();
    }

    /// Waits for a connection, and for a permit for it.
    async fn accept_one(
        &self,
        socket: &AsyncFd<OwnedFd>,
    ) -> io::Result<(ClientSocket, OwnedSemaphorePermit)> {
        loop {
            let mut ready = socket.readable().await?;
            // A connection beyond the limit stays in the kernel's backlog.
            let permit = self.admission.permit().await?;
            let shut = ready.ready().is_read_closed();
            match ready.try_io(|socket| self.listener.accept_waiting(socket.get_ref())) {
                Ok(stream) => return Ok((stream?, permit)),
                // The socket stays ready without a connection.
                Err(_would_block) if shut => {
                    return Err(io::Error::other("somebody else has shut the socket down"));
                }
                // Another process that shares the socket was faster.
                Err(_would_block) => {}
            }
        }
    }

    /// Admits the clients in the backlog of a socket that is about to be closed.
    async fn empty(&self, socket: Rc<AsyncFd<OwnedFd>>) {
        self.listener.shut(&socket);
        // Bounded, because clients may go on connecting to an inherited socket.
        for _ in 0..sockets::BACKLOG {
            let Ok(permit) = self.admission.permit().await else { return };
            let Ok(stream) = self.listener.accept_waiting(socket.get_ref()) else { return };
            self.admission.admit(&self.gateway, stream, permit);
        }
    }
}

/// Whether an error of `accept` concerns only the connection that it would have returned: see accept(2).
fn is_of_client(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_client = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PERM,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::NONET,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
    ];
    Errno::from_io_error(error).is_some_and(|errno| of_client.contains(&errno))
}
