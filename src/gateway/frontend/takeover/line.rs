//! Lines on a connection between two gateways.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::gateway::frontend::takeover::protocol::PeerEvent;

/// The longest line, in bytes.
pub(super) const MAX_LINE: usize = 16 * 1024;

/// Reads one line, without its end, behind the part that `line` holds already; for ever without `patience`. A gateway sends its
/// next line only after the other's answer, so nothing follows a line.
pub(super) async fn read(
    stream: &mut UnixStream,
    line: &mut Vec<u8>,
    patience: Option<Duration>,
) -> io::Result<()> {
    let read = async {
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
    };
    match patience {
        Some(patience) => tokio::time::timeout(patience, read).await?,
        None => read.await,
    }
}

/// The event of a read that has ended.
pub(super) fn peer_event<'a>(read: &io::Result<()>, line: &'a [u8]) -> PeerEvent<'a> {
    match read {
        Ok(()) => PeerEvent::Line(line),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => PeerEvent::TimedOut,
        Err(_) => PeerEvent::Lost,
    }
}
