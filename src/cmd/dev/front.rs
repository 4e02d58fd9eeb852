//! The HTTP server of `nibiru dev`: routes a request to a static file, the application or the error page.
//!
//! A static file comes first, then the application, once the newest code is loaded, then the error page, where either failed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_LENGTH, HOST};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::answer::{self, Answer, Content, Line, LoggedContent};
use super::failure::Failure;
use super::files::StaticFiles;
use super::page::{self, RequestInfo};
use super::upstream::Upstream;
use super::watcher::Watcher;
use crate::cgi::path::{normalise, percent_decode};
use crate::cgi::proxy::HttpRequest;
use crate::gateway::Load;
use crate::gateway::NewestGeneration;
use crate::log::Span;
use crate::log::rate_limit::LogRateLimiter;
use crate::os::random;

/// The longest wait of a request for the newest code. An application that takes longer to load is stuck.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The pause after a failed accept, for example without a free descriptor.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// The state that all connections share.
#[derive(Debug)]
pub(super) struct Front {
    /// The application's root, which a reload can change.
    root: watch::Receiver<PathBuf>,
    /// The gateway's FastCGI socket.
    socket: PathBuf,
    code: watch::Receiver<NewestGeneration>,
    watcher: Rc<Watcher>,
}

/// The addresses of a connection's two ends.
#[derive(Clone, Copy, Debug)]
struct SocketAddresses {
    server: SocketAddr,
    client: SocketAddr,
}

impl Front {
    pub(super) fn new(
        root: watch::Receiver<PathBuf>,
        socket: PathBuf,
        code: watch::Receiver<NewestGeneration>,
        watcher: Rc<Watcher>,
    ) -> Rc<Self> {
        Rc::new(Self { root, socket, code, watcher })
    }

    /// Accepts connections until `stopping`, then waits for the requests that run.
    pub(super) async fn serve(self: Rc<Self>, listener: TcpListener, mut stopping: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        let asked = stopping.clone();
        let mut limiter = LogRateLimiter::new(Instant::now());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopping.wait_for(|stopping| *stopping) => break,
                // Reaps the tasks of finished connections.
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, client)) => {
                    connections.spawn_local(Rc::clone(&self).connection(stream, client, asked.clone()));
                }
                Err(cause) => {
                    if let Some(left_out) = limiter.allow(Instant::now()) {
                        let cause = crate::log::cause(&cause);
                        warn!(process = "dev", cause, left_out, "cannot accept a connection");
                    }
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn connection(
        self: Rc<Self>,
        stream: TcpStream,
        client: SocketAddr,
        mut stopping: watch::Receiver<bool>,
    ) {
        // Sends each chunk at once: Nagle's algorithm would hold it back.
        let _ = stream.set_nodelay(true);
        let Ok(server) = stream.local_addr() else { return };
        let ends = SocketAddresses { server, client };
        let service = service_fn(|request| Rc::clone(&self).request(request, ends));
        let connection =
            http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            _ = stopping.wait_for(|stopping| *stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(process = "dev", cause = %error, "connection broke");
        }
    }

    async fn request(
        self: Rc<Self>,
        request: Request<Incoming>,
        ends: SocketAddresses,
    ) -> Result<Response<LoggedContent>, Infallible> {
        let target = request.uri().path_and_query().map_or("", |target| target.as_str());
        let line = Line::new(request.method().as_str(), target, request_id());
        let head_request = request.method() == Method::HEAD;
        let answer = self.answer(request, ends, &line.id).await;
        let bodiless = head_request || matches!(answer.status().as_u16(), 204 | 304);
        Ok(line.attach(answer, bodiless))
    }

    async fn answer(&self, request: Request<Incoming>, ends: SocketAddresses, id: &str) -> Answer {
        let path = request.uri().path();
        let path = path.starts_with('/').then(|| normalise(&percent_decode(path))).flatten();
        let Some(path) = path else {
            return answer::text(StatusCode::BAD_REQUEST, "the request has no path that leads anywhere");
        };
        if let Some(file) = self.files().find(&request, &path).await {
            return file;
        }
        if tokio::time::timeout(LOAD_TIMEOUT, self.watcher.newest()).await.is_err() {
            let message = format!("the application has not loaded within {}", Span::from(LOAD_TIMEOUT));
            return answer::text(StatusCode::SERVICE_UNAVAILABLE, message);
        }
        self.run(request, &path, ends, id).await.unwrap_or_else(|cause| {
            warn!(process = "dev", request = id, cause = %crate::log::cause(&cause), "no answer from the gateway");
            answer::text(StatusCode::BAD_GATEWAY, crate::log::cause(&cause))
        })
    }

    /// The gateway's response, or the error page in its place.
    async fn run(
        &self,
        request: Request<Incoming>,
        path: &[u8],
        ends: SocketAddresses,
        id: &str,
    ) -> std::io::Result<Answer> {
        let (head, body) = request.into_parts();
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let (server, files) = (ends.server.ip().to_string(), self.files());
        let request = HttpRequest {
            software: concat!("nibiru-dev/", env!("CARGO_PKG_VERSION")),
            protocol: &format!("{:?}", head.version),
            scheme: "http",
            method: head.method.as_str(),
            target,
            path,
            host: head.uri.authority().map_or(header(HOST), |authority| authority.as_str()),
            server_addr: &server,
            server_port: &ends.server.port().to_string(),
            remote_addr: &ends.client.ip().to_string(),
            remote_port: &ends.client.port().to_string(),
            document_root: &files.directory().to_string_lossy(),
            content_length: header(CONTENT_LENGTH),
            request_id: id,
        };
        let headers = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let mut upstream = Upstream::begin(&self.socket, &request.variables(headers), body).await?;

        let (response, first) = upstream.head().await?;
        let status = response.status();
        if matches!(status, StatusCode::INTERNAL_SERVER_ERROR | StatusCode::GATEWAY_TIMEOUT)
            && self.failure(upstream.stderr(), id).is_some()
        {
            // The page shows also the output of the request's last moments.
            upstream.finish().await?;
            if let Some(failure) = self.failure(upstream.stderr(), id) {
                let about =
                    RequestInfo { status, method: head.method.as_str(), target, headers: &head.headers, id };
                return Ok(page::render(&failure, about, header(ACCEPT)));
            }
        }
        if head.method == Method::HEAD || matches!(response.status().as_u16(), 204 | 304) {
            upstream.finish().await?;
            return Ok(response.map(|()| Content::Whole(first)));
        }
        Ok(response.map(|()| Content::Stream { first, upstream: Box::new(upstream) }))
    }

    fn files(&self) -> StaticFiles {
        StaticFiles::new(&self.root.borrow())
    }

    /// The failure behind a 500 or 504; `None` where it is the application's own response.
    fn failure(&self, stderr: &[u8], id: &str) -> Option<Failure> {
        if stderr.is_empty() {
            return None;
        }
        let root = self.root.borrow();
        Failure::of_request(stderr, id, &root).or_else(|| match &self.code.borrow().load {
            Load::Failed(message) => Some(Failure::of_load(message, &root)),
            Load::Running | Load::Done => None,
        })
    }
}

/// A new request id: thirty-two hexadecimal digits, as nginx's `$request_id`.
fn request_id() -> String {
    format!("{:032x}", u128::from_ne_bytes(random::bytes_or_zeros()))
}
