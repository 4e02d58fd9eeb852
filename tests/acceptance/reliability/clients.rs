//! Clients that keep on asking, each in its way: see [`Way`]. Every answer is judged by its nonce and goes into the [`Books`]. A client
//! never retries.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::books::{Books, Form};
use super::{over_fastcgi, over_http};
use crate::support::{Kind, Proxy, Server, wait_for};

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
    pub(super) fn form(self) -> Form {
        match self {
            Self::Small if fastrand::bool() => Form::Work,
            Self::Small => Form::Small,
            Self::Uploads => Form::Upload,
            Self::All => match fastrand::u8(..) {
                0..8 => Form::Upload,
                8..24 => Form::Stream,
                24..40 => Form::Work,
                40..88 => Form::Post,
                _ => Form::Small,
            },
        }
    }

    /// Whether something is to happen that happens so often, of 256 times.
    pub(super) fn leaves(self, often: u8) -> bool {
        self == Self::All && fastrand::u8(..) < often
    }
}

/// How requests reach nibiru.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// FastCGI, some requests at once on a connection that is kept; each is sent whole.
    Kept(PathBuf),
    /// FastCGI, a connection for each request.
    OneShot(PathBuf),
    /// FastCGI, many requests at once on a connection that is kept, record by record among each other.
    Interleaved(PathBuf),
    /// HTTP to a proxy at this port, kept, with a name for the table.
    Http(&'static str, u16),
}

impl Way {
    fn name(&self) -> &'static str {
        match self {
            Self::Kept(_) => "FastCGI kept",
            Self::OneShot(_) => "one-shot",
            Self::Interleaved(_) => "interleaved",
            Self::Http(name, _) => name,
        }
    }
}

/// Who asks whom for what.
#[derive(Debug)]
pub(super) struct Load<'a> {
    books: &'a Books,
    mix: Mix,
    /// One for each client.
    ways: Vec<Way>,
}

impl<'a> Load<'a> {
    pub(super) fn new(books: &'a Books, mix: Mix) -> Self {
        Self { books, mix, ways: Vec::new() }
    }

    /// FastCGI to the server itself.
    pub(super) fn straight(self, server: &Server) -> Self {
        self.with(CLIENTS, &Way::Kept(server.socket()))
    }

    /// HTTP to a proxy.
    pub(super) fn through(self, proxy: &Proxy) -> Self {
        let name = match proxy.kind {
            Kind::Nginx => "nginx",
            Kind::OldCaddy | Kind::NewCaddy => "Caddy",
            Kind::HaProxy => "HAProxy",
            Kind::Apache => "Apache",
            Kind::Lighttpd => "lighttpd",
        };
        self.with(CLIENTS, &Way::Http(name, proxy.port()))
    }

    /// So many clients that go this way.
    pub(super) fn with(mut self, clients: usize, way: &Way) -> Self {
        self.ways.extend(std::iter::repeat_n(way.clone(), clients));
        self
    }

    /// Keeps the clients going for as long as `act` runs, which begins when they all have begun to be answered.
    pub(super) fn during<T>(&self, act: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        let go_on = || !over.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            // Also where `act` panics, so that the scope ends.
            let _over = SetOnDrop(&over);
            for way in &self.ways {
                let client = Client { books: self.books, mix: self.mix, way: way.name() };
                scope.spawn(move || match way {
                    Way::Kept(socket) => over_fastcgi::kept(&client, socket, go_on),
                    Way::OneShot(socket) => over_fastcgi::one_shot(&client, socket, go_on),
                    Way::Interleaved(socket) => over_fastcgi::interleaved(&client, socket, go_on),
                    Way::Http(_, port) => over_http::kept(&client, *port, go_on),
                });
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
}

/// One that asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'a> {
    pub(super) books: &'a Books,
    pub(super) mix: Mix,
    pub(super) way: &'static str,
}

/// Ends what goes on for as long as the flag is not set.
pub(super) struct SetOnDrop<'a>(pub(super) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
