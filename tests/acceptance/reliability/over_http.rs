//! Clients that speak HTTP to a proxy, on kept connections.

use std::io;

use super::books::{Asked, Form, Observed, Outcome};
use super::clients::Client;
use crate::support::http::Http;

/// Sends one request after another.
pub(super) fn kept(client: &Client<'_>, port: u16, go_on: impl Fn() -> bool) {
    let mut connection = None;
    while go_on() {
        let asked = client.books.ask(client.mix.form());
        let url = client.books.url(asked);
        let open = connection.take().unwrap_or_else(|| Http::connect(port));
        if client.mix.leaves(2) {
            // Sends the request and leaves.
            let mut open = open;
            let _ = send(&mut open, asked, &url);
            client.books.record(client.way, asked, Outcome::Aborted);
            continue;
        }
        let (answer, open) = exchange(open, asked, &url);
        let outcome = match answer.outcome(asked) {
            // A proxy closes the client's connection when the response broke off before it passed anything on.
            Outcome::Lost("no response")
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

/// Sends a request.
fn send(http: &mut Http, asked: Asked, url: &str) -> io::Result<()> {
    let (method, body) = if asked.form.posts() { ("POST", asked.body()) } else { ("GET", Vec::new()) };
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let mut bytes = format!("{method} {url} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n").into_bytes();
    bytes.extend(body);
    http.try_send(&bytes)
}

/// Sends a request and returns its response; and the connection if it can carry another request.
fn exchange(mut http: Http, asked: Asked, url: &str) -> (Observed, Option<Http>) {
    let received = send(&mut http, asked, url).and_then(|()| http.try_response(false));
    let Ok(Some(received)) = received else { return (Observed::default(), None) };
    let value = |name| received.fields(name).next().map(|value| String::from_utf8_lossy(value).into_owned());
    let kept = received.whole && value("Connection").as_deref() != Some("close");
    let answer = Observed {
        status: received.status,
        nonce: value("X-Nonce"),
        complete: received.whole,
        body: received.body,
    };
    (answer, kept.then_some(http))
}
