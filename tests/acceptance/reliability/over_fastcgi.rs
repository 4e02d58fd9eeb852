//! Clients that speak FastCGI to nibiru itself: concurrent requests on kept connections, whole or interleaved, and one
//! request for each connection.

use std::io;
use std::path::Path;

use super::books::{Asked, FOREIGN, Observed, Outcome};
use super::clients::Client;
use crate::support::wire::{
    ABORT_REQUEST, Connection, END_REQUEST, Response, STDOUT, get, in_pieces, interleaved as interleave,
    post, record,
};

/// The number of concurrent requests on a connection when each is sent whole.
const SHARE: u16 = 4;

/// The most concurrent requests on a connection when they are interleaved.
const MANY: u16 = 24;

/// Sends several concurrent requests, each whole.
pub(super) fn kept(client: &Client<'_>, socket: &Path, go_on: impl Fn() -> bool) {
    let mut connection = None;
    while go_on() {
        let mut open = connection.take().unwrap_or_else(|| Connection::open(socket));
        let batch = Batch::new(client, 1..=SHARE, true);
        if batch.exchange(client, &mut open, false).is_ok() {
            connection = Some(open);
        }
    }
}

/// Sends one request on each connection.
pub(super) fn one_shot(client: &Client<'_>, socket: &Path, go_on: impl Fn() -> bool) {
    while go_on() {
        let mut connection = Connection::open(socket);
        let batch = Batch::new(client, 1..=1, false);
        if batch.exchange(client, &mut connection, false).is_ok() {
            assert!(connection.closes(), "the server closes a connection without keep-conn");
        }
    }
}

/// Sends many concurrent requests, interleaved record by record, under random ids.
pub(super) fn interleaved(client: &Client<'_>, socket: &Path, go_on: impl Fn() -> bool) {
    let mut connection = None;
    while go_on() {
        let mut open = connection.take().unwrap_or_else(|| Connection::open(socket));
        let first = fastrand::u16(1..u16::MAX - MANY);
        let batch = Batch::new(client, first..=first + fastrand::u16(1..MANY), true);
        if batch.exchange(client, &mut open, true).is_ok() {
            connection = Some(open);
        }
    }
}

/// Requests that are sent together on one connection.
struct Batch {
    /// The records of each request, in order.
    scripts: Vec<Vec<Vec<u8>>>,
    open: Vec<Open>,
    /// The number of records after which the client leaves; `u8::MAX` for never.
    patience: u8,
}

/// A request of the batch that has not ended.
struct Open {
    id: u16,
    asked: Asked,
    response: Response,
    aborted: bool,
}

impl Batch {
    fn new(client: &Client<'_>, ids: impl Iterator<Item = u16>, keep_connection: bool) -> Self {
        let (mut scripts, mut open) = (Vec::new(), Vec::new());
        for id in ids {
            let asked = client.books.ask(client.mix.form());
            let url = client.books.url(asked);
            let bytes = if asked.form.posts() {
                post(id, &url, &asked.body(), keep_connection)
            } else {
                get(id, &url, keep_connection)
            };
            let aborted = client.mix.leaves(4);
            scripts.push(vec![bytes]);
            open.push(Open { id, asked, response: Response::default(), aborted });
        }
        let patience = if client.mix.leaves(4) { fastrand::u8(..12) } else { u8::MAX };
        Self { scripts, open, patience }
    }

    /// Sends the requests and reads the responses. An error means that the connection cannot be used any more.
    fn exchange(
        mut self,
        client: &Client<'_>,
        connection: &mut Connection,
        in_records: bool,
    ) -> io::Result<()> {
        let mut random = fastrand::Rng::new();
        for (script, Open { id, aborted, .. }) in self.scripts.iter_mut().zip(&self.open) {
            if in_records {
                *script = in_pieces(&script[0], &mut random);
            }
            if *aborted {
                // At any place after BEGIN_REQUEST.
                script.insert(random.usize(1..=script.len()), record(ABORT_REQUEST, *id, b""));
            }
        }
        let bytes = if in_records {
            interleave(std::mem::take(&mut self.scripts), &mut random)
        } else {
            self.scripts.concat().concat()
        };
        let mut sender = connection.sender();
        // The part that was written before the server closed is answered all the same.
        let (sent, result) = if in_records {
            // Responses come before everything is sent, and the server reads nothing from a client that does not read.
            std::thread::scope(|scope| {
                let sent = scope.spawn(move || sender.try_send(&bytes));
                let result = self.answers(client, connection);
                if result.is_err() {
                    connection.hang_up();
                }
                (sent.join().expect("the sender does not panic"), result)
            })
        } else {
            (sender.try_send(&bytes), self.answers(client, connection))
        };
        // The open requests have a partial response or none. A client whose write fails knows that its request was not
        // accepted.
        let left =
            sent.is_err() || matches!(&result, Err(error) if error.kind() == io::ErrorKind::Interrupted);
        for Open { asked, response, aborted, .. } in self.open {
            client.books.record(client.way, asked, outcome(&response, false, asked, left || aborted));
        }
        result
    }

    /// Reads records until no request is open, or returns `Interrupted` if the client leaves before.
    fn answers(&mut self, client: &Client<'_>, connection: &mut Connection) -> io::Result<()> {
        while !self.open.is_empty() {
            if self.patience == 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.patience = if self.patience == u8::MAX { u8::MAX } else { self.patience - 1 };
            let record = connection.try_record()?;
            let at = self.open.iter().position(|request| request.id == record.id);
            let at = at.unwrap_or_else(|| panic!("a record of a request that is not open: {record:?}"));
            match record.kind {
                STDOUT => self.open[at].response.stdout.extend(record.content),
                END_REQUEST => {
                    let Open { asked, response, aborted, .. } = self.open.swap_remove(at);
                    let complete = record.content[..5] == [0; 5];
                    client.books.record(client.way, asked, outcome(&response, complete, asked, aborted));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The outcome of a request, which may be `given_up`. Even a partial response must be its own.
fn outcome(response: &Response, complete: bool, asked: Asked, given_up: bool) -> Outcome {
    match observed(response, complete).outcome(asked) {
        outcome if !given_up || outcome == FOREIGN => outcome,
        _ => Outcome::Aborted,
    }
}

fn observed(response: &Response, complete: bool) -> Observed {
    let has_head = response.stdout.windows(4).any(|window| window == b"\r\n\r\n");
    let length = response.header("Content-Length").and_then(|length| length.parse::<usize>().ok());
    Observed {
        status: if has_head { response.status() } else { 0 },
        nonce: response.header("X-Nonce"),
        body: response.body().to_vec(),
        // A body that is shorter than its Content-Length shows that it broke off.
        complete: complete && length.is_none_or(|length| length == response.body().len()),
    }
}
