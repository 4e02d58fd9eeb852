//! The clients' side: the listening sockets, who may connect, and the connections.

pub(crate) mod accept_log;
pub(crate) mod acceptor;
pub(crate) mod admission;
pub(crate) mod budget;
pub(crate) mod client_socket;
pub(crate) mod connection;
pub(crate) mod idle_exit;
pub(crate) mod listener;
pub(crate) mod opening;
pub(crate) mod proxy_faults;
pub(crate) mod socket_file;
pub(crate) mod sockets;
pub(crate) mod systemd;
pub(crate) mod takeover;
