//! Clients that speak HTTP to a proxy, on connections that are kept.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use super::books::{Answer, Asked, Form, Outcome};
use super::clients::Client;
use crate::support::GIVE_UP;

/// One request after the other.
pub(super) fn kept(client: &Client<'_>, port: u16, go_on: impl Fn() -> bool) {
    let mut connection = None;
    while go_on() {
        let asked = client.books.ask(client.mix.form());
        let url = client.books.url(asked);
        let open = connection.take().unwrap_or_else(|| Http::open(port));
        if client.mix.leaves(2) {
            // Sends it and leaves.
            let mut open = open;
            let _ = open.send(asked, &url);
            client.books.record(client.way, asked, Outcome::Aborted);
            continue;
        }
        let (answer, open) = open.exchange(asked, &url);
        let outcome = match answer.outcome(asked) {
            // A proxy drops a client for whom it has nothing but an answer that broke off.
            Outcome::Lost("no answer")
                if matches!(asked.form, Form::Stream | Form::Upload) && open.is_none() =>
            {
                Outcome::Broken
            }
            outcome => outcome,
        };
        client.books.record(client.way, asked, outcome);
        connection = open;
    }
}

/// A connection to a proxy that is kept.
struct Http(BufReader<TcpStream>);

impl Http {
    fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the proxy listens");
        stream.set_read_timeout(Some(GIVE_UP)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, asked: Asked, url: &str) -> io::Result<()> {
        let (method, body) = if asked.form.posts() { ("POST", asked.body()) } else { ("GET", Vec::new()) };
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let mut bytes = format!("{method} {url} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n").into_bytes();
        bytes.extend(body);
        self.0.get_mut().write_all(&bytes)
    }

    /// One request and its answer; and this connection, where it can have another.
    fn exchange(mut self, asked: Asked, url: &str) -> (Answer, Option<Self>) {
        let mut answer = Answer::default();
        let kept = self.send(asked, url).and_then(|()| self.receive(&mut answer)).unwrap_or(false);
        (answer, kept.then_some(self))
    }

    /// Fills in as much of an answer as comes. Says whether the connection stays.
    fn receive(&mut self, answer: &mut Answer) -> io::Result<bool> {
        let mut head = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let value = |name: &str| {
            let pairs = head.iter().skip(1).filter_map(|line| line.split_once(": "));
            pairs
                .into_iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_owned())
        };
        answer.status = head[0].split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        answer.nonce = value("X-Nonce");
        if let Some(length) = value("Content-Length") {
            self.body(length.parse().map_err(io::Error::other)?, &mut answer.body)?;
        } else {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
                self.body(size, &mut answer.body)?;
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        }
        answer.complete = true;
        Ok(value("Connection").as_deref() != Some("close"))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(line.to_owned())
    }

    fn body(&mut self, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
        let read = (&mut self.0).take(length as u64).read_to_end(body)?;
        if read < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}
