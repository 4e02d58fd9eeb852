//! A load generator for FastCGI servers, without a proxy: what `benches/fastcgi-load` starts.
//!
//! Each connection is kept, and has a fixed number of requests in flight: one, or several that are multiplexed. Every response is
//! compared with the right one. Writes one line of JSON. One thread, so that a server on the same machine keeps the other cores.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use nibiru::fastcgi::client::{self, Decoder, Fault, Reply};
use nibiru::fastcgi::{ProtocolStatus, Role};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

#[derive(Parser)]
struct Options {
    /// The server's Unix socket; without it nothing is loaded, as when `cargo bench` runs every benchmark
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Connections
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    in_flight: u16,
    /// How long requests are sent
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// The path that is asked for
    #[arg(long, default_value = "/hello")]
    path: String,
    /// The body of the right response
    #[arg(long, default_value = "Hello, World!\n")]
    body: String,
    /// `cargo bench` adds this
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("the server closed a connection with requests in flight")]
    Closed,
    #[error("a wrong response: {0}")]
    Wrong(String),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let Some(socket) = options.socket.clone() else {
        let _ =
            writeln!(io::stderr(), "fastcgi_load: no --socket; benches/fastcgi-load starts a server as well");
        return ExitCode::SUCCESS;
    };
    let (options, socket) = (Arc::new(options), Arc::<Path>::from(socket));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let begun = Instant::now();
    match runtime.block_on(load(&options, &socket, begun + Duration::from_secs(options.seconds))) {
        Ok(latencies) => {
            let _ = writeln!(io::stdout(), "{}", summary(latencies, begun.elapsed()));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let _ = writeln!(io::stderr(), "fastcgi_load: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Loads the server until `end`; the latency of every request.
async fn load(options: &Arc<Options>, socket: &Arc<Path>, end: Instant) -> Result<Vec<Duration>, Failure> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..options.connections {
        let (options, socket) = (Arc::clone(options), Arc::clone(socket));
        tasks.spawn(async move { Connection::open(&options, &socket).await?.run(end).await });
    }
    let mut latencies = Vec::new();
    while let Some(task) = tasks.join_next().await {
        latencies.append(&mut task.expect("a connection does not panic")?);
    }
    Ok(latencies)
}

/// A request in flight; its id is its place in the list, counted from 1.
struct InFlight {
    sent: Instant,
    response: Vec<u8>,
}

struct Connection {
    stream: UnixStream,
    decoder: Decoder,
    request: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    in_flight: Vec<InFlight>,
    latencies: Vec<Duration>,
}

impl Connection {
    async fn open(options: &Options, socket: &Path) -> Result<Self, Failure> {
        let in_flight =
            (0..options.in_flight).map(|_| InFlight { sent: Instant::now(), response: Vec::new() });
        Ok(Self {
            stream: UnixStream::connect(socket).await?,
            decoder: Decoder::new(),
            request: variables(&options.path),
            body: options.body.clone().into_bytes(),
            in_flight: in_flight.collect(),
            latencies: Vec::new(),
        })
    }

    /// Keeps its number of requests in flight until `end`, then waits for the last ones.
    async fn run(mut self, end: Instant) -> Result<Vec<Duration>, Failure> {
        let (mut out, mut buffer, mut open) = (Vec::new(), vec![0; 64 * 1024], self.in_flight.len());
        for id in (1..=u16::MAX).take(open) {
            self.send(id, &mut out);
        }
        while open > 0 {
            self.stream.write_all(&out).await?;
            out.clear();
            let count = self.stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(Failure::Closed);
            }
            for id in self.receive(&buffer[..count])? {
                if Instant::now() < end {
                    self.send(id, &mut out);
                } else {
                    open -= 1;
                }
            }
        }
        Ok(self.latencies)
    }

    fn send(&mut self, id: u16, out: &mut Vec<u8>) {
        client::begin(id, Role::Responder, true, out);
        client::params(id, self.request.iter().map(|(name, value)| (&name[..], &value[..])), out);
        client::stdin_end(id, out);
        self.in_flight[usize::from(id) - 1].sent = Instant::now();
    }

    /// Takes bytes of the server; the requests that they end.
    fn receive(&mut self, mut input: &[u8]) -> Result<Vec<u16>, Failure> {
        let mut ended = Vec::new();
        while let Some(reply) = self.decoder.receive(&mut input)? {
            match reply {
                Reply::Stdout { id, bytes } => {
                    match self.in_flight.get_mut(usize::from(id).wrapping_sub(1)) {
                        Some(request) => request.response.extend_from_slice(bytes),
                        None => return Err(Failure::Wrong(format!("for a request {id} that was not sent"))),
                    }
                }
                Reply::End { id, app_status: 0, protocol_status: ProtocolStatus::RequestComplete } => {
                    let request = self.in_flight.get_mut(usize::from(id).wrapping_sub(1));
                    let request = request.ok_or_else(|| {
                        Failure::Wrong(format!("the end of a request {id} that was not sent"))
                    })?;
                    if !is_right(&request.response, &self.body) {
                        return Err(Failure::Wrong(String::from_utf8_lossy(&request.response).into_owned()));
                    }
                    request.response.clear();
                    self.latencies.push(request.sent.elapsed());
                    ended.push(id);
                }
                other => return Err(Failure::Wrong(format!("{other:?}"))),
            }
        }
        Ok(ended)
    }
}

/// Whether a CGI response has the status 200, said or by default, and this body.
fn is_right(response: &[u8], body: &[u8]) -> bool {
    let Some(end) = response.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&response[..end]);
    let status = head.lines().find_map(|line| line.strip_prefix("Status: "));
    status.is_none_or(|status| status.starts_with("200")) && response[end + 4..] == *body
}

/// About what nginx sends.
fn variables(path: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    [
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", path),
        ("REQUEST_URI", path),
        ("DOCUMENT_URI", path),
        ("DOCUMENT_ROOT", "/srv/app/public"),
        ("QUERY_STRING", ""),
        ("REQUEST_METHOD", "GET"),
        ("REQUEST_SCHEME", "http"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", "fastcgi_load"),
        ("SERVER_NAME", "localhost"),
        ("SERVER_ADDR", "127.0.0.1"),
        ("SERVER_PORT", "80"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("REMOTE_PORT", "40000"),
        ("HTTP_HOST", "localhost"),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into()
}

fn summary(mut latencies: Vec<Duration>, took: Duration) -> serde_json::Value {
    latencies.sort_unstable();
    let percentile = |part: usize| {
        latencies.get(latencies.len().saturating_sub(1) * part / 100).map_or(0.0, Duration::as_secs_f64)
    };
    serde_json::json!({
        "requests": latencies.len(),
        "seconds": took.as_secs_f64(),
        "p50_ms": percentile(50) * 1000.0,
        "p99_ms": percentile(99) * 1000.0,
    })
}
