//! What the zygote and the workers print, line by line into the log.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::log::escape;

/// A longer line is logged in pieces, so that a process which prints no newline cannot fill the memory.
const MAX_LINE: usize = 8 * 1024;

/// Gives every line that arrives on `pipe` to `log`, without its newline, until the last writer is gone.
pub(super) async fn each_line(pipe: OwnedFd, mut log: impl FnMut(&str)) -> io::Result<()> {
    let mut pipe = pipe::Receiver::from_owned_fd(pipe)?;
    let mut buffer = Vec::with_capacity(1024);
    loop {
        let end = pipe.read_buf(&mut buffer).await? == 0;
        let mut rest = &buffer[..];
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            log(&escape::text(&rest[..at]));
            rest = &rest[at + 1..];
        }
        if !rest.is_empty() && (end || rest.len() >= MAX_LINE) {
            log(&escape::text(rest));
            rest = &[];
        }
        let taken = buffer.len() - rest.len();
        buffer.drain(..taken);
        if end {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_come_whole_the_last_one_too_and_endless_ones_in_pieces() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let lines = runtime.block_on(async {
            let (receiver, mut sender) = std::io::pipe().unwrap();
            let mut text = b"one\n\ntwo\n".to_vec();
            text.extend_from_slice(&[b'x'; MAX_LINE]);
            text.extend_from_slice(b"\nlast");
            sender.write_all(&text).unwrap();
            drop(sender);
            let mut lines = Vec::new();
            each_line(receiver.into(), |line| lines.push(line.to_owned())).await.unwrap();
            lines
        });
        assert_eq!(lines[..3], ["one", "", "two"]);
        assert_eq!(lines.concat().len(), "onetwo".len() + MAX_LINE + "last".len());
        assert_eq!(lines.last().unwrap(), "last");
    }
}
