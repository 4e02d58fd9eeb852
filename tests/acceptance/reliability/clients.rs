//! Clients that keep on asking: FastCGI on kept connections that several requests share, and HTTP through nginx.
//!
//! Every answer is judged by its nonce and goes into the [`Books`]. A client never retries.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::books::{Answer, Asked, Books, FOREIGN, Form, Outcome};
use crate::support::{GIVE_UP, Proxy, Server, wait_for};
use crate::wire::{ABORT_REQUEST, Connection, END_REQUEST, Response, STDOUT, get, post, record};

/// Requests at a time on one FastCGI connection.
const SHARE: u16 = 4;

/// Clients of each kind: with two CPUs enough to keep every worker busy and some requests waiting.
const CLIENTS: usize = 4;

/// Answers that show that the load is on.
const WARM: usize = 100;

/// What clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    /// Answers that are whole or not there.
    Small,
    /// POST only: no proxy sends one a second time of its own accord.
    Uploads,
    /// All forms; and some clients take a request back or leave in the middle of it.
    All,
}

impl Mix {
    fn form(self) -> Form {
        match self {
            Self::Small if fastrand::bool() => Form::Work,
            Self::Small => Form::Small,
            Self::Uploads => Form::Upload,
            Self::All => match fastrand::u8(..) {
                0..8 => Form::Upload,
                8..24 => Form::Stream,
                24..40 => Form::Work,
                _ => Form::Small,
            },
        }
    }
}

/// Who asks whom for what.
#[derive(Debug)]
pub(super) struct Load<'a> {
    books: &'a Books,
    mix: Mix,
    socket: Option<PathBuf>,
    port: Option<u16>,
}

impl<'a> Load<'a> {
    pub(super) fn new(books: &'a Books, mix: Mix) -> Self {
        Self { books, mix, socket: None, port: None }
    }

    /// FastCGI to the server itself.
    pub(super) fn straight(self, server: &Server) -> Self {
        Self { socket: Some(server.socket()), ..self }
    }

    /// HTTP to nginx.
    pub(super) fn through(self, proxy: &Proxy) -> Self {
        Self { port: Some(proxy.port()), ..self }
    }

    /// Keeps the clients going for as long as `act` runs, which begins when they all have begun to be answered.
    pub(super) fn during<T>(&self, act: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        let go_on = || !over.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            // Also where `act` panics, so that the scope ends.
            let _over = SetOnDrop(&over);
            for _ in 0..CLIENTS {
                if let Some(socket) = &self.socket {
                    scope.spawn(|| self.over_fastcgi(socket.clone(), go_on));
                }
                if let Some(port) = self.port {
                    scope.spawn(move || self.over_http(port, go_on));
                }
            }
            let begun = self.books.over();
            wait_for("the load is on", || (self.books.over() > begun + WARM).then_some(()));
            act()
        })
    }

    /// Keeps them going until so many requests are over.
    pub(super) fn until(&self, count: u64) {
        let mut seen = self.books.over();
        let goal = seen as u64 + count;
        self.during(|| {
            while (seen as u64) < goal {
                seen = wait_for("the clients come on", || Some(self.books.over()).filter(|now| *now > seen));
            }
        });
    }

    fn over_fastcgi(&self, socket: PathBuf, go_on: impl Fn() -> bool) {
        let mut connection = None;
        while go_on() {
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::from(UnixStream::connect(&socket).expect("the server listens")),
            };
            if self.share(&mut open).is_ok() {
                connection = Some(open);
            }
        }
    }

    /// Several requests at once. An error where the connection is of no more use.
    fn share(&self, connection: &mut Connection) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut open = Vec::new();
        for id in 1..=SHARE {
            let asked = self.books.ask(self.mix.form());
            let url = self.books.url(asked);
            bytes.extend(match asked.form {
                Form::Upload => post(id, &url, &asked.body(), true),
                Form::Small | Form::Work | Form::Stream => get(id, &url, true),
            });
            open.push(Open { id, asked, response: Response::default(), aborted: false });
        }
        if self.mix == Mix::All && fastrand::u8(..) < 16 {
            let victim = &mut open[usize::from(fastrand::u16(..SHARE))];
            victim.aborted = true;
            bytes.extend(record(ABORT_REQUEST, victim.id, b""));
        }
        // Leaves when it has seen so many records.
        let patience =
            if self.mix == Mix::All && fastrand::u8(..) < 4 { fastrand::u8(..12) } else { u8::MAX };
        let result = connection.try_send(&bytes).and_then(|()| self.answers(connection, &mut open, patience));
        // What is still open has its answer in part, or none.
        let left = matches!(&result, Err(error) if error.kind() == io::ErrorKind::Interrupted);
        for Open { asked, response, aborted, .. } in open {
            let outcome = match answer_of(&response, false).outcome(asked) {
                outcome if !(left || aborted) || outcome == FOREIGN => outcome,
                _ => Outcome::Aborted,
            };
            self.books.record(asked, outcome);
        }
        result
    }

    /// Takes records until no request is open; `Interrupted` where the client has had enough before.
    fn answers(&self, connection: &mut Connection, open: &mut Vec<Open>, mut patience: u8) -> io::Result<()> {
        while !open.is_empty() {
            if patience == 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            patience = if patience == u8::MAX { patience } else { patience - 1 };
            let record = connection.try_record()?;
            let at = open.iter().position(|request| request.id == record.id);
            let at = at.unwrap_or_else(|| panic!("a record of a request that nobody asks: {record:?}"));
            match record.kind {
                STDOUT => open[at].response.stdout.extend(record.content),
                END_REQUEST => {
                    let Open { asked, response, aborted, .. } = open.swap_remove(at);
                    let answer = answer_of(&response, record.content[..5] == [0; 5]);
                    let outcome = match answer.outcome(asked) {
                        // Whatever there is of it must be its own.
                        outcome if !aborted || outcome == FOREIGN => outcome,
                        _ => Outcome::Aborted,
                    };
                    self.books.record(asked, outcome);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn over_http(&self, port: u16, go_on: impl Fn() -> bool) {
        let mut connection = None;
        while go_on() {
            let asked = self.books.ask(self.mix.form());
            let open = connection.take().unwrap_or_else(|| Http::open(port));
            if self.mix == Mix::All && fastrand::u8(..) < 2 {
                // Sends it and leaves.
                let mut open = open;
                let _ = open.send(asked, &self.books.url(asked));
                self.books.record(asked, Outcome::Aborted);
                continue;
            }
            let (answer, open) = open.exchange(asked, &self.books.url(asked));
            let outcome = match answer.outcome(asked) {
                // nginx drops a client for whom it has nothing but an answer that broke off.
                Outcome::Lost("no answer")
                    if !matches!(asked.form, Form::Small | Form::Work) && open.is_none() =>
                {
                    Outcome::Broken
                }
                outcome => outcome,
            };
            self.books.record(asked, outcome);
            connection = open;
        }
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A request on a shared connection.
struct Open {
    id: u16,
    asked: Asked,
    response: Response,
    aborted: bool,
}

fn answer_of(response: &Response, complete: bool) -> Answer {
    let has_head = response.stdout.windows(4).any(|window| window == b"\r\n\r\n");
    let length = response.header("Content-Length").and_then(|length| length.parse::<usize>().ok());
    Answer {
        status: if has_head { response.status() } else { 0 },
        nonce: response.header("X-Nonce"),
        body: response.body().to_vec(),
        // A body short of its length says by itself that it broke off.
        complete: complete && length.is_none_or(|length| length == response.body().len()),
    }
}

/// A connection to nginx that is kept.
struct Http(BufReader<TcpStream>);

impl Http {
    fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("nginx listens");
        stream.set_read_timeout(Some(GIVE_UP)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, asked: Asked, url: &str) -> io::Result<()> {
        let (method, body) = match asked.form {
            Form::Upload => ("POST", asked.body()),
            Form::Small | Form::Work | Form::Stream => ("GET", Vec::new()),
        };
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
