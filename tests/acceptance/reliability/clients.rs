//! Clients that send requests without a pause, each in its [`Way`]. Every response is checked by its nonce, and its
//! outcome is recorded in the [`Books`]. A client never retries.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::books::{Books, Form};
use super::{over_fastcgi, over_http};
use crate::support::{Kind, Proxy, Server, wait_for};

/// The number of clients of each way: on two CPUs, enough to keep every worker busy and some requests queued.
const CLIENTS: usize = 4;

/// The number of outcomes after which the load counts as started.
const WARM: usize = 100;

/// The mix of request forms of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mix {
    /// Responses that are complete or absent.
    Small,
    /// POST only, which no proxy retries by itself.
    Uploads,
    /// All forms, and some clients abort a request or leave during it.
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

    /// Whether an abort or a leave happens now, with a probability of `often` in 256.
    pub(super) fn leaves(self, often: u8) -> bool {
        self == Self::All && fastrand::u8(..) < often
    }
}

/// The way of requests to nibiru.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// FastCGI, some concurrent requests on a kept connection, each sent whole.
    Kept(PathBuf),
    /// FastCGI, one request for each connection.
    OneShot(PathBuf),
    /// FastCGI, many concurrent requests on a kept connection, interleaved record by record.
    Interleaved(PathBuf),
    /// HTTP on a kept connection to the proxy on this port, with a name for the table.
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

/// A load: clients, and the mix of their requests.
#[derive(Debug)]
pub(super) struct Load<'a> {
    books: &'a Books,
    mix: Mix,
    /// The way of each client.
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

    /// Adds `clients` clients of this way.
    pub(super) fn with(mut self, clients: usize, way: &Way) -> Self {
        self.ways.extend(std::iter::repeat_n(way.clone(), clients));
        self
    }

    /// Runs the clients while `act` runs, which begins after [`WARM`] outcomes.
    pub(super) fn during<T>(&self, act: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        let go_on = || !over.load(Ordering::Relaxed);
        std::thread::scope(|scope| {
            // Ends the clients also when `act` panics, so that the scope ends.
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
            wait_for("the load has started", || (self.books.over() > begun + WARM).then_some(()));
            act()
        })
    }

    /// Runs the clients until `count` more requests have an outcome.
    pub(super) fn until(&self, count: u64) {
        let mut seen = self.books.over();
        let goal = seen as u64 + count;
        self.during(|| {
            while (seen as u64) < goal {
                seen = wait_for("the clients make progress", || {
                    Some(self.books.over()).filter(|now| *now > seen)
                });
            }
        });
    }
}

/// A client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'a> {
    pub(super) books: &'a Books,
    pub(super) mix: Mix,
    pub(super) way: &'static str,
}

/// Sets the flag when it is dropped, which ends the loops that check it.
pub(super) struct SetOnDrop<'a>(pub(super) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
