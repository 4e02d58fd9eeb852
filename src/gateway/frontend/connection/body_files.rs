//! Bodies in files of the proxy's: the openings in progress on a connection, and the log of what is refused.

use std::task::{Context, Poll};

use tracing::warn;

use crate::gateway::Gateway;
use crate::gateway::frontend::client_socket::ClientSocket;
use crate::gateway::spool::BodyOpening;
use crate::proto::body::Open;
use crate::proto::body_file::{BodyFileError, OpenedFile};
use crate::proto::connection::StreamKey;

/// Files that are being opened.
#[derive(Default)]
pub(super) struct Openings(Vec<BodyOpening>);

impl Openings {
    /// Starts to open a file for the peer of `socket`.
    pub(super) fn start(&mut self, key: StreamKey, open: Open, socket: &ClientSocket, gateway: &Gateway) {
        let files = gateway.body_files.borrow().clone();
        self.0.push(gateway.spool.open_body(key, open, files, socket.peer_user()));
    }

    /// Whether none is being opened.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ready when an opening has ended, with the file and its length on success.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<(StreamKey, OpenedFile)> {
        let ended = self.0.iter_mut().enumerate().find_map(|(index, opening)| match opening.poll(context) {
            Poll::Ready(opened) => Some((index, opened)),
            Poll::Pending => None,
        });
        let Some((index, opened)) = ended else { return Poll::Pending };
        Poll::Ready((self.0.swap_remove(index).of, opened))
    }
}

/// Logs, once for each kind of error, what the operator should look at.
pub(super) fn log_refusal(path: &[u8], error: &BodyFileError, gateway: &Gateway) {
    if gateway.logged_proxy_faults.borrow_mut().add_body_file(error) {
        let (path, advice) = (String::from_utf8_lossy(path), error.advice());
        warn!(%path, "a file of the proxy's is not taken as a body (--body-file-param): {error}; {advice}");
    }
}
